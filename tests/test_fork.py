"""Forks: one change at one turn; what comes before it is taken from the run, what follows from it runs live, and the log says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from logs import ENGINE, drive, make_log, make_record, plain_sql
from msgspec import structs
from social import Script, everybody

from matrix_py.cli import main
from matrix_py.errors import ConfigError, StoreError
from matrix_py.replay import replay
from matrix_py.reuse import said_instead
from matrix_py.reuse.edits import check_edit
from matrix_py.reuse.forecast import forecast
from matrix_py.reuse.fork import ForkOptions, fork
from matrix_py.reuse.rerun import rerun
from matrix_py.simulate import RunSummary
from matrix_py.store import Log, check, listed_scenes
from matrix_py.types import Edit, Limits

ROWS = ("How do I open the till?", "Who has the key?")
PROFILE = "Age: 31\nTraits: patient\nStatus: in the shop"


def model() -> Script:
    return Script({"recipients": everybody, "critique": lambda turn: f"2: harm of {turn.path}"})


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two scenes. It is only read."""
    path = tmp_path_factory.mktemp("old") / "old.duckdb"
    record = make_record("matrix")
    config = structs.replace(record.config, limits=Limits(roles=3, steps=2))
    with make_log(path, ROWS, record=structs.replace(record, config=config)) as log:
        assert drive(log, model()).root is not None
    return path


def edited(old: Path, out: Path, *edits: Edit, **how: Any) -> RunSummary:
    """Run all scenes again with edits; a script stands for the model."""
    with Log.open(old, read_only=True) as parent:
        summary = rerun(parent, out, model(), edits=edits, **how)
    assert summary.root is not None, summary.counts.errors
    assert replay(out).identical
    with Log.open(out, read_only=True) as log:
        assert check(log).findings == []
    return summary


def texts(path: Path, kind: str) -> list[str]:
    statement = f"SELECT payload ->> 'text' FROM events WHERE kind = '{kind}' ORDER BY scene, seq"
    return [text for (text,) in plain_sql(path, statement, read_only=True)]


# Edits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "value", "recorded", "expected"),
    [
        ("text", "Hello.", "Good day.", "Hello."),
        ("text", "Hello.", "Hello.", None),
        ("verdict", "no", "It is so.\nVerdict: yes", "It is so.\nVerdict: no"),
        ("verdict", "yes", "It is so.\nVerdict: yes", None),
        ("verdict", "no", "yes: It is so.", "no: It is so."),
        ("verdict", "no", "cut off", None),
        ("profile", "Traits: rash", PROFILE, "Age: 31\nTraits: rash\nStatus: in the shop"),
        ("profile", "Status: retired; Age: 70", PROFILE, "Age: 70\nTraits: patient\nStatus: retired"),
        ("profile", "Traits: patient", PROFILE, None),
        ("remove_role", "cashier", "owner\ncashier\nguard", "owner\nguard"),
        ("remove_role", "The Cashier", "owner\ncashier", "owner"),
        ("remove_role", "owner", "owner", "nobody"),
        ("remove_role", "bank", "owner\ncashier", None),
        ("drop_critique", "", "2: a loss", "none"),
        ("drop_critique", "", "none", None),
    ],
)
def test_an_edit_is_a_function_of_the_recorded_text(do: Any, value: str, recorded: str, expected: str | None) -> None:
    assert said_instead(Edit(at="turn", do=do, value=value), recorded) == expected


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (Edit(at="", do="text", value="x"), "--at is missing"),
        (Edit(at="cast/ego#2", do="text", value="x"), "give 'cast/ego'"),
        (Edit(at="step/1/act", do="verdict", value="maybe"), "give yes or no"),
        (Edit(at="cast/profile/owner", do="profile", value="patient"), "give lines such as"),
        (Edit(at="cast/profile/owner", do="profile", value=""), "give lines such as"),
        (Edit(at="cast/roles", do="remove_role", value=" "), "--remove-role is empty"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(edit: Edit, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        check_edit(edit)


def test_a_profile_has_no_line_that_it_did_not_have() -> None:
    with pytest.raises(ConfigError, match=r"'Mood'.*Age, Traits, Status"):
        said_instead(Edit(at="cast/profile/owner", do="profile", value="Mood: good"), PROFILE)


def test_the_action_stands_for_the_turn_about_it() -> None:
    assert check_edit(Edit(at="step/1/act", do="verdict", value="no")).at == "step/1/act/feasible"
    assert check_edit(Edit(at="step/1/act/critique", do="drop_critique")).at == "step/1/act/critique"


# What follows ---------------------------------------------------------------------------------------------------------


def test_a_role_that_is_removed_is_in_no_cast_and_what_came_before_is_reused(old: Path, tmp_path: Path) -> None:
    summary = edited(old, tmp_path / "new.duckdb", Edit(at="cast/roles", do="remove_role", value="cashier"))

    assert summary.counts.edited == {"roles": 2}
    assert {kind: summary.counts.reused[kind] for kind in ("situation", "ego", "future", "characters")} == dict.fromkeys(
        ("situation", "ego", "future", "characters"), 2
    )
    roles = plain_sql(tmp_path / "new.duckdb", "SELECT DISTINCT role FROM role ORDER BY role")
    # Who comes next on the list takes the place.
    assert roles == [("bank",), ("guard",), ("owner",), ("visitor",)]
    sources = dict(plain_sql(tmp_path / "new.duckdb", "SELECT path, source FROM completions WHERE path LIKE 'cast/%'"))
    assert sources["cast/roles"] == "edited"
    assert sources["cast/profile/owner"] == "reused"
    assert sources["cast/profile/bank"] == "model"


def test_a_flipped_verdict_keeps_its_reason_and_stops_the_act(old: Path, tmp_path: Path) -> None:
    edited(old, tmp_path / "new.duckdb", Edit(at="step/1/act", do="verdict", value="no"))

    rows = plain_sql(tmp_path / "new.duckdb", "SELECT feasible, took_place, reason FROM action WHERE action = 'step/1/act'")
    assert rows == [(False, False, "Reason for step/1/act/feasible.")] * 2


def test_a_critique_that_is_dropped_leads_to_another_revision(old: Path, tmp_path: Path) -> None:
    scene = plain_sql(old, "SELECT lower(hex(scene)) FROM scenes WHERE position = 1", read_only=True)[0][0]

    summary = edited(old, tmp_path / "new.duckdb", Edit(at="step/1/act", do="drop_critique", scene=scene))

    assert summary.counts.edited == {"critique": 1}
    # The other scene is as it was; of this one, the story is the same, but for its harm.
    assert {kind: each.turns for kind, each in summary.counts.live.items()}.keys() <= {"condense_critiques", "consequence", "revise"}
    harms = "SELECT lower(hex(scene)) = ?, count(*) FROM events WHERE kind = 'HarmNoted' GROUP BY ALL ORDER BY ALL"
    before = dict(plain_sql(old, harms, parameters=[scene], read_only=True))
    assert dict(plain_sql(tmp_path / "new.duckdb", harms, parameters=[scene])) == {False: before[False], True: before[True] - 1}


def test_every_attempt_of_a_turn_says_what_was_given(old: Path, tmp_path: Path) -> None:
    # Given a text that is flawed, in a turn that may be asked again
    refusal = "I'm sorry, but I can't assist with that request."
    edited(old, tmp_path / "new.duckdb", Edit(at="step/1/react/owner", do="text", value=refusal))

    rows = plain_sql(
        tmp_path / "new.duckdb",
        "SELECT attempt, source, count(*) FROM completions WHERE path = 'step/1/react/owner' GROUP BY ALL ORDER BY ALL",
    )
    assert [(attempt, source) for attempt, source, _ in rows] == [(number, "edited") for number in range(1, len(rows) + 1)]
    assert len(rows) > 1


def test_the_log_names_its_parent_and_the_change(old: Path, tmp_path: Path) -> None:
    edit = Edit(at="cast/profile/owner", do="profile", value="Traits: rash")
    edited(old, tmp_path / "new.duckdb", edit)

    with Log.open(tmp_path / "new.duckdb", read_only=True) as log, Log.open(old, read_only=True) as parent:
        execution = log.record.execution
        assert execution.parent is not None
        assert execution.change is not None
        assert (execution.parent.run_id, execution.parent.path) == (parent.record.run_id, str(old))
        assert execution.change.edits == [edit]
        assert log.record.config == parent.record.config


def test_another_seed_from_a_turn_on_keeps_what_comes_before_it(old: Path, tmp_path: Path) -> None:
    with Log.open(old, read_only=True) as parent:
        config = structs.replace(parent.record.config, seed=77)
        scenes = [listed.unplayed() for listed in listed_scenes(parent)]
        expected = forecast(parent, scenes, config, kept_before="step/2/act")
        summary = rerun(parent, tmp_path / "new.duckdb", model(), config=config, kept_before="step/2/act")

    assert summary.counts.reused == expected.reused
    first_steps = "SELECT path, count(*) FROM completions WHERE source = 'reused' GROUP BY path"
    reused = dict(plain_sql(tmp_path / "new.duckdb", first_steps))
    assert "cast/plan" in reused
    assert "step/1/react/owner/critique" in reused
    assert not any(path.startswith("step/2") or path in ("consequence", "revise") for path in reused)
    assert replay(tmp_path / "new.duckdb").identical


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str | Path) -> str:
        assert main(["fork", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        return error

    return run


def test_a_fork_on_a_model_is_a_log_like_any_other(finished: RunSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.duckdb"
    arguments = ["fork", str(finished.path), "--scene", "1", "--scene", "4", "--at", "critique", "--set", "text=It says too little."]

    assert main([*arguments, "--out", str(out), "--threads", "1", "--quiet"]) == 0

    assert "1 of 2 scenes" not in capsys.readouterr().err
    sources = plain_sql(out, "SELECT path, source, count(*) FROM completions GROUP BY ALL ORDER BY ALL")
    assert sources == [("critique", "edited", 2), ("respond", "reused", 2), ("revise", "model", 2)]
    assert texts(out, "CritiqueWritten") == ["It says too little."] * 2
    assert replay(out).identical
    with Log.open(out, read_only=True) as log, Log.open(finished.path, read_only=True) as parent:
        scenes = [listed.scene for listed in listed_scenes(parent)]
        assert [listed.scene for listed in listed_scenes(log)] == [scenes[1], scenes[4]]


def test_a_fork_of_a_fork_and_a_regeneration_say_what_was_given(finished: RunSummary, tmp_path: Path) -> None:
    first = ForkOptions(finished.path, tmp_path / "1.duckdb", edits=(Edit(at="critique", do="text", value="Too short."),), engine=ENGINE)
    assert fork(first).summary is not None
    second = ForkOptions(
        tmp_path / "1.duckdb", tmp_path / "2.duckdb", edits=(Edit(at="revise", do="text", value="Longer."),), engine=ENGINE
    )

    found = fork(second).summary

    assert found is not None
    assert (found.counts.reused, found.counts.edited, found.counts.live) == ({"respond": 6, "critique": 6}, {"revise": 6}, {})


def test_other_prompts_stand_over_those_of_the_run(finished: RunSummary, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "revise.txt").write_text("--- user\nDo better: {instruction}{response}{critique}\n")
    options = ForkOptions(finished.path, tmp_path / "new.duckdb", where="position < 2", prompts_dir=tmp_path / "prompts", engine=ENGINE)

    found = fork(options)

    assert found.summary is not None
    assert {kind: each.turns for kind, each in found.summary.counts.live.items()} == {"revise": 2} == dict(found.forecast.may_run)
    assert replay(tmp_path / "new.duckdb", recorded=True).identical
    with Log.open(tmp_path / "new.duckdb", read_only=True) as log:
        assert log.record.execution.change is not None
        assert log.record.execution.change.config == ["prompts.revise.txt"]


def test_another_model_answers_from_a_turn_on(finished: RunSummary, tmp_path: Path) -> None:
    options = ForkOptions(finished.path, tmp_path / "new.duckdb", scenes=("0",), at="revise", model="embedded", engine=ENGINE)

    found = fork(options).summary

    assert found is not None
    assert (found.counts.reused, {kind: each.turns for kind, each in found.counts.live.items()}) == (
        {"respond": 1, "critique": 1},
        {"revise": 1},
    )
    assert replay(tmp_path / "new.duckdb", recorded=True).identical


def test_dry_run_says_what_a_fork_will_take(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a log whose model is not there: none is needed
    arguments = ["fork", str(old), "--remove-role", "cashier", "--dry-run", "--quiet", "--format", "json"]

    assert main(arguments) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["kinds"]["roles"] == {"reused": 0, "edited": 2, "may_run": 0}
    assert found["kinds"]["situation"] == {"reused": 2, "edited": 0, "may_run": 0}
    assert found["may_run"] > 0
    assert found["new_scenes"] == 0


def test_a_role_is_removed_by_its_rank_in_each_cast(old: Path) -> None:
    found = fork(ForkOptions(old, None, remove_role="2"), dry_run=True).forecast

    assert found.edited == {"roles": 2}
    assert found.num_matched == 2
    with pytest.raises(ConfigError, match="role '9' is in none"):
        fork(ForkOptions(old, None, remove_role="9"), dry_run=True)
    with pytest.raises(ConfigError, match="role '0' is in none"):
        fork(ForkOptions(old, None, remove_role="0"), dry_run=True)


def test_a_change_that_reaches_some_scenes_says_how_many(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a run in which one scene has a harm dropped already
    scene = plain_sql(old, "SELECT lower(hex(scene)) FROM scenes WHERE position = 1", read_only=True)[0][0]
    edited(old, tmp_path / "one.duckdb", Edit(at="step/1/act", do="drop_critique", scene=scene))

    assert main(["fork", str(tmp_path / "one.duckdb"), "--at", "step/1/act", "--drop-critique", "--dry-run"]) == 0

    assert "turn step/1/act/critique is changed in 1 of 2 scenes" in capsys.readouterr().err


def test_what_cannot_be_is_refused_before_anything_is_paid(old: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    out = ("--out", tmp_path / "new.duckdb")
    for arguments, part in (
        (("--at", "step/9/act", "--set", "verdict=no"), "turn step/9/act/feasible is in none of the 2 scenes"),
        (("--remove-role", "nobody's aunt"), 'role "nobody\'s aunt" is in none'),
        ((), "nothing is changed"),
        (("--at", "step/1/act/feasible", "--set", "text=Perhaps."), "does not fill its form"),
        (("--at", "cast/ego", "--set", "mood=good"), "give text="),
        (("--set", "text=x"), "--set has no turn"),
        (("--drop-critique",), "--drop-critique has no action"),
        (("--at", "x", "--set", "text=x", "--drop-critique"), "give one of them"),
        (("--seed", "5", "--where", "kept AND"), "SQL on"),
        (("--seed", "5", "--where", "position = 99"), "no scene of"),
        (("--seed", "5", "--scene", "99"), "no scene of"),
        (("--seed", "5", "--scene", "0", "--where", "true"), "give one of them"),
        (("--seed", "5", "--at", "step/9/act"), "turn step/9/act is in none"),
        (("--seed", "5", "--at", "step/1/act", "--roles", "2"), "leave out other prompts"),
        (("--seed", "-5"), "--seed is -5"),
        (("--roles", "99"), "--roles is 99"),
        (("--prompts", tmp_path / "none"), "does not exist"),
    ):
        assert part in refused(old, *out, *arguments), arguments
    assert "both reused and written" in refused(old, "--out", old, "--seed", "5")
    assert "--out is missing" in refused(old, "--seed", "5")
    assert [*tmp_path.iterdir()] == []


def test_a_critique_cannot_be_dropped_where_a_method_has_no_form_for_that(tmp_path: Path) -> None:
    with make_log(tmp_path / "old.duckdb", ROWS[:1], record=make_record("published")) as log:
        drive(log, Script())
    with pytest.raises(ConfigError, match="in scene 'matrix' only"):
        fork(ForkOptions(tmp_path / "old.duckdb", None, edits=(Edit(at="step/1/act", do="drop_critique"),)), dry_run=True)


def test_a_log_with_rule_edits_is_not_resumed_without_its_parent(finished: RunSummary, tmp_path: Path, tiny_model: Path) -> None:
    from matrix_py.simulate import resume

    options = ForkOptions(finished.path, tmp_path / "new.duckdb", edits=(Edit(at="critique", do="text", value="No."),), engine=ENGINE)
    fork(options)
    path = tmp_path / "new.duckdb"
    plain_sql(path, "DELETE FROM events WHERE kind = 'SceneFinished'", "UPDATE run SET root = NULL")
    change = """UPDATE run SET execution = json_merge_patch(execution,
        '{"parent": {"path": "/nowhere/old.duckdb"}, "change": {"edits": [{"at": "critique", "do": "verdict", "value": "no"}]}}')"""
    plain_sql(path, change)

    with pytest.raises(StoreError, match="put it back"):
        resume(path, model=str(tiny_model), engine=ENGINE)
