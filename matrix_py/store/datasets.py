"""The tables `datasets` and `dataset_rows`: what was made of a log's scenes for training, and what was left out of it, and why."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import duckdb

from matrix_py.store.connection import one_line, transaction

# Rows that are inserted together.
_MAX_ROWS = 5000


class DatasetRow(NamedTuple):
    """A row of table `dataset_rows`, without the dataset that it belongs to.

    Attributes:
        number: place in its split, from 0; None where it was left out.
        row: hash of the training row; None where the scene or the reply ruled it out before there was one.
        kind: `aligned`, `helpful` or `simulation`.
        scene: the scene that it is from; with `path` and `attempt`, the turn whose text is to be learnt.
        attempt: 0 for a response that the input gave, of which there is no turn.
        split: `train` or `held_out`; None where it was left out.
        dropped_by: why it was left out; None where it was not.
    """

    number: int | None
    row: bytes | None
    kind: str
    scene: bytes
    path: str
    attempt: int
    split: str | None
    dropped_by: str | None


class DatasetTables:
    """The datasets of an open log, on a connection of their own; `Log.datasets` makes these."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        """Open the tables; `connection` is the log's."""
        self._path = path
        self._connection = connection.cursor()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def record(self, dataset: bytes, rows: Iterable[DatasetRow], *, options: bytes, counts: bytes) -> None:
        """Write a dataset, in one transaction; one of the same hash is replaced.

        Args:
            dataset: its hash.
            rows: those that are from this log's scenes.
            options: how it was made, as JSON.
            counts: what it came to, as JSON.

        Raises:
            StoreError: the log cannot be written.
        """
        with one_line(self._path), transaction(self._connection):
            for table in ("datasets", "dataset_rows"):
                self._connection.execute(f"DELETE FROM {table} WHERE dataset = ?", [dataset])
            now = datetime.now(UTC).replace(tzinfo=None)
            self._connection.execute("INSERT INTO datasets VALUES (?, ?, ?, ?)", [dataset, now, options.decode(), counts.decode()])
            source = iter(rows)
            while page := [*islice(source, _MAX_ROWS)]:
                self._connection.execute(
                    "INSERT INTO dataset_rows SELECT $1, unnest($2::UINTEGER[]), unnest($3::BLOB[]), unnest($4::VARCHAR[]), "
                    "unnest($5::BLOB[]), unnest($6::VARCHAR[]), unnest($7::UINTEGER[]), unnest($8::VARCHAR[]), unnest($9::VARCHAR[])",
                    [dataset, *(list(column) for column in zip(*page, strict=True))],
                )
