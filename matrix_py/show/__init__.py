"""Reading a log: its scenes, one of them, one of its turns. Model text is hidden by default where people read: it may be harmful."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrix_py.errors import ConfigError
from matrix_py.show.ancestry import Ancestor, ancestors
from matrix_py.show.document import scene_document
from matrix_py.show.reading import TurnFacts, read_scene
from matrix_py.show.transcript import Part, scene_parts
from matrix_py.store import open_for_reading

# What shows as itself although Python does not call it printable: spaces, and the joiners of scripts and emoji.
_HARMLESS = frozenset("\n\t\u200c\u200d")
_SUMMARY = "SELECT scene, position, label, state, instruction FROM scene ORDER BY position LIMIT ?"
_SEGMENTS = """
    SELECT texts.text, part.trusted
    FROM (
        SELECT unnest(segments) AS hash, unnest(trusted) AS trusted, generate_subscripts(segments, 1) AS place
        FROM completions WHERE scene = unhex(?) AND path = ? AND attempt = ?
    ) part
    JOIN texts USING (hash)
    ORDER BY place
"""


@dataclass(frozen=True, slots=True)
class SceneLine:
    """A scene in the list of a run's scenes."""

    scene: str
    position: int
    label: str
    state: str
    instruction: str


def list_scenes(path: Path, *, limit: int) -> list[SceneLine]:
    """Return the first scenes of a run, in input order.

    Raises:
        ConfigError: `limit` is below 1.
        StoreError: the log cannot be read.
    """
    if limit < 1:
        raise ConfigError(f"--limit is {limit}: give at least 1")
    with open_for_reading(path) as log:
        _, rows = log.query(_SUMMARY, [limit])
    return [SceneLine(*row) for row in rows]


def transcript(path: Path, scene: str) -> list[Part]:
    """Return a scene's transcript; `scene` is its id, or its place in the input, or the first digits of the id.

    Raises:
        StoreError: the log cannot be read, or no one scene goes by that name.
    """
    with open_for_reading(path) as log:
        return scene_parts(read_scene(log, scene))


def document(path: Path, scene: str, *, reveal: bool) -> dict[str, Any]:
    """Return a scene as a value of JSON: see `scene_document`.

    Raises:
        StoreError: the log cannot be read, or no one scene goes by that name.
    """
    with open_for_reading(path) as log:
        return scene_document(read_scene(log, scene), reveal=reveal)


def turn(path: Path, scene: str, name: str) -> TurnFacts:
    """Return a turn. `name` is its path; `path#2` is a second attempt.

    Raises:
        StoreError: the log cannot be read, or holds no such scene or turn.
    """
    with open_for_reading(path) as log:
        return read_scene(log, scene).turn(name)


def prompt(path: Path, scene: str, name: str) -> list[tuple[str, bool]]:
    """Return the exact prompt of a turn, as its segments (text, trusted).

    Raises:
        StoreError: the log cannot be read, or holds no such scene or turn.
    """
    with open_for_reading(path) as log:
        reading = read_scene(log, scene)
        found = reading.turn(name)
        _, rows = log.query(_SEGMENTS, [reading.scene, found.path, found.attempt])
    return [(text, trusted) for text, trusted in rows]


def why(path: Path, scene: str, name: str) -> list[Ancestor]:
    """Return a turn, or an action, and all that it was made from: see `ancestors`.

    Raises:
        StoreError: the log cannot be read, or holds no such scene, turn or action.
    """
    with open_for_reading(path) as log:
        return ancestors(read_scene(log, scene), name)


def readable(text: str) -> str:
    r"""Return text without live escape sequences: what controls a terminal or its text's direction is shown as `\x1b` and the like."""
    return "".join(char if _shows(char) else char.encode("unicode_escape").decode("ascii") for char in text)


def _shows(char: str) -> bool:
    return char.isprintable() or char in _HARMLESS or unicodedata.category(char) == "Zs"
