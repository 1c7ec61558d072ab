"""Re-asking: a change is put to what a run was asked, and to nothing else; the answers are counted as they are."""

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys import SCENES as KEYS
from keys import number_of, prompt_of
from logs import EMBEDDED, ENGINE, drive, make_log, plain_sql
from social import Script, everybody
from story import social_record, tell

from matrix_py import _core
from matrix_py.cli import main
from matrix_py.errors import ConfigError, StoreError
from matrix_py.intervals import ClusteredMean
from matrix_py.prompts import load_files
from matrix_py.reask import Reask, ReaskOptions, changed_prompts, reask, reask_with
from matrix_py.simulate import RunSummary, SimulateOptions, simulate
from matrix_py.store import Log
from matrix_py.testing import FormFailed, ScriptedModel
from matrix_py.types import Limits

NEGATED = "Say no where you would say yes, and yes where you would say no."
FEASIBLE = load_files(None, "matrix")["feasible.txt"]
SCENES = KEYS[:6]


def obedient(turn: _core.Turn) -> str:
    """A modulator that does what its prompt says: of the visitor's acts the second and the fourth are impossible, or the others are."""
    [action] = re.findall(r"\nWhat is attempted now:\n([^\n]*)\n", prompt_of(turn))
    possible = not re.search(r"tries key [24]$", action)
    return f"Reason for {turn.path}.\nVerdict: {'yes' if possible != (NEGATED in prompt_of(turn)) else 'no'}"


def model(**rules: object) -> Script:
    return Script({"feasible": obedient, **rules})  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Six scenes of five acts each, of which the modulator rejects two."""
    path = tmp_path / "run.duckdb"
    with make_log(path, SCENES, record=social_record()) as log:
        drive(log, model(critique="2: it is loud"))
    return path


def changed(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "changed"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, "utf-8")
    return folder


def ask(run: Path, answerer: ScriptedModel, kind: str = "feasible", *, prompts: Path | None = None, **options: object) -> Reask:
    chosen = ReaskOptions(kind, prompts_dir=prompts, **options)  # type: ignore[arg-type]
    with Log.open(run, read_only=True) as log:
        return reask_with(log, changed_prompts(log.record.config, chosen), answerer, chosen)


# What is asked ---------------------------------------------------------------------------------------------------------


def test_without_a_change_the_very_requests_of_the_run_are_asked_again(run: Path) -> None:
    again = model()
    found = ask(run, again)

    recorded = plain_sql(run, "SELECT scene, path, request FROM completions WHERE kind = 'feasible'", read_only=True)
    assert sorted((turn.scene, turn.path, turn.request) for turn in again.turns) == sorted(recorded)
    assert len(recorded) == 30
    of = found.comparison
    assert (of.pairs, of.agreement, of.likeness) == (30, 30, {"identical": 30, "folded": 0, "other": 0})
    assert (found.changed, found.bears_on, found.examples) == ((), False, ())
    assert of.agreement_interval == pytest.approx((0.8865, 1.0), abs=1e-4)


def test_a_negated_prompt_shows_in_the_confusion_matrix(run: Path, tmp_path: Path) -> None:
    again = model()
    found = ask(run, again, prompts=changed(tmp_path, feasible=FEASIBLE.replace("--- retry", f"{NEGATED}\n--- retry")))

    assert found.comparison.choices == ("yes", "no")
    assert found.comparison.confusion == {("yes", "yes"): 0, ("yes", "no"): 18, ("no", "yes"): 12, ("no", "no"): 0}
    assert (found.comparison.agreement, found.changed, found.bears_on) == (0, ("feasible.txt",), True)
    assert all(NEGATED in prompt_of(turn) for turn in again.turns)
    shift = found.comparison.first_shift
    assert shift is not None
    assert shift.value == pytest.approx(-0.2)
    # Every scene moved alike.
    assert (shift.low, shift.high) == pytest.approx((-0.2, -0.2))


def test_a_changed_turn_keeps_its_random_numbers_and_all_that_it_was_filled_with(run: Path, tmp_path: Path) -> None:
    """A field counts that the old prompt did not use but the scene gives, and the longer lists of later turns are as they were then."""
    again = Script()
    ask(run, again, "consequence", prompts=changed(tmp_path, consequence="--- user\nOf {instruction}: {story}\n"))
    with Log.open(run, read_only=True) as log:
        stored = {scene.scene: scene for scene in log.scenes()}
    assert len(again.turns) == 6
    for turn in again.turns:
        assert (
            turn.key
            == _core.Turn(
                seed=3, scene=turn.scene, path="consequence", attempt=1, kind="x", segments=[("x", True)], sampling=turn.sampling
            ).key
        )
        assert prompt_of(turn).count("visitor: tries key") == 3
        assert stored[turn.scene].instruction in prompt_of(turn)


def test_only_first_attempts_are_asked(tmp_path: Path) -> None:
    run = tmp_path / "story.duckdb"
    tell(run)
    [(attempts,)] = plain_sql(run, "SELECT count(*) FROM completions WHERE kind = 'act' AND attempt > 1", read_only=True)
    [(first,)] = plain_sql(run, "SELECT count(*) FROM completions WHERE kind = 'act' AND attempt = 1", read_only=True)
    again = Script()
    assert ask(run, again, "act").comparison.pairs == first == len(again.turns)
    assert attempts > 0


def test_what_the_scenes_of_today_ask_otherwise_is_left_out(run: Path) -> None:
    [(scene,)] = plain_sql(run, "SELECT scene FROM scenes WHERE position = 2", read_only=True)
    plain_sql(
        run,
        "UPDATE completions SET request = 'x'::BLOB WHERE path = 'step/2/act/feasible' "
        "AND scene = (SELECT scene FROM scenes WHERE position = 2)",
        "SELECT 1",
    )
    again = model()
    found = ask(run, again)
    # What comes after it in that scene is not reached.
    assert (found.comparison.pairs, found.differing) == (26, 4)
    assert sum(turn.scene == scene for turn in again.turns) == 1


def test_scenes_are_limited_and_an_unfinished_one_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    run = tmp_path / "run.duckdb"
    with make_log(run, SCENES, record=social_record()) as log:
        drive(log, Script({"step/3/act/feasible": RuntimeError("gone")}))
    assert ask(run, Script()).comparison.pairs == 12
    assert ask(run, Script(), limit=2).comparison.pairs == 4


def test_few_turns_wait_at_a_time_however_many_there_are(run: Path) -> None:
    waiting: list[int] = []

    class Watched(Script):
        def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
            waiting.append(len(self._waiting))
            return super().collect(timeout_s)

    chosen = ReaskOptions("feasible")
    with Log.open(run, read_only=True) as log:
        prompts = changed_prompts(log.record.config, chosen)
        assert reask_with(log, prompts, Watched(at_once=1), chosen, in_flight=1).comparison.pairs == 30
    # Sixteen for the one in flight, and the rest of the scene that goes beyond.
    assert max(waiting) == 20


# How it is counted -----------------------------------------------------------------------------------------------------


def test_severities_and_forms_that_failed_have_rows_of_their_own(run: Path) -> None:
    says = iter([FormFailed("2: it"), *(["none"] * 5), *(["3: it is louder"] * 6), *(["2: It is  loud."] * 5), "2: it is loud"])
    found = ask(run, Script({"critique": lambda turn: next(says)}), "critique").comparison

    assert found.choices == ("none", "1", "2", "3", "form failed")
    counted = {pair: count for pair, count in found.confusion.items() if count}
    assert counted == {("2", "form failed"): 1, ("2", "none"): 5, ("2", "3"): 6, ("2", "2"): 6}
    assert (found.agreement, found.likeness) == (6, {"identical": 1, "folded": 5, "other": 12})


def test_free_text_agrees_where_it_is_identical(run: Path) -> None:
    def say(turn: _core.Turn) -> str:
        text = f"Text of {turn.path}."
        return {0: text, 1: text.upper(), 2: f"{text} More."}[number_of(turn) % 3]

    found = ask(run, Script({"revise": say}), "revise")
    of = found.comparison
    assert (of.choices, of.confusion, of.first_shift) == ((), {}, None)
    assert (of.agreement, of.likeness) == (2, {"identical": 2, "folded": 2, "other": 2})
    assert of.length_shift.value == pytest.approx(2)
    assert [pair.after.text for pair in found.examples] == ["Text of revise. More."] * 2


def test_a_list_of_recipients_has_no_order(tmp_path: Path) -> None:
    run = tmp_path / "run.duckdb"
    with make_log(run, SCENES[:1], record=social_record()) as log:
        drive(log, Script({"step/1/act/recipients": everybody}))
    found = ask(
        run,
        Script({"recipients": lambda turn: "nobody", "step/1/act/recipients": lambda turn: ", ".join(everybody(turn).split(", ")[::-1])}),
        "recipients",
    )
    assert found.comparison.likeness["folded"] == 1
    assert found.comparison.likeness["other"] == 0


def with_odds(shift: Callable[[_core.Turn], float]) -> ScriptedModel:
    class Odd(Script):
        def _complete(self, turn: _core.Turn) -> _core.Completion | Exception:
            return _core.Completion(turn, text=obedient(turn), finish="form", log_odds=shift(turn))

    return Odd()


def test_the_shift_of_log_odds_is_paired_and_scenes_are_its_clusters(run: Path) -> None:
    plain_sql(run, "UPDATE completions SET log_odds = len(path) WHERE kind = 'feasible'", "SELECT 1")
    scenes = [scene for (scene,) in plain_sql(run, "SELECT scene FROM scenes ORDER BY position", read_only=True)]
    found = ask(run, with_odds(lambda turn: len(turn.path) + scenes.index(turn.scene)))
    shift = found.comparison.log_odds_shift
    assert shift is not None
    assert (shift.value, shift.count) == (pytest.approx(2.5), 30)
    # Six means, of which each is the scene's: the five turns of one add nothing. Their standard deviation is 1.8708.
    half = 1.959964 * 1.8708 / math.sqrt(6)
    assert (shift.low, shift.high) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-3)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=4), min_size=2, max_size=8))
def test_a_clustered_mean_is_the_mean_and_its_residuals_are_summed_by_cluster(clusters: Sequence[Sequence[float]]) -> None:
    mean = ClusteredMean()
    for cluster in clusters:
        mean.add(sum(cluster), len(cluster))
    values = [value for cluster in clusters for value in cluster]
    expected = sum(values) / len(values)
    residuals = [sum(value - expected for value in cluster) for cluster in clusters]
    error = math.sqrt(sum(each * each for each in residuals) * len(clusters) / (len(clusters) - 1)) / len(values)
    assert mean.mean == pytest.approx(expected)
    assert mean.interval(1.0) == pytest.approx((expected - error, expected + error), abs=1e-6)


def test_an_answer_that_does_not_come_is_left_out_and_said(run: Path) -> None:
    found = ask(run, Script({"step/2/act/feasible": RuntimeError("out of memory")}))
    assert (found.comparison.pairs, found.errors, found.first_error) == (24, 6, "out of memory")


# On a model ------------------------------------------------------------------------------------------------------------


def test_without_a_change_a_deterministic_model_says_the_same_in_other_company(finished: RunSummary) -> None:
    for kind in ("critique", "revise"):
        found = reask(finished.path, ReaskOptions(kind, engine=ENGINE))
        assert (found.comparison.pairs, found.comparison.likeness["identical"]) == (6, 6)


def test_the_embedded_model_gives_all_verdicts_again_with_their_log_odds(tmp_path: Path) -> None:
    (tmp_path / "input.csv").write_text("instruction\n" + "\n".join(f'"{text}"' for text in SCENES[:2]), "utf-8")
    run = tmp_path / "run.duckdb"
    simulate(SimulateOptions((str(tmp_path / "input.csv"),), run, limits=Limits(roles=2, steps=2), engine=EMBEDDED))
    found = reask(run, ReaskOptions("feasible", engine=EMBEDDED))
    of = found.comparison
    assert of.pairs > 2
    assert of.agreement == of.likeness["identical"] == of.pairs
    assert of.log_odds_shift is not None
    assert (of.log_odds_shift.value, of.log_odds_shift.count) == (0.0, of.pairs)


def test_another_model_is_asked_in_its_own_template_and_named(finished: RunSummary, tmp_path: Path) -> None:
    found = reask(finished.path, ReaskOptions("revise", model="embedded", engine=ENGINE))
    assert found.changed == ("model",)
    assert found.bears_on
    assert found.comparison.pairs == 6
    with pytest.raises(StoreError):
        reask(tmp_path / "none.duckdb", ReaskOptions("revise"))


# Output and refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "json"])
def test_a_table_holds_every_pair_and_joins_with_the_log(run: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"pairs.{suffix}"
    prompts = changed(tmp_path, feasible=FEASIBLE.replace("--- retry", f"{NEGATED}\n--- retry"))
    ask(run, model(), prompts=prompts, out=out)

    joined = f"SELECT old, new, count(*) FROM '{out}' p JOIN turn t USING (scene, path) WHERE p.old_text = t.text GROUP BY ALL ORDER BY ALL"
    assert plain_sql(run, joined, read_only=True) == [("no", "yes", 12), ("yes", "no", 18)]
    first = out.read_bytes()
    ask(run, model(), prompts=prompts, out=out, overwrite=True)
    assert out.read_bytes() == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["changed", out.name, "run.duckdb"]


def test_a_failure_leaves_no_table(run: Path, tmp_path: Path) -> None:
    class Gone(Script):
        def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
            raise StoreError("gone")

    with pytest.raises(StoreError, match="gone"):
        ask(run, Gone(), out=tmp_path / "pairs.parquet")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.duckdb"]


def test_what_cannot_be_asked_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    for options, reason in (
        ({"kind": "feasibility"}, r"--kind is 'feasibility', of which .* holds no turn: choose characters, .*, feasible, future"),
        ({"limit": 0}, "--limit is 0"),
    ):
        with pytest.raises(ConfigError, match=reason):
            ask(run, Script(), **options)
    with pytest.raises(ConfigError, match=r"feasible.txt uses \{weather\}, which this scene does not give"):
        ask(run, Script(), prompts=changed(tmp_path, feasible="--- user\n{weather}\n"))
    with pytest.raises(StoreError, match=r"let its name end in .parquet or .json"):
        ask(run, Script(), out=tmp_path / "pairs.csv")
    (tmp_path / "pairs.json").touch()
    with pytest.raises(StoreError, match="exists"):
        ask(run, Script(), out=tmp_path / "pairs.json")


def test_the_command_prints_a_matrix_and_no_text_unless_asked_to(
    finished: RunSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Path(shutil.copy(finished.path, tmp_path / "run.duckdb"))
    prompts = changed(tmp_path, revise="--- user\nSing of {instruction}\n")
    command = ["reask", str(log), "--kind", "revise", "--prompts", str(prompts), "--parallel", "2", "--threads", "1", "-q"]

    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "6 turns of kind revise, changed: revise.txt" in shown
    assert "the same text: " in shown
    assert main([*command, "--format", "json", "--reveal", "--examples", "6"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["agreement"]["of"] == document["pairs"] == 6
    texts = {example["new_text"] for example in document["examples"]}
    assert texts
    assert not any(text in shown for text in texts if len(text) > 3)
    [(recorded,)] = plain_sql(log, "SELECT count(*) FROM turn WHERE kind = 'revise'", read_only=True)
    assert recorded == 6
