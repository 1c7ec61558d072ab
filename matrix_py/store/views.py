"""The views of a log: made with it, and brought up to date where a log has those of another version."""

import contextlib

import duckdb

from matrix_py import _core
from matrix_py.store.connection import sql, transaction


def make_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Make today's views in the database that the connection uses, in the place of those that are there."""
    connection.execute(sql("views.sql"))
    # By which `renew_views` knows them again.
    connection.execute(f"COMMENT ON VIEW scene IS '{_mark()}'")


def renew_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Make today's views in a log that is open for writing, unless they are there."""
    found = connection.execute("SELECT comment FROM duckdb_views() WHERE view_name = 'scene' AND NOT internal").fetchone()
    if found is not None and found[0] == _mark():
        return
    with transaction(connection):
        make_views(connection)


def shadow_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Let this connection, for which the file may be read-only, see today's views, whatever views the file has.

    Of a view on what a log of an older format does not have, the file's own stays, if it has one.
    """
    for statement in connection.extract_statements(sql("views.sql").replace("CREATE OR REPLACE VIEW", "CREATE OR REPLACE TEMP VIEW")):
        with contextlib.suppress(duckdb.CatalogException, duckdb.BinderException):
            connection.execute(statement)


def _mark() -> str:
    return _core.blake3(sql("views.sql").encode()).hex()
