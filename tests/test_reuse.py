"""Reuse: what was asked in the same words is taken from the older log, the rest runs live; and the forecast of both."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from logs import ENGINE, drive, make_log, make_record, plain_sql
from msgspec import structs
from social import Script, everybody

from matrix_py import _core
from matrix_py.cli import main
from matrix_py.errors import ConfigError, EngineError, RequestError
from matrix_py.pump import Counts
from matrix_py.replay import replay
from matrix_py.reuse import answering
from matrix_py.reuse.forecast import Forecast, forecast
from matrix_py.reuse.rerun import rerun
from matrix_py.simulate import RunSummary, SimulateOptions, resume, simulate
from matrix_py.store import Log, check, export_log, import_log, listed_scenes, merge, salvage
from matrix_py.testing import ScriptedModel
from matrix_py.types import Edit, Limits, RunConfig

ROWS = ("How do I open the till?", ("Who has the key?", "The owner has."), "How do I open the till?", "What is in the drawer?")
SMALL = Limits(roles=3, steps=2)


def model(rules: Mapping[str, Any] | None = None) -> Script:
    """Everybody notices everything, which does harm. What a turn of free text says depends on all that it is asked."""
    free = dict.fromkeys(("act", "react", "condense_memory", "condense_critiques", "consequence", "revise"), _echo)
    return Script({"recipients": everybody, "critique": "2: a loss", **free, **(rules or {})})


def _echo(turn: _core.Turn) -> str:
    return f"answer {turn.request.hex()[:8]} at {turn.path}"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four scenes, two of them with one instruction. It is only read."""
    path = tmp_path_factory.mktemp("old") / "old.duckdb"
    record = make_record("matrix")
    with make_log(path, ROWS, record=structs.replace(record, config=structs.replace(record.config, limits=SMALL))) as log:
        assert drive(log, model()).root is not None
    return path


def again(
    old: Path, out: Path, live: ScriptedModel, change: Callable[[RunConfig], RunConfig] = lambda config: config, **how: Any
) -> RunSummary:
    """Run an older log's scenes again, under its configuration with a change."""
    with Log.open(old, read_only=True) as parent:
        return rerun(parent, out, live, config=change(parent.record.config), **how)


def foreseen(old: Path, change: Callable[[RunConfig], RunConfig] = lambda config: config, **how: Any) -> Forecast:
    with Log.open(old, read_only=True) as parent:
        return forecast(parent, (listed.unplayed() for listed in listed_scenes(parent)), change(parent.record.config), **how)


def with_prompt(name: str, text: str) -> Callable[[RunConfig], RunConfig]:
    return lambda config: structs.replace(config, prompts=config.prompts | {name: text})


def live(counts: Counts) -> dict[str, int]:
    return {kind: each.turns for kind, each in counts.live.items()}


def turns_by_kind(path: Path) -> dict[str, int]:
    return dict(plain_sql(path, "SELECT kind, count(*) FROM completions GROUP BY kind", read_only=True))  # type: ignore[arg-type]


OTHER_REVISE = with_prompt("revise.txt", "--- user\nAnswer {instruction} anew, not as in {response}, in view of {consequence}\n")


# Reuse ----------------------------------------------------------------------------------------------------------------


def test_of_a_run_that_is_not_changed_no_turn_runs_and_the_root_is_the_same(old: Path, tmp_path: Path) -> None:
    nobody = Script()

    summary = again(old, tmp_path / "new.duckdb", nobody)

    assert nobody.turns == []
    assert summary.counts.reused == turns_by_kind(old)
    with Log.open(old, read_only=True) as parent, Log.open(tmp_path / "new.duckdb", read_only=True) as log:
        assert summary.root == parent.recorded_root() == log.recorded_root()
        assert check(log).findings == []
    assert replay(tmp_path / "new.duckdb").identical


def test_after_a_change_of_the_revision_prompt_only_revisions_run_as_was_foreseen(old: Path, tmp_path: Path) -> None:
    expected = foreseen(old, OTHER_REVISE)

    summary = again(old, tmp_path / "new.duckdb", model(), OTHER_REVISE)

    assert live(summary.counts) == {"revise": 4} == dict(expected.may_run)
    assert summary.counts.reused == expected.reused
    assert expected.reused + Counter(revise=4) == turns_by_kind(old)
    # Every event before the revision is the same, hash and all.
    events = (
        "SELECT scene, seq, payload, hash FROM events WHERE seq < (SELECT min(seq) FROM events e WHERE e.scene = events.scene AND kind = \
'TurnCompleted' AND payload ->> 'turn' = 'revise') ORDER BY ALL"
    )
    before = plain_sql(old, events, read_only=True)
    assert len(before) > 100
    assert plain_sql(tmp_path / "new.duckdb", events, read_only=True) == before
    sources = "SELECT source, kind = 'revise', count(*) FROM completions GROUP BY ALL ORDER BY ALL"
    assert plain_sql(tmp_path / "new.duckdb", sources, read_only=True) == [("model", True, 4), ("reused", False, expected.reused.total())]


def test_what_follows_from_another_answer_is_not_reused(old: Path, tmp_path: Path) -> None:
    # Given a reaction prompt that is another: the modulator's words about the reactions are of other reactions then
    change = with_prompt("react.txt", "--- user\nYou are {role}. {profile}{memory}{noticed} React!\n")
    expected = foreseen(old, change)

    summary = again(old, tmp_path / "new.duckdb", model(), change)

    # Then everything up to the first reactions is reused, in the forecast as in the run.
    assert summary.counts.reused == expected.reused
    assert expected.reused["profile"] == turns_by_kind(old)["profile"]
    assert expected.reused["react"] == expected.reused["revise"] == 0
    assert {kind: count for kind, count in (expected.reused + expected.may_run).items() if count} == turns_by_kind(old)
    assert sum(live(summary.counts).values()) == expected.may_run.total()


def test_facts_come_along_but_for_times_and_the_cache(tmp_path: Path) -> None:
    class Measured(ScriptedModel):
        def _complete(self, turn: _core.Turn) -> _core.Completion | Exception:
            facts: dict[str, Any] = {"prompt_tokens": 7, "cached_tokens": 3, "generated_tokens": 5, "masked_tokens": 2, "log_odds": 0.5}
            return _core.Completion(turn, text="Well said.", finish="length", **facts)

    with make_log(tmp_path / "old.duckdb", ROWS[:1]) as log:
        drive(log, Measured(lambda turn: ""))

    again(tmp_path / "old.duckdb", tmp_path / "new.duckdb", Script())

    facts = "SELECT DISTINCT prompt_tokens, cached_tokens, generated_tokens, masked_tokens, log_odds, finish, decode_us FROM completions"
    assert plain_sql(tmp_path / "new.duckdb", facts) == [(7, 0, 5, 2, 0.5, "length", 0)]


def test_scenes_keep_their_identity_when_only_some_are_run(old: Path, tmp_path: Path) -> None:
    # Given the second of two scenes with one instruction
    with Log.open(old, read_only=True) as parent:
        wanted = [*listed_scenes(parent)][2]
        assert wanted.occurrence == 1

    summary = again(old, tmp_path / "new.duckdb", Script(), scenes=[wanted.scene])

    with Log.open(tmp_path / "new.duckdb", read_only=True) as log:
        assert [*listed_scenes(log)] == [wanted]
        assert check(log).findings == []
    assert summary.counts.live == {}
    assert replay(tmp_path / "new.duckdb").identical


def test_limits_and_other_things_that_stand_in_no_prompt_leave_what_they_do_not_reach(old: Path, tmp_path: Path) -> None:
    summary = again(old, tmp_path / "new.duckdb", model(), lambda config: structs.replace(config, limits=Limits(roles=2, steps=2)))

    # Then the lists of roles are the same, and so are the profiles of those who are left.
    assert summary.counts.reused["roles"] == 4
    assert summary.counts.reused["profile"] == 4 * 3
    assert live(summary.counts).keys() <= {
        "public",
        "plan",
        "feasible",
        "recipients",
        "critique",
        "react",
        "act",
        "consequence",
        "revise",
    } | {
        "condense_memory",
        "condense_critiques",
    }
    with Log.open(tmp_path / "new.duckdb", read_only=True) as log:
        change = log.record.execution.change
        assert change is not None
        assert change.config == ["limits.roles"]


def test_another_seed_or_model_reuses_nothing(old: Path, tmp_path: Path) -> None:
    for number, change in enumerate(({"seed": 4}, {"model": "11" * 32}, {"context": 2048}, {"adapter": "22" * 32})):
        summary = again(old, tmp_path / f"{number}.duckdb", model(), lambda config: structs.replace(config, **change))  # noqa: B023
        assert summary.counts.reused.total() == 0, change
        assert summary.root is not None


def test_the_older_log_is_read_a_page_at_a_time_and_what_was_dropped_is_fetched_again(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []
    whole = answering.recorded_scenes

    def counted(log: Log, scenes: list[bytes], **how: Any) -> Any:
        fetched.append(len(scenes))
        return whole(log, scenes, **how)

    monkeypatch.setattr(answering, "recorded_scenes", counted)
    monkeypatch.setattr(answering, "_PAGE", 3)
    again(old, tmp_path / "one.duckdb", Script())
    assert fetched == [3, 1]

    monkeypatch.setattr(answering, "_KEPT_SCENES", 1)
    nobody = Script()
    again(old, tmp_path / "two.duckdb", nobody)
    assert nobody.turns == []


def test_a_turn_that_cannot_be_asked_leaves_no_answer_behind(old: Path) -> None:
    class Refusing(ScriptedModel):
        def submit(self, turns: list[_core.Turn]) -> None:
            raise RequestError("no")

    with Log.open(old, read_only=True) as parent:
        config = parent.record.config
        scene = next(listed_scenes(parent)).scene
        reuse = answering.Reuse(parent, Refusing(lambda turn: ""), config)
        other = _core.Turn(seed=0, scene=scene, path="x", attempt=1, kind="x", segments=[("x", True)], sampling=_core.Sampling(8))
        with pytest.raises(RequestError):
            reuse.submit([other])
        assert reuse.collect(0.0) == []


def test_an_older_log_of_an_older_format_is_reused(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "format-1.duckdb"
    with Log.open(golden, read_only=True) as parent:
        num_turns = parent.num_completions()

    summary = again(golden, tmp_path / "new.duckdb", Script())

    assert summary.counts.reused.total() == num_turns
    assert summary.counts.live == {}


def test_who_said_a_completion_survives_what_is_done_with_logs(old: Path, tmp_path: Path) -> None:
    with Log.open(old, read_only=True) as parent:
        scenes = [listed.scene for listed in listed_scenes(parent)]
        config = OTHER_REVISE(parent.record.config)
        edit = Edit(at="step/1/act", do="drop_critique", scene=scenes[0].hex())
        for name, part in (("one", scenes[:2]), ("two", scenes[2:])):
            rerun(parent, tmp_path / f"{name}.duckdb", model(), config=config, scenes=part, edits=[edit])
    sources = "SELECT scene, path, attempt, source FROM completions ORDER BY ALL"
    expected = [row for name in ("one", "two") for row in plain_sql(tmp_path / f"{name}.duckdb", sources)]
    assert {source for *_, source in expected} == {"model", "reused", "edited"}

    merge([tmp_path / "one.duckdb", tmp_path / "two.duckdb"], tmp_path / "merged.duckdb")
    export_log(tmp_path / "merged.duckdb", tmp_path / "exported")
    import_log(tmp_path / "exported", tmp_path / "imported.duckdb")
    salvage(tmp_path / "imported.duckdb", tmp_path / "salvaged.duckdb")

    assert plain_sql(tmp_path / "salvaged.duckdb", sources) == sorted(expected)
    assert replay(tmp_path / "salvaged.duckdb", recorded=True).identical
    with Log.open(tmp_path / "salvaged.duckdb", read_only=True) as log:
        assert check(log).findings == []


# Forecast -------------------------------------------------------------------------------------------------------------


def test_the_forecast_counts_scenes_that_the_older_log_does_not_know_apart(old: Path, tmp_path: Path) -> None:
    with Log.open(old, read_only=True) as parent, make_log(tmp_path / "new.duckdb", ["Another one?", *ROWS], record=parent.record) as log:
        found = forecast(parent, (listed.unplayed() for listed in listed_scenes(log)), parent.record.config)

    assert (found.num_new, found.num_scenes, found.num_whole) == (1, 4, 4)
    assert found.reused == turns_by_kind(old)
    assert found.may_run.total() == 0


def test_a_branch_that_can_be_played_is_played_whoever_else_waits(old: Path) -> None:
    # Given a plan that is asked otherwise: profiles are made beside it, and stay
    found = foreseen(old, with_prompt("plan.txt", "--- user\nPlan {steps} steps of {ego}: {instruction}{response}{situation}{future}\n"))

    assert found.reused["profile"] == turns_by_kind(old)["profile"]
    assert found.reused["plan"] == 0
    assert found.may_run["plan"] == 4


# Resuming -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(finished: RunSummary, tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A finished run, and one with another revision prompt that reuses it, in which the engine failed at every revision."""
    parent_path = Path(shutil.copy(finished.path, tmp_path / "old.duckdb"))
    change = with_prompt("revise.txt", "--- user\nDo better: {instruction}{response}{critique}\n")
    fails = ScriptedModel(lambda turn: EngineError("gone") if turn.kind == "revise" else "")
    summary = again(parent_path, tmp_path / "new.duckdb", fails, change)
    assert summary.root is None
    assert summary.counts.reused.total() == 12
    return parent_path, tmp_path / "new.duckdb"


def test_a_reusing_run_is_resumed_with_its_parent(interrupted: tuple[Path, Path], tmp_path: Path, tiny_model: Path) -> None:
    _, path = interrupted
    # Given scenes of which nothing was stored yet
    plain_sql(path, "DELETE FROM completions WHERE scene IN (SELECT scene FROM scenes WHERE position >= 3)")
    plain_sql(path, "DELETE FROM events WHERE scene IN (SELECT scene FROM scenes WHERE position >= 3)")

    summary = resume(path, model=str(tiny_model), engine=ENGINE)

    assert summary.root is not None
    assert live(summary.counts) == {"revise": 6}
    assert summary.counts.reused == {"respond": 3, "critique": 3}
    assert replay(path, recorded=True).identical


@pytest.mark.parametrize("gone", ["deleted", "another run", "no log"])
def test_without_its_parent_the_rest_runs_live_and_a_line_says_so(
    interrupted: tuple[Path, Path], tiny_model: Path, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, path = interrupted
    plain_sql(path, "DELETE FROM completions WHERE scene IN (SELECT scene FROM scenes WHERE position >= 3)")
    plain_sql(path, "DELETE FROM events WHERE scene IN (SELECT scene FROM scenes WHERE position >= 3)")
    match gone:
        case "deleted":
            parent.unlink()
        case "another run":
            plain_sql(parent, "UPDATE run SET run_id = 'another'")
        case _:
            parent.write_text("dear diary " * 1000)

    assert main(["resume", str(path), "--model", str(tiny_model), "--threads", "1"]) == 0

    shown = capsys.readouterr()
    assert f"log {parent}" in shown.err
    assert "the rest runs live" in shown.err
    assert plain_sql(path, "SELECT source, count(*) FROM completions GROUP BY source ORDER BY source") == [("model", 12), ("reused", 6)]
    assert replay(path, recorded=True).identical


# simulate --reuse -----------------------------------------------------------------------------------------------------


def options_of(finished: RunSummary, tiny_model: Path, input_file: Path, settings_file: Path, out: Path, **changes: Any) -> SimulateOptions:
    return SimulateOptions(
        **{
            "inputs": (str(input_file),),
            "out": out,
            "model": str(tiny_model),
            "scene": "critique-revise",
            "config_file": settings_file,
            "reuse": finished.path,
            "engine": ENGINE,
            **changes,
        }
    )


def test_simulate_reuses_and_names_its_parent(
    finished: RunSummary, tiny_model: Path, input_file: Path, settings_file: Path, tmp_path: Path
) -> None:
    # Given one instruction more, before the others
    more = tmp_path / "more.csv"
    more.write_text(input_file.read_text("utf-8").replace('"instruction"\n', '"instruction"\n"Why is the sky blue?"\n'), "utf-8")

    summary = simulate(options_of(finished, tiny_model, more, settings_file, tmp_path / "new.duckdb"))

    assert summary.counts.reused == {"respond": 6, "critique": 6, "revise": 6}
    assert live(summary.counts) == {"respond": 1, "critique": 1, "revise": 1}
    with Log.open(tmp_path / "new.duckdb", read_only=True) as log, Log.open(finished.path, read_only=True) as old:
        parent, change = log.record.execution.parent, log.record.execution.change
        assert parent is not None
        assert (parent.run_id, parent.path) == (old.record.run_id, str(finished.path))
        assert finished.root is not None
        assert parent.root == finished.root.hex()
        assert change is not None
        assert (change.config, change.edits) == ([], [])
    assert replay(tmp_path / "new.duckdb").identical


def test_without_a_context_or_template_of_its_own_a_run_has_its_parents(
    tiny_model: Path, input_file: Path, settings_file: Path, tmp_path: Path
) -> None:
    # Given a run with another context and template than the model's
    engine = replace(ENGINE, context=768, chat_template="chatml")
    first = SimulateOptions(
        (str(input_file),),
        tmp_path / "old.duckdb",
        str(tiny_model),
        scene="critique-revise",
        limit=2,
        config_file=settings_file,
        engine=engine,
    )
    old = simulate(first)

    how = replace(ENGINE, context=None)
    summary = simulate(options_of(old, tiny_model, input_file, settings_file, tmp_path / "new.duckdb", limit=2, engine=how))

    assert summary.counts.live == {}
    assert summary.root == old.root


def test_dry_run_says_what_is_reused_and_writes_nothing(
    finished: RunSummary, tiny_model: Path, input_file: Path, settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "critique.txt").write_text("--- user\nCriticise {response} to {instruction} by {principle}\n")
    (tmp_path / "out").mkdir()
    arguments = ["simulate", str(input_file), "--model", str(tiny_model), "--scene", "critique-revise", "--config", str(settings_file)]
    arguments += ["--prompts", str(tmp_path / "prompts"), "--reuse", str(finished.path), "--quiet", "--ctx", "1024"]

    assert main([*arguments, "--dry-run", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kinds"] == {
        "respond": {"reused": 6, "edited": 0, "may_run": 0},
        "critique": {"reused": 0, "edited": 0, "may_run": 6},
        "revise": {"reused": 0, "edited": 0, "may_run": 6},
    }
    assert (found["scenes"], found["whole_scenes"], found["new_scenes"]) == (6, 0, 0)

    assert main([*arguments, "--dry-run"]) == 0
    assert "all       6       12" in capsys.readouterr().out
    assert [*(tmp_path / "out").iterdir()] == []


class TestRefusals:
    @pytest.fixture
    def refused(
        self, finished: RunSummary, tiny_model: Path, input_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., str]:
        def run(**changes: str | Path) -> str:
            options = {"--model": tiny_model, "--reuse": finished.path, "--out": tmp_path / "new.duckdb", "--ctx": "1024", "--threads": "1"}
            options |= {f"--{name}": value for name, value in changes.items()}
            assert main(["simulate", str(input_file), *(str(part) for option in options.items() for part in option if part)]) == 2
            assert not (tmp_path / "new.duckdb").exists()
            error = capsys.readouterr().err
            assert error.count("\n") == 1, error
            return error

        return run

    def test_another_model(self, refused: Callable[..., str]) -> None:
        assert "another model" in refused(model="embedded")

    def test_another_context(self, refused: Callable[..., str]) -> None:
        assert "another context (1024, here 512)" in refused(ctx="512")

    def test_another_type_of_kv(self, refused: Callable[..., str]) -> None:
        assert "with --kv-type" in refused(**{"kv-type": "q8_0"})

    def test_what_is_no_log(self, refused: Callable[..., str], tmp_path: Path) -> None:
        plain_sql(tmp_path / "plain.duckdb", "CREATE TABLE t (x INTEGER)")
        assert "no matrix log" in refused(reuse=tmp_path / "plain.duckdb")
        assert "does not exist" in refused(reuse=tmp_path / "none.duckdb")

    def test_the_log_that_is_written(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "both reused and written" in refused(reuse=tmp_path / "new.duckdb")

    def test_a_log_that_is_being_written(self, refused: Callable[..., str], finished: RunSummary, tmp_path: Path) -> None:
        path = Path(shutil.copy(finished.path, tmp_path / "busy.duckdb"))
        with Log.open(path, read_only=False):
            assert "busy.duckdb" in refused(reuse=path)

    def test_a_dry_run_without_a_log(self, input_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["simulate", str(input_file), "--dry-run"]) == 2
        assert "give --reuse" in capsys.readouterr().err

    def test_a_run_without_an_output(self, input_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["simulate", str(input_file)]) == 2
        assert "--out is missing" in capsys.readouterr().err


def test_an_edit_that_does_not_fill_the_form_is_refused_by_the_forecast(old: Path) -> None:
    with pytest.raises(ConfigError, match="does not fill its form"):
        foreseen(old, edits=[Edit(at="step/1/act/feasible", do="text", value="Perhaps.")])
