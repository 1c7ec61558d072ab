"""The tables `tunings` and `tuning_steps`: models that were tuned on datasets of a log, and how their training went."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from matrix_py.store.connection import one_line, transaction


class TuningStep(NamedTuple):
    """A step of training, as table `tuning_steps` has it. What was not measured at that step is None.

    Attributes:
        step: its number, from 1.
        epoch: how often all rows were seen by then.
        loss: mean over the tokens of completions of the step.
        held_out_loss: the same over all held-out rows, after the step.
        num_tokens: tokens that were seen by then.
        seconds: since the training began.
    """

    step: int
    epoch: float | None = None
    loss: float | None = None
    held_out_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    num_tokens: int | None = None
    seconds: float | None = None


class TuningTables:
    """The tunings of an open log, on a connection of their own; `Log.tunings` makes these."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        """Open the tables; `connection` is the log's."""
        self._path = path
        self._connection = connection.cursor()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def begin(self, tuning: str, *, dataset: bytes, options: bytes, base: str) -> None:
        """Record that a tuning began; one of the same name is replaced, with its steps.

        Args:
            tuning: its name, by which the other methods know it.
            dataset: hash of the dataset that it learns.
            options: how it is done, as JSON.
            base: hash of the model that is tuned, in hex.

        Raises:
            StoreError: the log cannot be written.
        """
        with one_line(self._path), transaction(self._connection):
            for table in ("tunings", "tuning_steps"):
                self._connection.execute(f"DELETE FROM {table} WHERE tuning = ?", [tuning])
            self._connection.execute(
                "INSERT INTO tunings VALUES (?, ?, ?, NULL, ?, ?, NULL, NULL)", [tuning, dataset, _now(), options.decode(), base]
            )

    def step(self, tuning: str, *steps: TuningStep) -> None:
        """Add steps. Those of the same numbers are replaced: a training that is resumed does some of them again.

        Raises:
            StoreError: the log cannot be written.
        """
        if not steps:
            return
        with one_line(self._path), transaction(self._connection):
            numbers = [step.step for step in steps]
            self._connection.execute(
                "DELETE FROM tuning_steps WHERE tuning = ? AND step IN (SELECT unnest(?::UINTEGER[]))", [tuning, numbers]
            )
            columns: Sequence[list[object]] = [list(column) for column in zip(*steps, strict=True)]
            self._connection.execute(
                "INSERT INTO tuning_steps SELECT $1, unnest($2::UINTEGER[]), unnest($3::DOUBLE[]), unnest($4::DOUBLE[]), "
                "unnest($5::DOUBLE[]), unnest($6::DOUBLE[]), unnest($7::DOUBLE[]), unnest($8::UBIGINT[]), unnest($9::DOUBLE[])",
                [tuning, *columns],
            )

    def finish(self, tuning: str, *, adapter: str, merged: str | None = None) -> None:
        """Record that a tuning ended.

        Args:
            tuning: its name.
            adapter: hash of the adapter's weights, in hex.
            merged: hash of the whole model that was made with them, in hex, if there is one.

        Raises:
            StoreError: the log cannot be written.
        """
        with one_line(self._path):
            self._connection.execute(
                "UPDATE tunings SET finished_at = ?, adapter = ?, merged = ? WHERE tuning = ?", [_now(), adapter, merged, tuning]
            )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
