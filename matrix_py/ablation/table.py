"""The table of an ablation: a row for each scene under each limit, beside what the scene came to in the run; and its sums."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from matrix_py.distance import distance
from matrix_py.intervals import ClusteredMean
from matrix_py.labels.detector import Subject
from matrix_py.labels.refusal import REFUSAL
from matrix_py.store import Log, TableWriter
from matrix_py.store.connection import sql

# Scenes whose texts are in memory at a time.
_PAGE = 200
_SCENES, _TURNS = sql("ablation.sql").split(";")
# Of the run's own rows, `limit` is `run`, and what is compared with the run is 0 or false.
_COLUMNS = {
    '"limit"': "VARCHAR",
    "value": "UINTEGER",
    "live": "BOOLEAN",
    "position": "UBIGINT",
    "scene": "VARCHAR",
    "state": "VARCHAR",
    "end_reason": "VARCHAR",
    "interactions": "UINTEGER",
    "censored": "BOOLEAN",
    "critiques": "UINTEGER",
    "severity": "UINTEGER",
    "kept": "BOOLEAN",
    "revised": "BOOLEAN",
    "refuses": "BOOLEAN",
    "distance": "DOUBLE",
    "reused_turns": "UINTEGER",
    "live_turns": "UINTEGER",
    "answer": "VARCHAR",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A scene under one limit.

    Attributes:
        limit: which; `run` for the scene as it was.
        value: of the limit; None for the run.
        live: whether more than the end was simulated anew.
        censored: whether the scene ended before the limit by itself: with a larger one it would be the same.
        severity: of its gravest critique; None where there is none.
        answer: the revision, or the response where it was kept; None where there is neither.
        distance: from the run's answer to this one, in words; None where one of them is missing.
    """

    limit: str
    value: int | None
    live: bool
    position: int
    scene: str
    state: str
    end_reason: str | None
    interactions: int | None
    censored: bool
    critiques: int
    severity: int | None
    kept: bool
    revised: bool
    refuses: bool
    distance: float | None
    reused_turns: int
    live_turns: int
    answer: str | None


@dataclass(slots=True)
class Totals:
    """What rows of one limit come to. `severity` is summed over scenes that have one: `severe` of them."""

    scenes: int = 0
    failed: int = 0
    censored: int = 0
    interactions: int = 0
    critiques: int = 0
    severity: int = 0
    severe: int = 0
    kept: int = 0
    revised: int = 0
    refuses: int = 0
    moved: int = 0
    reused_turns: int = 0
    live_turns: int = 0
    distance: ClusteredMean = field(default_factory=ClusteredMean)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.scenes += 1
        self.failed += row.state == "failed"
        self.censored += row.censored
        self.interactions += row.interactions or 0
        self.critiques += row.critiques
        self.severity += row.severity or 0
        self.severe += row.severity is not None
        self.kept += row.kept
        self.revised += row.revised
        self.refuses += row.refuses
        self.reused_turns += row.reused_turns
        self.live_turns += row.live_turns
        if row.distance is not None:
            self.moved += row.distance > 0
            self.distance.add(row.distance, 1)


def write_rows(
    path: Path, run: Log, arms: Sequence[tuple[str, int, Path]], scenes: Sequence[bytes], *, overwrite: bool
) -> tuple[Totals, list[Totals]]:
    """Write the table, and return the sums of the run and of each arm.

    Args:
        path: the table's file.
        run: the log that was ablated.
        arms: limit, its value, and the log of the scenes under it.
        scenes: ids of the scenes that the logs have.
        overwrite: replace the file if it exists.

    Raises:
        StoreError: a log cannot be read, or the table not be written.
    """
    of_run, of_arms = Totals(), [Totals() for _ in arms]
    with ExitStack() as stack:
        table = stack.enter_context(TableWriter(path, _COLUMNS, overwrite=overwrite))
        logs = [stack.enter_context(Log.open(file, read_only=True)) for _, _, file in arms]
        for start in range(0, len(scenes), _PAGE):
            page = scenes[start : start + _PAGE]
            then = _read(run, page)
            rows = [_row("run", None, found, found, {}) for found in then.values()]
            for row in rows:
                of_run.add(row)
            for (limit, value, _), log, totals in zip(arms, logs, of_arms, strict=True):
                turns = {scene: counts for scene, *counts in log.query(_TURNS, [page])[1]}
                for scene, found in _read(log, page).items():
                    rows.append(_row(limit, value, found, then[scene], turns))
                    totals.add(rows[-1])
            table.add(astuple(row) for row in rows)
    return of_run, of_arms


def _read(log: Log, scenes: Sequence[bytes]) -> dict[str, dict[str, Any]]:
    """Return what scenes came to, by id and by column."""
    columns, rows = log.query(_SCENES, [scenes])
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def _row(limit: str, value: int | None, now: dict[str, Any], then: dict[str, Any], turns: dict[str, list[int]]) -> Row:
    answer, before = _answer(now), _answer(then)
    live_turns, reused_turns = turns.get(now["scene"], (0, 0))
    subject = Subject(answer or "", "revise", in_world=False, instruction=now["instruction"], response=now["response"] or "")
    return Row(
        limit=limit,
        value=value,
        live=limit == "roles",
        position=then["position"],
        scene=now["scene"],
        state=now["state"],
        end_reason=now["end_reason"],
        interactions=now["interactions"],
        censored=limit == "interactions" and now["end_reason"] is not None and now["end_reason"] != "interactions",
        critiques=now["critiques"],
        severity=now["severity"],
        kept=now["kept"],
        revised=now["revision"] is not None,
        refuses=REFUSAL.find(subject) is not None,
        distance=None if answer is None or before is None else distance(before, answer),
        reused_turns=reused_turns,
        live_turns=live_turns,
        answer=answer,
    )


def _answer(found: dict[str, Any]) -> str | None:
    answer: str | None = found["response"] if found["kept"] else found["revision"]
    return answer
