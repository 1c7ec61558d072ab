"""A log in the making: it appears under its name when it is whole."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from matrix_py.store.connection import connect, one_line, remove, sql
from matrix_py.store.views import make_views
from matrix_py.store.wal import wal_files

FORMAT = 4
# What is older is refused; what lies between is read as it is, and brought up to date when it is opened for writing.
OLDEST_FORMAT = 1
# In the order in which they are filled: what comes later refers to what came before.
TABLES = (
    "run",
    "texts",
    "scenes",
    "completions",
    "events",
    "sessions",
    "commits",
    "detectors",
    "labels",
    "datasets",
    "dataset_rows",
    "tunings",
    "tuning_steps",
)


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yield the name under which a new log is made. At the end it takes the place of `path`; after an error, nothing is left of it."""
    draft = path.with_name(f".{path.name}.new")
    remove(draft)
    try:
        yield draft
        with one_line(path):
            # A log that is replaced leaves no write-ahead log that would pass for the new one's.
            for file in wal_files(path):
                file.unlink(missing_ok=True)
            draft.replace(path)
    finally:
        remove(draft)


@contextlib.contextmanager
def filled(draft: Path, path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to a new log with empty tables; at the end it gets its views. Errors speak of `path`."""
    with one_line(path), contextlib.closing(connect(draft, new=True)) as connection:
        create_tables(connection)
        yield connection
        make_views(connection)
        connection.execute("CHECKPOINT")


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables of a log, of today's format, in the database that the connection uses."""
    connection.execute(sql("schema.sql"))
    upgrade_tables(connection, 1)


def upgrade_tables(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    """Bring the tables of a log of this format to today's."""
    for later in range(number + 1, FORMAT + 1):
        connection.execute(sql(f"format_{later}.sql"))


def shared_columns(connection: duckdb.DuckDBPyConnection, database: str) -> dict[str, str]:
    """Return, for each table of a log that an attached database has as well, the columns that both have, as in a statement."""
    rows = connection.execute(
        "SELECT table_name, string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns() WHERE database_name = 'log' "
        "AND (table_name, column_name) IN (SELECT (table_name, column_name) FROM duckdb_columns() WHERE database_name = ?) "
        "GROUP BY table_name",
        [database],
    ).fetchall()
    return {table: columns for table, columns in rows if table in TABLES}
