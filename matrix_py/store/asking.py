"""Running SQL on a connection, for rows or for Arrow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from matrix_py import _core
from matrix_py.errors import StoreError
from matrix_py.store.connection import first_line
from matrix_py.store.views import shadow_views

# Of a statement: by place (`?`), or by name (`$name`).
Parameters: TypeAlias = Sequence[object] | Mapping[str, object]


def prepare_queries(connection: duckdb.DuckDBPyConnection) -> None:
    """Make a connection that only reads ready for anybody's queries: with today's views, and on all CPUs.

    A run writes its log on one thread, which is enough for that; a query may look at millions of events.
    """
    connection.execute("RESET threads")
    shadow_views(connection)


def run_query(path: Path, connection: duckdb.DuckDBPyConnection, statement: str, parameters: Parameters) -> tuple[list[str], list[Any]]:
    """Run a statement on the log at `path`, and return the column names and all rows.

    Raises:
        StoreError: the statement fails.
    """
    try:
        cursor = connection.execute(statement, _as_given(parameters))
        columns = [column[0] for column in cursor.description or []]
        return columns, cursor.fetchall() if columns else []
    except duckdb.Error as error:
        raise StoreError(f"SQL on {path}: {first_line(error)}") from error


def run_query_arrow(path: Path, connection: duckdb.DuckDBPyConnection, statement: str, parameters: Parameters) -> _core.ArrowTable:
    """Run a statement on the log at `path`, and return its rows as Arrow.

    Raises:
        StoreError: the statement fails, or there is none.
    """
    try:
        relation = connection.sql(statement, params=_as_given(parameters) or None)
        found = None if relation is None else as_arrow(relation)
    except (duckdb.Error, StoreError) as error:
        raise StoreError(f"SQL on {path}: {first_line(error)}") from error
    if found is None:
        raise StoreError(f"SQL on {path}: there is no statement: give a SELECT")
    return found


def as_arrow(relation: Any) -> _core.ArrowTable:
    """Return a copy of all rows of what gives an Arrow stream.

    Raises:
        StoreError: the stream fails, in the words of who made it.
    """
    return _core.ipc_decode(b"".join(_core.ipc_encode(relation)))


def _as_given(parameters: Parameters) -> Any:
    return dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
