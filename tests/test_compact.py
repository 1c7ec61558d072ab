"""A finished log is written anew without free room, and stays as it is where that cannot be done."""

import random
import sys
from pathlib import Path

import pytest
from logs import ENGINE, drive, make_log, plain_sql, scripted

from matrix_py.errors import StoreError
from matrix_py.replay import replay
from matrix_py.simulate import SimulateOptions, simulate
from matrix_py.store import Log, check, compact


@pytest.fixture
def roomy(tmp_path: Path) -> Path:
    """A finished log with much free room: a table of random bytes was dropped."""
    path = tmp_path / "run.duckdb"
    with make_log(path, [f"Question {number}?" for number in range(6)]) as log:
        drive(log, scripted())
    plain_sql(path, "CREATE TABLE more AS SELECT md5(range::VARCHAR) || md5((range + 1)::VARCHAR) FROM range(300000)", "CHECKPOINT")
    plain_sql(path, "CREATE TABLE last AS SELECT 1 AS one", "CHECKPOINT")
    plain_sql(path, "DROP TABLE more", "CHECKPOINT")
    plain_sql(path, "DROP TABLE last", "CHECKPOINT")
    return path


def everything(path: Path) -> dict[str, list[tuple[object, ...]]]:
    tables = plain_sql(path, "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY ALL", read_only=True)
    return {table: plain_sql(path, f"FROM {table} ORDER BY rowid", read_only=True) for (table,) in tables}


def test_all_that_a_log_holds_is_in_the_smaller_one(roomy: Path) -> None:
    before, size = everything(roomy), roomy.stat().st_size

    assert compact(roomy)

    assert roomy.stat().st_size < size
    assert everything(roomy) == before
    assert replay(roomy).identical
    assert [path.name for path in roomy.parent.iterdir()] == ["run.duckdb"]
    with Log.open(roomy, read_only=False) as log:  # and it can be written
        assert check(log).findings == []
    assert not compact(roomy)


def test_where_there_is_no_room_for_a_second_file_the_log_stays(roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = roomy.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matrix_py.store.compaction._copy", full)

    assert not compact(roomy)

    assert roomy.read_bytes() == content
    assert [path.name for path in roomy.parent.iterdir()] == ["run.duckdb"]


def test_rows_that_do_not_arrive_leave_the_log_as_it_is(roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(roomy)
    # After all rows were copied, one is gone again.
    monkeypatch.setattr("matrix_py.store.compaction.make_views", lambda log: log.execute("DELETE FROM log.events WHERE seq = 0"))

    assert not compact(roomy)

    assert everything(roomy) == before
    assert [path.name for path in roomy.parent.iterdir()] == ["run.duckdb"]


def test_a_log_of_little_free_room_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, [f"Question {random.Random(1).random()}?"]) as log:
        drive(log, scripted())
    content = path.read_bytes()

    assert not compact(path)

    assert path.read_bytes() == content


def test_a_run_whose_folder_takes_no_second_file_is_finished_all_the_same(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise StoreError(f"log {path}: no space left on device")

    inputs = tmp_path / "in.jsonl"
    inputs.write_text('{"instruction": "What is a fork?"}\n')
    # By the module: the package has a function of its name.
    monkeypatch.setattr(sys.modules["matrix_py.simulate"], "compact", refuse)

    summary = simulate(
        SimulateOptions(inputs=(str(inputs),), out=tmp_path / "run.duckdb", model=str(tiny_model), scene="vanilla", engine=ENGINE)
    )

    assert summary.root is not None
