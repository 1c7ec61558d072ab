"""How far a run is: of runs that write their log, that were stopped, and that are done; of logs of older formats."""

from pathlib import Path

import msgspec
import pytest
from live_run import live_run
from logs import drive, make_log, plain_sql, scripted

from matrix_py import read_status
from matrix_py.cli import main
from matrix_py.errors import ConfigError
from matrix_py.simulate import RunSummary
from matrix_py.status import Flaw, Status, watch_status

HERE = Path(__file__).parent
REPLAYS = HERE.parent / "replays"


def test_a_finished_run(finished: RunSummary) -> None:
    status = read_status(finished.path)

    assert (status.state, status.pid, status.scene) == ("finished", None, "critique-revise")
    assert (status.scenes, status.completed, status.failed, status.open, status.under_way) == (6, 6, 0, 0, 0)
    assert status.turns == finished.counts.live_turns == 18
    assert status.generated_tokens == finished.counts.generated_tokens
    assert (status.failures, status.fallbacks) == ({}, {})
    session = status.session
    assert session is not None
    assert (session.number, session.scenes, session.turns, session.generated_tokens) == (0, 6, 18, status.generated_tokens)
    assert session.eta_s is None
    assert session.turns_per_second == pytest.approx(18 / session.seconds)
    assert session.scenes_per_minute == pytest.approx(360 / session.seconds)
    assert 0 < session.seconds <= finished.wall_s
    delay = session.delay
    assert delay is not None
    assert 0 < delay.p50_ms <= delay.p99_ms <= delay.max_ms <= 1000 * finished.max_delay_s + 1
    [(commits,)] = plain_sql(finished.path, "SELECT count(*) FROM commits", read_only=True)
    assert delay.commits == commits


def test_a_running_one_from_another_process_and_again_until_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with live_run(tmp_path / "run.duckdb", turns=4) as run:
        assert main(["status", str(run.path), "--format", "json"]) == 0
        status = msgspec.json.decode(capsys.readouterr().out, type=Status)
        assert (status.state, status.pid) == ("running", run.process.pid)
        assert (status.scenes, status.turns, status.completed + status.open) == (3, 4, 3)
        assert status.session is not None
        assert status.session.turns == 4
        assert status.session.seconds > 0

        assert main(["status", str(run.path)]) == 0
        assert f"running (process {run.process.pid})" in capsys.readouterr().out

        seen = watch_status(run.path, 0.1)
        assert [next(seen).turns for _ in range(2)] == [4, 4]
        run.answer()
        assert next(status for status in seen if status.turns != 4).turns == 5
        run.finish()
        *_, last = seen
        assert (last.state, last.completed, last.turns) == ("finished", 3, 7)


def test_a_stopped_one_says_how_to_go_on_and_has_a_new_session_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.duckdb"
    with live_run(path, turns=3) as run:
        run.kill()

    assert main(["status", str(path)]) == 0
    assert f"stopped: go on with: matrix resume {path}" in capsys.readouterr().out
    stopped = read_status(path)
    assert (stopped.state, stopped.pid, stopped.turns) == ("stopped", None, 3)
    assert stopped.session is not None
    assert stopped.session.eta_s is None

    with live_run(path, turns=1, before=3) as run:
        going = read_status(path)
        assert going.session is not None
        assert (going.state, going.turns, going.session.number, going.session.turns) == ("running", 4, 1, 1)
        run.finish()
    assert read_status(path).state == "finished"


def test_what_went_wrong_is_counted_by_kind() -> None:
    status = read_status(REPLAYS / "matrix-flawed-replies.duckdb")

    assert (status.completed, status.failed) == (1, 1)
    assert status.failures == {"turn cast/future gave no usable reply in 3 attempts: refusal": 1}
    assert status.fallbacks == {"react": 2, "consequence": 1, "feasible": 1, "profile": 1}
    assert status.flaws[0] == Flaw(flaw="refusal", policy="retried", count=7)
    counts = plain_sql(REPLAYS / "matrix-flawed-replies.duckdb", "SELECT count(*) FROM flaw", read_only=True)
    assert counts == [(sum(flaw.count for flaw in status.flaws),)]


def test_a_log_of_format_1_has_no_sessions_and_says_what_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    path = HERE / "golden" / "format-1.duckdb"

    status = read_status(path)
    assert status.session is None
    assert status.state == "finished"
    assert status.turns == plain_sql(path, "SELECT count(*) FROM completions", read_only=True)[0][0]
    assert main(["status", str(path)]) == 0
    out = capsys.readouterr().out
    assert "session" not in out
    assert "commits" not in out


def test_a_log_that_was_never_run(tmp_path: Path) -> None:
    make_log(tmp_path / "run.duckdb", ["One?", "Two?"]).close()

    status = read_status(tmp_path / "run.duckdb")

    assert (status.state, status.scenes, status.open, status.under_way, status.turns) == ("stopped", 2, 2, 0, 0)
    assert (status.last_turn_at, status.session) == (None, None)


def test_a_session_that_had_nothing_to_do_is_not_the_one_that_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, ["One?"]) as log:
        drive(log, scripted())
        drive(log, None)

    session = read_status(path).session

    assert session is not None
    assert (session.number, session.turns) == (0, 3)


def test_json_is_one_line_and_control_characters_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, ["One?"]) as log:
        drive(log, scripted())
    plain_sql(path, """UPDATE events SET payload = '{"end":"failed","reason":"a\\nb\\u001b[31m"}' WHERE kind = 'SceneFinished'""")

    assert main(["status", str(path), "--format", "json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "\x1b" not in out
    assert main(["status", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "failures   a b\\x1b[31m (1)" in out


def test_a_wrong_interval_or_log_is_refused(finished: RunSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for every in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="--every"):
            next(watch_status(finished.path, every))
    assert main(["status", str(tmp_path / "none.duckdb")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_every_ends_at_once_where_nothing_runs(finished: RunSummary) -> None:
    assert len(list(watch_status(finished.path, 60))) == 1
