"""Building a dataset: candidates of all scenes, without duplicates, mixed by ratio, split by instruction.

Nothing depends on the order of logs, of scenes or of turns in time: which rows are taken, and in which order they stand, goes by a hash of
the row and the seed. The light facts of all candidates are in memory, and the rows that may be taken; prompts of the scenes' own turns,
of which there are many times as many, are read again for those that the mix has room for.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from matrix_py import _core
from matrix_py.dataset.candidate import Candidate, Collector
from matrix_py.dataset.near import NearTexts, frequencies
from matrix_py.dataset.options import DatasetOptions
from matrix_py.dataset.result import Dataset, KindCounts, SourceRun
from matrix_py.dataset.row import Row, RowKind
from matrix_py.distance import distance, words
from matrix_py.errors import ConfigError
from matrix_py.instructions import Reader
from matrix_py.simulate import recorded_prompts
from matrix_py.store import DatasetRow, Log, played_scenes

# Rows of the scenes' own turns that are read beyond what the mix has room for, since some are near others: a share, and a number.
_SPARE_SHARE, _SPARE = 0.2, 200


@dataclass(slots=True)
class _Entry:
    """What is kept of a candidate. `key` is where it comes in the order of all rows; empty where no row was made."""

    run: int
    kind: RowKind
    scene: bytes
    path: str
    attempt: int
    held_out: bool
    hash: bytes | None
    dropped_by: str | None
    key: bytes
    number: int | None = None

    @property
    def turn(self) -> tuple[bytes, str, int]:
        """The turn, by what is the same in every run."""
        return self.scene, self.path, self.attempt


def build(logs: Sequence[Path], options: DatasetOptions | None = None, *, on_progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Build a dataset of the finished scenes of logs, which are only read.

    A kind may come out empty; `Dataset.check` says what to do then.

    Args:
        logs: the logs. No process may be writing one of them.
        options: what it is to hold.
        on_progress: told how many scenes are done with, and how many there are.

    Raises:
        ConfigError: an option is out of range, a log is given twice or has no finished scene, or `benign` names no input.
        InputError: an evaluation set cannot be read.
        StoreError: a log cannot be read.
    """
    options = options or DatasetOptions()
    options.check()
    excluded = _Excluded(options)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Log.open(path, read_only=True)) for path in logs]
        opened.sort(key=lambda log: log.record.run_id)
        for one, other in pairwise(opened):
            if one.record.run_id == other.record.run_id:
                raise ConfigError(f"logs {one.path} and {other.path} are of one run: give each run once")
        runs = [SourceRun(log.path, log.record, log.root(), log.num_scenes(), log.num_finished()) for log in opened]
        for run in runs:
            if not run.num_finished:
                raise ConfigError(f"log {run.path} has no finished scene to make rows of: go on with: matrix resume {run.path}")
        collectors = [Collector(run.record, recorded_prompts(run.record.config), options, is_excluded=excluded) for run in runs]
        selection = _Selection(options, opened, collectors)
        done, total = 0, sum(run.num_scenes for run in runs)
        for number, log in enumerate(opened):
            for scene in played_scenes(log):
                held_out = _is_held_out(scene.instruction, options.held_out)
                for candidate in collectors[number].scene(scene):
                    selection.add(number, scene.scene, candidate, held_out=held_out)
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
        _check_benign(options, collectors)
        rows = selection.take()
    return Dataset(
        runs=tuple(runs),
        options=options,
        train=rows[False],
        held_out=rows[True],
        counts=selection.counts(),
        entries={run.record.run_id: tuple(selection.entries_of(number)) for number, run in enumerate(runs)},
        benign=sum(collector.benign for collector in collectors),
    )


class _Selection:
    """The candidates of all runs, and the choice among them."""

    def __init__(self, options: DatasetOptions, logs: Sequence[Log], collectors: Sequence[Collector]) -> None:
        self._options = options
        self._logs = logs
        self._collectors = collectors
        self._entries: list[_Entry] = []
        # By their hash, the places of rows in `_entries`.
        self._same: dict[bytes, int] = {}
        # By place in `_entries`: rows that may be taken, each with the text that tells near ones.
        self._rows: dict[int, tuple[Row, str | None]] = {}

    def add(self, run: int, scene: bytes, candidate: Candidate, *, held_out: bool) -> None:
        """Take a candidate in; of the same rows, one stays."""
        row, place = candidate.row, len(self._entries)
        digest = None if row is None else row.hash
        # Scenes share most of their paths.
        path = sys.intern(candidate.path)
        entry = _Entry(run, candidate.kind, scene, path, candidate.attempt, held_out, digest, candidate.dropped_by, key=b"")
        self._entries.append(entry)
        if row is None or digest is None:
            return
        entry.key = _core.blake3(self._options.seed.to_bytes(8, "little") + digest)
        before = self._same.get(digest)
        # The one that stays, and so the split, goes by the scene, whatever the order in which they come.
        if before is not None and self._entries[before].turn <= entry.turn:
            entry.dropped_by = "duplicate"
            return
        if before is not None:
            self._entries[before].dropped_by = "duplicate"
            self._rows.pop(before, None)
        self._same[digest] = place
        if candidate.kind is not RowKind.SIMULATION:
            self._rows[place] = row, candidate.text

    def take(self) -> dict[bool, tuple[Row, ...]]:
        """Choose the rows, and return them in order by whether they are held out."""
        options, shares = self._options, self._options.shares
        taken: dict[RowKind, list[int]] = {}
        # What one part of the mix comes to.
        unit: Fraction | None = None if options.max_rows is None else Fraction(options.max_rows, sum(shares.values()))
        for kind in (RowKind.ALIGNED, RowKind.HELPFUL, RowKind.SIMULATION):
            if not shares[kind]:
                continue
            most = None if unit is None else math.floor(unit * shares[kind])
            waiting = self._waiting(kind)
            taken[kind] = self._distinct_turns(waiting, most) if kind is RowKind.SIMULATION else self._distinct(kind, waiting, None)
            reached = Fraction(len(taken[kind]), shares[kind])
            unit = reached if unit is None else min(unit, reached)
        assert unit is not None  # some kind has a share
        chosen = {place for kind, places in taken.items() for place in places[: math.floor(unit * shares[kind])]}
        found: dict[bool, list[Row]] = {False: [], True: []}
        for place in sorted(self._places(), key=lambda place: self._entries[place].key):
            entry = self._entries[place]
            if place in chosen:
                entry.number = len(found[entry.held_out])
                found[entry.held_out].append(self._rows[place][0])
            else:
                entry.dropped_by = "mix"
        return {held_out: tuple(rows) for held_out, rows in found.items()}

    def counts(self) -> dict[RowKind, KindCounts]:
        """Return what became of the candidates."""
        counts = {kind: KindCounts() for kind in RowKind}
        for entry in self._entries:
            of_kind = counts[entry.kind]
            of_kind.candidates += 1
            if entry.dropped_by is None:
                of_kind.kept += 1
            else:
                of_kind.dropped[entry.dropped_by] = of_kind.dropped.get(entry.dropped_by, 0) + 1
        return counts

    def entries_of(self, run: int) -> Iterator[DatasetRow]:
        """Yield the candidates of a run as its log is to hold them."""
        for entry in self._entries:
            if entry.run == run:
                split = None if entry.number is None else "held_out" if entry.held_out else "train"
                yield DatasetRow(entry.number, entry.hash, entry.kind, entry.scene, entry.path, entry.attempt, split, entry.dropped_by)

    def _places(self) -> Iterator[int]:
        return (place for place, entry in enumerate(self._entries) if entry.dropped_by is None)

    def _waiting(self, kind: RowKind) -> list[int]:
        """Return the candidates of a kind that nothing is wrong with, in order."""
        return sorted((place for place in self._places() if self._entries[place].kind is kind), key=lambda place: self._entries[place].key)

    def _distinct_turns(self, waiting: list[int], most: int | None) -> list[int]:
        """Return the first turns of scenes that are no near-duplicates of one before: as many as there is room for, if there are."""
        near = _Distinct(self._options.near)
        at = 0
        while at < len(waiting) and (most is None or len(near.places) < most):
            size = len(waiting) if most is None else math.ceil((most - len(near.places)) * (1 + _SPARE_SHARE)) + _SPARE
            pool = waiting[at : at + size]
            at += size
            self._rows |= self._read(pool)
            near.expect(self._rows[place][0].completion for place in pool)
            self._fill(near, pool, most)
        return near.places

    def _distinct(self, kind: RowKind, waiting: list[int], most: int | None) -> list[int]:
        near = _Distinct(self._options.near)
        near.expect(self._rows[place][0].completion for place in waiting)
        self._fill(near, waiting, most)
        return near.places

    def _fill(self, near: "_Distinct", pool: list[int], most: int | None) -> None:
        for place in pool:
            if most is not None and len(near.places) >= most:
                self._rows.pop(place)
            elif not near.add(place, *self._rows[place]):
                self._entries[place].dropped_by = "near_duplicate"
                self._rows.pop(place)

    def _read(self, places: Collection[int]) -> dict[int, tuple[Row, str | None]]:
        """Read the rows of turns of scenes."""
        wanted: list[dict[bytes, dict[tuple[str, int], int]]] = [{} for _ in self._logs]
        for number in places:
            entry = self._entries[number]
            wanted[entry.run].setdefault(entry.scene, {})[entry.path, entry.attempt] = number
        rows: dict[int, tuple[Row, str | None]] = {}
        for log, collector, scenes in zip(self._logs, self._collectors, wanted, strict=True):
            for scene in played_scenes(log, scenes) if scenes else ():
                turns = scenes[scene.scene]
                for turn in scene.turns:
                    if (place := turns.get((turn.path, turn.attempt))) is not None:
                        candidate = collector.simulated(scene, turn)
                        assert candidate.row is not None
                        rows[place] = candidate.row, candidate.text
        return rows


class _Distinct:
    """Rows of which none is a near-duplicate of another: neither what is asked nor what is said is nearly the same.

    Attributes:
        places: of the rows that were taken in.
    """

    def __init__(self, share: float) -> None:
        self.places: list[int] = []
        self._share = share
        self._texts: NearTexts | None = None
        # Of those that were taken into `_texts`, what is asked.
        self._asked: list[str] = []

    def expect(self, completions: Iterator[str]) -> None:
        """Look at what is going to be said, to know how common words are: what comes first counts."""
        if self._texts is None:
            self._texts = NearTexts(self._share, frequencies(completions))

    def add(self, place: int, row: Row, asked: str | None) -> bool:
        """Take a row in, and return whether it was; not, if it is a near-duplicate."""
        assert self._texts is not None
        if asked is not None:
            if any(distance(asked, self._asked[number]) <= self._share for number in self._texts.near(row.completion)):
                return False
            self._texts.add(row.completion)
            self._asked.append(asked)
        self.places.append(place)
        return True


class _Excluded:
    """Whether an instruction is one of the evaluation sets, or near one of theirs."""

    def __init__(self, options: DatasetOptions) -> None:
        found = [instruction.text for instruction in Reader(options.exclude)] if options.exclude else []
        self._texts = NearTexts(options.near, frequencies(found))
        for text in found:
            self._texts.add(text)

    def __call__(self, instruction: str) -> bool:
        return any(True for _ in self._texts.near(instruction))


def _is_held_out(instruction: str, share: float) -> bool:
    """Whether an instruction is held out: a function of its words, so that it is so in every dataset."""
    number = int.from_bytes(_core.blake3(("matrix.split.1 " + " ".join(words(instruction))).encode())[:8], "little")
    return number < share * 2**64


def _check_benign(options: DatasetOptions, collectors: Sequence[Collector]) -> None:
    """Refuse names of benign instructions that no scene goes by: a typing error would make the dataset another."""
    for name in options.benign:
        if not any(name in collector.benign_names for collector in collectors):
            labels = sorted(set().union(*(collector.labels for collector in collectors)))
            raise ConfigError(f"--benign {name!r} fits no scene: give an input ({', '.join(labels)}), or COLUMN=VALUE of its other columns")
