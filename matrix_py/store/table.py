"""A table of results as a file of its own: Parquet, or JSON."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from matrix_py.errors import StoreError
from matrix_py.store.connection import connect, one_line, quoted, remove
from matrix_py.store.listing import check_writable

_FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".json": "FORMAT json, ARRAY true"}
# Rows that wait to be inserted together.
_MAX_ROWS = 1000


class TableWriter:
    """Writes rows to a file, which appears under its name when all are there; after an exception, none does.

    Rows are sorted by their columns, from the first on: in whatever order they came, the file is the same.
    """

    def __init__(self, path: Path, columns: Mapping[str, str], *, overwrite: bool = False) -> None:
        """Begin a file.

        Args:
            path: the file; its name ends in .parquet or .json.
            columns: name -> type in SQL.
            overwrite: replace the file if it exists.

        Raises:
            StoreError: the file exists, cannot be written, or goes by another name.
        """
        check_table(path, overwrite=overwrite)
        self._path = path
        self._types = list(columns.values())
        self._rows: list[tuple[object, ...]] = []
        # Rows may be more than memory holds.
        self._draft = path.with_name(f".{path.name}.rows")
        remove(self._draft)
        with one_line(path):
            self._connection = connect(self._draft, new=True)
            self._connection.execute(f"CREATE TABLE rows ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")

    def add(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Add rows.

        Raises:
            StoreError: they cannot be written.
        """
        self._rows += rows
        if len(self._rows) >= _MAX_ROWS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        made = self._path.with_name(f".{self._path.name}.new")
        try:
            if error is None:
                self._flush()
                with one_line(self._path):
                    query = f"COPY (FROM rows ORDER BY ALL) TO {quoted(made)} ({_FORMATS[self._path.suffix]})"
                    self._connection.execute(query)
                    made.replace(self._path)
        finally:
            self._connection.close()
            remove(self._draft)
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = [list(column) for column in zip(*self._rows, strict=True)]
        values = ", ".join(f"unnest(${place}::{kind}[])" for place, kind in enumerate(self._types, 1))
        with one_line(self._path):
            self._connection.execute(f"INSERT INTO rows SELECT {values}", columns)
        self._rows.clear()


def check_table(path: Path, *, overwrite: bool) -> None:
    """Refuse a file before anything is paid for.

    Raises:
        StoreError: the file exists, cannot be written, or its name ends in neither .parquet nor .json.
    """
    if path.suffix not in _FORMATS:
        raise StoreError(f"output {path} is to be a table: let its name end in {' or '.join(_FORMATS)}")
    check_writable(path, overwrite=overwrite)
