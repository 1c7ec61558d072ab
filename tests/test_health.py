"""A run's health, against what its events say."""

from pathlib import Path

from logs import drive, make_log, scripted
from social import Script
from story import payloads, social_record, tell

from matrix_py.health import Share, read_health
from matrix_py.store import Log

GOLDEN = Path(__file__).parent / "golden" / "format-1.duckdb"


def test_it_is_counted_from_events(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    tell(path)
    with Log.open(path, read_only=True) as log:
        found = read_health(log)

    judged = [payload for position in (0, 1) for payload in payloads(path, "FeasibilityJudged", position)]
    noticed = [payload for position in (0, 1) for payload in payloads(path, "ActionNoticed", position)]
    assert found.infeasible == Share(sum(not payload["feasible"] for payload in judged), len(judged))
    assert found.unnoticed == Share(sum(not payload["recipients"] for payload in noticed), len(noticed))
    assert found.infeasible.count > 0
    assert found.unnoticed.count > 0


def test_reactions_that_say_the_same_but_for_case_are_repeated(tmp_path: Path) -> None:
    says = {"step/1/react/owner": "calls Bob", "step/2/react/owner": "Calls bob", "step/2/react/guard": "calls Ann"}
    notice = {"step/1/act": "owner", "step/2/act": "owner, guard"}
    with make_log(tmp_path / "run.duckdb", ["Why?", "How?"], record=social_record(steps=2)) as log:
        drive(log, Script(says, notice=notice))
        found = read_health(log)

    # One in each scene: what another scene says is no repetition.
    assert found.repeated == Share(2, 6)


def test_a_scene_without_acts_has_budgets_only(tmp_path: Path) -> None:
    with make_log(tmp_path / "run.duckdb", ["Why?"]) as log:
        drive(log, scripted())
        log.query("UPDATE completions SET finish = 'length' WHERE kind = 'critique'")
        found = read_health(log)

    assert found.infeasible == found.unnoticed == found.repeated == Share(0, 0)
    assert found.infeasible.rate is None
    assert found.length["critique"].rate == 1
    assert found.length["revise"] == Share(0, 1)


def test_a_log_of_format_1_has_its_health_read_as_it_is() -> None:
    with Log.open(GOLDEN, read_only=True) as log:
        assert sum(share.total for share in read_health(log).length.values()) == log.num_completions()
