"""The log: a DuckDB file that holds one run. The only module that imports duckdb.

Tables (docs/sql.md says what each column means, and which are hashed): `run`, `texts`, `scenes`, `completions`, `events`, and views over
them. One writer thread with a connection of its own commits what the run has buffered, every `COMMIT_INTERVAL_S` seconds, in one
transaction: texts and completions no later than the events that follow from them.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import msgspec

from matrix_py import _core
from matrix_py.errors import FormatError, LogLockedError, StoreError
from matrix_py.types import RunRecord, StoredEvent, StoredScene

FORMAT = 1
COMMIT_INTERVAL_S = 0.05
# Rows that may wait for the writer before the run waits for it.
MAX_PENDING_ROWS = 50_000
# Scenes read from the log at a time.
_PAGE = 500
_HASH_BYTES = 32
# Older DuckDB releases open files of this storage version.
_STORAGE_VERSION = "v1.2.0"
_LOCK_HOLDER = re.compile(r"held in (.*?) \(PID (\d+)\)")


class Log:
    """An open log."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, record: RunRecord, *, read_only: bool) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.record = record
        self._connection = connection
        self._read_only = read_only

    @classmethod
    def create(cls, path: Path, record: RunRecord, scenes: Callable[["SceneLister"], None], *, overwrite: bool) -> Self:
        """Make a log that holds a run's record and the scenes of its input, and open it for writing.

        The file appears under its name when it is whole. `scenes` is called with a `SceneLister` and adds them; what it adds to
        `record.execution.dropped` is recorded.

        Raises:
            StoreError: the file exists and `overwrite` is false, or it cannot be written.
        """
        check_writable(path, overwrite=overwrite)
        draft, listing = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.input")
        _remove(draft)
        _remove(listing)
        try:
            with _one_line(path), contextlib.closing(_connect(draft, new=True)) as connection:
                connection.execute(f"ATTACH {_quoted(listing)} AS input")
                connection.execute(_sql("schema.sql"))
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
                connection.execute(_sql("views.sql"))
                connection.execute("CHECKPOINT")
            with _one_line(path):
                # A log that is replaced leaves no write-ahead log that would pass for the new one's.
                path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
                draft.replace(path)
        finally:
            _remove(draft)
            _remove(listing)
        return cls.open(path, read_only=False)

    @classmethod
    def open(cls, path: Path, *, read_only: bool) -> Self:
        """Open a log.

        Raises:
            StoreError: there is no such file, or it cannot be read.
            LogLockedError: another process holds it.
            FormatError: it is no log, or one of a format that this version does not read.
        """
        with _one_line(path):
            if not path.is_file():
                raise StoreError(f"log {path} does not exist: give the file that `matrix simulate --out` wrote")
            connection = _connect(path, read_only=read_only)
        try:
            with _one_line(path):
                record = _record(path, connection)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, record, read_only=read_only)

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

    def writer(self, event_log: _core.EventLog) -> "Writer":
        """Return a started writer of what `event_log` buffers."""
        return Writer(self.path, self._connection.cursor(), event_log)

    def num_scenes(self) -> int:
        """Return the number of scenes of the run, finished or not."""
        return int(self._one("SELECT count(*) FROM scenes"))

    def num_finished(self) -> int:
        """Return the number of finished scenes."""
        return int(self._one("SELECT count(*) FROM events WHERE kind = 'SceneFinished'"))

    def scenes(self, *, unfinished_only: bool = False) -> Iterator[StoredScene]:
        """Yield the scenes in input order, each with its events and completions; a page of them is read at a time."""
        cursor = self._connection.cursor()
        with contextlib.closing(cursor), _one_line(self.path):
            # Decided once: the run itself finishes scenes while this goes on.
            condition = "WHERE scene NOT IN (SELECT scene FROM events WHERE kind = 'SceneFinished')" if unfinished_only else ""
            cursor.execute(f"CREATE TEMP TABLE todo AS SELECT scene, position FROM scenes {condition}")
            position = -1
            while True:
                cursor.execute(
                    "CREATE OR REPLACE TEMP TABLE page AS SELECT scenes.* FROM scenes "
                    "JOIN (FROM todo WHERE position > ? ORDER BY position LIMIT ?) USING (scene, position)",
                    [position, _PAGE],
                )
                page = cursor.execute(_sql("page_scenes.sql")).fetchall()
                if not page:
                    return
                stored = {
                    scene: StoredScene(scene, self._text(instruction), self._text(response) if response_hash else None, occurrence)
                    for _, scene, instruction, response_hash, response, occurrence in page
                }
                for scene in stored:
                    if len(scene) != _HASH_BYTES:
                        raise FormatError(f"{self.path} lists a scene whose id {scene.hex()!r} is no hash: it was changed after the run")
                for scene, seq, payload, digest in cursor.execute(_sql("page_events.sql")).fetchall():
                    events = stored[scene].events
                    if seq != len(events):
                        # What is not in its place shows as that.
                        what = f"no event with seq {len(events)}" if seq > len(events) else f"a second event with seq {seq}"
                        events.append(StoredEvent(what, b""))
                    events.append(StoredEvent(payload, digest))
                for scene, path, attempt, *rest in cursor.execute(_sql("page_completions.sql")).fetchall():
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
        with contextlib.closing(cursor), _one_line(self.path), contextlib.suppress(ValueError):
            cursor.execute(
                "SELECT s.scene, e.hash FROM scenes s JOIN events e USING (scene) WHERE e.kind = 'SceneFinished' ORDER BY s.position"
            )
            rows = (row for chunk in iter(lambda: cursor.fetchmany(1000), []) for row in chunk)
            # Of the configuration as it was written: what this version does not know of it counts, too.
            return _core.run_root(_core.blake3(str(self._one("SELECT config FROM run")).encode()), rows)
        return None

    def problems(self) -> list[str]:
        """Return what is wrong with the log as a whole: rows that belong to nothing, and texts that are not what they were."""
        cursor = self._connection.cursor()
        with contextlib.closing(cursor), _one_line(self.path):
            found = cursor.execute(_sql("checks.sql")).fetchall()
            cursor.execute("SELECT hash, text FROM texts")
            rows = (row for chunk in iter(lambda: cursor.fetchmany(1000), []) for row in chunk)
            found.append(("texts are not what their hashes say", sum(_core.blake3(text.encode()) != digest for digest, text in rows)))
        return [f"{count} {what}" for what, count in found if count]

    def num_completions(self) -> int:
        """Return the number of completions of all scenes."""
        return int(self._one("SELECT count(*) FROM completions"))

    def set_root(self, root: bytes) -> None:
        """Record the root hash of a finished run."""
        with _one_line(self.path):
            self._connection.execute("UPDATE run SET root = ?", [root])

    def recorded_root(self) -> bytes | None:
        """Return the root hash that was recorded when the run finished."""
        root = self._one("SELECT root FROM run")
        return None if root is None else bytes(root)

    def query(self, statement: str, parameters: Sequence[object] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one SQL statement and return the column names and all rows.

        Raises:
            StoreError: the statement fails.
        """
        try:
            cursor = self._connection.execute(statement, list(parameters))
            columns = [column[0] for column in cursor.description or []]
            return columns, cursor.fetchall() if columns else []
        except duckdb.Error as error:
            raise StoreError(f"SQL on {self.path}: {_first_line(error)}") from error

    def _one(self, statement: str) -> Any:
        with _one_line(self.path):
            found = self._connection.execute(statement).fetchone()
        return None if found is None else found[0]

    def _text(self, text: str | None) -> str:
        # A text that is missing from `texts` was deleted there. Replay then names the first event that its absence changes.
        return "\N{REPLACEMENT CHARACTER} missing from texts" if text is None else text


class SceneLister:
    """Takes the scenes of a new run's input, in order, and gives them their identities."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Only `Log.create` makes these."""
        self._connection = connection
        self._name = name
        self._rows: list[tuple[object, ...]] = []
        self._position = 0
        # In a file of its own, which is thrown away: the input may be larger than memory, and the log is not to carry its traces.
        connection.execute(
            "CREATE TABLE input.input (position UBIGINT, label VARCHAR, row UBIGINT, instruction VARCHAR, response VARCHAR, meta VARCHAR)"
        )

    def add(self, *, label: str, row: int, instruction: str, response: str | None, meta: str) -> None:
        """Add a scene; `meta` is the JSON of the input's other columns."""
        self._rows.append((self._position, label, row, instruction, response, meta))
        self._position += 1
        if len(self._rows) >= 1000:
            self._flush()

    def finish(self) -> None:
        """Number scenes with the same instruction and response, and write all of them."""
        self._flush()
        event_log = _core.EventLog()
        cursor = self._connection.cursor()
        cursor.execute(
            "SELECT position, label, row, instruction, response, meta, "
            "row_number() OVER (PARTITION BY instruction, response ORDER BY position) - 1 FROM input.input ORDER BY position"
        )
        while rows := cursor.fetchmany(1000):
            for position, label, row, instruction, response, meta, occurrence in rows:
                scene = _core.scene_id(self._name, instruction, response, occurrence)
                event_log.add_scene(
                    scene,
                    position=position,
                    label=label,
                    row=row,
                    occurrence=occurrence,
                    instruction=instruction,
                    response=response,
                    meta=meta,
                )
            _write(self._connection, event_log)
        cursor.close()

    def _flush(self) -> None:
        if self._rows:
            columns = list(zip(*self._rows, strict=True))
            self._connection.execute(
                "INSERT INTO input.input SELECT unnest($1::UBIGINT[]), unnest($2::VARCHAR[]), unnest($3::UBIGINT[]), "
                "unnest($4::VARCHAR[]), unnest($5::VARCHAR[]), unnest($6::VARCHAR[])",
                [list(column) for column in columns],
            )
            self._rows.clear()


class Writer:
    """The thread that commits what a run buffers. Its failure is raised where the run waits for it."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, event_log: _core.EventLog) -> None:
        """Start writing; `Log.writer` makes these."""
        self._path = path
        self._connection = connection
        self._event_log = event_log
        self._stop = threading.Event()
        self._error: Exception | None = None
        self.commits = 0
        self.max_commit_s = 0.0
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
                f"log {self._path} cannot be written: {_first_line(self._error)}; what was committed is safe: mend the cause, then resume"
            ) from self._error

    def _run(self) -> None:
        try:
            stopping = False
            while not stopping:
                stopping = self._stop.wait(COMMIT_INTERVAL_S)
                start = time.perf_counter()
                if _write(self._connection, self._event_log):
                    self.commits += 1
                    self.max_commit_s = max(self.max_commit_s, time.perf_counter() - start)
        except Exception as error:
            self._error = error


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse an output path before anything is paid for.

    Raises:
        StoreError: the file exists, or its folder cannot be written.
    """
    with _one_line(path):
        is_folder, exists = path.is_dir(), path.exists()
    if is_folder:
        raise StoreError(f"output {path} is a folder: give a file name, such as {path / 'run.duckdb'}")
    if exists and not overwrite:
        raise StoreError(f"output {path} exists: choose another name, or give --overwrite to replace it")
    if not path.parent.is_dir():
        raise StoreError(f"folder {path.parent} of output {path.name} does not exist: make it first")
    # The longest name that is made beside the log.
    probe = path.with_name(f".{path.name}.input.wal")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(f"folder {path.parent} cannot be written: {error.strerror or error}") from error
    if exists:
        with _one_line(path):
            try:
                # A log that another process holds must not be replaced under it; one that is damaged, or is no log, may be.
                _connect(path).close()
            except duckdb.Error as error:
                if _LOCK_HOLDER.search(str(error)):
                    raise


def _write(connection: duckdb.DuckDBPyConnection, event_log: _core.EventLog) -> bool:
    """Commit everything buffered in one transaction. False when there was nothing."""
    batches = event_log.drain()
    if batches is None:
        return False
    connection.execute("BEGIN")
    try:
        for statement, batch in zip(_sql("insert.sql").split(";"), batches, strict=True):
            if len(batch):
                connection.register("batch", batch)
                connection.execute(statement)
                connection.unregister("batch")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    return True


def _connect(path: Path, *, read_only: bool = False, new: bool = False) -> duckdb.DuckDBPyConnection:
    if new:
        connection = duckdb.connect(":memory:", config={"threads": 1})
        connection.execute(f"ATTACH {_quoted(path)} AS log (STORAGE_VERSION '{_STORAGE_VERSION}')")
        connection.execute("USE log")
        return connection
    return duckdb.connect(str(path), read_only=read_only, config={"threads": 1})


def _quoted(path: Path) -> str:
    return "'{}'".format(str(path).replace("'", "''"))


def _record(path: Path, connection: duckdb.DuckDBPyConnection) -> RunRecord:
    try:
        row = connection.execute("SELECT format, run_id, config, execution FROM run").fetchone()
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise FormatError(f"{path} is a DuckDB file but no matrix log: it has no table `run` that says what was run") from error
    if row is None:
        raise FormatError(f"{path} holds no run: simulate again with --overwrite")
    number, run_id, config, execution = row
    if number != FORMAT:
        raise FormatError(f"{path} has log format {number}; this version of matrix reads format {FORMAT}: use the version that wrote it")
    try:
        return RunRecord(
            run_id=run_id,
            config=msgspec.json.decode(config, type=RunRecord.__annotations__["config"]),
            execution=msgspec.json.decode(execution, type=RunRecord.__annotations__["execution"]),
        )
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path} has a run record that cannot be read: {error}") from error


def _sql(name: str) -> str:
    return (resources.files("matrix_py.sql") / name).read_text("utf-8")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors into ours."""
    try:
        yield
    except duckdb.IOException as error:
        holder = _LOCK_HOLDER.search(str(error))
        if holder:
            raise LogLockedError(
                f"log {path} is held by process {holder.group(2)} ({holder.group(1)}): wait until it ends, or stop it"
            ) from error
        raise StoreError(f"log {path}: {_first_line(error)}") from error
    except (duckdb.Error, OSError) as error:
        raise StoreError(f"log {path}: {_first_line(error)}") from error
