"""Answering readers while a run writes: DuckDB lets no other process open the file then, so its owner runs their queries.

Nothing here may disturb the run. Each reader has a thread, a cursor and a read-only transaction of its own, rows leave a small batch at a
time, and whatever goes wrong ends that one connection.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from matrix_py import _core
from matrix_py.errors import StoreError
from matrix_py.store import frames, meeting
from matrix_py.store.connection import first_line
from matrix_py.store.frames import Failure, Header, Request
from matrix_py.store.statement import StatementCheck

MAX_READERS = 4
_STATUS = Path("/proc/self/status")
# Of a result that are in memory at a time.
_BATCH_ROWS = 2048
# How long a new connection may be silent, and how long the run's end waits for readers that are being cut off.
_REQUEST_S = 5.0
_END_S = 2.0
# How often a query under way is looked after.
_WATCH_S = 0.05
# By how much the process may grow while a query is under way.
MAX_GROWTH_MIB = 1024


@contextlib.contextmanager
def answering(log: Path, connection: duckdb.DuckDBPyConnection, notice: Callable[[str], None]) -> Iterator[None]:
    """Answer readers of a log that this process writes. Where that cannot be, `notice` is told why, and the run goes on without.

    Args:
        log: the log's path.
        connection: one to its database; only cursors are made of it.
        notice: takes a line of text.
    """
    try:
        server = Server(log, connection)
    except (OSError, StoreError, duckdb.Error) as error:
        what = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        notice(f"while this run writes {log.name}, nobody else can read it: {what}{first_line(error)}")
        yield
        return
    try:
        yield
    finally:
        server.close()


class Server:
    """The thread that takes readers in, and the readers."""

    def __init__(self, log: Path, connection: duckdb.DuckDBPyConnection) -> None:
        """Listen on the log's socket, and start.

        Raises:
            StoreError: the socket's folder is not the user's alone.
            OSError: the socket cannot be made.
        """
        self._connection = connection.cursor()
        try:
            # Of the whole database, but only what leaves it as Arrow and what Python's variables stand for in SQL: the run does neither.
            self._connection.execute("SET arrow_lossless_conversion = true; SET python_enable_replacements = false")
            self._listener, self.path = meeting.listen(log)
        except BaseException:
            self._connection.close()
            raise
        self._inode = self.path.stat().st_ino
        self._check = StatementCheck()
        self._wake, self._woken = socket.socketpair()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._readers: list[_Reader] = []
        self._thread = threading.Thread(target=self._run, name="matrix-live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take nobody in any more, cut off who is reading, and remove the socket."""
        self._stop.set()
        self._wake.send(b"x")
        self._thread.join()
        self._listener.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        end = time.monotonic() + _END_S
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            reader.cut_off(until=end)
        self._connection.close()
        self._wake.close()
        self._woken.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                ready, _, _ = select.select([self._listener, self._woken], [], [])
                if self._listener in ready:
                    self._take_in(self._listener.accept()[0])
            except Exception:
                # Such as no file descriptors left: the run may be short of them, too. Readers try again.
                self._stop.wait(_WATCH_S)

    def _take_in(self, peer: socket.socket) -> None:
        try:
            peer.settimeout(_REQUEST_S)
            with self._lock:
                self._readers = [reader for reader in self._readers if reader.is_reading()]
                busy = len(self._readers) >= MAX_READERS
                if not busy and meeting.is_ours(peer):
                    self._readers.append(_Reader(peer, self._connection.cursor(), self._check))
                    return
            if busy:
                frames.send_message(peer, b"E", Failure(kind="busy"))
        except BaseException:
            peer.close()
            raise
        peer.close()


class _Reader:
    """A connection, the thread that answers its one request, and one that sees to it that this ends."""

    def __init__(self, peer: socket.socket, cursor: duckdb.DuckDBPyConnection, check: StatementCheck) -> None:
        self._peer = peer
        self._cursor = cursor
        self._check = check
        self._done = threading.Event()
        # Set by who ended the query: what to say of it.
        self._ended: Failure | None = None
        self._thread = threading.Thread(target=self._run, name="matrix-reader", daemon=True)
        self._thread.start()

    def is_reading(self) -> bool:
        return self._thread.is_alive()

    def cut_off(self, *, until: float) -> None:
        """End it; give up at that time, since a thread that waits for the system cannot be ended."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        while self._thread.is_alive() and time.monotonic() < until:
            self._interrupt()
            self._thread.join(_WATCH_S)

    def _interrupt(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._cursor.interrupt()

    def _run(self) -> None:
        # Whatever happens is this reader's alone. What could be said of it was said to the other end, or that is gone.
        with contextlib.suppress(Exception):
            try:
                request = frames.receive_request(self._peer)
            except msgspec.MsgspecError:
                failure: Failure | None = Failure(kind="refused", message="the run is of another version of matrix: wait until it ends")
            else:
                threading.Thread(target=self._watch, args=(request.timeout_s,), name="matrix-reader-watch", daemon=True).start()
                failure = self._answer(request)
            # What is left to say is short. A time that is up must not keep it from being said.
            self._peer.settimeout(_REQUEST_S)
            if failure is None:
                frames.send(self._peer, b"D")
            else:
                frames.send_message(self._peer, b"E", failure)
        self._done.set()
        with contextlib.suppress(Exception):
            self._cursor.close()
        self._peer.close()

    def _watch(self, timeout_s: float) -> None:
        """Interrupt the query when its time is up, it needs too much memory or nobody waits for it.

        Again and again, since a query that is just beginning forgets it.
        """
        end, before = time.monotonic() + min(timeout_s, frames.MAX_TIMEOUT_S), _private_mib()
        while not self._done.wait(_WATCH_S):
            if self._ended is None and time.monotonic() >= end:
                self._ended = Failure(kind="timeout")
            elif self._ended is None and _private_mib() - before > MAX_GROWTH_MIB:
                self._ended = Failure(kind="memory", message=str(MAX_GROWTH_MIB))
            if self._ended is not None or self._is_gone():
                self._interrupt()

    def _is_gone(self) -> bool:
        try:
            ready, _, _ = select.select([self._peer], [], [], 0)
            return bool(ready) and not self._peer.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    def _answer(self, request: Request) -> Failure | None:
        """Send header and rows; return why they are not whole, if they are not."""
        max_rows = min(request.max_rows, frames.MAX_ROWS)
        self._peer.settimeout(min(request.timeout_s, frames.MAX_TIMEOUT_S))
        try:
            self._cursor.execute("BEGIN TRANSACTION READ ONLY")
            try:
                query = self._check.one(self._cursor, request.statement)
            except (StoreError, RecursionError) as error:
                return Failure(kind="refused", message=first_line(error))
            relation = self._cursor.sql(query, params=request.parameters or None)
            if relation is None:
                return Failure(kind="refused", message="a statement without a result is not answered: give a SELECT")
            rows = _core.ipc_encode(_SmallBatches(relation))
            frames.send_message(self._peer, b"H", Header(pid=os.getpid(), columns=relation.columns))
            for piece in rows:
                if rows.rows > max_rows:
                    return Failure(kind="rows")
                if self._ended is not None:
                    return self._ended
                frames.send(self._peer, b"B", piece)
        except OSError:
            raise  # the other end is gone, or does not read
        except Exception as error:
            return self._ended or Failure(kind="sql", message=first_line(error))
        return None


def _private_mib() -> int:
    """Return the memory of this process that no file stands behind, as a model's does, in MiB. Where the system does not say: 0."""
    try:
        status = _STATUS.read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)


class _SmallBatches:
    """A relation's rows as an Arrow stream. DuckDB's own gives 131,072 rows at a time, which may be a lot of text."""

    def __init__(self, relation: Any) -> None:
        self._relation = relation

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        try:
            return self._relation._submit("stream", _BATCH_ROWS).arrow_capsule()
        except (AttributeError, TypeError):
            # Not of DuckDB's public interface: where it is gone, batches are large.
            return self._relation.__arrow_c_stream__(requested_schema)
