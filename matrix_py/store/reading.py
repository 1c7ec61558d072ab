"""Reading a log, whether a run writes it just now or not."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import duckdb
import msgspec

from matrix_py import _core
from matrix_py.errors import ConfigError, LogLockedError, StoreError
from matrix_py.store import frames, meeting
from matrix_py.store.asking import Parameters, as_arrow
from matrix_py.store.connection import first_line
from matrix_py.store.frames import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S, MAX_ROWS, MAX_TIMEOUT_S, CutOffError, Failure, Header, Request
from matrix_py.store.log import Log, decode_record
from matrix_py.store.together import LogsTogether
from matrix_py.types import RunRecord

# How long the writer may be silent beyond the time that a query has.
_GRACE_S = 5.0
# How long to wait for a run that has just stopped answering to give the file free, and for one to begin answering.
_HANDOVER_S = 10.0
_BEGINNING_S = 1.0
_RETRY_S = 0.05
# A run may end and be resumed while a reader waits.
_HANDOVERS = 4
_PARAMETERS = (type(None), bool, int, float, str, bytes)

_T = TypeVar("_T")


class ReadableLog(Protocol):
    """What readers need of a log. A `Log` is one, and so is a `LiveLog`."""

    @property
    def path(self) -> Path:
        """Where the log is."""

    @property
    def record(self) -> RunRecord:
        """The run's record."""

    @property
    def format(self) -> int:
        """The log's format."""

    @property
    def writer_pid(self) -> int | None:
        """The process that writes the log while it is read; None where nobody does."""

    def query(self, statement: str, parameters: Parameters = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one SQL statement and return the column names and all rows.

        Args:
            statement: in DuckDB's SQL.
            parameters: what `?` in it stands for, in order; or what `$name` stands for, by name.

        Raises:
            StoreError: the statement fails, or there is no whole answer.
        """

    def query_arrow(self, statement: str, parameters: Parameters = ()) -> _core.ArrowTable:
        """Run one SQL statement and return its rows as Arrow: for `pyarrow.table`, `polars.DataFrame` or `pandas.DataFrame.from_arrow`.

        Raises:
            StoreError: the statement fails, or there is none, or there is no whole answer.
        """

    def close(self) -> None:
        """Close it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def open_for_reading(
    path: Path, *, others: Sequence[Path] = (), max_rows: int = DEFAULT_MAX_ROWS, timeout_s: float = DEFAULT_TIMEOUT_S
) -> ReadableLog:
    """Open a log for reading; where a run writes it just now, by asking that run.

    Args:
        path: the log.
        others: logs to query together with it: the tables and views of the first of them begin with `b.`, those of the next with `c.`,
            and so on. No run may be writing any of them.
        max_rows: of a running run's answer to a query, the most rows; more are an error. Of a file there is no limit.
        timeout_s: for which a running run may work on a query, in seconds.

    Raises:
        ConfigError: a limit is out of range.
        StoreError: there is no such file, or it cannot be read.
        LogLockedError: another process holds it, and is no run that answers.
        FormatError: it is no log, or one of a format that this version does not read.
    """
    if not 1 <= max_rows <= MAX_ROWS:
        raise ConfigError(f"--max-rows is {max_rows}: give 1 to {MAX_ROWS}")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ConfigError(f"--timeout is {timeout_s:g}: give seconds, more than 0 and at most {MAX_TIMEOUT_S:g}")
    if others:
        return LogsTogether([path, *others])
    return _open(path, max_rows, timeout_s, wait_s=None)


def _open(path: Path, max_rows: int, timeout_s: float, *, wait_s: float | None) -> ReadableLog:
    end = None if wait_s is None else time.monotonic() + wait_s
    while True:
        try:
            return _prepared(Log.open(path, read_only=True))
        except LogLockedError:
            try:
                return LiveLog(path, max_rows=max_rows, timeout_s=timeout_s)
            except CutOffError:
                pass
            # Between a run's hold on the file and its socket, and back, is a moment. Without a socket, it is no run that is held.
            if end is None:
                end = time.monotonic() + (_BEGINNING_S if meeting.exists(path) else 0.0)
            if time.monotonic() >= end:
                raise
        time.sleep(_RETRY_S)


class LiveLog:
    """A log that another process writes. When that ends, the file itself is read from then on.

    Each query sees the log as it is when it is asked, so that two may see different states; what one has seen stays in the log.
    """

    def __init__(self, path: Path, *, max_rows: int, timeout_s: float) -> None:
        """Only `open_for_reading` makes these.

        Raises:
            CutOffError: nobody answers.
            StoreError: who does gives no record of a run.
        """
        self.path = path
        self.writer_pid: int | None = None
        self._max_rows = max_rows
        self._timeout_s = timeout_s
        # Where answers become rows as those of a file do. Made when it is needed.
        self._memory: duckdb.DuckDBPyConnection | None = None
        # What takes its place when the run has ended.
        self._file: Log | None = None
        _, content = self._ask("SELECT format, run_id, config, execution FROM run", ())
        rows = self._read(content, _rows)
        self.format, self.record = decode_record(path, rows[0] if rows else None)

    def query(self, statement: str, parameters: Parameters = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Have the writer run one SELECT, and return the column names and all rows.

        Raises:
            StoreError: the statement fails or is refused, takes too long, or has more rows than are allowed.
        """
        answer = self._answer(statement, parameters)
        if isinstance(answer, Log):
            return answer.query(statement, parameters)
        columns, content = answer
        return columns, self._read(content, _rows)

    def query_arrow(self, statement: str, parameters: Parameters = ()) -> _core.ArrowTable:
        """Have the writer run one SELECT, and return its rows as Arrow.

        Raises:
            StoreError: as for `query`.
        """
        answer = self._answer(statement, parameters)
        if isinstance(answer, Log):
            return answer.query_arrow(statement, parameters)
        # Once through DuckDB: types that Arrow does not have come here under names of DuckDB's own.
        return self._read(answer[1], as_arrow)

    def _answer(self, statement: str, parameters: Parameters) -> Log | tuple[list[str], bytes]:
        """Return the writer's answer, column names and an Arrow stream; or the log itself, if nobody writes it any more."""
        for _ in range(_HANDOVERS):
            if self._file is not None:
                return self._file
            try:
                return self._ask(statement, parameters)
            except CutOffError:
                opened = _open(self.path, self._max_rows, self._timeout_s, wait_s=_HANDOVER_S)
                if isinstance(opened, Log):
                    self._close_memory()
                    self._file, self.writer_pid = opened, None
                else:
                    opened.close()
        raise StoreError(f"log {self.path}: the run that writes it breaks off its answers: wait until it ends, or stop it")

    def close(self) -> None:
        """Close it; the run goes on."""
        self._close_memory()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, statement: str, parameters: Parameters) -> tuple[list[str], bytes]:
        given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
        for value in given.values() if isinstance(given, dict) else given:
            if not isinstance(value, _PARAMETERS):
                raise StoreError(
                    f"SQL on {self.path}: a parameter is a {type(value).__name__}: while a run writes the log, give numbers or text"
                )
        try:
            request = msgspec.msgpack.encode(
                Request(
                    log=os.fspath(self.path),
                    statement=statement,
                    parameters=given,
                    max_rows=self._max_rows,
                    timeout_s=self._timeout_s,
                )
            )
        except (OverflowError, UnicodeEncodeError) as error:
            raise StoreError(
                f"SQL on {self.path}: a parameter cannot be sent to the run that writes the log: {first_line(error)}"
            ) from error
        end = time.monotonic() + self._timeout_s
        while True:
            try:
                header, failure, content = self._exchange(request)
            except TimeoutError as error:
                holder = "" if self.writer_pid is None else f" {self.writer_pid}"
                raise StoreError(
                    f"log {self.path} is held by process{holder}, which does not answer: wait until it ends, or stop it"
                ) from error
            if failure is None or failure.kind != "busy":
                break
            if time.monotonic() >= end:
                raise StoreError(f"log {self.path} has as many readers as it can have while a run writes it: try again later")
            time.sleep(_RETRY_S)
        if failure is not None:
            raise StoreError(f"SQL on {self.path}: {self._reason(failure)}")
        return header.columns, content

    def _exchange(self, request: bytes) -> tuple[Header, Failure | None, bytes]:
        connection = meeting.connect(self.path, timeout_s=_GRACE_S)
        if connection is None:
            raise CutOffError
        header, content = Header(pid=0, columns=[]), bytearray()
        with connection:
            connection.settimeout(self._timeout_s + _GRACE_S)
            try:
                frames.send(connection, b"Q", request)
            except TimeoutError:
                raise
            except OSError:
                pass  # it may have said that it is busy before it read this
            while True:
                tag, piece = frames.receive(connection)
                match tag:
                    case b"H":
                        header = msgspec.msgpack.decode(piece, type=Header)
                        self.writer_pid = header.pid
                    case b"B":
                        content += piece
                    case b"E":
                        return header, msgspec.msgpack.decode(piece, type=Failure), b""
                    case _:
                        return header, None, bytes(content)

    def _read(self, content: bytes, take: Callable[[duckdb.DuckDBPyRelation], _T]) -> _T:
        if self._memory is None:
            self._memory = duckdb.connect(":memory:", config={"threads": 1})
        try:
            return take(self._memory.from_arrow(_core.ipc_decode(content)))
        except (duckdb.Error, StoreError) as error:
            raise StoreError(f"SQL on {self.path}: {first_line(error)}") from error

    def _reason(self, failure: Failure) -> str:
        match failure.kind:
            case "timeout":
                more = f", or give more seconds with --timeout (at most {MAX_TIMEOUT_S:g})" if self._timeout_s < MAX_TIMEOUT_S else ""
                return f"no answer within {self._timeout_s:g} s, the time that a run gives while it writes the log: ask for less{more}"
            case "rows":
                more = f", or more with --max-rows (at most {MAX_ROWS})" if self._max_rows < MAX_ROWS else ""
                return f"more than {self._max_rows} rows, the most that a run gives while it writes the log: ask for less with LIMIT{more}"
            case "memory":
                return f"the query needs more than {failure.message} MiB of a run that writes the log: ask for less, or wait until it ends"
        return failure.message

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _prepared(log: Log) -> Log:
    try:
        log.prepare_queries()
    except BaseException:
        log.close()
        raise
    return log


def _rows(relation: duckdb.DuckDBPyRelation) -> list[tuple[Any, ...]]:
    return relation.fetchall()
