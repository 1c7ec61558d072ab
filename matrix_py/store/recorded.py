"""What an older log gives to a new run: its scenes, to list them again, and what was said in them, some scenes at a time."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from matrix_py.store.connection import one_line, sql
from matrix_py.store.log import Log
from matrix_py.types import StoredScene


@dataclass(frozen=True, slots=True)
class ListedScene:
    """A scene as the input listed it; `meta` is JSON. Its occurrence is part of its identity, and stays whatever else is listed."""

    scene: bytes
    label: str
    row: int
    occurrence: int
    instruction: str
    response: str | None
    meta: str

    def unplayed(self) -> StoredScene:
        """Return the scene as one of which nothing was played."""
        return StoredScene(self.scene, self.instruction, self.response, self.occurrence)


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """What was said in a turn, and what of its facts is no matter of the machine."""

    kind: str
    request: bytes
    text: str
    outcome: str
    finish: str
    prompt_tokens: int
    generated_tokens: int
    masked_tokens: int
    log_odds: float | None


@dataclass(slots=True)
class RecordedScene:
    """What a log holds of a scene's turns.

    Attributes:
        turns: by path and attempt.
        kept: path and attempt of those that come before the one that was asked about.
    """

    turns: dict[tuple[str, int], RecordedTurn] = field(default_factory=dict)
    kept: set[tuple[str, int]] = field(default_factory=set)

    def last(self, path: str) -> RecordedTurn | None:
        """Return the last attempt of a turn; None if there was none."""
        attempts = [attempt for recorded, attempt in self.turns if recorded == path]
        return self.turns[path, max(attempts)] if attempts else None


def listed_scenes(log: Log, scenes: Sequence[bytes] | None = None) -> Iterator[ListedScene]:
    """Yield a log's scenes, or those of these ids, in input order.

    Raises:
        StoreError: the log cannot be read.
    """
    cursor = log.cursor()
    with contextlib.closing(cursor), one_line(log.path):
        cursor.execute(sql("recorded_scenes.sql"), [None if scenes is None else list(scenes)])
        while rows := cursor.fetchmany(1000):
            for row in rows:
                yield ListedScene(*row)


def recorded_scenes(log: Log, scenes: Sequence[bytes], *, before: str = "") -> dict[bytes, RecordedScene]:
    """Return what a log holds of these scenes' turns, and which of them come before the one at the path `before`.

    Raises:
        StoreError: the log cannot be read.
    """
    found = {scene: RecordedScene() for scene in scenes}
    cursor = log.cursor()
    with contextlib.closing(cursor), one_line(log.path):
        for scene, path, attempt, *rest in cursor.execute(sql("recorded_turns.sql"), [list(scenes)]).fetchall():
            found[scene].turns[path, attempt] = RecordedTurn(*rest)
        if before:
            for scene, path, attempt in cursor.execute(sql("recorded_before.sql"), [list(scenes), before]).fetchall():
                found[scene].kept.add((path, attempt))
    return found
