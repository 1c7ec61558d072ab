"""An open log."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import msgspec

from matrix_py import _core
from matrix_py.errors import FormatError, StoreError
from matrix_py.store.asking import Parameters, prepare_queries, run_query, run_query_arrow
from matrix_py.store.connection import connect, one_line, quoted, remove, sql, transaction
from matrix_py.store.datasets import DatasetTables
from matrix_py.store.draft import FORMAT, OLDEST_FORMAT, drafted, filled, upgrade_tables
from matrix_py.store.labels import LabelTables
from matrix_py.store.listing import SceneLister, check_writable
from matrix_py.store.live import answering
from matrix_py.store.tunings import TuningTables
from matrix_py.store.views import make_views, renew_views
from matrix_py.store.wal import check_wal, wal_files
from matrix_py.store.writer import Writer
from matrix_py.types import Execution, RunConfig, RunRecord, StoredEvent, StoredScene

# Scenes read from the log at a time.
_PAGE = 100
_HASH_BYTES = 32
# What DuckDB may hold in memory of a log that is read from end to end.
_BOUND = "128MB"


class Log:
    """An open log."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, record: RunRecord, *, number: int, read_only: bool) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.record = record
        self.format = number
        self._connection = connection
        self._read_only = read_only

    @classmethod
    def create(cls, path: Path, record: RunRecord, scenes: Callable[[SceneLister], None], *, overwrite: bool) -> Self:
        """Make a log that holds a run's record and the scenes of its input, and open it for writing.

        The file appears under its name when it is whole. `scenes` is called with a `SceneLister` and adds them; what it adds to
        `record.execution.dropped` is recorded.

        Raises:
            StoreError: the file exists and `overwrite` is false, or it cannot be written.
        """
        check_writable(path, overwrite=overwrite)
        listing = path.with_name(f".{path.name}.input")
        remove(listing)
        try:
            with drafted(path) as draft, filled(draft, path) as connection:
                connection.execute(f"ATTACH {quoted(listing)} AS input")
                lister = SceneLister(connection, record.config.scene)
                scenes(lister)
                lister.finish()
                # After the scenes: what was left out of the input is known only now.
                connection.execute(
                    "INSERT INTO run VALUES (?, ?, ?, ?, NULL, ?)",
                    [
                        record.run_id,
                        FORMAT,
                        record.config.encode().decode(),
                        msgspec.json.encode(record.execution).decode(),
                        datetime.now(UTC).replace(tzinfo=None),
                    ],
                )
        finally:
            remove(listing)
        return cls.open(path, read_only=False)

    @classmethod
    def open(cls, path: Path, *, read_only: bool) -> Self:
        """Open a log.

        Raises:
            StoreError: there is no such file, or it cannot be read.
            LogLockedError: another process holds it.
            FormatError: it is no log, or one of a format that this version does not read.

        A log of an older format is read as it is; opened for writing, it is brought up to date.
        """
        with one_line(path):
            if not path.is_file():
                raise StoreError(f"log {path} does not exist: give the file that `matrix simulate --out` wrote")
            if any(file.is_file() for file in wal_files(path)):
                # While the file is held for reading, so that no other process is in the middle of a write.
                with contextlib.closing(connect(path, read_only=True)):
                    check_wal(path)
            connection = connect(path, read_only=read_only)
        try:
            with one_line(path):
                number, record = _record(path, connection)
                if number < FORMAT and not read_only:
                    _upgrade(connection, number)
                    number = FORMAT
                if not read_only:
                    renew_views(connection)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, record, number=number, read_only=read_only)

    def close(self) -> None:
        """Close the log; what was written is moved from the write-ahead log into the file."""
        if not self._read_only:
            with contextlib.suppress(duckdb.Error):  # a full disk: the write-ahead log still holds everything
                self._connection.execute("CHECKPOINT")
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def writer(self, event_log: _core.EventLog, execution: Execution | None = None) -> Writer:
        """Begin a session: return a started writer of what `event_log` buffers.

        Args:
            event_log: what the session derives.
            execution: how it is run, where that is not as the run was begun.
        """
        connection = self._connection.cursor()
        with one_line(self.path):
            session = connection.execute(
                "INSERT INTO sessions SELECT count(*), ?, ? FROM sessions RETURNING session",
                [datetime.now(UTC).replace(tzinfo=None), msgspec.json.encode(execution or self.record.execution).decode()],
            ).fetchone()
            assert session is not None
            # What is no hash is of no use to anybody; `matrix log check` names it.
            held = connection.execute("SELECT hash FROM texts WHERE octet_length(hash) = ?", [_HASH_BYTES])
            event_log.know_texts(row[0] for rows in iter(lambda: held.fetchmany(10_000), []) for row in rows)
        return Writer(self.path, connection, event_log, session=session[0])

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection of its own to the open log; only this package may use it."""
        return self._connection.cursor()

    def labels(self) -> LabelTables:
        """Return the tables of labels, beside which other parts of the log are read; close them."""
        return LabelTables(self.path, self._connection)

    def datasets(self) -> DatasetTables:
        """Return the tables of datasets, to write one; close them."""
        return DatasetTables(self.path, self._connection)

    def tunings(self) -> TuningTables:
        """Return the tables of tunings, to write one; close them."""
        return TuningTables(self.path, self._connection)

    @property
    def writer_pid(self) -> None:
        """None: nobody writes the log while it is open for reading, and who has it open for writing knows."""

    def answering(self, notice: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
        """Answer other processes that read the log while this one writes it; where that cannot be, `notice` is told why."""
        return answering(self.path, self._connection, notice)

    def num_scenes(self) -> int:
        """Return the number of scenes of the run, finished or not."""
        return int(self._one("SELECT count(*) FROM scenes"))

    def num_finished(self) -> int:
        """Return the number of finished scenes."""
        return int(self._one("SELECT count(*) FROM events WHERE kind = 'SceneFinished'"))

    @contextlib.contextmanager
    def bounded(self) -> Iterator[None]:
        """Let DuckDB hold as much in memory as of a small log, whatever the size of this one; what is more goes to a file for the time.

        For what reads all of a log. DuckDB keeps what it has read, up to most of the machine's memory, if it is let.
        """
        with tempfile.TemporaryDirectory(prefix="matrix-log-") as folder:
            with one_line(self.path):
                self._connection.execute(f"SET temp_directory = {quoted(Path(folder))}")
                self._connection.execute(f"SET memory_limit = '{_BOUND}'")
            try:
                yield
            finally:
                self._connection.execute("RESET memory_limit")

    def shares(self, size: int) -> list[tuple[int, int | None]]:
        """Divide the scenes, in input order: return the first position of each `size` of them, and the one to end before, None at last."""
        statement = "SELECT position FROM scenes QUALIFY (row_number() OVER (ORDER BY position) - 1) % ? = 0 ORDER BY position"
        starts = [position for (position,) in self.query(statement, [size])[1]]
        return [*zip(starts, [*starts[1:], None], strict=True)]

    def prompt(self, scene: bytes, path: str, attempt: int) -> list[tuple[bytes, bool]]:
        """Return the hashes of the segments that a turn was asked by, each with whether it is trusted; none if the turn is not there."""
        _, rows = self.query(
            "SELECT segments, trusted FROM completions WHERE scene = ? AND path = ? AND attempt = ?", [scene, path, attempt]
        )
        return [*zip(*rows[0], strict=False)] if rows else []

    def scenes(self, *, unfinished_only: bool = False, start: int = 0, stop: int | None = None) -> Iterator[StoredScene]:
        """Yield the scenes in input order, each with its events and completions; a page of them is read at a time.

        Args:
            unfinished_only: leave out those that are finished.
            start: the first position in the input.
            stop: the position to end before.
        """
        cursor = self._connection.cursor()
        with contextlib.closing(cursor), one_line(self.path):
            # Decided once: the run itself finishes scenes while this goes on.
            condition = "AND scene NOT IN (SELECT scene FROM events WHERE kind = 'SceneFinished')" if unfinished_only else ""
            cursor.execute(
                "CREATE TEMP TABLE todo AS SELECT scene, position FROM scenes "
                f"WHERE position >= $1 AND ($2 IS NULL OR position < $2) {condition}",
                [start, stop],
            )
            position = -1
            while True:
                cursor.execute(
                    "CREATE OR REPLACE TEMP TABLE page AS SELECT scenes.* FROM scenes "
                    "JOIN (FROM todo WHERE position > ? ORDER BY position LIMIT ?) USING (scene, position)",
                    [position, _PAGE],
                )
                page = cursor.execute(sql("page_scenes.sql")).fetchall()
                if not page:
                    return
                stored = {
                    scene: StoredScene(scene, self._text(instruction), self._text(response) if response_hash else None, occurrence)
                    for _, scene, instruction, response_hash, response, occurrence in page
                }
                for scene in stored:
                    if len(scene) != _HASH_BYTES:
                        raise FormatError(f"{self.path} lists a scene whose id {scene.hex()!r} is no hash: it was changed after the run")
                for scene, seq, payload, digest in cursor.execute(sql("page_events.sql")).fetchall():
                    events = stored[scene].events
                    if seq != len(events):
                        # What is not in its place shows as that.
                        what = f"no event with seq {len(events)}" if seq > len(events) else f"a second event with seq {seq}"
                        events.append(StoredEvent(what, b""))
                    events.append(StoredEvent(payload, digest))
                for scene, path, attempt, *rest in cursor.execute(sql("page_completions.sql")).fetchall():
                    request, text, outcome, finish = rest
                    stored[scene].completions[path, attempt] = (request, self._text(text), outcome, finish)
                position = page[-1][0]
                yield from stored.values()

    def root(self) -> bytes | None:
        """Return the root hash over the run's configuration and its scenes; None while some are not finished or hold no hash."""
        if self.num_finished() < self.num_scenes():
            return None
        cursor = self._connection.cursor()
        # A ValueError is a hash of another length, which somebody changed: replay says where.
        with contextlib.closing(cursor), one_line(self.path), contextlib.suppress(ValueError):
            cursor.execute(
                "SELECT s.scene, e.hash FROM scenes s JOIN events e USING (scene) WHERE e.kind = 'SceneFinished' ORDER BY s.position"
            )
            rows = (row for chunk in iter(lambda: cursor.fetchmany(1000), []) for row in chunk)
            # Of the configuration as it was written: what this version does not know of it counts, too.
            return _core.run_root(_core.blake3(str(self._one("SELECT config FROM run")).encode()), rows)
        return None

    def num_completions(self) -> int:
        """Return the number of completions of all scenes."""
        return int(self._one("SELECT count(*) FROM completions"))

    def health(self) -> list[tuple[str, str | None, int, int]]:
        """Return measures of the run's health (`matrix_py.health` names them): measure, kind of turn or None, count, total."""
        return self.query(sql("health.sql"))[1]

    def set_root(self, root: bytes) -> None:
        """Record the root hash of a finished run."""
        with one_line(self.path):
            self._connection.execute("UPDATE run SET root = ?", [root])

    def recorded_root(self) -> bytes | None:
        """Return the root hash that was recorded when the run finished."""
        root = self._one("SELECT root FROM run")
        return None if root is None else bytes(root)

    def query(self, statement: str, parameters: Parameters = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one SQL statement and return the column names and all rows.

        Raises:
            StoreError: the statement fails.
        """
        return run_query(self.path, self._connection, statement, parameters)

    def query_arrow(self, statement: str, parameters: Parameters = ()) -> _core.ArrowTable:
        """Run one SQL statement and return its rows as Arrow.

        Raises:
            StoreError: the statement fails, or there is none.
        """
        return run_query_arrow(self.path, self._connection, statement, parameters)

    def prepare_queries(self) -> None:
        """Make the log ready for anybody's queries: with today's views, whatever it was made with, and on all CPUs."""
        with one_line(self.path):
            prepare_queries(self._connection)

    def _one(self, statement: str) -> Any:
        with one_line(self.path):
            found = self._connection.execute(statement).fetchone()
        return None if found is None else found[0]

    def _text(self, text: str | None) -> str:
        # A text that is missing from `texts` was deleted there. Replay then names the first event that its absence changes.
        return "\N{REPLACEMENT CHARACTER} missing from texts" if text is None else text


def _record(path: Path, connection: duckdb.DuckDBPyConnection) -> tuple[int, RunRecord]:
    """Return the log's format and its run."""
    try:
        row = connection.execute("SELECT format, run_id, config, execution FROM run").fetchone()
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise FormatError(f"{path} is a DuckDB file but no matrix log: it has no table `run` that says what was run") from error
    return decode_record(path, row)


def decode_record(path: Path, row: tuple[Any, ...] | None) -> tuple[int, RunRecord]:
    """Return a log's format and its run, from the row of table `run`: `format`, `run_id`, `config`, `execution`.

    Raises:
        FormatError: there is no row, or one that this version does not read.
    """
    if row is None:
        raise FormatError(f"{path} holds no run: simulate again with --overwrite")
    number, run_id, config, execution = row
    if not OLDEST_FORMAT <= number <= FORMAT:
        raise FormatError(
            f"{path} has log format {number}; this version of matrix reads {OLDEST_FORMAT} to {FORMAT}: use the version that wrote it"
        )
    try:
        record = RunRecord(
            run_id=run_id,
            config=msgspec.json.decode(config, type=RunConfig),
            execution=msgspec.json.decode(execution, type=Execution),
        )
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path} has a run record that cannot be read: {error}") from error
    return number, record


def _upgrade(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    """Bring a log of an older format to today's, in one transaction: what came later, and today's views."""
    with transaction(connection):
        upgrade_tables(connection, number)
        make_views(connection)
        connection.execute("UPDATE run SET format = ?", [FORMAT])
