"""What reuse will spare, before anything is paid: the scenes are played on an older log alone, as far as that goes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from msgspec import structs

from matrix_py import _core
from matrix_py.errors import ConfigError, MatrixError
from matrix_py.plan import Plan, SimulateOptions
from matrix_py.pump import Counts, Pump
from matrix_py.reuse.answering import Reuse, open_parent
from matrix_py.scene import find_scene
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log, listed_scenes
from matrix_py.types import Edit, RunConfig, RunRecord, StoredScene

_WINDOW = 16
# More events than a scene has: none of them is buffered for a writer.
_NONE_BUFFERED = 2**32 - 1


@dataclass(slots=True)
class Forecast:
    """What a run that reuses an older log will take.

    Attributes:
        reused: turns that are certain to be reused, by kind.
        edited: turns whose answer is given, by kind.
        may_run: turns that the model may be asked, by kind: those that are asked and not in the older log, and those that the older log has
            of the scene beyond that point. What the model says decides which of these are asked at all, and whether others are.
        num_scenes: scenes that the older log knows.
        num_whole: of them, those that are reused to their end.
        num_new: scenes that it does not know: all their turns run.
        matched: how many scenes each edit changes, in the order of the edits.
        num_matched: scenes that one of them changes.
        num_kept: scenes that have the turn before which all is kept.
    """

    reused: Counter[str] = field(default_factory=Counter)
    edited: Counter[str] = field(default_factory=Counter)
    may_run: Counter[str] = field(default_factory=Counter)
    num_scenes: int = 0
    num_whole: int = 0
    num_new: int = 0
    matched: list[int] = field(default_factory=list)
    num_matched: int = 0
    num_kept: int = 0

    @property
    def kinds(self) -> list[str]:
        """The kinds of turns, in alphabetical order."""
        return sorted({*self.reused, *self.edited, *self.may_run})


def forecast(
    parent: Log,
    scenes: Iterable[StoredScene],
    config: RunConfig,
    *,
    edits: Sequence[Edit] = (),
    kept_before: str = "",
    on_progress: Callable[[Counts, int], None] | None = None,
) -> Forecast:
    """Say which turns of scenes an older log answers. No model is loaded, and nothing is written.

    Args:
        parent: the older log.
        scenes: what is to be run, as scenes of which nothing was played.
        config: how it is to be run.
        edits: as for `Reuse`.
        kept_before: likewise.
        on_progress: called with counts and the number of open scenes, now and then.

    Raises:
        MatrixError: the log cannot be read, or an edit cannot be made.
    """
    nobody = _Nobody()
    reuse = Reuse(parent, nobody, config, edits=edits, kept_before=kept_before)
    tally = _Tally(reuse, nobody, kept_before)
    pump = Pump(
        find_scene(config.scene),
        config.scene,
        prompts=recorded_prompts(config),
        limits=config.limits,
        seed=config.seed,
        rules=config.rules,
        log=tally,  # type: ignore[arg-type]
        answerer=reuse,
        window=_WINDOW,
        on_progress=on_progress,
    )
    pump.run(reuse.following(scenes))
    if reuse.refused is not None:
        raise reuse.refused
    return tally.forecast


def forecast_simulation(
    options: SimulateOptions, *, stdin: IO[bytes] | None = None, on_progress: Callable[[Counts, int], None] | None = None
) -> Forecast:
    """Say what a run with `options.reuse` will take. No model is loaded, and no log is written.

    Args:
        options: what to simulate.
        stdin: where the input `-` is read.
        on_progress: called with counts and the number of scenes, now and then.

    Raises:
        MatrixError: an option, an input or the older log cannot be used.
    """
    if options.reuse is None:
        raise ConfigError("--dry-run says what is reused of an older log: give --reuse OLD.duckdb")
    plan = Plan(options, stdin=stdin)
    with open_parent(options.reuse, out=options.out) as parent, TemporaryDirectory(prefix="matrix-") as folder:
        plan.check_reuse(parent)
        config = plan.expected_config(parent)
        execution = structs.replace(parent.record.execution, dropped={})
        # For the identities of scenes, inputs are listed as for a run.
        path, record = Path(folder) / "scenes.duckdb", RunRecord(run_id="", config=config, execution=execution)
        with Log.create(path, record, lambda lister: plan.list_scenes(lister, execution), overwrite=False) as listing:
            total = listing.num_scenes()
            progress = None if on_progress is None else (lambda counts, _: on_progress(counts, total))
            scenes = (listed.unplayed() for listed in listed_scenes(listing))
            return forecast(parent, scenes, config, on_progress=progress)


class _NotRecorded(MatrixError):
    """The older log does not answer the turn."""


class _Nobody:
    """Answers no turn. Implements `matrix_py.pump.Answerer`.

    A scene is given up only when none of its turns can be answered any more: what its branches may still come to without a model does not
    depend on which of them was asked first.
    """

    def __init__(self) -> None:
        self.asked: dict[bytes, list[_core.Turn]] = {}

    def submit(self, turns: list[_core.Turn]) -> None:
        for turn in turns:
            self.asked.setdefault(turn.scene, []).append(turn)

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        # Who does not want to wait has answers at hand, after which scenes may go on.
        return [(turns[0], _NotRecorded(turns[0].name)) for turns in self.asked.values()] if timeout_s > 0 else []

    def cancel(self, scene: bytes) -> None:
        """What was asked is counted when the scene is closed."""


class _Tally:
    """Stands for the event log of a run: it derives events, and keeps no more than counts."""

    def __init__(self, reuse: Reuse, nobody: _Nobody, kept_before: str) -> None:
        self.forecast = Forecast(matched=[0] * len(reuse.edits.edits))
        self._kept_before = kept_before
        self._reuse = reuse
        self._nobody = nobody
        self._log = _core.EventLog()
        self._answered: dict[bytes, set[tuple[str, int]]] = {}

    def open(self, scene: bytes, stored: int) -> None:
        self._log.open(scene, _NONE_BUFFERED)
        self._answered[scene] = set()

    def append(self, scene: bytes, payload: bytes) -> tuple[int, bytes]:
        return self._log.append(scene, payload)

    def record(self, turn: _core.Turn, completion: _core.Completion) -> None:
        counter = self.forecast.edited if completion.source == "edited" else self.forecast.reused
        counter[turn.kind] += 1
        self._answered[turn.scene].add((turn.path, turn.attempt))

    def close(self, scene: bytes) -> None:
        self._log.close(scene)
        answered = self._answered.pop(scene)
        asked = {(turn.path, turn.attempt): turn.kind for turn in self._nobody.asked.pop(scene, [])}
        held = self._reuse.held(scene)
        matching = self._reuse.edits.matching(scene, held)
        for place in matching:
            self.forecast.matched[place] += 1
        self.forecast.num_matched += bool(matching)
        self.forecast.num_kept += held.last(self._kept_before) is not None
        recorded = held.turns
        if asked and not recorded and not answered:
            self.forecast.num_new += 1
            return
        self.forecast.num_scenes += 1
        self.forecast.num_whole += not asked
        if not asked:
            return
        beyond = {key: turn.kind for key, turn in recorded.items() if key not in answered}
        self.forecast.may_run.update(Counter((beyond | asked).values()))
