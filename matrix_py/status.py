"""How far a run is: read from its log's own tables, whether a run writes it just now, has stopped, or is done."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from matrix_py.errors import ConfigError, LogLockedError
from matrix_py.store import open_for_reading
from matrix_py.store.connection import sql

# Sessions and commits came with it.
_FORMAT_OF_SESSIONS = 2
_MIN_EVERY_S = 0.1
_CLOSING_S = 60.0

State = Literal["running", "finished", "stopped"]


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """How long rows waited for their commit to end, in milliseconds, over the commits of a session."""

    commits: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of simulate or resume has done: the last that did anything.

    Attributes:
        number: from 0.
        began_at: UTC.
        seconds: until now, or until its last turn or commit where it is over.
        scenes: scenes that it finished.
        scenes_per_minute: None where no time has passed.
        eta_s: seconds until the last scene is finished, at this rate; None where the run is not running, or none is finished yet.
        delay: None before the first commits are recorded, which happens a few commits later.
    """

    number: int
    began_at: datetime
    seconds: float
    scenes: int
    turns: int
    generated_tokens: int
    scenes_per_minute: float | None
    turns_per_second: float | None
    generated_tokens_per_second: float | None
    eta_s: float | None
    delay: Delay | None


class Flaw(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of flaw, what was done about it, and how often."""

    flaw: str
    policy: str
    count: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is.

    Attributes:
        pid: the process that writes the log.
        scenes: of the run; `completed`, `failed` and `open` of them.
        under_way: scenes of the open ones that have begun.
        turns: completions, of all sessions.
        failures: of failed scenes, by reason.
        fallbacks: of turns, by kind.
        session: None where the log does not know: one of format 1, or one that was never run.
    """

    run: str
    state: State
    pid: int | None
    scene: str
    created_at: datetime
    last_turn_at: datetime | None
    scenes: int
    completed: int
    failed: int
    open: int
    under_way: int
    turns: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    failures: dict[str, int]
    fallbacks: dict[str, int]
    flaws: list[Flaw]
    session: Session | None


def read_status(path: Path) -> Status:
    """Return how far a run is, of a log that a run writes or of one that none does.

    Raises:
        StoreError: the log cannot be read.
    """
    with open_for_reading(path) as log:
        while True:
            pid, scene = log.writer_pid, log.record.config.scene
            _, counts = log.query(sql("status.sql"))
            session = log.query(sql("status_session.sql")) if log.format >= _FORMAT_OF_SESSIONS else ([], [])
            if log.writer_pid == pid:
                break  # otherwise the run ended in the middle, and what was asked first is out of date
    found: dict[str, list[tuple[Any, ...]]] = {}
    for what, *row in sorted(counts, key=lambda row: (-row[3], row[1], row[2])):
        found.setdefault(what, []).append(tuple(row))
    [(_, _, num_scenes, created_at)] = found["scenes"]
    [(_, _, num_begun, _)] = found["begun"]
    finished = found.get("finished", [])
    completed = sum(number for end, _, number, _ in finished if end == "completed")
    failures = {reason: number for end, reason, number, _ in finished if end != "completed"}
    num_finished = completed + sum(failures.values())
    num_open = num_scenes - num_finished
    last_turn_at = found["total"][0][3]
    return Status(
        run=str(path),
        state="running" if pid is not None else "stopped" if num_open else "finished",
        pid=pid,
        scene=scene,
        created_at=_utc(created_at),
        last_turn_at=None if last_turn_at is None else _utc(last_turn_at),
        scenes=num_scenes,
        completed=completed,
        failed=num_finished - completed,
        open=num_open,
        under_way=num_begun - num_finished,
        **{name: int(number) for name, _, number, _ in found["total"]},
        failures=failures,
        fallbacks={kind: number for kind, _, number, _ in found.get("fallback", [])},
        flaws=[Flaw(flaw=flaw, policy=policy, count=number) for flaw, policy, number, _ in found.get("flaw", [])],
        session=_session(*session, running=pid is not None, num_open=num_open),
    )


def watch_status(path: Path, every_s: float | None) -> Iterator[Status]:
    """Yield a run's status; with `every_s`, every so many seconds until no run writes the log.

    Raises:
        ConfigError: `every_s` is too short.
        StoreError: the log cannot be read.
    """
    if every_s is not None and not every_s >= _MIN_EVERY_S:
        raise ConfigError(f"--every is {every_s:g}: give seconds, at least {_MIN_EVERY_S:g}")
    until = 0.0
    while True:
        try:
            status = read_status(path)
        except LogLockedError:
            # A run that has ended closes its log, which may take a while.
            if time.monotonic() >= until:
                raise
            time.sleep(_MIN_EVERY_S)
            continue
        yield status
        if every_s is None or status.state != "running":
            return
        time.sleep(every_s)
        until = time.monotonic() + _CLOSING_S


def _session(columns: list[str], rows: list[tuple[Any, ...]], *, running: bool, num_open: int) -> Session | None:
    if not rows:
        return None
    facts: dict[str, Any] = dict(zip(columns, rows[0], strict=True))
    began = _utc(facts["began_at"])
    end = datetime.now(UTC) if running else _utc(facts["last_at"] or facts["began_at"])
    seconds = max((end - began).total_seconds(), 0.0)

    def rate(count: int) -> float | None:
        return count / seconds if seconds else None

    scenes, per_second = int(facts["scenes"]), rate(int(facts["scenes"]))
    return Session(
        number=facts["session"],
        began_at=began,
        seconds=seconds,
        scenes=scenes,
        turns=int(facts["turns"]),
        generated_tokens=int(facts["generated_tokens"]),
        scenes_per_minute=None if per_second is None else 60 * per_second,
        turns_per_second=rate(int(facts["turns"])),
        generated_tokens_per_second=rate(int(facts["generated_tokens"])),
        eta_s=num_open / per_second if running and per_second else None,
        delay=Delay(**{name: facts[name] for name in Delay.__struct_fields__}) if facts["commits"] else None,
    )


def _utc(time: datetime) -> datetime:
    """Return a time of the log, which is in UTC and does not say so, as one that does."""
    return time.replace(tzinfo=UTC)
