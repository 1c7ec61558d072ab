"""Replaying: run the scene code again on the recorded completions and compare every event. No model is needed.

The code and the prompts are those of today; chat template, system prompt, seed and completions are the log's. So replay is a gate: what
a changed prompt or a changed scene would have asked or concluded otherwise shows as a divergence.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from matrix_py import _core
from matrix_py.errors import DivergenceError
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.pump import Counts, Pump
from matrix_py.scene import find_scene
from matrix_py.scene.rules import check_rules
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log
from matrix_py.types import RunConfig

_WINDOW = 16
# Paths, names and hashes are shorter.
_LONGEST_NAME = 80
# What the pump says in the place of an event is shorter.
_LONGEST_PHRASE = 250


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    Attributes:
        num_scenes: scenes of the run.
        num_finished: of them, those that are finished.
        num_turns: completions that were used.
        root: the root hash of a finished run.
        divergences: for each scene that differs, the first event that does.
        problems: what is wrong with the log as a whole.
        notes: what a reader should know, such as which prompt files changed.
    """

    num_scenes: int
    num_finished: int
    num_turns: int
    root: bytes | None
    divergences: list[DivergenceError]
    problems: list[str]
    notes: list[str]

    @property
    def identical(self) -> bool:
        """Whether everything that the log holds was derived again."""
        return not self.divergences and not self.problems


def replay(
    path: Path,
    *,
    prompts_dir: Path | None = None,
    recorded: bool = False,
    on_progress: Callable[[Counts, int], None] | None = None,
) -> Replay:
    """Replay a log.

    Args:
        path: the log.
        prompts_dir: folder of prompt files; by default the one that the run was given, if any.
        recorded: use the prompts and settings that the log holds, not today's.
        on_progress: called with counts and the number of scenes, now and then.

    Raises:
        MatrixError: the log cannot be read, or its scene or prompts cannot be used.
    """
    with Log.open(path, read_only=True) as log:
        config = log.record.config
        check_rules(config.rules)
        notes: list[str] = []
        prompts = recorded_prompts(config) if recorded else _todays_prompts(log, prompts_dir, notes)
        num_scenes, num_finished = log.num_scenes(), log.num_finished()
        recorded_root = log.recorded_root()
        pump = Pump(
            find_scene(config.scene),
            config.scene,
            prompts=prompts,
            limits=config.limits,
            seed=config.seed,
            rules=config.rules,
            log=_core.EventLog(),
            answerer=None,
            window=_WINDOW,
            complete=recorded_root is not None,
            on_progress=(lambda counts, _: on_progress(counts, num_scenes)) if on_progress else None,
        )
        counts = pump.run(log.scenes())
        root = log.root()
        problems: list[str] = []
        notes += [f"left open: {line}" for line in counts.errors]
        if recorded_root is not None and root != recorded_root and not counts.divergences:
            actual = "none, as scenes are missing their end" if root is None else root.hex()
            problems.append(f"root hash: expected {recorded_root.hex()}, actual {actual}: scenes or the configuration were changed")
        problems += log.problems()
        unused = log.num_completions() - counts.turns
        if unused and not counts.divergences and not problems:
            problems.append(f"{unused} completions answer no turn that a scene asks for")
        if counts.divergences:
            notes += _changed_prompts(config, prompts)
        return Replay(
            num_scenes=num_scenes,
            num_finished=num_finished,
            num_turns=counts.turns,
            root=root,
            divergences=counts.divergences,
            problems=problems,
            notes=notes,
        )


def describe(error: DivergenceError) -> str:
    """Say in one line where a scene diverges, and in which fields if both sides are events.

    Sentences are given by length and hash: what models and inputs say may be harmful.
    """
    expected, actual = _fields(error.expected), _fields(error.actual)
    where = f"scene {error.scene} seq {error.seq}"
    if expected is None or actual is None or expected.get("kind") != actual.get("kind"):
        return f"{where}: expected {_side(error.expected, expected)}, actual {_side(error.actual, actual)}"
    names = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    turn = f" of {actual['path']}" if "path" in actual else ""
    if not names:  # the same fields, written otherwise
        return f"{where}: {actual['kind']}{turn}: expected {_short(error.expected)}, actual {_short(error.actual)}"
    return f"{where}: {actual['kind']}{turn}: expected {_listed(expected, names)}, actual {_listed(actual, names)}"


def _todays_prompts(log: Log, given: Path | None, notes: list[str]) -> Prompts:
    config, execution = log.record.config, log.record.execution
    template = ChatTemplate(config.template, name="recorded", bos_token=config.bos_token, eos_token=config.eos_token)
    directory = given or (Path(execution.prompts_dir) if execution.prompts_dir else None)
    file = Path(execution.config_file) if execution.config_file else None
    if given is None and directory is not None and not directory.is_dir():
        notes.append(f"prompt folder {directory} is gone: the recorded prompts are used (--prompts names another folder)")
        return recorded_prompts(config)
    files = load_files(directory, config.scene)
    if file is not None and not file.is_file():
        notes.append(f"settings file {file} is gone: the recorded settings are used")
        settings = config.settings
    else:
        settings = load_settings(directory, file, config.scene)
    return Prompts(files, settings, system=config.system, template=template, context=config.context)


def _changed_prompts(config: RunConfig, prompts: Prompts) -> list[str]:
    names = sorted({*config.prompts, *prompts.files})
    changed = [name for name in names if config.prompts.get(name) != prompts.files.get(name)]
    kinds = [kind for kind in sorted({*config.settings, *prompts.settings}) if config.settings.get(kind) != prompts.settings.get(kind)]
    notes = []
    if changed:
        notes.append(f"prompt files that are not as recorded: {', '.join(changed)}")
    if kinds:
        notes.append(f"settings that are not as recorded: {', '.join(kinds)}")
    return notes


def _fields(payload: str) -> dict[str, object] | None:
    if not payload.startswith("{"):
        return None
    try:
        return msgspec.json.decode(payload, type=dict[str, object])
    except msgspec.DecodeError:
        return None


def _side(text: str, fields: Mapping[str, object] | None) -> str:
    if fields is None:
        return text if len(text) <= _LONGEST_PHRASE else f"{text[: _LONGEST_PHRASE - 3]}..."
    return f"{fields.get('kind')} ({_listed(fields, [name for name in fields if name not in ('kind', 'v')])})"


def _listed(fields: Mapping[str, object], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_short(fields[name])}" if name in fields else f"no {name}" for name in names)


def _short(value: object) -> str:
    """Names, numbers and hashes as they are; of sentences their length and hash."""
    text = str(value)
    if len(text) <= _LONGEST_NAME and text.isprintable() and not any(char.isspace() for char in text):
        return text or "(empty)"
    return f"[{len(text)} characters, BLAKE3 {_core.blake3(text.encode()).hex()[:12]}]"
