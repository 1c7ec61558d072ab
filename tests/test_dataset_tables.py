"""The tables of datasets and tunings: written in one transaction, and taken along where a log is merged, salvaged or exported."""

from pathlib import Path

import pytest
from logs import drive, make_log, make_record, plain_sql, scripted
from msgspec.structs import replace as with_

from matrix_py.dataset import DatasetOptions, build, record
from matrix_py.errors import StoreError
from matrix_py.store import DatasetRow, Log, TuningStep, export_log, import_log
from matrix_py.store.merge import merge
from matrix_py.store.salvage import salvage

TABLES = ("datasets", "dataset_rows", "tunings", "tuning_steps")


def played(path: Path, questions: str) -> Path:
    """A finished log, with a dataset and a tuning that has two steps."""
    with make_log(path, [f"{letter}?" for letter in questions], record=with_(make_record(), run_id=path.stem)) as log:
        drive(log, scripted())
    dataset = build([path], DatasetOptions(mix=(1, 0, 1), held_out=0))
    record(dataset)
    with Log.open(path, read_only=False) as log:
        tables = log.tunings()
        tables.begin(f"tuning of {path.stem}", dataset=dataset.hash, options=b'{"rank":8}', base="00")
        tables.step(f"tuning of {path.stem}", TuningStep(1, loss=2.0), TuningStep(2, loss=1.5, held_out_loss=1.75, num_tokens=90))
        tables.close()
    return path


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return {table: sorted(plain_sql(path, f"SELECT t::VARCHAR FROM {table} t", read_only=True)) for table in TABLES}


def test_a_tuning_is_begun_measured_and_finished(tmp_path: Path) -> None:
    path = played(tmp_path / "run.duckdb", "A")
    with Log.open(path, read_only=False) as log:
        tables = log.tunings()
        # A training that is resumed does its last step again.
        tables.step("tuning of run", TuningStep(2, loss=1.25), TuningStep(3))
        tables.step("tuning of run")
        tables.finish("tuning of run", adapter="aa", merged="bb")
        tables.close()

    assert plain_sql(path, "SELECT step, loss, held_out_loss FROM tuning_steps ORDER BY step", read_only=True) == [
        (1, 2.0, None),
        (2, 1.25, None),
        (3, None, None),
    ]
    [(base, adapter, merged, finished)] = plain_sql(
        path, "SELECT base, adapter, merged, finished_at >= began_at FROM tunings", read_only=True
    )
    assert (base, adapter, merged, finished) == ("00", "aa", "bb", True)

    with Log.open(path, read_only=False) as log:
        tables = log.tunings()
        tables.begin("tuning of run", dataset=b"d" * 32, options=b"{}", base="01")
        tables.close()
    assert plain_sql(path, "SELECT base, finished_at FROM tunings", read_only=True) == [("01", None)]
    assert plain_sql(path, "FROM tuning_steps", read_only=True) == []


def test_a_dataset_that_cannot_be_written_whole_is_not_written_and_the_one_before_stays(tmp_path: Path) -> None:
    path = played(tmp_path / "run.duckdb", "A")
    before = contents(path)
    [(dataset,)] = plain_sql(path, "SELECT dataset FROM datasets", read_only=True)
    good = DatasetRow(0, b"r", "aligned", b"s", "revise", 1, "train", None)

    with Log.open(path, read_only=False) as log:
        tables = log.datasets()
        with pytest.raises(StoreError, match="NOT NULL"):
            tables.record(dataset, [good, good._replace(kind=None)], options=b"{}", counts=b"{}")  # type: ignore[arg-type]
        tables.close()

    assert contents(path) == before


def test_logs_that_are_merged_keep_their_datasets_and_tunings(tmp_path: Path) -> None:
    one, two = played(tmp_path / "one.duckdb", "AB"), played(tmp_path / "two.duckdb", "BC")
    both = build([one, two], DatasetOptions(mix=(1, 0, 1), held_out=0))
    record(both)
    old = tmp_path / "old.duckdb"
    old.write_bytes(two.read_bytes())
    plain_sql(old, *(f"DROP TABLE {table}" for table in TABLES), "UPDATE run SET format = 3")
    out = tmp_path / "merged.duckdb"

    merge([one, two], out)

    before = contents(one), contents(two)
    for table in ("datasets", "tunings", "tuning_steps"):
        rows = {str(row) for found in before for row in found[table]}
        # A dataset of both was written into one after the other.
        assert len(contents(out)[table]) == (3 if table == "datasets" else len(rows))
    assert {str(row) for row in contents(out)["dataset_rows"]} == {str(row) for found in before for row in found["dataset_rows"]}
    merge([one, old], out, overwrite=True)
    assert contents(out) == contents(one)


def test_a_log_that_is_salvaged_or_exported_and_imported_keeps_them(tmp_path: Path) -> None:
    path = played(tmp_path / "run.duckdb", "AB")

    assert salvage(path, tmp_path / "salvaged.duckdb").intact
    export_log(path, tmp_path / "folder")
    import_log(tmp_path / "folder", tmp_path / "imported.duckdb")

    assert contents(tmp_path / "salvaged.duckdb") == contents(tmp_path / "imported.duckdb") == contents(path)
    assert all(contents(path).values())
