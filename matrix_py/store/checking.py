"""Checking a log: every hash, and every invariant that needs no scene code. Replay is the other half: it derives the events again.

What is checked, scene by scene: the id is the hash of what the scene is made from; the events are numbered without gaps, each hash
follows from the one before; a completion stands behind each `TurnCompleted`, and says what the event says of it; each request is the
hash of its segments, settings and key; turns that a prompt was made from, and actions that caused another, come before; the end counts the
events. Of the log as a whole: rows belong to a scene and are there once; texts are what their hashes say; the root is that of the scenes.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import msgspec

from matrix_py import _core
from matrix_py.errors import PayloadError
from matrix_py.store.connection import one_line, sql
from matrix_py.store.log import Log
from matrix_py.types import turn_name

# Scenes whose rows are in memory at a time.
_PAGE = 250
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a log.

    Attributes:
        what: in words.
        scene: id of the scene, hex; None where it is the run.
        seq: the event that it shows at, or that would be there; None where there is none.
        turn: name of the turn, `path#2` for a second attempt.
    """

    what: str
    scene: str | None = None
    seq: int | None = None
    turn: str | None = None

    def __str__(self) -> str:
        """One line: where, then what."""
        where = "run" if self.scene is None else f"scene {self.scene}"
        where += "" if self.seq is None else f" seq {self.seq}"
        return f"{where}{f' turn {self.turn}' if self.turn else ''}: {self.what}"


@dataclass(slots=True)
class Checked:
    """What a check looked at and found."""

    num_scenes: int = 0
    num_events: int = 0
    num_completions: int = 0
    root: bytes | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Completion:
    request: bytes
    outcome: str
    finish: str
    text: bytes
    segments: list[bytes]
    trusted: list[bool]
    sampling: bytes | None


@dataclass(slots=True)
class _Scene:
    """A scene as the log holds it, with the texts by their hashes."""

    scene: bytes
    instruction: bytes
    response: bytes | None
    occurrence: int
    texts: tuple[str | None, str | None]
    events: list[tuple[int, str, bytes]] = field(default_factory=list)
    completions: dict[tuple[str, int], _Completion] = field(default_factory=dict)


def check(log: Log, on_progress: Callable[[int, int], None] | None = None) -> Checked:
    """Check a log.

    Args:
        log: the log, opened for reading or writing.
        on_progress: called with the scenes that are done and all of them.

    Raises:
        StoreError: the log cannot be read.
    """
    with log.bounded():
        return _check(log, on_progress)


def _check(log: Log, on_progress: Callable[[int, int], None] | None) -> Checked:
    checked = Checked(num_scenes=log.num_scenes(), root=log.root())
    cursor = log.cursor()
    with contextlib.closing(cursor), one_line(log.path):
        for done, scene in enumerate(_scenes(cursor, _columns(cursor)), start=1):
            found = _SceneCheck(scene, log.record.config.scene, log.record.config.seed)
            checked.findings += found.run()
            checked.num_events += len(scene.events)
            checked.num_completions += len(scene.completions)
            if on_progress is not None:
                on_progress(done, checked.num_scenes)
    checked.findings += strays(log)
    recorded = log.recorded_root()
    if recorded is not None and recorded != checked.root:
        actual = "none, as scenes are missing their end" if checked.root is None else checked.root.hex()
        checked.findings.append(
            Finding(f"root hash: recorded {recorded.hex()}, actual {actual}: the configuration, scenes or their order were changed")
        )
    return checked


def strays(log: Log) -> list[Finding]:
    """Return what is wrong beyond single scenes: rows that belong to nothing or are there twice, and texts that are not what they were.

    Raises:
        StoreError: the log cannot be read.
    """
    cursor = log.cursor()
    with contextlib.closing(cursor), one_line(log.path):
        rows = cursor.execute(sql("check_rows.sql")).fetchall() + _wrong_texts(cursor)
        # What is wrong with a turn is named by its event.
        unplaced = any(turn is not None and seq is None for _, _, seq, turn in rows)
        seqs = _seqs_of_turns(cursor) if unplaced else {}
        return [Finding(what, scene, seqs.get((scene, turn)) if seq is None else seq, turn) for what, scene, seq, turn in rows]


def summary(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each thing that is wrong: how often, and where first."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.what, []).append(finding)
    return [
        str(group[0]) + (f" (and {len(group) - 1} times more: matrix log check names them)" if len(group) > 1 else "")
        for group in groups.values()
    ]


def check_scene(log: Log, scene: bytes) -> list[Finding]:
    """Return what is wrong with one scene of a log, its texts included.

    Raises:
        StoreError: the log cannot be read.
    """
    cursor = log.cursor()
    with contextlib.closing(cursor), one_line(log.path):
        findings = []
        for held in _scenes(cursor, _columns(cursor), only=scene):
            findings += _SceneCheck(held, log.record.config.scene, log.record.config.seed).run()
            used = {held.instruction, *([held.response] if held.response else [])}
            used |= {digest for each in held.completions.values() for digest in (each.text, *each.segments)}
            texts = cursor.execute("SELECT hash, text FROM texts WHERE hash IN (SELECT unnest(?::BLOB[]))", [[*used]]).fetchall()
            sound = {digest for digest, text in texts if _core.blake3(text.encode()) == digest}
            if used - sound:
                findings.append(Finding("texts of the scene are missing or not what their hashes say", scene.hex()))
        return findings


def _columns(cursor: duckdb.DuckDBPyConnection) -> str:
    names = {row[0] for row in cursor.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = 'completions'").fetchall()}
    # Format 1 did not have it.
    return "sampling" if "sampling" in names else "NULL"


def _scenes(cursor: duckdb.DuckDBPyConnection, sampling: str, *, only: bytes | None = None) -> Iterator[_Scene]:
    """Yield the scenes as they are listed, or only one of them; a page of them is in memory at a time."""
    rowid = -1
    while True:
        page = cursor.execute(
            "SELECT s.rowid, s.scene, s.instruction, s.response, s.occurrence, i.text, r.text FROM "
            "(SELECT rowid, * FROM scenes WHERE rowid > $1 AND ($3 IS NULL OR scene = $3) ORDER BY rowid LIMIT $2) s "
            "LEFT JOIN texts i ON i.hash = s.instruction LEFT JOIN texts r ON r.hash = s.response ORDER BY s.rowid",
            [rowid, _PAGE, only],
        ).fetchall()
        if not page:
            return
        scenes = {row[1]: _Scene(row[1], row[2], row[3], row[4], (row[5], row[6])) for row in page}
        cursor.execute("CREATE OR REPLACE TEMP TABLE checked AS SELECT unnest(?::BLOB[]) AS scene", [list(scenes)])
        for scene, seq, payload, digest in cursor.execute(
            "SELECT scene, seq, payload, hash FROM events JOIN checked USING (scene) ORDER BY scene, seq, events.rowid"
        ).fetchall():
            scenes[scene].events.append((seq, payload, digest))
        for scene, path, attempt, *rest in cursor.execute(
            f"SELECT scene, path, attempt, request, outcome, finish, text, segments, trusted, {sampling} "
            "FROM completions JOIN checked USING (scene)"
        ).fetchall():
            scenes[scene].completions[path, attempt] = _Completion(*rest)
        rowid = page[-1][0]
        yield from scenes.values()


def _wrong_texts(cursor: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Return who uses texts that are missing, there twice, or not what their hashes say."""
    cursor.execute("SELECT hash, text FROM texts")
    rows = (row for chunk in iter(lambda: cursor.fetchmany(1000), []) for row in chunk)
    changed = [digest for digest, text in rows if _core.blake3(text.encode()) != digest]
    cursor.execute("CREATE OR REPLACE TEMP TABLE bad (hash BLOB, what VARCHAR)")
    if changed:
        cursor.execute("INSERT INTO bad SELECT unnest(?::BLOB[]), 'a text is not what its hash says'", [changed])
    cursor.execute("INSERT INTO bad SELECT hash, 'a text is there twice' FROM texts GROUP BY hash HAVING count(*) > 1")
    cursor.execute(
        "INSERT INTO bad SELECT hash, 'a text is missing' FROM (SELECT instruction AS hash FROM scenes "
        "UNION SELECT response FROM scenes WHERE response IS NOT NULL UNION SELECT text FROM completions "
        "UNION SELECT unnest(segments) FROM completions) ANTI JOIN texts USING (hash)"
    )
    if cursor.execute("SELECT count(*) FROM bad").fetchall() == [(0,)]:
        return []
    found = cursor.execute(sql("check_texts.sql")).fetchall()
    # One that nothing uses, as when the hash itself was changed, is named by itself.
    unused = cursor.execute(
        "SELECT what || ', and nothing uses it: ' || lower(hex(hash)), NULL, NULL, NULL FROM bad WHERE hash NOT IN "
        "(SELECT instruction FROM scenes UNION SELECT response FROM scenes WHERE response IS NOT NULL "
        "UNION SELECT text FROM completions UNION SELECT unnest(segments) FROM completions)"
    ).fetchall()
    return found + unused


def _seqs_of_turns(cursor: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], int]:
    rows = cursor.execute(
        "SELECT lower(hex(scene)), payload ->> 'path', (payload ->> 'attempt')::UINTEGER, seq FROM events WHERE kind = 'TurnCompleted'"
    ).fetchall()
    return {(scene, turn_name(path, attempt)): seq for scene, path, attempt, seq in rows}


class _SceneCheck:
    """The check of one scene."""

    def __init__(self, scene: _Scene, name: str, seed: int) -> None:
        self._scene = scene
        self._name = name
        self._seed = seed
        self._id = scene.scene.hex()
        self._findings: list[Finding] = []
        # The turns with an event, and where it is.
        self._seqs: dict[tuple[str, int], int] = {}

    def run(self) -> list[Finding]:
        """Return what is wrong."""
        if len(self._scene.scene) != _HASH_BYTES:
            self._find("the scene's id is no hash", 0)
            return self._findings
        self._identity()
        payloads = self._chain()
        ended = self._facts(payloads)
        self._turns(ended)
        return self._findings

    def _find(self, what: str, seq: int | None, turn: str | None = None) -> None:
        self._findings.append(Finding(what, self._id, seq, turn))

    def _identity(self) -> None:
        instruction, response = self._scene.texts
        if instruction is None or (response is None and self._scene.response is not None):
            return  # missing texts are named on their own
        if _core.scene_id(self._name, instruction, response, self._scene.occurrence) != self._scene.scene:
            self._find("the scene's id is not the hash of its name, instruction, response and occurrence", 0)

    def _chain(self) -> list[tuple[int, dict[str, Any]]]:
        """Check sequence numbers and hashes; return the payloads that can be read, by their place."""
        log, scene, payloads = _core.EventLog(), self._scene.scene, []
        log.open(scene, len(self._scene.events))
        for place, (seq, payload, digest) in enumerate(self._scene.events):
            if seq != place:
                self._find(f"event {place} is missing" if seq > place else f"a second event has seq {seq}", min(seq, place))
                break
            try:
                _, derived = log.append(scene, payload.encode())
            except PayloadError as error:
                self._find(f"the payload is not canonical: {error}", seq)
                break
            if derived != digest:
                self._find(f"the hash is {digest.hex()}; of the events up to here it would be {derived.hex()}", seq)
                break
            payloads.append((seq, msgspec.json.decode(payload, type=dict[str, Any])))
        return payloads

    def _facts(self, payloads: list[tuple[int, dict[str, Any]]]) -> bool:
        """Check what events say of one another; return whether the scene completed."""
        turns = {"respond"}  # of a response that was given, the turn that it stands for
        actions: set[str] = set()
        completed = False
        for seq, event in payloads:
            try:
                completed = self._fact(seq, event, turns, actions)
            except (KeyError, TypeError):
                self._find(f"the event {event.get('kind')} has not the fields of its kind", seq)
        return completed

    def _fact(self, seq: int, event: dict[str, Any], turns: set[str], actions: set[str]) -> bool:
        """Check one event; return whether it ends the scene, completed."""
        if (event["kind"] == "SceneStarted") != (seq == 0):
            self._find("a scene begins with SceneStarted, once", seq)
        match event["kind"]:
            case "SceneStarted":
                self._started(event)
            case "TurnCompleted":
                name = turn_name(event["path"], event["attempt"])
                for read in event["reads"]:
                    if read not in turns:
                        self._find(f"its prompt was made from turn {read}, which did not come before", seq, name)
                turns.add(name)
            case "ActsPlanned":
                # An act that is as planned goes by its path, though nobody was asked.
                turns |= {f"step/{step}/act" for step in range(1, len(event["acts"]) + 1)}
            case "ActionProposed":
                for cause in event["causes"]:
                    if cause not in actions:
                        self._find(f"action {event['action']} was caused by {cause}, which did not come before", seq)
                actions.add(event["action"])
            case "SceneFinished":
                if event["count"] != seq:
                    self._find(f"the end counts {event['count']} events; there are {seq}", seq)
                if seq != self._scene.events[-1][0]:
                    self._find("events follow the end", seq + 1)
                return bool(event["end"] == "completed")
        return False

    def _started(self, event: dict[str, Any]) -> None:
        scene = self._scene
        listed = (self._name, scene.instruction.hex(), None if scene.response is None else scene.response.hex(), scene.occurrence)
        if listed != (event["scene"], event["instruction"], event["response"], event["occurrence"]):
            self._find("the scene is listed with another name, instruction, response or occurrence than it began with", 0)

    def _turns(self, ended: bool) -> None:
        """Check completions against their events, and requests against what they are made from."""
        completions = self._scene.completions
        events: dict[tuple[str, int], dict[str, Any]] = {}
        for place, payload, _ in self._scene.events:
            if payload.startswith('{"kind":"TurnCompleted",'):
                with contextlib.suppress(msgspec.DecodeError):
                    event = msgspec.json.decode(payload, type=dict[str, Any])
                    key = event.get("path", ""), event.get("attempt", 0)
                    events[key] = event
                    self._seqs[key] = place
        for key in self._seqs:
            if key not in completions:
                self._find("the event's completion is missing", self._seqs[key], turn_name(*key))
        for key, completion in completions.items():
            name = turn_name(*key)
            at = self._seqs.get(key)
            if key not in events:
                if ended:
                    self._find("the completion has no event, though the scene completed", None, name)
            else:
                event = events[key]
                for column, held in (
                    ("request", completion.request.hex()),
                    ("text", completion.text.hex()),
                    ("outcome", completion.outcome),
                    ("finish", completion.finish),
                ):
                    if event.get(column) != held:
                        self._find(f"the completion's {column} is {held}; its event says {event.get(column)}", at, name)
            if completion.sampling is not None and self._request(key, completion) != completion.request:
                self._find("the request is not the hash of its segments, settings and key", at, name)

    def _request(self, key: tuple[str, int], completion: _Completion) -> bytes | None:
        try:
            return _core.request_hash(
                seed=self._seed,
                scene=self._scene.scene,
                path=key[0],
                attempt=key[1],
                segments=completion.segments,
                trusted=completion.trusted,
                sampling=completion.sampling or b"",
            )
        except (ValueError, TypeError):  # a hash of another length, a NULL in a list
            return None
