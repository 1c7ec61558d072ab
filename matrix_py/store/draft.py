"""A log in the making: it appears under its name when it is whole."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from matrix_py.store.connection import connect, one_line, remove, sql

# In the order in which they are filled: what comes later refers to what came before.
TABLES = ("run", "texts", "scenes", "completions", "events", "sessions", "commits", "detectors", "labels")


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yield the name under which a new log is made. At the end it takes the place of `path`; after an error, nothing is left of it."""
    draft = path.with_name(f".{path.name}.new")
    remove(draft)
    try:
        yield draft
        with one_line(path):
            # A log that is replaced leaves no write-ahead log that would pass for the new one's.
            path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
            draft.replace(path)
    finally:
        remove(draft)


@contextlib.contextmanager
def filled(draft: Path, path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to a new log with empty tables; at the end it gets its views. Errors speak of `path`."""
    with one_line(path), contextlib.closing(connect(draft, new=True)) as connection:
        connection.execute(sql("schema.sql"))
        connection.execute(sql("format_2.sql"))
        yield connection
        connection.execute(sql("views.sql"))
        connection.execute("CHECKPOINT")


def has_table(connection: duckdb.DuckDBPyConnection, database: str, table: str) -> bool:
    """Return whether an attached database has a table: logs of older formats have fewer."""
    statement = "SELECT count(*) FROM duckdb_tables() WHERE database_name = ? AND table_name = ?"
    return connection.execute(statement, [database, table]).fetchone() == (1,)


def shared_columns(connection: duckdb.DuckDBPyConnection, table: str, database: str) -> str:
    """Return the columns of a log's table that an attached database has as well, for a statement; empty if it has none."""
    rows = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = 'log' AND table_name = $1 AND column_name IN "
        "(SELECT column_name FROM duckdb_columns() WHERE database_name = $2 AND table_name = $1) ORDER BY column_index",
        [table, database],
    ).fetchall()
    return ", ".join(name for (name,) in rows)
