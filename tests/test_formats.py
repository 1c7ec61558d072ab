"""Logs of older formats: read as they are, brought up to date when they are opened for writing; rules that are not played are refused."""

import shutil
from pathlib import Path

import pytest
from logs import make_log, plain_sql

from matrix_py.cli import main
from matrix_py.errors import FormatError
from matrix_py.replay import replay
from matrix_py.scene import rules
from matrix_py.simulate import resume
from matrix_py.store import FORMAT, OLDEST_FORMAT, Log

GOLDEN = Path(__file__).parent / "golden"
# A log of each format, as the version of that time wrote it, and its root.
ROOTS = {
    1: "f3a4cfdb544025ac51b4980680c720c9da46050ce87090ce2d912a42b86af043",
    2: "5a6bd408aade7fde487a13f1620234258c552c0973e7cc5392e51c35148f97bb",
    3: "ba1547b94e8037898c9cdd65101a95373999faccc0f77e1a5aa834368be829be",
}


@pytest.fixture(params=sorted(ROOTS))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Path]:
    return request.param, Path(shutil.copy(GOLDEN / f"format-{request.param}.duckdb", tmp_path / "run.duckdb"))


def test_there_is_a_log_of_each_older_format() -> None:
    assert sorted(ROOTS) == list(range(OLDEST_FORMAT, FORMAT))


def test_an_old_log_replays_as_it_is(old: tuple[int, Path]) -> None:
    number, path = old
    before = path.read_bytes()

    found = replay(path)

    assert found.identical
    assert found.root is not None
    assert found.root.hex() == ROOTS[number]
    assert path.read_bytes() == before


def test_opened_for_writing_it_is_brought_up_to_date_and_keeps_its_root(old: tuple[int, Path], tmp_path: Path) -> None:
    number, path = old
    make_log(tmp_path / "new.duckdb", []).close()

    summary = resume(path)

    assert summary.root is not None
    assert summary.root.hex() == ROOTS[number]
    assert replay(path).identical
    shape = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    assert plain_sql(path, shape) == plain_sql(tmp_path / "new.duckdb", shape, read_only=True)
    assert plain_sql(path, "SELECT format FROM run") == [(FORMAT,)]


def test_rules_that_are_not_played_any_more_are_refused_with_what_changed(
    old: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = old
    monkeypatch.setattr(rules, "CHANGES", {2: "a role may leave"})
    monkeypatch.setattr(rules, "RULES", 2)
    monkeypatch.setattr(rules, "OLDEST", 2)

    assert main(["replay", str(path)]) == 2
    assert "2: a role may leave" in capsys.readouterr().err
    with pytest.raises(FormatError, match="rules 1"):
        resume(path)


def test_rules_of_a_newer_version_are_refused() -> None:
    with pytest.raises(FormatError, match="newer"):
        rules.check_rules(rules.RULES + 1)


def test_a_run_keeps_the_rules_that_it_was_begun_under(old: tuple[int, Path]) -> None:
    _, path = old
    with Log.open(path, read_only=True) as log:
        assert log.record.config.rules == 1
