"""Writing a finished log anew, without the room that its growing left free."""

import contextlib
from pathlib import Path

import duckdb

from matrix_py.store.connection import attach_new, one_line, quoted, remove
from matrix_py.store.draft import create_tables
from matrix_py.store.views import make_views
from matrix_py.store.wal import wal_files

# A checkpoint writes the end of each table again and leaves the old blocks free for what comes next; after the last, nothing comes.
_LEAST_BYTES = 2**20
_LEAST_SHARE = 0.25


def compact(path: Path) -> bool:
    """Write a log anew if much of its file is free, and put it in the place of the old one once it is whole.

    Where there is no room for a second file it stays as it is.

    Returns:
        Whether it was written anew.

    Raises:
        StoreError: the log cannot be opened.
        LogLockedError: another process holds it.
    """
    path = path.resolve()
    draft = path.with_name(f".{path.name}.new")
    with one_line(path), contextlib.closing(duckdb.connect(":memory:", config={"threads": 1})) as connection:
        # For writing, and until the new file is in its place, so that nobody else changes it meanwhile.
        connection.execute(f"ATTACH {quoted(path)} AS old; CHECKPOINT old")
        [(free, size)] = connection.execute(
            "SELECT block_size * free_blocks, block_size * total_blocks FROM pragma_database_size() WHERE database_name = 'old'"
        ).fetchall()
        if free < max(_LEAST_BYTES, _LEAST_SHARE * size):
            return False
        remove(draft)
        try:
            attach_new(connection, draft)
            _copy(connection)
            connection.execute("USE memory; DETACH log")
            for file in wal_files(path):
                file.unlink(missing_ok=True)
            draft.replace(path)
        except (duckdb.Error, OSError):
            return False
        finally:
            remove(draft)
    return True


def _copy(connection: duckdb.DuckDBPyConnection) -> None:
    """Copy all tables from `old` to `log`, and see that all rows arrived."""
    create_tables(connection)
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'old' ORDER BY table_name").fetchall()
    for (table,) in tables:
        connection.execute(f"INSERT INTO log.{table} BY NAME FROM old.{table}")
    make_views(connection)
    connection.execute("CHECKPOINT log")
    for (table,) in tables:
        counts = connection.execute(f"SELECT (SELECT count(*) FROM old.{table}), (SELECT count(*) FROM log.{table})").fetchone()
        if counts is None or counts[0] != counts[1]:
            raise duckdb.Error(f"table {table} was not copied whole")
