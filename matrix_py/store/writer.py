"""What a run buffers, committed: one thread, one connection, and as few transactions as let a row be in the file within `MAX_DELAY_S`."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from matrix_py import _core
from matrix_py.errors import StoreError
from matrix_py.store.connection import first_line, transaction

# A commit takes some milliseconds of a CPU, whatever is in it, and on a busy machine tens of milliseconds. So the next begins as late as it
# may, by how long the slowest of the latest took, for a crash to lose no more than a quarter of a second.
MAX_DELAY_S = 0.22
_LATEST_COMMITS = 32
_LEAST_WAIT_S = 0.05
# After so many commits, their times are written, with the rows of the next.
_NOTED_COMMITS = 8
# A text that the log has is not written again, nor one twice from a batch; for an event log that does not know which those are.
_NEW_TEXTS = "INSERT INTO texts SELECT DISTINCT hash, text FROM new_texts ANTI JOIN texts USING (hash)"
_TABLES = ("texts", "scenes", "completions", "events")
# Rows that may wait for the writer before the run waits for it.
MAX_PENDING_ROWS = 50_000


class Writer:
    """The thread that commits what a run buffers. Its failure is raised where the run waits for it."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, event_log: _core.EventLog, *, session: int) -> None:
        """Start writing; `Log.writer` makes these."""
        self._path = path
        self._connection = connection
        self._inserter = Inserter(connection)
        self._event_log = event_log
        self._session = session
        self._stop = threading.Event()
        self._error: Exception | None = None
        # Of commits that are done and not in the table `commits` yet: a commit cannot hold its own end.
        self._done: list[tuple[int, datetime, int, int]] = []
        self.commits = 0
        self.max_delay_s = 0.0
        self._thread = threading.Thread(target=self._run, name="matrix-writer", daemon=True)
        self._thread.start()

    def keep_up(self) -> None:
        """Return when the writer is not behind.

        Raises:
            StoreError: the writer failed; nothing is written any more.
        """
        while self._error is None and self._event_log.pending > MAX_PENDING_ROWS:
            time.sleep(_LEAST_WAIT_S)
        self._raise()

    def close(self) -> None:
        """Commit what is left and end the thread.

        Raises:
            StoreError: the writer failed.
        """
        self._stop.set()
        self._thread.join()
        self._inserter.close()
        self._connection.close()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise StoreError(
                f"log {self._path} cannot be written: {first_line(self._error)}; what was committed is safe: mend the cause, then resume"
            ) from self._error

    def _run(self) -> None:
        try:
            stopping = False
            drained = time.perf_counter()
            latest_s: deque[float] = deque([0.0], _LATEST_COMMITS)
            while not stopping:
                due = drained + MAX_DELAY_S - max(latest_s)
                stopping = self._stop.wait(max(due - time.perf_counter(), _LEAST_WAIT_S))
                # What is buffered came after the last drain: a row waits no longer than from there to the commit's end.
                before, drained = drained, time.perf_counter()
                rows = self._event_log.pending
                note = self._insert_commits if len(self._done) >= _NOTED_COMMITS else None
                if self._inserter.write(self._event_log, note):
                    now = time.perf_counter()
                    latest_s.append(now - drained)
                    delay = now - before
                    self._done.append((self._session, datetime.now(UTC).replace(tzinfo=None), rows, round(1e6 * delay)))
                    self.commits += 1
                    self.max_delay_s = max(self.max_delay_s, delay)
            self._insert_commits()
        except Exception as error:
            self._error = error

    def _insert_commits(self) -> None:
        if self._done:
            columns = [list(column) for column in zip(*self._done, strict=True)]
            self._connection.execute("INSERT INTO commits SELECT unnest($1), unnest($2), unnest($3), unnest($4)", columns)
            self._done.clear()


class Inserter:
    """Commits what an event log buffers, over one connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Use a connection, which stays the caller's."""
        self._connection = connection
        self._sources: dict[str, _Source] = {}

    def write(self, event_log: _core.EventLog, also: Callable[[], None] | None = None) -> bool:
        """Commit everything buffered, and what `also` writes, in one transaction. False when nothing was buffered."""
        batches = event_log.drain()
        if batches is None:
            return False
        # In the order in which the event log hands its batches over.
        filled = [(table, batch) for table, batch in zip(_TABLES, batches, strict=True) if len(batch)]
        for table, batch in filled:
            self._put(table, batch)
        with transaction(self._connection):
            for table, _ in filled:
                # Once drained, for what is in the batch by then.
                ask = table == "texts" and not event_log.knows_all_texts
                self._connection.execute(_NEW_TEXTS if ask else f"INSERT INTO {table} FROM new_{table}")
            if also is not None:
                also()
        return True

    def close(self) -> None:
        """Let go of what the connection reads."""
        for table in self._sources:
            with contextlib.suppress(duckdb.Error):
                self._connection.unregister(f"new_{table}")
        self._sources.clear()

    def _put(self, table: str, batch: _core.ArrowBatch) -> None:
        """Let the connection read a batch as `new_TABLE`."""
        if table in self._sources:
            self._sources[table].batch = batch
        else:
            # Once and for all: to make it known each time takes as long as to insert it.
            self._sources[table] = _Source(batch)
            self._connection.register(f"new_{table}", self._sources[table])


class _Source:
    """What DuckDB reads under one name: the batch that is its turn."""

    def __init__(self, batch: _core.ArrowBatch) -> None:
        self.batch = batch

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.batch.__arrow_c_stream__(requested_schema)
