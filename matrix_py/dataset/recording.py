"""Writing a dataset into the logs that it was made of, so that each row can be traced to its scene."""

from dataclasses import asdict

import msgspec

from matrix_py.dataset.result import Dataset, SourceRun
from matrix_py.errors import StoreError
from matrix_py.store import Log


def record(dataset: Dataset) -> None:
    """Write a dataset into its logs, each of which gets the candidates of its own scenes; the same dataset is replaced.

    Raises:
        StoreError: a log cannot be written, or is of another run by now. The logs before it have the dataset then.
    """
    for run in dataset.runs:
        record_in(dataset, run)


def record_in(dataset: Dataset, run: SourceRun) -> None:
    """Write into one of its logs.

    Raises:
        StoreError: as for `record`.
    """
    with Log.open(run.path, read_only=False) as log:
        if log.record.run_id != run.record.run_id:
            raise StoreError(f"log {run.path} is of another run than the one that the dataset was made of: build it again")
        tables = log.datasets()
        try:
            tables.record(
                dataset.hash,
                dataset.entries[run.record.run_id],
                options=msgspec.json.encode(dataset.describe()),
                counts=msgspec.json.encode({kind: asdict(counts) for kind, counts in dataset.counts.items()}),
            )
        finally:
            tables.close()
