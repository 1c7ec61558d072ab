"""Simulating: make a log that lists the run's scenes, then drive those that are not finished. Resuming is the second half alone."""

import contextlib
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import msgspec
from msgspec import structs

from matrix_py import _core
from matrix_py.check import kept_check
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError, EngineError, StoreError
from matrix_py.health import Health, read_health
from matrix_py.labels import Labelling, label_run
from matrix_py.models import hub
from matrix_py.opening import build, how_run, open_recorded, recorded_template
from matrix_py.plan import Plan, SimulateOptions
from matrix_py.prompts import Prompts
from matrix_py.pump import Answerer, Counts, Pump
from matrix_py.reuse import Reuse, changed_fields, open_parent, parent_of, reopen_parent
from matrix_py.scene import find_scene
from matrix_py.scene.rules import check_rules
from matrix_py.store import Log, check_writable, compact
from matrix_py.types import Change, Execution, RunConfig, RunRecord


class Reporter(Protocol):
    """Who is told how a run goes."""

    def line(self, text: str) -> None:
        """Take a line about what was decided or takes time."""

    def progress(self, counts: Counts, num_open: int, num_scenes: int) -> None:
        """Take the counts so far; called several times a second."""


class Silent:
    """A reporter that tells nobody."""

    def line(self, text: str) -> None:
        """Drop the line."""

    def progress(self, counts: Counts, num_open: int, num_scenes: int) -> None:
        """Drop the counts."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run, or the part of it that was just done, ended.

    Attributes:
        root: the root hash, if every scene of the run is finished.
        num_scenes: scenes of the run.
        num_finished: of them, those with a SceneFinished.
        interrupted: Ctrl-C ended it.
        max_delay_s: longest time from a completion to its commit to the log, in seconds.
        engine_stats: see `Engine.stats`.
        labels: what the detectors found in all that the log holds by now; None if labelling failed or was stopped.
        health: how healthy the simulations were; None with `labels`.
    """

    path: Path
    root: bytes | None
    num_scenes: int
    num_finished: int
    counts: Counts
    wall_s: float
    interrupted: bool
    max_delay_s: float
    engine_stats: dict[str, int]
    labels: Labelling | None = None
    health: Health | None = None


def simulate(options: SimulateOptions, *, reporter: Reporter | None = None, stdin: IO[bytes] | None = None) -> RunSummary:
    """Run a scene around each instruction of the inputs and write the log.

    Everything that can be wrong with options, inputs and model is found before the log is made.

    Raises:
        MatrixError: an option, an input, the model or the output cannot be used.
    """
    reporter = reporter or Silent()
    plan = Plan(options, stdin=stdin)
    if options.out is None:
        raise ConfigError("--out is missing: give the log to write, such as --out run.duckdb")
    with contextlib.ExitStack() as stack:
        parent = None if options.reuse is None else stack.enter_context(open_parent(options.reuse, out=options.out))
        check_writable(options.out, overwrite=options.overwrite)
        how = options.engine if parent is None else plan.check_reuse(parent)
        engine = stack.enter_context(Engine(options.model, how, announce=reporter.line))
        config = plan.config(engine, parent)
        execution = _execution(options, engine)
        if parent is not None:
            change = Change(config=changed_fields(parent.record.config, config))
            execution = structs.replace(execution, parent=parent_of(parent), change=change)
        record = RunRecord(run_id=str(uuid.uuid4()), config=config, execution=execution)
        with Log.create(options.out, record, lambda lister: plan.list_scenes(lister, execution), overwrite=options.overwrite) as log:
            for reason, count in sorted(execution.dropped.items()):
                reporter.line(f"left out {count}: {reason}")
            reporter.line(engine.summary)
            answerer = engine if parent is None else Reuse(parent, engine, config)
            window = 2 * engine.parallel
            summary = run(log, recorded_prompts(config), plan.function, answerer, window=window, reporter=reporter, stats=engine.stats)
        return tidy(summary)


def resume(path: Path, *, model: str | None = None, engine: EngineOptions | None = None, reporter: Reporter | None = None) -> RunSummary:
    """Go on with a run whose log has unfinished scenes, under the prompts and settings that the log holds.

    Args:
        path: the log.
        model: where the model is now, if it was moved; it must be the same file.
        engine: parallelism and the like may differ from before; what the log's configuration decides may not.
        reporter: told how it goes.

    Raises:
        MatrixError: the log or the model cannot be used, or is not the run's.
    """
    reporter = reporter or Silent()
    with Log.open(path, read_only=False) as log:
        config = log.record.config
        check_rules(config.rules)
        engine = engine or EngineOptions(gpu_layers=log.record.execution.gpu_layers)
        engine.check()
        function = find_scene(config.scene)
        prompts = recorded_prompts(config)
        execution = log.record.execution
        if config.deterministic and (execution.llama_cpp, execution.device) != (build(), "gpu" if engine.gpu_layers else "cpu"):
            reporter.line(
                f"the run was begun on {execution.device} with {execution.llama_cpp}: here its text may go on otherwise, and the root "
                "hash be another"
            )
        if log.num_finished() == log.num_scenes():
            reporter.line("every scene is finished: there is nothing to resume")
            return run(log, prompts, function, None, window=1, reporter=reporter)
        with contextlib.ExitStack() as stack:
            # Before the model is opened: without its parent, a run may have no way to go on.
            parent = reopen_parent(execution, announce=reporter.line)
            if parent is not None:
                stack.enter_context(parent)
            opened = stack.enter_context(open_recorded(log.record, path, model=model, engine=engine, announce=reporter.line))
            reporter.line(opened.summary)
            answerer: Answerer = opened
            change = execution.change or Change()
            if parent is not None or change.edits:
                answerer = Reuse(parent, opened, config, edits=change.edits, kept_before=change.kept_before)
            window, now = 2 * opened.parallel, structs.replace(execution, **how_run(opened))
            summary = run(log, prompts, function, answerer, window=window, reporter=reporter, stats=opened.stats, execution=now)
    return tidy(summary)


def tidy(summary: RunSummary) -> RunSummary:
    """Give back the room that a finished log does not use."""
    if summary.root is not None:
        # Somebody may read it already, or the folder take no second file: the run is whole all the same.
        with contextlib.suppress(StoreError):
            compact(summary.path)
    return summary


def recorded_prompts(config: RunConfig) -> Prompts:
    """Return the prompts, settings and template that a run was made with."""
    return Prompts(config.prompts, config.settings, system=config.system, template=recorded_template(config), context=config.context)


def run(
    log: Log,
    prompts: Prompts,
    function: Callable[..., object],
    answerer: Answerer | None,
    *,
    window: int,
    reporter: Reporter | None = None,
    stats: Callable[[], dict[str, int]] = dict,
    execution: Execution | None = None,
) -> RunSummary:
    """Drive the unfinished scenes of an open log, with any answerer.

    Ctrl-C ends it early; the log is whole then as well. `execution` is how this session runs, where that is not as the run was begun.

    Raises:
        MatrixError: the answerer is gone, the log cannot be written, or what it holds is not what the scenes derive.
    """
    reporter = reporter or Silent()
    config = log.record.config
    event_log = _core.EventLog()
    scenes = log.scenes(unfinished_only=True)
    num_scenes, before = log.num_scenes(), log.num_finished()
    start = time.monotonic()
    with log.answering(reporter.line):
        writer = log.writer(event_log, execution)

        def progress(counts: Counts, num_open: int) -> None:
            reporter.progress(replace(counts, completed=counts.completed + before), num_open, num_scenes)

        pump = Pump(
            function,  # type: ignore[arg-type]
            config.scene,
            prompts=prompts,
            limits=config.limits,
            seed=config.seed,
            rules=config.rules,
            log=event_log,
            answerer=answerer,
            window=window,
            on_progress=progress,
            keep_up=writer.keep_up,
        )
        try:
            with _stopping_on_interrupt(pump.stop) as interrupts:
                pump.run(answerer.following(scenes) if isinstance(answerer, Reuse) else scenes)
        except EngineError as error:
            # Why the engine is gone was told to the turns that it had.
            raise EngineError("; ".join([str(error), *pump.counts.errors[:1]])) from error
        finally:
            writer.close()
        root = log.root()
        if root is not None:
            log.set_root(root)
    wall_s = time.monotonic() - start
    labels, health, stopped = _judge(log, reporter)
    return RunSummary(
        path=log.path,
        root=root,
        num_scenes=num_scenes,
        num_finished=log.num_finished(),
        counts=pump.counts,
        wall_s=wall_s,
        interrupted=bool(interrupts) or stopped,
        max_delay_s=writer.max_delay_s,
        engine_stats=stats(),
        labels=labels,
        health=health,
    )


def _judge(log: Log, reporter: Reporter) -> tuple[Labelling | None, Health | None, bool]:
    """Label the texts of a run and read its health; return also whether Ctrl-C stopped that."""
    again = f"label them with: matrix label {log.path}"
    try:
        return label_run(log, stale_only=True), read_health(log), False
    except KeyboardInterrupt:
        reporter.line(f"stopped while texts were labelled; the run itself is whole: {again}")
        return None, None, True
    except Exception as error:
        # Whatever it is: labels stand beside the run, and are no reason to lose it.
        reporter.line(f"texts are not labelled ({type(error).__name__}: {error}); the run itself is whole: {again}")
        return None, None, False


@contextlib.contextmanager
def _stopping_on_interrupt(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Let Ctrl-C call `stop`, and collect the signals. As an exception it could strike anywhere: in a scene's code, whose `finally` would
    then write events that no other run has, or between an answer and its recording. A second Ctrl-C is an exception again.
    """
    interrupts: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupts  # signals are the main thread's
        return

    def handle(number: int, _: object) -> None:
        interrupts.append(number)
        signal.signal(signal.SIGINT, before)
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _execution(options: SimulateOptions, engine: Engine) -> Execution:
    return Execution(
        model_description=engine.facts.description,
        adapter_path="" if options.engine.lora is None else str(options.engine.lora.absolute()),
        self_test=engine.self_test,
        inputs=list(options.inputs),
        dropped={},
        prompts_dir="" if options.prompts_dir is None else str(options.prompts_dir.absolute()),
        config_file="" if options.config_file is None else str(options.config_file.absolute()),
        model_check=msgspec.to_builtins(kept_check(engine.model_hash.hex())),
        **how_run(engine) | {"model_path": str(engine.path.absolute()) if hub.is_path(options.model) else options.model},
    )
