"""A run to come: options and inputs, read and checked before a model is opened, and the configuration that they make."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import msgspec
from msgspec import structs

from matrix_py.embedded import EMBEDDED
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError
from matrix_py.instructions import Dialogue, Reader
from matrix_py.models import chat, hub
from matrix_py.models.chat import ChatTemplate
from matrix_py.opening import hash_of, recorded_template
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.reuse import check_same_model
from matrix_py.scene import find_scene
from matrix_py.scene.rules import RULES
from matrix_py.store import Log, SceneLister
from matrix_py.types import CONFIG_FORMAT, Execution, KvType, Limits, RunConfig

DEFAULT_SCENE = "matrix"
# Two lists of eight names are asked for roles; the rest keeps a typing error from running for days.
_MOST = {"roles": 16, "steps": 50, "interactions": 1000, "depth": 10}


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What to simulate; `engine` says how.

    Attributes:
        inputs: paths, `NAME=PATH`, or `-`; see `matrix_py.instructions`.
        out: the log to write; None for a forecast only.
        model: path of a GGUF, `hf:owner/repo/file.gguf`, or `embedded` for the demonstration model that comes with the package.
        scene: name of a scene, or `package.module:function`.
        limits: how far a social scene may go.
        limit: scenes at most, over all inputs.
        prompts_dir: folder of prompt files in the place of, or beside, the package's.
        config_file: settings by kind of turn, over the package's.
        system: the deployment's system prompt.
        reuse: an older log, whose turns are not asked again where the request is the same. What `engine` leaves open of context and chat
            template is as there.
        overwrite: replace `out` if it exists.
    """

    inputs: tuple[str, ...]
    out: Path | None
    model: str = EMBEDDED
    scene: str = DEFAULT_SCENE
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    limit: int | None = None
    dialogue: Dialogue = Dialogue.SINGLE
    prompts_dir: Path | None = None
    config_file: Path | None = None
    system: str = ""
    reuse: Path | None = None
    overwrite: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)


def check_limits(limits: Limits) -> None:
    """Refuse limits that no scene can be played under.

    Raises:
        ConfigError: one is out of range.
    """
    for name, most in _MOST.items():
        value = getattr(limits, name)
        if not 1 <= value <= most:
            raise ConfigError(f"--{name} is {value}: give 1 to {most}")


class Plan:
    """What is to be simulated, read and found to be possible, before a model is opened.

    Attributes:
        function: the scene's code.
    """

    def __init__(self, options: SimulateOptions, *, stdin: IO[bytes] | None = None) -> None:
        """Check options and inputs.

        Raises:
            MatrixError: one of them cannot be used.
        """
        options.engine.check()
        if not 0 <= options.seed < 2**63:
            raise ConfigError(f"--seed is {options.seed}: give a number from 0 to 2^63 - 1")
        if options.limit is not None and options.limit < 1:
            raise ConfigError(f"--limit is {options.limit}: give at least 1")
        self.function = find_scene(options.scene)
        check_limits(options.limits)
        self._options = options
        self._files = load_files(options.prompts_dir, options.scene)
        self._settings = load_settings(options.prompts_dir, options.config_file, options.scene)
        Prompts(self._files, self._settings, system=options.system, template=ChatTemplate.plain())  # refuse bad files
        self._reader = Reader(options.inputs, dialogue=options.dialogue, limit=options.limit, stdin=stdin)
        self._reader.check()

    def list_scenes(self, lister: SceneLister, execution: Execution) -> None:
        """List the scenes of the inputs, and record what of these is left out."""
        for instruction in self._reader:
            lister.add(
                label=instruction.label,
                row=instruction.row,
                instruction=instruction.text,
                response=instruction.response,
                meta=msgspec.json.encode(instruction.meta).decode(),
            )
        execution.dropped.update(sorted(self._reader.dropped.items()))

    def config(self, engine: Engine, parent: Log | None) -> RunConfig:
        """Return the run's configuration on an open model."""
        template = engine.template if parent is None or self._options.engine.chat_template else recorded_template(parent.record.config)
        return RunConfig(
            format=CONFIG_FORMAT,
            scene=self._options.scene,
            limits=self._options.limits,
            seed=self._options.seed,
            model=engine.model_hash.hex(),
            template=template.source,
            bos_token=engine.facts.bos_token or "",
            eos_token=engine.facts.eos_token or "",
            context=engine.context,
            deterministic=engine.deterministic,
            system=self._options.system,
            prompts=self._files,
            settings=self._settings,
            adapter=msgspec.UNSET if engine.lora_hash is None else engine.lora_hash.hex(),
            rules=RULES,
            kv_type=msgspec.UNSET if self._options.engine.kv_type is KvType.F16 else self._options.engine.kv_type,
        )

    def expected_config(self, parent: Log) -> RunConfig:
        """Return what `config` is going to be for a run that reuses a log, without a model."""
        then, how = parent.record.config, self._options.engine
        own = chat.load({}, override=how.chat_template, bos_token=then.bos_token, eos_token=then.eos_token) if how.chat_template else None
        return structs.replace(
            then,
            scene=self._options.scene,
            limits=self._options.limits,
            seed=self._options.seed,
            template=own.source if own else then.template,
            system=self._options.system,
            prompts=self._files,
            settings=self._settings,
            rules=RULES,
        )

    def check_reuse(self, parent: Log) -> EngineOptions:
        """Return how to open the model so that turns of an older log can be reused.

        Raises:
            ConfigError: it is a log of another model, adapter or context.
            ModelError: the model or the adapter is not there.
        """
        how, then = self._options.engine, parent.record.config
        now = structs.replace(
            then,
            model=hash_of(hub.resolve(self._options.model)),
            adapter=msgspec.UNSET if how.lora is None else hash_of(how.lora),
            context=how.context or then.context,
            kv_type=msgspec.UNSET if how.kv_type is KvType.F16 else how.kv_type,
        )
        check_same_model(parent.path, then, now)
        # The model's own template, which the older run may have had good reason to replace, is not looked at.
        return replace(how, context=now.context, chat_template=how.chat_template or "plain")
