"""Two logs side by side, as `sql/diff.sql` has them, and a third as a noise floor (`sql/diff_effect.sql`)."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from matrix_py.errors import StoreError
from matrix_py.store.connection import first_line, one_line, quoted, sql
from matrix_py.store.log import Log
from matrix_py.types import RunRecord

# What DuckDB may hold in memory; what is more goes to a file for the time being.
_MEMORY = "1200MB"
_VIEW = re.compile(r"CREATE OR REPLACE TEMP VIEW (\w+)")
# Read once, from an event a turn: a table of it would be as large as both logs.
_STAYS_A_VIEW = "diff_said"
# What is kept of the comparison with A2, by the view that said it.
_OF_NULL = {"null_value": "diff_value", "null_level": "diff_level"}


@dataclass(frozen=True, slots=True)
class ComparedLog:
    """A log that is compared, and how many scenes it has."""

    path: Path
    record: RunRecord
    num_scenes: int
    num_finished: int


class Comparison:
    """Logs that are compared; `compared` makes these.

    Attributes:
        logs: A, B, and A2 where there is one.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, logs: Sequence[ComparedLog]) -> None:
        """Use `compared`."""
        self.logs = tuple(logs)
        self._connection = connection

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT on the views of `sql/diff.sql`.

        Raises:
            StoreError: it fails.
        """
        return self._execute(statement).fetchall()

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Return the same by column.

        Raises:
            StoreError: it fails.
        """
        found = self._execute(statement)
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def _execute(self, statement: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(statement)
        except duckdb.Error as error:
            raise StoreError(f"comparing {self.logs[0].path} and {self.logs[1].path}: {first_line(error)}") from error


def num_steps(*, with_null: bool) -> int:
    """Return how many steps a comparison takes."""
    return len(_VIEW.findall(sql("diff.sql"))) * (2 if with_null else 1)


@contextlib.contextmanager
def compared(
    a: Path, b: Path, null: Path | None = None, *, threads: int, on_progress: Callable[[str, int], None] | None = None
) -> Iterator[Comparison]:
    """Compare logs, which are only read.

    The views of `sql/diff.sql` are there, and with `null` those of `sql/diff_effect.sql`; all but one as tables, so that each is computed
    once.

    Args:
        a: the log that B is compared with.
        b: the other.
        null: another run of A's configuration.
        threads: that read and compare.
        on_progress: told which view is under way and how many are done.

    Raises:
        StoreError: a log is given twice, or cannot be read.
        LogLockedError: a process holds a log.
        FormatError: it is no log, or one of a format that this version does not read.
    """
    paths = [a, b, *([] if null is None else [null])]
    logs = [_looked_at(path) for path in paths]
    for number, path in enumerate(paths):
        with one_line(path):
            if any(path.samefile(before) for before in paths[:number]):
                raise StoreError(f"log {path} is given twice: give each log once")
    done = 0
    with tempfile.TemporaryDirectory(prefix="matrix-diff-") as folder, contextlib.closing(_connect(threads, folder)) as connection:
        _attach(connection, a, "a")
        for path in paths[:0:-1]:  # A2 first: what stays in the end is the comparison with B
            _attach(connection, path, "b")
            with one_line(path):
                done = _compare(connection, done, on_progress)
                if path is not b:
                    for table, view in _OF_NULL.items():
                        connection.execute(f"CREATE TEMP TABLE {table} AS FROM {view}")
                    connection.execute("DETACH b")
                elif null is not None:
                    connection.execute(sql("diff_effect.sql"))
        yield Comparison(connection, logs)


def _looked_at(path: Path) -> ComparedLog:
    with Log.open(path, read_only=True) as log:
        return ComparedLog(path, log.record, log.num_scenes(), log.num_finished())


def _connect(threads: int, folder: str) -> duckdb.DuckDBPyConnection:
    # In no particular order: who cares for one says so, and a table is made by several threads then.
    options: dict[str, str | bool | int | float | list[str]] = {
        "threads": threads,
        "memory_limit": _MEMORY,
        "temp_directory": folder,
        "preserve_insertion_order": False,
    }
    connection = duckdb.connect(config=options)
    # DuckDB's own would stand in the midst of what is printed.
    connection.execute("SET enable_progress_bar = false")
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    with one_line(path):
        connection.execute(f"ATTACH {quoted(path)} AS {name} (READ_ONLY)")


def _compare(connection: duckdb.DuckDBPyConnection, done: int, on_progress: Callable[[str, int], None] | None) -> int:
    """Make the views, and return how many are done now."""
    for statement in connection.extract_statements(sql("diff.sql")):
        text = statement.query
        named = _VIEW.search(text)
        assert named is not None, "diff.sql makes nothing but views"
        if on_progress is not None:
            on_progress(named[1], done)
        if named[1] != _STAYS_A_VIEW:
            text = text.replace("TEMP VIEW", "TEMP TABLE", 1)
        connection.execute(text)
        done += 1
    return done
