"""What a reader may ask of a log that is being written: one SELECT that changes nothing and reads nothing but the log.

The transaction is a read-only one, so DuckDB itself refuses to write tables. That does not cover functions that act on the database as a
whole (`checkpoint`, `write_log`), nor those that read files, whose opening may last for ever. So the statement is parsed by DuckDB, and
its tree is searched for functions that are not known to be harmless.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from matrix_py.errors import StoreError

_TABLE_FUNCTIONS = """
    range generate_series unnest repeat repeat_row json_each json_tree summary histogram histogram_values
    pg_timezone_names icu_calendar_names pragma_collations pragma_database_size pragma_metadata_info pragma_platform pragma_show
    pragma_storage_info pragma_table_info pragma_user_agent pragma_version duckdb_columns duckdb_constraints duckdb_databases
    duckdb_dependencies duckdb_extensions duckdb_functions duckdb_indexes duckdb_keywords duckdb_memory duckdb_optimizers duckdb_schemas
    duckdb_sequences duckdb_settings duckdb_tables duckdb_temporary_files duckdb_types duckdb_variables duckdb_views
"""
# Of the functions that DuckDB calls volatile, those that only give another value each time.
_HARMLESS = """
    random uuid uuidv4 uuidv7 gen_random_uuid error current_connection_id current_query current_query_id current_transaction_id
"""
_FUNCTIONS = """
    SELECT DISTINCT lower(function_name) FROM duckdb_functions()
    WHERE (function_type IN ('scalar', 'aggregate') AND stability = 'VOLATILE')
        OR (function_type IN ('macro', 'table_macro') AND NOT internal)
"""
_TABLES = """
    SELECT lower(table_name) FROM duckdb_tables() UNION SELECT lower(view_name) FROM duckdb_views()
"""
# DuckDB does not give the tree of an EXPLAIN: that of the statement behind it is asked for.
_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?(\s*\([^()]*\))?\s", re.IGNORECASE)
# What could be a file's name.
_FILE = re.compile(r"[./*\\:]")


class StatementCheck:
    """Judges statements on one log."""

    def __init__(self) -> None:
        """Make a check; the first statement has it ask DuckDB what functions there are, which takes longer than the rest."""
        self._refused: set[str] = set()
        self._allowed = set(_TABLE_FUNCTIONS.split())

    def one(self, cursor: duckdb.DuckDBPyConnection, text: str) -> str:
        """Return the one statement of `text`.

        Raises:
            StoreError: it is not one SELECT, or calls a function that may do more than read the log.
            duckdb.Error: it does not parse.
        """
        statements = cursor.extract_statements(text)
        if len(statements) != 1:
            raise StoreError(f"{len(statements)} statements are not one: give one SELECT")
        [statement] = statements
        kind, query = statement.type, statement.query
        select = query
        if kind == duckdb.StatementType.EXPLAIN:
            prefix = _EXPLAIN.match(query)
            select = query[prefix.end() :] if prefix else ""
            inner = cursor.extract_statements(select)
            kind = inner[0].type if len(inner) == 1 else kind
        if kind != duckdb.StatementType.SELECT:
            raise StoreError(f"{kind.name} is not answered while a run writes the log: give a SELECT, or wait until the run ends")
        for what in self._forbidden(cursor, _tree(cursor, select)):
            raise StoreError(f"{what} is not answered while a run writes the log: leave it out, or wait until the run ends")
        return query

    def _forbidden(self, cursor: duckdb.DuckDBPyConnection, tree: Any) -> Iterator[str]:
        """Yield what of a statement may not be asked."""
        if not self._refused:
            self._refused = {name for (name,) in cursor.execute(_FUNCTIONS).fetchall()} - set(_HARMLESS.split())
        nodes = list(_nodes(tree))
        known: set[str] | None = None
        for node in nodes:
            name = str(node.get("function_name", "")).lower()
            if node.get("type") == "TABLE_FUNCTION":
                name = str(node["function"].get("function_name", "")).lower()
                if name not in self._allowed or name in self._refused:
                    yield f"function {name}()"
            elif node.get("class") == "FUNCTION" and name in self._refused:
                yield f"function {name}()"
            elif node.get("type") == "BASE_TABLE":
                # What is no table may be taken for a file; of what is neither, DuckDB says that it does not exist.
                path = [str(part).lower() for part in node.get("qualified_name", {}).get("path", ())] or [str(node["table_name"]).lower()]
                if len(path) == 1 and not _FILE.search(path[0]):
                    continue
                known = _known(cursor, nodes) if known is None else known
                if path[-1] not in known:
                    yield f"table {'.'.join(path)}"


def _tree(cursor: duckdb.DuckDBPyConnection, select: str) -> Any:
    # All rows are fetched: a cursor with a result that is not drained takes no other statement.
    serialize = "SELECT json_serialize_sql(?, skip_null := true, skip_empty := true, skip_default := true)"
    [(found,)] = cursor.execute(serialize, [select]).fetchall()
    tree = json.loads(found)
    if tree["error"]:
        raise StoreError("this kind of SELECT is not answered while a run writes the log: put it otherwise, or wait until the run ends")
    return tree["statements"]


def _known(cursor: duckdb.DuckDBPyConnection, nodes: list[dict[str, Any]]) -> set[str]:
    """Return the names of tables, views and what the statement itself names by WITH."""
    tables = {name for (name,) in cursor.execute(_TABLES).fetchall()}
    return tables | {str(entry["key"]).lower() for node in nodes for entry in node.get("cte_map", {}).get("map", ())}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a tree. With a stack, not recursion: an expression may be nested deeper than Python's limit."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
