"""Ablation: the scenes of a run under smaller limits, one log a limit, and a table over all of them.

Under fewer **interactions**, a scene goes as it went until it has had so many. What comes after that, memories to condense, consequence and
revision, is asked of the model; all before is in the log already. So it is the scene that the smaller limit would have made, turn for turn.
Under fewer **roles**, the cast is the beginning of the same ranked list, but who is missing is missing from every prompt: scenes are
simulated live from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import structs

from matrix_py.ablation.table import Row, Totals, write_rows
from matrix_py.engine import EngineOptions
from matrix_py.errors import ConfigError, StoreError
from matrix_py.opening import how_run, open_recorded
from matrix_py.plan import check_limits
from matrix_py.pump import Answerer
from matrix_py.reuse.rerun import rerun
from matrix_py.scene.registry import WITHOUT_ROLES
from matrix_py.scene.rules import check_rules
from matrix_py.simulate import Reporter, Silent
from matrix_py.store import Log
from matrix_py.types import Execution

__all__ = ["TABLE", "AblateOptions", "Ablation", "Arm", "Row", "Totals", "ablate", "ablate_with"]

Limit: TypeAlias = Literal["interactions", "roles"]

# The table over all logs, beside them.
TABLE = "ablation.parquet"
_WINDOW = 16


@dataclass(frozen=True, slots=True)
class AblateOptions:
    """Under which limits to see a run's scenes.

    Attributes:
        out: folder of the logs and the table.
        interactions: values of that limit, none above the run's.
        roles: values of that limit.
        limit: scenes at most.
        model: where the run's model is now, if it was moved.
        overwrite: replace what is in `out`.
        engine: how to open the model; None for as the run did.
    """

    out: Path
    interactions: tuple[int, ...] = ()
    roles: tuple[int, ...] = ()
    limit: int | None = None
    model: str | None = None
    overwrite: bool = False
    engine: EngineOptions | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """The scenes under one limit. `is_live`: whether more than their ends is simulated anew."""

    limit: Limit
    value: int
    path: Path
    is_live: bool
    totals: Totals


@dataclass(frozen=True, slots=True)
class Ablation:
    """What came of it.

    Attributes:
        run: what the same scenes came to in the run itself, under its own limits.
        unfinished: scenes of the run that are open, and left out.
        interrupted: Ctrl-C ended it: the last of the logs is not finished, and values after it have none.
    """

    path: Path
    table: Path
    run: Totals
    arms: tuple[Arm, ...]
    unfinished: int
    interrupted: bool


def ablate(path: Path, options: AblateOptions, *, reporter: Reporter | None = None) -> Ablation:
    """Play a run's scenes under smaller limits.

    Args:
        path: the log; it is only read.
        options: the limits, and where the logs go.
        reporter: told how it goes.

    Raises:
        MatrixError: an option, the log or the model cannot be used, or a log not be written.
    """
    reporter = reporter or Silent()
    if options.engine is not None:
        options.engine.check()
    with Log.open(path, read_only=True) as log:
        _check(log, options)  # before a model is opened
        with open_recorded(log.record, path, model=options.model, engine=options.engine, announce=reporter.line) as engine:
            reporter.line(engine.summary)
            execution = structs.replace(log.record.execution, **how_run(engine))
            window = 2 * engine.parallel
            return ablate_with(log, engine, options, window=window, execution=execution, reporter=reporter, stats=engine.stats)


def ablate_with(
    log: Log,
    answerer: Answerer,
    options: AblateOptions,
    *,
    window: int = _WINDOW,
    execution: Execution | None = None,
    reporter: Reporter | None = None,
    stats: Callable[[], dict[str, int]] = dict,
) -> Ablation:
    """Do the same with any answerer; see `matrix_py.reuse.rerun`.

    Raises:
        MatrixError: an option cannot be used, a log not be written, or the answerer is gone.
    """
    reporter = reporter or Silent()
    values = _check(log, options)
    scenes, unfinished = _finished(log, options.limit)
    options.out.mkdir(exist_ok=True)
    arms: list[tuple[Limit, int, Path]] = []
    interrupted = False
    for limit, value in values:
        path = options.out / f"{limit}-{value}.duckdb"
        reporter.line(f"{limit} {value}: {'simulated live, with nested casts' if limit == 'roles' else 'cut, then live to the end'}")
        config = log.record.config
        config = structs.replace(config, limits=structs.replace(config.limits, **{limit: value}))
        summary = rerun(
            log,
            path,
            answerer,
            config=config,
            scenes=scenes,
            execution=execution,
            window=window,
            overwrite=options.overwrite,
            reporter=reporter,
            stats=stats,
        )
        arms.append((limit, value, path))
        interrupted = summary.interrupted
        if interrupted:
            break
    run, totals = write_rows(options.out / TABLE, log, arms, scenes, overwrite=options.overwrite)
    found = tuple(Arm(limit, value, path, limit == "roles", each) for (limit, value, path), each in zip(arms, totals, strict=True))
    return Ablation(log.path, options.out / TABLE, run, found, unfinished, interrupted)


def _check(log: Log, options: AblateOptions) -> list[tuple[Limit, int]]:
    """Return the limits to play under, each once."""
    config = log.record.config
    check_rules(config.rules)
    if config.scene in WITHOUT_ROLES:
        raise ConfigError(f"scene {config.scene!r} of {log.path} knows no limits: only social scenes can be cut")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}: give at least 1")
    named: tuple[tuple[Limit, tuple[int, ...]], ...] = (("interactions", options.interactions), ("roles", options.roles))
    values = [(limit, value) for limit, given in named for value in dict.fromkeys(given)]
    if not values:
        raise ConfigError("there is no limit to see the scenes under: give --interactions 1,4,8 or --roles 1,2,4")
    for limit, value in values:
        check_limits(structs.replace(config.limits, **{limit: value}))
        if limit == "interactions" and value > config.limits.interactions:
            raise ConfigError(
                f"--interactions is {value}, and the scenes of {log.path} were made with {config.limits.interactions} at most: what comes "
                "after that is not in the log; give fewer, or simulate them anew"
            )
    files = [options.out / f"{limit}-{value}.duckdb" for limit, value in values] + [options.out / TABLE]
    if options.out.exists() and not options.out.is_dir():
        raise StoreError(f"output {options.out} is a file: give a folder for the logs")
    there = next((file for file in files if file.exists()), None)
    if there is not None and not options.overwrite:
        raise StoreError(f"output {there} exists: choose another folder, or give --overwrite to replace it")
    return values


def _finished(log: Log, limit: int | None) -> tuple[list[bytes], int]:
    """Return the ids of finished scenes in input order, as many as are wanted, and the number of open ones before the last of them."""
    rows = log.query("SELECT scene, scene IN (SELECT scene FROM events WHERE kind = 'SceneFinished') FROM scenes ORDER BY position")[1]
    scenes = [scene for scene, _ in rows[:limit]]
    finished = [scene for scene, is_finished in rows[:limit] if is_finished]
    if not finished:
        raise ConfigError(f"{log.path} holds no finished scene: go on with: matrix resume {log.path}")
    return finished, len(scenes) - len(finished)
