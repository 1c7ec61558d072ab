"""Forking: scenes of a run again, with one thing changed in them, and what the change does not touch taken from the run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from msgspec import structs

from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError, StoreError
from matrix_py.models import hub
from matrix_py.opening import hash_of, how_run, open_recorded
from matrix_py.plan import check_limits
from matrix_py.prompts import changed_files, changed_settings
from matrix_py.pump import Counts
from matrix_py.reuse.answering import changed_fields, open_parent
from matrix_py.reuse.edits import ROLE_LISTS, check_edit
from matrix_py.reuse.forecast import Forecast, forecast
from matrix_py.reuse.rerun import rerun
from matrix_py.scene.rules import check_rules
from matrix_py.show.reading import find_scene_id
from matrix_py.simulate import Reporter, RunSummary, Silent, recorded_prompts, tidy
from matrix_py.store import Log, check_writable, listed_scenes
from matrix_py.types import Edit, KvType, RunConfig


@dataclass(frozen=True, slots=True)
class ForkOptions:
    """What to change in which scenes of a run; see `matrix fork --help`.

    Attributes:
        run: the log.
        out: the log to write; None only for a forecast.
        scenes: ids, first digits of them, or places in the input; none for those of `where`, or all.
        where: a condition over the view `scene`.
        edits: turns that are to say something else.
        remove_role: name of a role that the lists of roles are to leave out, or the rank of one, in digits: then that of each cast.
        at: path of the turn from which on another model, adapter or seed is to answer; empty for the first.
        prompts_dir: files and settings over those that the run was made with.
        config_file: settings over those.
        limits: in the place of the run's, by name (see `Limits`).
        seed: likewise.
        model: likewise.
        overwrite: replace `out` if it exists.
        engine: how to open the model. `lora` is the adapter, if it is to be another; context and chat template are the run's, if it is not
            another model.
    """

    run: Path
    out: Path | None
    scenes: tuple[str, ...] = ()
    where: str = ""
    edits: tuple[Edit, ...] = ()
    remove_role: str = ""
    at: str = ""
    prompts_dir: Path | None = None
    config_file: Path | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    model: str | None = None
    overwrite: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def other_answerer(self) -> bool:
        """Whether somebody else is to answer, and not something else to be asked."""
        return self.model is not None or self.engine.lora is not None or self.seed is not None


@dataclass(frozen=True, slots=True)
class Fork:
    """What a fork is going to be, or has come to.

    Attributes:
        forecast: what is certain to be reused, and what may run.
        summary: how the run ended; None if only the forecast was wanted.
    """

    forecast: Forecast
    summary: RunSummary | None = None


def fork(
    options: ForkOptions,
    *,
    dry_run: bool = False,
    reporter: Reporter | None = None,
    on_progress: Callable[[Counts, int], None] | None = None,
) -> Fork:
    """Run scenes of a log again with a change, and write them to a new log that names the first one and the change.

    Everything that can be wrong with the change is found before a model is opened.

    Args:
        options: what to change.
        dry_run: only say what will be reused and what may run; nothing is written then.
        reporter: told how it goes.
        on_progress: called with counts and the number of scenes while the forecast is made.

    Raises:
        MatrixError: the log cannot be read, nothing is changed, a change matches no turn, or the model or the output cannot be used.
    """
    reporter = reporter or Silent()
    options.engine.check()
    with ExitStack() as stack:
        parent = stack.enter_context(open_parent(options.run, out=options.out))
        check_rules(parent.record.config.rules)
        if options.out is not None and not dry_run:
            check_writable(options.out, overwrite=options.overwrite)
        config = _config(options, parent.record.config)
        edits = [*map(check_edit, options.edits), *_removals(options, parent)]
        if not edits and not options.remove_role and not changed_fields(parent.record.config, config):
            raise ConfigError(
                "nothing is changed: give --set, --remove-role, --drop-critique, --prompts, --seed, --model, --lora or a limit"
            )
        kept_before = _kept_before(options, edits, parent.record.config, config)
        scenes = _chosen(options, parent)
        unplayed = (listed.unplayed() for listed in listed_scenes(parent, scenes))
        total = parent.num_scenes() if scenes is None else len(scenes)
        progress = None if on_progress is None else (lambda counts, _: on_progress(counts, total))
        expected = forecast(parent, unplayed, config, edits=edits, kept_before=kept_before, on_progress=progress)
        _check_matches(options, edits, kept_before, expected, reporter)
        if dry_run or options.out is None:
            return Fork(expected)
        engine = stack.enter_context(_open(options, parent, config, reporter))
        reporter.line(engine.summary)
        config = structs.replace(config, context=engine.context, deterministic=engine.deterministic)
        if options.model is not None:
            facts = engine.facts
            config = structs.replace(
                config, template=engine.template.source, bos_token=facts.bos_token or "", eos_token=facts.eos_token or ""
            )
        execution = structs.replace(parent.record.execution, **how_run(engine), self_test=engine.self_test, merged_from=[])
        if options.prompts_dir is not None:
            execution = structs.replace(execution, prompts_dir=str(options.prompts_dir.absolute()))
        if options.config_file is not None:
            execution = structs.replace(execution, config_file=str(options.config_file.absolute()))
        if options.engine.lora is not None:
            execution = structs.replace(execution, adapter_path=str(options.engine.lora.absolute()))
        summary = rerun(
            parent,
            options.out,
            engine,
            config=config,
            scenes=scenes,
            edits=edits,
            kept_before=kept_before,
            execution=execution,
            window=2 * engine.parallel,
            overwrite=options.overwrite,
            reporter=reporter,
            stats=engine.stats,
        )
    return Fork(expected, tidy(summary))


def _config(options: ForkOptions, then: RunConfig) -> RunConfig:
    """Return the run's configuration with what is to be changed of it; what only an open model can say is as it was."""
    now = then
    if options.prompts_dir is not None or options.config_file is not None:
        files = changed_files(then.prompts, options.prompts_dir)
        settings = changed_settings(then.settings, options.prompts_dir, options.config_file)
        now = structs.replace(now, prompts=files, settings=settings)
    if options.limits:
        now = structs.replace(now, limits=structs.replace(then.limits, **options.limits))
        check_limits(now.limits)
    if options.seed is not None:
        if not 0 <= options.seed < 2**63:
            raise ConfigError(f"--seed is {options.seed}: give a number from 0 to 2^63 - 1")
        now = structs.replace(now, seed=options.seed)
    if options.model is not None:
        now = structs.replace(now, model=hash_of(hub.resolve(options.model)), adapter=msgspec.UNSET)
    if options.engine.lora is not None:
        now = structs.replace(now, adapter=hash_of(options.engine.lora))
    recorded_prompts(now)  # refuse bad files before a model is opened
    return now


def _removals(options: ForkOptions, parent: Log) -> list[Edit]:
    """Return the edits that leave a role out."""
    if not options.remove_role:
        return []
    removed = [("", options.remove_role)]
    if options.remove_role.isdecimal():
        # No name begins with a digit.
        _, removed = parent.query("SELECT scene, role FROM role WHERE rank = ? AND rank > 0", [int(options.remove_role)])
    return [check_edit(Edit(at=path, do="remove_role", value=name, scene=scene)) for scene, name in removed for path in ROLE_LISTS]


def _kept_before(options: ForkOptions, edits: Sequence[Edit], then: RunConfig, now: RunConfig) -> str:
    """Return the turn before which all is kept."""
    if not options.other_answerer or not options.at:
        return ""
    # What comes before the turn is kept because the scene comes to it by the same way.
    if any(getattr(then, name) != getattr(now, name) for name in ("prompts", "settings", "limits")) or options.remove_role:
        raise ConfigError(f"--at {options.at} keeps what comes before it: leave out other prompts, limits and --remove-role, or --at")
    return edits[0].at if edits else options.at


def _chosen(options: ForkOptions, parent: Log) -> list[bytes] | None:
    if options.scenes and options.where:
        raise ConfigError("--scene and --where both choose scenes: give one of them")
    if options.scenes:
        return [bytes.fromhex(find_scene_id(parent, name)) for name in options.scenes]
    if not options.where:
        return None
    _, rows = parent.query(f"SELECT scene FROM scene WHERE {options.where}")
    if not rows:
        raise StoreError(f"no scene of {parent.path} fits --where {options.where!r}: matrix sql {parent.path} 'FROM scene' shows all")
    return [bytes.fromhex(scene) for (scene,) in rows]


def _check_matches(options: ForkOptions, edits: Sequence[Edit], kept_before: str, expected: Forecast, reporter: Reporter) -> None:
    """Say where a change changes nothing; refuse one that changes nothing anywhere."""
    total = expected.num_scenes + expected.num_new
    changes = {f"turn {edit.at}": matched for edit, matched in zip(edits, expected.matched, strict=True) if edit.do != "remove_role"}
    if options.remove_role:
        # In whichever of the lists the role stands; in both, it is one change.
        changes[f"role {options.remove_role!r}"] = expected.num_matched
    if kept_before and not edits:
        changes[f"turn {kept_before}"] = expected.num_kept
    for what, matched in changes.items():
        if matched == 0:
            raise ConfigError(
                f"{what} is in none of the {total} scenes, or says so already: matrix show {options.run} SCENE lists turns and roles"
            )
        if matched < total:
            reporter.line(f"{what} is changed in {matched} of {total} scenes; the others have no such turn, or say so already")


def _open(options: ForkOptions, parent: Log, config: RunConfig, reporter: Reporter) -> Engine:
    """Open the model that answers."""
    how, then = options.engine, parent.record.config
    if options.model is None and config.adapter == then.adapter:
        return open_recorded(parent.record, parent.path, engine=how, strict=False, announce=reporter.line)
    model = options.model or parent.record.execution.model_path
    how = replace(how, kv_type=KvType.F16 if then.kv_type is msgspec.UNSET else then.kv_type)
    if options.model is None:
        how = replace(how, context=how.context or then.context, chat_template="plain")
        if hash_of(hub.resolve(model)) != then.model:
            raise ConfigError(f"model {model} is not the one that {parent.path} was made with: give that file with --model")
    return Engine(model, how, announce=reporter.line)
