"""Scenes as people read them. Model text is escaped, and hidden unless asked for: it may be harmful."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from matrix_py.errors import ConfigError, StoreError
from matrix_py.store import Log

# What shows as itself although Python does not call it printable: spaces, and the joiners of scripts and emoji.
_HARMLESS = frozenset("\n\t\u200c\u200d")
_SUMMARY = "SELECT scene, position, label, state, instruction FROM scene ORDER BY position LIMIT ?"


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a transcript: a heading, and text that somebody wrote.

    Attributes:
        harmful: whether the text may be harmful and is to be hidden by default: all that a model or an input says.
    """

    heading: str
    text: str
    harmful: bool


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
    with Log.open(path, read_only=True) as log:
        _, rows = log.query(_SUMMARY, [limit])
    return [SceneLine(*row) for row in rows]


def transcript(path: Path, scene: str) -> list[Part]:
    """Return a scene's transcript; `scene` is its id, or its place in the input, or the first digits of the id.

    Raises:
        StoreError: the log cannot be read, or no one scene goes by that name.
    """
    with Log.open(path, read_only=True) as log:
        found = _find(log, scene)
        _, heads = log.query("SELECT label, row, state, reason, instruction FROM scene WHERE scene = ?", [found])
        label, row, state, reason, instruction = heads[0]
        ending = f"{state}: {reason}" if reason else state
        parts = [Part(f"scene {found} ({label}, row {row}), {ending}", "", harmful=False), Part("instruction", instruction, harmful=True)]
        _, events = log.query(
            "SELECT kind, payload ->> 'path', payload ->> 'text', payload ->> 'principle', payload ->> 'given', payload ->> 'attempts' "
            "FROM event WHERE scene = ? ORDER BY seq",
            [found],
        )
    for kind, turn, text, principle, given, attempts in events:
        match kind:
            case "ResponseGiven":
                parts.append(Part("response, from the input" if given == "true" else "response", text, harmful=True))
            case "CritiqueWritten":
                parts.append(Part(f"critique: {principle}", text, harmful=True))
            case "ResponseRevised":
                parts.append(Part("revision", text, harmful=True))
            case "TurnFellBack":
                parts.append(Part(f"turn {turn} fell back after {attempts} attempts", text, harmful=True))
            case "SceneStarted" | "SceneFinished" | "TurnCompleted":
                pass
            case _:
                parts.append(Part(kind, text or "", harmful=True))
    return parts


def prompt(path: Path, scene: str, turn: str) -> list[tuple[str, bool]]:
    """Return the exact prompt of a turn, as its segments (text, trusted). `turn` is its path; `path#2` is a second attempt.

    Raises:
        StoreError: the log cannot be read, or holds no such scene or turn.
    """
    name, _, attempt = turn.rpartition("#")
    if not name or not attempt.isdecimal():
        name, attempt = turn, "1"
    with Log.open(path, read_only=True) as log:
        found = _find(log, scene)
        _, rows = log.query(
            "SELECT texts.text, part.trusted FROM ("
            "  SELECT unnest(segments) AS hash, unnest(trusted) AS trusted, generate_subscripts(segments, 1) AS place"
            "  FROM completions WHERE lower(hex(scene)) = ? AND path = ? AND attempt = ?"
            ") part JOIN texts USING (hash) ORDER BY place",
            [found, name, int(attempt)],
        )
        if not rows:
            _, paths = log.query("SELECT DISTINCT path FROM turn WHERE scene = ? ORDER BY path LIMIT 20", [found])
            known = ", ".join(path for (path,) in paths) or "none yet"
            raise StoreError(f"scene {found[:12]} has no turn {turn!r}: its turns are {known}")
    return [(text, trusted) for text, trusted in rows]


def readable(text: str) -> str:
    r"""Return text without live escape sequences: what controls a terminal or its text's direction is shown as `\x1b` and the like."""
    return "".join(char if _shows(char) else char.encode("unicode_escape").decode("ascii") for char in text)


def _shows(char: str) -> bool:
    return char.isprintable() or char in _HARMLESS or unicodedata.category(char) == "Zs"


def _find(log: Log, scene: str) -> str:
    if scene.isdecimal() and len(scene) < 12:
        _, rows = log.query("SELECT scene FROM scene WHERE position = ?", [int(scene)])
    else:
        _, rows = log.query("SELECT scene FROM scene WHERE starts_with(scene, ?) LIMIT 2", [scene.lower()])
    if len(rows) != 1:
        problem = "no scene" if not rows else "more than one scene"
        raise StoreError(f"{problem} of {log.path} goes by {scene!r}: give a scene's id, its first digits, or its place in the input")
    return str(rows[0][0])
