"""What a run buffers, committed: one thread, one connection, one transaction every `COMMIT_INTERVAL_S` seconds."""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from matrix_py import _core
from matrix_py.errors import StoreError
from matrix_py.store.connection import first_line

# A commit takes some milliseconds of a CPU, and on a busy machine tens of milliseconds: more often would cost the model's threads more, and
# less often would let a crash lose more than a quarter of a second.
COMMIT_INTERVAL_S = 0.08
# After so many commits, their times are written, with the rows of the next.
_NOTED_COMMITS = 8
# A text that the log has is not written again, nor one twice from a batch.
_NEW_TEXTS = "INSERT INTO texts SELECT DISTINCT hash, text FROM batch ANTI JOIN texts USING (hash)"
_TABLES = ("texts", "scenes", "completions", "events")
# Rows that may wait for the writer before the run waits for it.
MAX_PENDING_ROWS = 50_000


class Writer:
    """The thread that commits what a run buffers. Its failure is raised where the run waits for it."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, event_log: _core.EventLog, *, session: int) -> None:
        """Start writing; `Log.writer` makes these."""
        self._path = path
        self._connection = connection
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
            time.sleep(COMMIT_INTERVAL_S)
        self._raise()

    def close(self) -> None:
        """Commit what is left and end the thread.

        Raises:
            StoreError: the writer failed.
        """
        self._stop.set()
        self._thread.join()
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
            while not stopping:
                stopping = self._stop.wait(COMMIT_INTERVAL_S)
                # What is buffered came after the last drain: a row waits no longer than from there to the commit's end.
                before, drained = drained, time.perf_counter()
                rows = self._event_log.pending
                note = self._insert_commits if len(self._done) >= _NOTED_COMMITS else None
                if write(self._connection, self._event_log, note):
                    delay = time.perf_counter() - before
                    self._done.append((self._session, datetime.now(UTC).replace(tzinfo=None), rows, round(1e6 * delay)))
                    self.commits += 1
                    self.max_delay_s = max(self.max_delay_s, delay)
            self._insert_commits()
        except Exception as error:
            self._error = error

    def _insert_commits(self) -> None:
        for commit in self._done:
            self._connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?)", commit)
        self._done.clear()


def write(connection: duckdb.DuckDBPyConnection, event_log: _core.EventLog, also: Callable[[], None] | None = None) -> bool:
    """Commit everything buffered, and what `also` writes, in one transaction. False when nothing was buffered."""
    batches = event_log.drain()
    if batches is None:
        return False
    connection.execute("BEGIN")
    try:
        # In the order in which the event log hands its batches over. As relations: to register each costs as much again as to insert it.
        for table, batch in zip(_TABLES, batches, strict=True):
            if len(batch):
                rows = connection.from_arrow(batch)
                if table == "texts":
                    rows.query("batch", _NEW_TEXTS)
                else:
                    rows.insert_into(table)
        if also is not None:
            also()
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    return True
