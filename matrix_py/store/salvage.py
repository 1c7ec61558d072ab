"""Recovering a damaged log: all that can be read of it and holds together, in a new one."""

import fcntl
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from matrix_py import _core
from matrix_py.errors import LogLockedError, PayloadError, StoreError
from matrix_py.store.checking import strays, summary
from matrix_py.store.connection import one_line, quoted, sql
from matrix_py.store.draft import FORMAT, TABLES, drafted, filled, shared_columns
from matrix_py.store.listing import check_writable
from matrix_py.store.log import Log, decode_record
from matrix_py.store.ranges import Rows, read_rows
from matrix_py.store.trim import trim
from matrix_py.store.wal import wal_files

Progress = Callable[[str, int], None]
# Events that are in the log already are not buffered by the chain that they are compared with.
_NONE_BUFFERED = 2**31


@dataclass(slots=True)
class Salvage:
    """What was recovered, and what was lost.

    Attributes:
        kept: rows of the new log, by table.
        lost: rows that the damaged log had besides, by table; None where their number could not be read.
        wal: of the write-ahead logs, one line each about what was lost; empty if nothing was.
        notes: what else a reader should know.
        num_finished: scenes of the new log that are finished.
        root: its root hash, if all are.
    """

    kept: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int | None] = field(default_factory=dict)
    wal: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_finished: int = 0
    root: bytes | None = None

    @property
    def intact(self) -> bool:
        """Whether nothing was lost: the log was not damaged."""
        return not self.wal and not any(self.lost[table] != 0 for table in self.lost)


def salvage(run: Path, out: Path, *, overwrite: bool = False, on_progress: Progress | None = None) -> Salvage:
    """Recover what is whole of a damaged log, in a new one. The damaged one is only read.

    Of the write-ahead log, every whole transaction before the first damaged entry is taken; of the file, every row whose blocks can be
    read. Completions are kept where their texts are, events as far as they follow from what is kept: the others are derived again by
    `matrix resume`.

    Args:
        run: the damaged log, which no process may be writing.
        out: the log to write.
        overwrite: whether it may replace one.
        on_progress: told the table under way and how many are done, of all nine.

    Raises:
        StoreError: it cannot be recovered, or `out` cannot be written. Nothing is left behind then.
    """
    with one_line(run):
        if not run.is_file():
            raise StoreError(f"log {run} does not exist: give the file that `matrix simulate --out` wrote")
        if out.exists() and out.samefile(run):
            raise StoreError(f"output {out} is the damaged log itself: give another name, for it is not changed")
    check_writable(out, overwrite=overwrite)
    found = Salvage()
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with one_line(run):
            copy = _copied(run, scratch)
            found.wal += trim(copy, run)
        with drafted(out) as draft:
            with filled(draft, run) as connection:
                connection.execute(f"ATTACH {quoted(copy)} AS damaged (READ_ONLY)")
                connection.execute(f"ATTACH {quoted(scratch / 'found')} AS found")
                _assemble(run, connection, found, on_progress or (lambda what, done: None))
                connection.execute("DETACH damaged; DETACH found")
            with Log.open(draft, read_only=False) as log:
                found.num_finished = log.num_finished()
                found.root = log.root()
                if found.root is not None:
                    log.set_root(found.root)
                found.notes += summary(strays(log))
    finally:
        shutil.rmtree(scratch)
    return found


def _copied(run: Path, folder: Path) -> Path:
    """Copy a log and its write-ahead logs, while no other process writes them."""
    copy = folder / "damaged"
    with run.open("rb") as file:
        try:
            # DuckDB holds such a lock on what it writes. It ends with the file.
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise LogLockedError(f"log {run} is held by another process, which writes it: wait until it ends, or stop it") from error
        for source, target in zip([run, *wal_files(run)], [copy, *wal_files(copy)], strict=True):
            if source.is_file():
                shutil.copyfile(source, target)
    return copy


def _assemble(run: Path, connection: duckdb.DuckDBPyConnection, found: Salvage, on_progress: Progress) -> None:
    """Fill a new log from the database `damaged`, through `found`, which holds all that can be read."""
    columns = shared_columns(connection, "damaged")
    rows: dict[str, Rows] = {}
    for done, table in enumerate(TABLES):
        on_progress(table, done)
        connection.execute(f"CREATE TABLE found.{table} AS SELECT 0::BIGINT AS place, * FROM {table} LIMIT 0")
        # Older formats have fewer tables, and fewer columns.
        rows[table] = read_rows(connection, table, columns[table]) if table in columns else Rows(0, 0, None)
    deterministic = _keep_run(run, connection)
    _check_texts(connection)
    for statement in sql("salvage_scenes.sql").split(";"):
        connection.execute(statement)
    [(num_scenes,)] = connection.execute("SELECT count(*) FROM scenes").fetchall()
    if num_scenes == 0:
        raise StoreError(f"log {run} cannot be salvaged: no scene can be read with its instruction; simulate again")
    _keep_chains(connection)
    if not deterministic and _drop_what_followed(connection, rows["completions"].first_lost):
        _keep_chains(connection)
    connection.execute("INSERT INTO completions SELECT * EXCLUDE (place) FROM found.completions ORDER BY place")
    connection.execute(
        "INSERT INTO events SELECT * EXCLUDE (place, num_kept, whole) FROM found.events JOIN found.chains USING (scene) "
        "WHERE seq < num_kept QUALIFY row_number() OVER (PARTITION BY scene, seq ORDER BY place) = 1 ORDER BY place"
    )
    _keep_beside(connection, rows, found)
    for table in TABLES:
        [(kept,)] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        num_lost = rows[table].num_lost
        found.kept[table] = kept
        found.lost[table] = None if num_lost is None else rows[table].num_read + num_lost - kept
    [(last,)] = connection.execute("SELECT max(position) FROM found.scenes").fetchall()
    if found.lost["scenes"] is None:
        found.notes.append(f"how many scenes there were cannot be read: at least {last + 1}")
    if found.lost["scenes"] != 0:
        found.notes.append("lost scenes cannot be resumed, and the root will be another: simulate their instructions again")


def _keep_run(run: Path, connection: duckdb.DuckDBPyConnection) -> bool:
    """Take over the run's record, and return whether it is deterministic."""
    row = connection.execute("SELECT format, run_id, config, execution FROM found.run").fetchone()
    if row is None:
        raise StoreError(f"log {run} cannot be salvaged: its run record, which says what was run, cannot be read; simulate again")
    _, record = decode_record(run, row)
    connection.execute("INSERT INTO run SELECT run_id, ?, config, execution, NULL, created_at FROM found.run LIMIT 1", [FORMAT])
    return record.config.deterministic


def _check_texts(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop texts that are not what their hashes say."""
    connection.execute("CREATE TABLE found.changed (place BIGINT)")
    cursor = connection.cursor()
    cursor.execute("SELECT place, hash, text FROM found.texts")
    while chunk := cursor.fetchmany(1000):
        changed = [place for place, digest, text in chunk if _core.blake3(text.encode()) != digest]
        connection.execute("INSERT INTO found.changed SELECT unnest($1::BIGINT[])", [changed])
    cursor.close()
    connection.execute("DELETE FROM found.texts WHERE place IN (FROM found.changed)")


def _keep_chains(connection: duckdb.DuckDBPyConnection) -> None:
    """Find how many events of each scene follow from one another and from the completions that are kept."""
    connection.execute("CREATE OR REPLACE TABLE found.chains (scene BLOB, num_kept BIGINT, whole BOOLEAN)")
    cursor = connection.cursor()
    cursor.execute("USE log")
    cursor.execute(sql("salvage_chains.sql"))
    rows = (row for chunk in iter(lambda: cursor.fetchmany(1000), []) for row in chunk)
    kept: list[tuple[bytes, int, bool]] = []
    for scene, events in itertools.groupby(rows, key=lambda row: row[0]):
        kept.append((scene, *_chain(scene, events)))
        if len(kept) >= 1000:
            _insert_chains(connection, kept)
    _insert_chains(connection, kept)
    cursor.close()


def _chain(scene: bytes, events: Iterable[tuple[bytes, int, str, bytes, bool, bool]]) -> tuple[int, bool]:
    """Return how many of a scene's events are its chain's, and whether they end as a finished scene does."""
    event_log = _core.EventLog()
    event_log.open(scene, _NONE_BUFFERED)
    whole = False
    num_kept = 0
    for _, seq, payload, digest, is_end, holds in events:
        try:
            if not holds or event_log.append(scene, payload.encode()) != (seq, digest):
                break
        except PayloadError:
            break
        num_kept, whole = seq + 1, is_end
    return num_kept, whole


def _insert_chains(connection: duckdb.DuckDBPyConnection, kept: list[tuple[bytes, int, bool]]) -> None:
    if kept:
        columns = [list(column) for column in zip(*kept, strict=True)]
        connection.execute("INSERT INTO found.chains SELECT unnest($1::BLOB[]), unnest($2::BIGINT[]), unnest($3::BOOLEAN[])", columns)
        kept.clear()


def _drop_what_followed(connection: duckdb.DuckDBPyConnection, first_lost: int | None) -> bool:
    """Drop what may follow from completions that are lost, where asking again may give another text. True if there was any.

    Whose a row was that cannot be read is not known: a scene that is not whole keeps only what came before the first of them.
    """
    dropped = connection.execute(
        "DELETE FROM found.completions WHERE scene NOT IN (SELECT scene FROM found.chains WHERE whole) "
        "AND (place > $1 OR place > (SELECT f.place FROM found.first_losses f WHERE f.scene = completions.scene)) RETURNING place",
        [first_lost],
    ).fetchall()
    return bool(dropped)


def _keep_beside(connection: duckdb.DuckDBPyConnection, rows: dict[str, Rows], found: Salvage) -> None:
    """Take over what stands beside the run, where it is whole: a part of it would say what is not so."""
    if rows["sessions"].num_lost == 0 and rows["commits"].num_lost == 0:
        connection.execute("INSERT INTO sessions SELECT DISTINCT * EXCLUDE (place) FROM found.sessions ORDER BY session")
        connection.execute("INSERT INTO commits SELECT DISTINCT * EXCLUDE (place) FROM found.commits ORDER BY committed_at")
    else:
        found.notes.append("sessions and commits are left out, for not all of them can be read")
    [(same,)] = connection.execute("SELECT (SELECT count(*) FROM completions) = ?", [rows["completions"].num_read]).fetchall()
    if same and all(rows[table].num_lost == 0 for table in ("completions", "detectors", "labels")):
        for table in ("detectors", "labels"):
            connection.execute(f"INSERT INTO {table} SELECT DISTINCT * EXCLUDE (place) FROM found.{table}")
    elif rows["detectors"].num_read:
        found.notes.append("labels are left out, for some of them or of the completions are lost: label again")
    for what, tables in (("datasets", ("datasets", "dataset_rows")), ("tunings", ("tunings", "tuning_steps"))):
        if all(rows[table].num_lost == 0 for table in tables):
            for table in tables:
                connection.execute(f"INSERT INTO {table} SELECT DISTINCT * EXCLUDE (place) FROM found.{table}")
        elif any(rows[table].num_read for table in tables):
            found.notes.append(f"{what} are left out, for not all of them can be read: what was made of them is whole")
