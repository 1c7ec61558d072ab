"""Several logs, open for reading as one database."""

import string
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from matrix_py import _core
from matrix_py.errors import ConfigError
from matrix_py.store.asking import Parameters, prepare_queries, run_query, run_query_arrow
from matrix_py.store.connection import one_line, quoted
from matrix_py.store.log import Log

_NAMES = string.ascii_lowercase


class LogsTogether:
    """Logs that are queried together. Plain names are those of the first; the others go by the letters from `b` on, as in `b.scene`."""

    writer_pid = None

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the logs; see `open_for_reading`, which makes these.

        Raises:
            ConfigError: they are too many.
            StoreError: one cannot be read, or a process writes it (LogLockedError).
        """
        if len(paths) > len(_NAMES):
            raise ConfigError(f"{len(paths)} logs are too many to query together: give {len(_NAMES)} at most")
        records = []
        for path in paths:
            # Each is looked at by itself first, so that what is wrong with one is said of it.
            with Log.open(path, read_only=True) as log:
                records.append((log.record, log.format))
        self.path = paths[0]
        self.record, self.format = records[0]
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        try:
            for name, path in zip(_NAMES, paths, strict=False):
                with one_line(path):
                    self._connection.execute(f"ATTACH {quoted(path)} AS {name} (READ_ONLY)")
            with one_line(self.path):
                self._connection.execute("USE a")
                prepare_queries(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def query(self, statement: str, parameters: Parameters = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one SQL statement and return the column names and all rows.

        Raises:
            StoreError: the statement fails.
        """
        return run_query(self.path, self._connection, statement, parameters)

    def query_arrow(self, statement: str, parameters: Parameters = ()) -> _core.ArrowTable:
        """Run one SQL statement and return its rows as Arrow.

        Raises:
            StoreError: the statement fails, or there is none.
        """
        return run_query_arrow(self.path, self._connection, statement, parameters)

    def close(self) -> None:
        """Close them."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
