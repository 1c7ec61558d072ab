"""A log as a folder of Parquet files, and back without loss."""

import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec

from matrix_py import _core
from matrix_py.errors import FormatError, StoreError
from matrix_py.store.connection import first_line, one_line, quoted
from matrix_py.store.draft import FORMAT, OLDEST_FORMAT, TABLES, drafted, filled
from matrix_py.store.listing import check_writable
from matrix_py.store.log import Log, decode_record

# Parquet has no checksums that DuckDB would write: a changed byte could be another value. So this file has them.
MANIFEST = "log.json"


class ExportedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A file of an export: its rows, and the BLAKE3 of its bytes."""

    rows: int
    blake3: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an export holds.

    Attributes:
        format: of the log.
        tables: by name; each is in a file of that name.
    """

    format: int
    tables: dict[str, ExportedTable]


def export_log(run: Path, out: Path, *, on_progress: Callable[[str, int], None] | None = None) -> Manifest:
    """Write each table of a log to a Parquet file, compressed with zstd.

    Args:
        run: the log; it is only read.
        out: the folder to make.
        on_progress: told the table under way and how many are done.

    Raises:
        StoreError: the log cannot be read, or the folder exists or cannot be made. Nothing is left behind then.
    """
    with one_line(out):
        if out.exists():
            raise StoreError(f"output {out} exists: choose another name for the folder")
        if not out.parent.is_dir():
            raise StoreError(f"folder {out.parent} of output {out.name} does not exist: make it first")
    draft = out.with_name(f".{out.name}.new")
    try:
        with Log.open(run, read_only=True) as log, one_line(out):
            if draft.exists():
                shutil.rmtree(draft)
            draft.mkdir()
            there = {name for (name,) in log.query("SELECT table_name FROM duckdb_tables() WHERE NOT internal")[1]}
            tables = {}
            for done, table in enumerate(TABLES):
                if table not in there:  # of an older format
                    continue
                if on_progress is not None:
                    on_progress(table, done)
                file = draft / f"{table}.parquet"
                [(rows,)] = log.query(f"COPY {table} TO {quoted(file)} (FORMAT parquet, COMPRESSION zstd)")[1]
                tables[table] = ExportedTable(rows=rows, blake3=_core.hash_file(file).hex())
            manifest = Manifest(format=log.format, tables=tables)
            (draft / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
            draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def import_log(folder: Path, out: Path, *, overwrite: bool = False, on_progress: Callable[[str, int], None] | None = None) -> Manifest:
    """Make a log of an export, in today's format.

    Args:
        folder: what `export_log` wrote.
        out: the log to write.
        overwrite: whether it may replace one.
        on_progress: told the table under way and how many are done.

    Raises:
        StoreError: a file is missing or was changed, or `out` cannot be written. Nothing is left behind then.
    """
    manifest = _manifest(folder)
    check_writable(out, overwrite=overwrite)
    with drafted(out) as draft, filled(draft, out) as connection:
        for done, (table, expected) in enumerate(manifest.tables.items()):
            if on_progress is not None:
                on_progress(table, done)
            _import_table(connection, table, folder / f"{table}.parquet", expected)
        _check_run(connection, folder)
        connection.execute("UPDATE run SET format = ?", [FORMAT])
    return manifest


def _manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    with one_line(folder):
        if not folder.is_dir():
            raise StoreError(f"export {folder} is no folder: give the folder that `matrix log export --out` wrote")
        if not file.is_file():
            raise FormatError(f"folder {folder} is no export: it has no {MANIFEST}; give the folder that `matrix log export --out` wrote")
        content = file.read_bytes()
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise FormatError(f"export {folder}: {MANIFEST} cannot be read ({error}): export the log again") from error
    if not OLDEST_FORMAT <= manifest.format <= FORMAT:
        raise FormatError(
            f"export {folder} has log format {manifest.format}; this version of matrix reads {OLDEST_FORMAT} to {FORMAT}: use the version "
            "that wrote it"
        )
    unknown = [table for table in manifest.tables if table not in TABLES]
    missing = [table for table in TABLES[:5] if table not in manifest.tables]
    if unknown or missing:
        raise FormatError(f"export {folder}: {MANIFEST} lists no such tables as a log has ({', '.join(unknown or missing)}): export again")
    return manifest


def _check_run(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    rows = connection.execute("SELECT format, run_id, config, execution FROM run").fetchall()
    if len(rows) != 1:
        raise FormatError(f"export {folder} holds {len(rows)} runs, and a log holds one: export the log again")
    decode_record(folder, rows[0])


def _import_table(connection: duckdb.DuckDBPyConnection, table: str, file: Path, expected: ExportedTable) -> None:
    if not file.is_file():
        raise StoreError(f"export {file.parent}: {file.name} is missing: export the log again")
    with one_line(file):
        actual = _core.hash_file(file).hex()
    if actual != expected.blake3:
        raise StoreError(f"export {file.parent}: {file.name} was changed or damaged, for its BLAKE3 is another: export the log again")
    try:
        [(rows,)] = connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet({quoted(file)})").fetchall()
    except duckdb.Error as error:
        raise StoreError(f"export {file.parent}: {file.name} cannot be read ({first_line(error)}): export the log again") from error
    if rows != expected.rows:
        raise StoreError(f"export {file.parent}: {file.name} has {rows} rows, and {MANIFEST} says {expected.rows}: export the log again")
