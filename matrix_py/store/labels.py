"""The tables `labels` and `detectors`, and the texts that labels are made from."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import duckdb

from matrix_py.store.connection import one_line, sql, transaction

# Scenes whose texts are in memory at a time.
PAGE = 200

# What is looked for was found: scene, path, attempt, label, detector, version.
LabelRow: TypeAlias = tuple[bytes, str, int, str, str, int]


@dataclass(frozen=True, slots=True)
class TurnText:
    """A completion, as far as labels go by it."""

    path: str
    attempt: int
    kind: str
    finish: str
    text: str


@dataclass(frozen=True, slots=True)
class SceneTexts:
    """The texts of a scene.

    Attributes:
        response: the scene's first response, given or generated; empty where there is none yet.
        roles: names of its cast.
        turns: completions that have a text, in the order in which they came.
    """

    scene: bytes
    instruction: str
    response: str
    roles: tuple[str, ...]
    turns: tuple[TurnText, ...]


class LabelTables:
    """The labels of an open log, on connections of their own; `Log.labels` makes these."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        """Open the tables; `connection` is the log's."""
        self._path = path
        self._reader, self._writer = connection.cursor(), connection.cursor()

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()
        self._writer.close()

    def scenes(self) -> Iterator[SceneTexts]:
        """Yield the texts of all scenes in input order; a page of scenes is read at a time."""
        page_statement, responses, roles, turns = sql("page_labels.sql").split(";")
        position = -1
        with one_line(self._path):
            while True:
                self._reader.execute(page_statement, [position, PAGE])
                page = self._reader.execute("SELECT position, scene, instruction, response FROM page ORDER BY position").fetchall()
                if not page:
                    return
                first = dict(self._reader.execute(responses).fetchall())
                casts: dict[bytes, list[str]] = {}
                for scene, role in self._reader.execute(roles).fetchall():
                    casts.setdefault(scene, []).append(role)
                said: dict[bytes, list[TurnText]] = {}
                for scene, *rest in self._reader.execute(turns).fetchall():
                    said.setdefault(scene, []).append(TurnText(*rest))
                for _, scene, instruction, response in page:
                    yield SceneTexts(
                        scene,
                        instruction or "",
                        first.get(scene) or response or "",
                        tuple(casts.get(scene, ())),
                        tuple(said.get(scene, ())),
                    )
                position = page[-1][0]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write in one transaction: all that is added in here is there after it, or, if it is left by an exception, nothing is changed."""
        with one_line(self._path), transaction(self._writer):
            yield

    def remove(self, detector: str) -> None:
        """Remove what a detector found, in whatever version."""
        self._writer.execute("DELETE FROM labels WHERE detector = ?", [detector])
        self._writer.execute("DELETE FROM detectors WHERE detector = ?", [detector])

    def add(self, rows: Sequence[LabelRow]) -> None:
        """Add labels."""
        if rows:
            self._writer.execute(
                "INSERT INTO labels SELECT unnest($1::BLOB[]), unnest($2::VARCHAR[]), unnest($3::UINTEGER[]), unnest($4::VARCHAR[]), "
                "unnest($5::VARCHAR[]), unnest($6::UINTEGER[])",
                [list(column) for column in zip(*rows, strict=True)],
            )

    def add_detector(self, detector: str, version: int, num_turns: int) -> None:
        """Say that a detector has looked at so many turns by now."""
        self._writer.execute(
            "INSERT INTO detectors VALUES (?, ?, ?, ?)", [detector, version, datetime.now(UTC).replace(tzinfo=None), num_turns]
        )
