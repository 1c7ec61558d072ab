"""What was played in the scenes of a log, prompts and all: what training rows are made from."""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from matrix_py.store.connection import one_line, sql
from matrix_py.store.log import Log

# Scenes that are in memory at a time.
_PAGE = 100
_MISSING = "\N{REPLACEMENT CHARACTER} missing from texts"


@dataclass(frozen=True, slots=True)
class PlayedTurn:
    """A turn, as it was asked and answered.

    Attributes:
        prompt: its segments, each with whether it is trusted.
    """

    path: str
    attempt: int
    kind: str
    outcome: str
    finish: str
    text: str
    prompt: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class PlayedScene:
    """A scene, finished or not.

    Attributes:
        label: name of its input.
        meta: the input's other columns.
        events: what became of replies, the cast, responses and the end, in order: kind, and fields by name.
        turns: in the order of the scene's chain.
    """

    scene: bytes
    position: int
    label: str
    meta: dict[str, Any]
    instruction: str
    events: tuple[tuple[str, dict[str, Any]], ...]
    turns: tuple[PlayedTurn, ...]


def played_scenes(log: Log, only: Collection[bytes] | None = None) -> Iterator[PlayedScene]:
    """Yield the scenes of a log in input order; a page of them is in memory at a time.

    Args:
        log: the log.
        only: ids of the scenes to read; all, if not given.

    Raises:
        StoreError: the log cannot be read.
    """
    page_statement, scenes, completions, texts, events = sql("page_played.sql").split(";")
    wanted = None if only is None else sorted(only)
    cursor = log.cursor()
    position = -1
    with contextlib.closing(cursor), one_line(log.path):
        while True:
            cursor.execute(page_statement, [position, _PAGE, wanted])
            page = cursor.execute(scenes).fetchall()
            if not page:
                return
            said = dict(cursor.execute(texts).fetchall())
            turns: dict[bytes, list[PlayedTurn]] = {}
            for scene, path, attempt, kind, outcome, finish, text, segments, trusted in cursor.execute(completions).fetchall():
                prompt = tuple((said.get(digest, _MISSING), own) for digest, own in zip(segments, trusted, strict=False))
                turn = PlayedTurn(path, attempt, kind, outcome, finish, _MISSING if text is None else text, prompt)
                turns.setdefault(scene, []).append(turn)
            facts: dict[bytes, list[tuple[str, dict[str, Any]]]] = {}
            for scene, kind, payload in cursor.execute(events).fetchall():
                facts.setdefault(scene, []).append((kind, msgspec.json.decode(payload)))
            for position, scene, label, meta, instruction in page:
                yield PlayedScene(
                    scene,
                    position,
                    label,
                    msgspec.json.decode(meta),
                    _MISSING if instruction is None else instruction,
                    tuple(facts.get(scene, ())),
                    tuple(turns.get(scene, ())),
                )
