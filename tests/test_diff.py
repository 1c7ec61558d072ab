"""Comparing runs: what differs, why, and whether more than another seed would make it."""

import json
import random
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow
import pytest
from logs import drive, make_log, plain_sql, scripted
from social import ROLES, Script, candidates
from story import social_record

from matrix_py import _core
from matrix_py.cli import main
from matrix_py.diff import FIGURES, LEVELS, Diff, KindChanges, diff, num_steps
from matrix_py.diff.report import lines
from matrix_py.errors import ConfigError, LogLockedError
from matrix_py.reuse.rerun import rerun
from matrix_py.store import Log, ask, open_for_reading
from matrix_py.types import Edit, RunRecord

DOCS = (Path(__file__).parents[1] / "docs" / "diff.md").read_text("utf-8")
GOLDEN = Path(__file__).parent / "golden" / "format-1.duckdb"
QUESTION = "How do I open the till?"
NO = "There is no key.\nVerdict: no"
# A visitor and three others; two steps, of which some notice something, unless a test has it otherwise.
SMALL = {"roles": 3, "steps": 2}
NOTICED = {"step/1/act/recipients": "owner, cashier", "step/2/act/recipients": "owner"}


def record(*, seed: int = 3, prompts: Mapping[str, str] | None = None, scene: str = "matrix", **limits: int) -> RunRecord:
    """The record of a run on a script; `prompts`: file -> a line more at the end of what it asks."""
    made = social_record(scene, **(limits or SMALL))
    files = made.config.prompts | {
        name: made.config.prompts[name].replace("\n--- retry", f"\n{line}\n--- retry") for name, line in (prompts or {}).items()
    }
    return msgspec.structs.replace(made, config=msgspec.structs.replace(made.config, seed=seed, prompts=files))


def play(path: Path, model: Script, *questions: str, **options: Any) -> Path:
    with make_log(path, questions or (QUESTION,), record=record(**options)) as log:
        drive(log, model)
    return path


def pair(tmp_path: Path, a: Mapping[str, Any], b: Mapping[str, Any], **options: Any) -> Diff:
    """Compare two runs of one scene on scripts that say this and that; options are those of B's record."""
    one, other = (
        play(tmp_path / name, Script({**NOTICED, **says}), **given) for name, says, given in (("a.duckdb", a, {}), ("b.duckdb", b, options))
    )
    return diff(one, other, scenes=True)


def figures(found: Diff) -> dict[str, float]:
    """What differs, without what does not."""
    return {figure.name: figure.total for figure in found.figures if figure.total}


def of_kind(found: Diff, kind: str) -> dict[str, int]:
    """What changed in the turns of a kind, without zeros."""
    [one] = [each for each in found.kinds if each.kind == kind]
    return {name: value for name in KindChanges.__struct_fields__[1:] if (value := getattr(one, name))}


def in_plain_duckdb(a: Path, b: Path, *queries: str, null: Path | None = None) -> list[list[tuple[Any, ...]]]:
    """Make the views as docs/diff.md says, and return what each query gives."""
    files = resources.files("matrix_py.sql")
    with duckdb.connect(config={"threads": 1}) as db:
        db.execute(f"ATTACH '{a}' AS a (READ_ONLY)")
        for path in [null, b]:
            if path is not None:
                db.execute(f"ATTACH '{path}' AS b (READ_ONLY)")
                db.execute((files / "diff.sql").read_text("utf-8"))
            if path is not None and path is null:
                db.execute("CREATE TEMP TABLE null_value AS FROM diff_value; CREATE TEMP TABLE null_level AS FROM diff_level; DETACH b")
        if null is not None:
            db.execute((files / "diff_effect.sql").read_text("utf-8"))
        return [db.execute(query).fetchall() for query in queries]


class TestTurns:
    def test_runs_that_say_the_same_do_not_differ(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {})

        assert figures(found) == {}
        assert (found.compared, found.parted, found.partings, found.configuration) == (1, 0, [], [])
        assert all(set(of_kind(found, kind.kind)) == {"same"} for kind in found.kinds)
        assert "no scene parts: every turn is answered alike" in lines(found)

    def test_a_changed_prompt_changes_its_turns_directly_and_what_is_made_from_them_by_inheritance(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {"step/1/act/feasible": NO}, prompts={"feasible.txt": "Be strict."})

        assert found.configuration == ["prompts.feasible.txt"]
        # Of five acts, the owner's and the cashier's reactions are gone; what is then said of the second step is said after another story.
        assert of_kind(found, "feasible") == {"direct": 3, "disappeared": 2, "other_answers": 1}
        assert of_kind(found, "critique") == {"inherited": 2, "disappeared": 3}
        assert of_kind(found, "react") == {"inherited": 1, "disappeared": 2}
        assert of_kind(found, "profile") == {"same": 4}
        assert [(each.change, each.kind, each.step, each.rank) for each in found.partings] == [("direct", "feasible", 1, 0)]

    def test_another_answer_to_the_same_request_is_noise(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {"cast/plan": "1. knocks\n2. waits"})

        assert of_kind(found, "plan") == {"noise": 1, "same_request": 1, "other_answers": 1}
        assert of_kind(found, "feasible")["inherited"] == 5
        assert figures(found)["noise"] == 1
        assert [(each.change, each.kind) for each in found.partings] == [("noise", "plan")]

    def test_what_a_fork_was_given_to_say_is_edited_and_what_follows_is_inherited(self, tmp_path: Path) -> None:
        a = play(tmp_path / "a.duckdb", Script(NOTICED), QUESTION, "How do I close it?")
        [first, _] = [scene for (scene,) in plain_sql(a, "SELECT lower(hex(scene)) FROM scenes ORDER BY position", read_only=True)]
        given = Edit(at="cast/plan", do="text", value="1. knocks\n2. waits", scene=first)
        with Log.open(a, read_only=True) as parent:
            rerun(parent, tmp_path / "b.duckdb", Script(NOTICED), edits=[given])
            everywhere = msgspec.structs.replace(given, scene="")
            # Here the script calls the ego otherwise, too, which nobody gave.
            rerun(parent, tmp_path / "c.duckdb", Script({**NOTICED, "cast/ego": "clerk"}), edits=[everywhere], reuse=False)

        one = diff(a, tmp_path / "b.duckdb")
        every = diff(a, tmp_path / "c.duckdb")
        with open_for_reading(a, others=[tmp_path / "b.duckdb"]) as logs:
            changes = {row["kind"]: row for row in pyarrow.table(ask(logs, "changes")).to_pylist()}

        assert of_kind(one, "plan") == {"same": 1, "edited": 1, "other_answers": 1}
        assert of_kind(one, "feasible")["inherited"] == 5
        assert [(each.change, each.kind, each.scenes) for each in one.partings] == [("edited", "plan", 1)]
        assert "plan                         1         0         0         1         0         0         0            1" in lines(one)
        assert {kind: row["edited"] for kind, row in changes.items() if row["edited"]} == {"plan": 1}
        assert of_kind(every, "ego") == {"noise": 2, "same_request": 2, "other_answers": 2}
        # Made from another ego, too, but the answer is what was given.
        assert of_kind(every, "plan") == {"edited": 2, "other_answers": 2}

    def test_under_another_seed_it_is_noise_of_another_request(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {"cast/plan": "1. knocks\n2. waits"}, seed=4)

        assert found.configuration == ["seed"]
        assert of_kind(found, "plan") == {"noise": 1, "other_answers": 1}
        assert of_kind(found, "profile") == {"same": 4}

    def test_turns_of_one_run_only_appear_and_disappear(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {"step/1/act/recipients": "guard"})

        gone = {"disappeared": 2, "appeared": 1}
        assert gone.items() <= of_kind(found, "react").items()
        assert (figures(found)["appeared"], figures(found)["disappeared"]) == (4, 8)
        [[turns]] = [
            in_plain_duckdb(
                tmp_path / "a.duckdb",
                tmp_path / "b.duckdb",
                "SELECT count(*) FROM diff_turn WHERE change = 'appeared' AND seq_a IS NULL AND seq_b IS NOT NULL",
            )
        ]
        assert turns == [(4,)]

    def test_where_a_scene_parts_is_the_first_difference_in_the_order_of_events(self, tmp_path: Path) -> None:
        # Later in the scene, but a path that is sorted before the first.
        found = pair(tmp_path, {}, {"step/1/react/owner": "sings", "consequence": "None.", "step/2/act": "sings, too"})

        [parting] = found.partings
        assert (parting.change, parting.kind, parting.step, parting.rank, parting.scenes) == ("noise", "react", 1, 1, 1)
        assert found.scenes is not None
        assert (found.scenes[0]["parting_path"], found.scenes[0]["parting_role"]) == ("step/1/react/owner", "owner")

    def test_a_prompt_that_changes_no_answer_parts_no_scene(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {}, prompts={"feasible.txt": "Be strict."})

        assert figures(found) == {"direct": 5}
        assert found.parted == 0


class TestFacts:
    def test_casts_differ_by_roles(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {"cast/roles": "cashier\nowner\nbank"})

        assert (figures(found)["roles_added"], figures(found)["roles_removed"]) == (1, 1)
        assert found.scenes is not None
        assert {(role["role"], role["change"]) for role in found.scenes[0]["roles"]} == {
            ("guard", "removed"),
            ("bank", "added"),
            ("owner", "moved"),
            ("cashier", "moved"),
        }

    def test_verdicts_flip_both_ways(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {"step/2/act/feasible": NO}, {"step/1/react/owner/feasible": NO, "step/1/react/cashier/feasible": NO})

        assert (figures(found)["verdicts_to_no"], figures(found)["verdicts_to_yes"]) == (2, 1)
        statement = "SELECT action, flipped, step, role FROM diff_action WHERE flipped IS NOT NULL ORDER BY action"
        [rows] = in_plain_duckdb(tmp_path / "a.duckdb", tmp_path / "b.duckdb", statement)
        assert rows == [
            ("step/1/react/cashier", "yes to no", 1, "cashier"),
            ("step/1/react/owner", "yes to no", 1, "owner"),
            ("step/2/act", "no to yes", 2, "visitor"),
        ]

    def test_critiques_come_and_go_and_weigh_otherwise(self, tmp_path: Path) -> None:
        harms = {"step/1/act/critique": "1: a loss", "step/1/react/owner/critique": "2: a fall", "step/2/act/critique": "2: noise"}
        others = {
            "step/1/act/critique": "3: a loss",
            "step/1/react/cashier/critique": "1: a fright",
            "step/2/act/critique": "2: some noise",
        }

        found = pair(tmp_path, harms, others)

        assert {name: figures(found)[name] for name in ("critiques_added", "critiques_removed", "severities_changed")} == {
            "critiques_added": 1,
            "critiques_removed": 1,
            "severities_changed": 1,
        }
        assert found.scenes is not None
        assert {action["action"]: action["critique"] for action in found.scenes[0]["actions"]} == {
            "step/1/act": "raised",
            "step/1/react/owner": "removed",
            "step/1/react/cashier": "added",
            "step/2/act": "reworded",
        }
        levels = {level.name: (level.a, level.b) for level in found.levels}
        assert levels["severity"] == (pytest.approx(5 / 3), 2)
        assert levels["critiques"] == (3, 3)
        assert levels["worst"] == (2, 3)

    def test_recipients_are_compared_as_sets_where_an_act_took_place_in_both(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {"step/1/act/recipients": "cashier, owner", "step/1/react/owner/recipients": "guard"})

        assert figures(found)["recipients_changed"] == 1

    def test_responses_are_kept_or_revised(self, tmp_path: Path) -> None:
        harm = {"step/1/act/critique": "1: a loss"}

        found = pair(tmp_path, {}, harm)

        assert (figures(found)["kept_to_revised"], figures(found).get("revised_to_kept")) == (1, None)
        back = diff(tmp_path / "b.duckdb", tmp_path / "a.duckdb")
        assert (figures(back).get("kept_to_revised"), figures(back)["revised_to_kept"]) == (None, 1)
        # Of a revision on one side only, no length is compared.
        assert [level.name for level in found.levels if level.name == "revision_characters"] == []

    def test_first_responses_and_revisions_are_compared(self, tmp_path: Path) -> None:
        harm = {"step/1/act/critique": "1: a loss"}

        found = pair(tmp_path, harm | {"revise": "Ask the owner."}, harm | {"revise": "Ask the owner, or wait.", "respond": "Wait."})

        assert (figures(found)["response_changed"], figures(found)["revision_changed"]) == (1, 1)
        [level] = [level for level in found.levels if level.name == "revision_characters"]
        assert (level.a, level.b, level.difference.mean, level.difference.low) == (14, 23, 9, None)

    def test_scenes_end_for_another_reason(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {}, roles=3, steps=2, interactions=2)

        assert figures(found)["end_changed"] == 1
        assert [(each.a, each.b, each.scenes) for each in found.endings] == [("plan", "interactions", 1)]
        assert found.configuration == ["limits.interactions"]
        assert "ends: plan to interactions 1" in lines(found)

    def test_a_scene_that_fails_in_one_run_is_compared_and_named(self, tmp_path: Path) -> None:
        found = pair(tmp_path, {}, {"respond": ""})

        assert figures(found)["state_changed"] == 1
        assert [(each.a, each.b) for each in found.endings] == [("plan", "failed")]

    def test_scenes_without_roles_are_compared_by_their_turns(self, tmp_path: Path) -> None:
        one, other = tmp_path / "a.duckdb", tmp_path / "b.duckdb"
        for path, length in ((one, 1), (other, 2)):
            with make_log(path, [QUESTION, "Why?"]) as log:
                drive(log, scripted(length))

        found = diff(one, other)

        assert figures(found)["revision_changed"] == 2
        assert [level.name for level in found.levels] == ["kept", "revision_characters"]
        assert [(each.a, each.b, each.scenes) for each in found.endings] == [(None, None, 2)]


class TestScenes:
    def test_scenes_are_aligned_by_id_whatever_their_place(self, tmp_path: Path) -> None:
        one = play(tmp_path / "a.duckdb", Script(), "One?", "Two?", "Two?", "Three?")
        other = play(tmp_path / "b.duckdb", Script(), "Three?", "Four?", "Two?")

        found = diff(one, other)

        assert (found.compared, found.only_a, found.only_b, found.unfinished) == (2, 2, 1, 0)
        assert figures(found) == {}
        assert "scenes: 2 compared, 2 only in A, 1 only in B, 0 not finished in both" in lines(found)

    def test_what_is_not_finished_in_both_is_left_out_and_counted(self, tmp_path: Path) -> None:
        one = play(tmp_path / "a.duckdb", Script(), "One?", "Two?")
        broken = Script({"plan": lambda turn: RuntimeError("gone") if turn.scene == ids(one)[1] else "1. one\n2. two"})
        other = play(tmp_path / "b.duckdb", broken, "One?", "Two?")

        found = diff(one, other)

        assert (found.compared, found.unfinished, found.b.finished) == (1, 1, 1)

    def test_runs_without_a_common_scene_are_refused(self, tmp_path: Path) -> None:
        one = play(tmp_path / "a.duckdb", Script(), "One?")
        other = play(tmp_path / "b.duckdb", Script(), "Two?")

        with pytest.raises(ConfigError, match="share no scene"):
            diff(one, other)

    def test_a_log_of_an_older_format_is_compared(self, tmp_path: Path) -> None:
        copy = tmp_path / "b.duckdb"
        copy.write_bytes(GOLDEN.read_bytes())

        found = diff(GOLDEN, copy)

        assert (found.compared, found.parted, figures(found)) == (2, 0, {})


def ids(path: Path) -> list[bytes]:
    return [scene for (scene,) in plain_sql(path, "SELECT scene FROM scenes ORDER BY position", read_only=True)]


def chance(strict: float = 0.0) -> Script:
    """A model that decides by chance, which hangs on the request alone; told to be strict, it rejects so much more."""

    def luck(turn: _core.Turn) -> random.Random:
        return random.Random(turn.request)

    def verdict(turn: _core.Turn) -> str:
        told = any("Be strict." in text for text, _ in turn.segments)
        return f"Reason.\nVerdict: {'no' if luck(turn).random() < 0.2 + strict * told else 'yes'}"

    def recipients(turn: _core.Turn) -> str:
        others = candidates(turn)
        return ", ".join(luck(turn).sample(others, luck(turn).randrange(len(others)))) or "nobody"

    def say(turn: _core.Turn) -> str:
        return f"says {luck(turn).randrange(50)}"

    return Script(
        {
            "feasible": verdict,
            "recipients": recipients,
            "critique": lambda turn: luck(turn).choice(["none", "1: a loss", "2: a fall"]),
            "roles": lambda turn: "\n".join(luck(turn).sample(ROLES, 5)),
            **dict.fromkeys(("react", "act", "revise", "respond"), say),
        }
    )


QUESTIONS = [f"Question {number}?" for number in range(24)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs by name: a and a2 differ by their seed, `seed` by another, and of `strict` the modulator's prompt was changed."""
    folder = tmp_path_factory.mktemp("runs")
    play(folder / "a.duckdb", chance(), *QUESTIONS)
    play(folder / "a2.duckdb", chance(), *QUESTIONS, seed=4)
    play(folder / "seed.duckdb", chance(), *QUESTIONS, seed=5)
    play(folder / "strict.duckdb", chance(strict=0.6), *QUESTIONS, prompts={"feasible.txt": "Be strict."})
    return lambda name: folder / f"{name}.duckdb"


class TestNull:
    def test_another_seed_is_no_effect(self, runs: Callable[[str], Path]) -> None:
        found = diff(runs("a"), runs("seed"), null=runs("a2"))

        assert (found.configuration, found.null_configuration) == (["seed"], ["seed"])
        assert (found.compared, found.compared_null, found.parted) == (24, 24, 24)
        clear = [figure.name for figure in found.figures if figure.effect and figure.effect.is_clear]
        # Of 28 intervals of 95%, one or two miss zero by chance.
        assert len(clear) <= 2, clear
        assert not any(each.survives for each in [*found.figures, *found.levels])

    def test_a_changed_prompt_is_an_effect(self, runs: Callable[[str], Path]) -> None:
        found = diff(runs("a"), runs("strict"), null=runs("a2"))

        by_name = {figure.name: figure for figure in found.figures}
        flips = by_name["verdicts_to_no"]
        assert flips.effect is not None
        assert flips.effect.low is not None
        assert flips.effect.low > 0
        assert flips.survives
        # The first half of a scene is as it was: the same seed, and nothing that it is made from changed.
        assert by_name["roles_added"].effect is not None
        assert by_name["roles_added"].total == 0
        assert by_name["roles_added"].effect.mean < 0
        [rejected] = [level for level in found.levels if level.name == "rejected"]
        assert rejected.survives
        assert rejected.null_difference is not None
        assert not rejected.null_difference.is_clear
        assert rejected.b - rejected.a == pytest.approx(rejected.difference.mean)

    def test_effects_are_what_the_formula_says(self, runs: Callable[[str], Path]) -> None:
        found = diff(runs("a"), runs("strict"), null=runs("a2"))

        values = dict(
            in_plain_duckdb(runs("a"), runs("strict"), "SELECT scene, value FROM diff_value WHERE figure = 'critiques_removed'")[0]
        )
        floor = dict(in_plain_duckdb(runs("a"), runs("a2"), "SELECT scene, value FROM diff_value WHERE figure = 'critiques_removed'")[0])
        differences = [values[scene] - floor[scene] for scene in values]
        mean = sum(differences) / 24
        error = (sum((value - mean) ** 2 for value in differences) / 23 / 24) ** 0.5
        [figure] = [figure for figure in found.figures if figure.name == "critiques_removed"]
        assert figure.effect is not None
        # Student's t of 23 degrees of freedom is 2.0687 (Fisher and Yates 1963, table III).
        assert (figure.effect.mean, figure.effect.low) == (pytest.approx(mean), pytest.approx(mean - 2.0687 * error, rel=1e-4))
        assert figure.effect.high == pytest.approx(mean + 2.0687 * error, rel=1e-4)

    def test_means_are_over_the_scenes_of_all_three(self, runs: Callable[[str], Path], tmp_path: Path) -> None:
        short = play(tmp_path / "short.duckdb", chance(), *QUESTIONS[:9], seed=4)

        found = diff(runs("a"), runs("seed"), null=short)

        assert (found.compared, found.compared_null) == (24, 9)
        assert {figure.scenes for figure in found.figures} == {9}
        assert "; of these 9 in A2, which is what means are over" in "\n".join(lines(found))

    def test_a_null_without_a_common_scene_is_refused(self, runs: Callable[[str], Path], tmp_path: Path) -> None:
        other = play(tmp_path / "other.duckdb", Script(), "Another?")

        with pytest.raises(ConfigError, match="it is no noise floor"):
            diff(runs("a"), runs("seed"), null=other)


class TestAgreement:
    """Text, JSON and the views in plain DuckDB say the same."""

    def test_the_document_says_what_the_views_say(self, runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["diff", str(runs("a")), str(runs("strict")), "--null", str(runs("a2")), "--format", "json", "-q"]) == 0
        told = json.loads(capsys.readouterr().out)

        effects, kinds, partings, levels, scenes, actions = in_plain_duckdb(
            runs("a"),
            runs("strict"),
            "SELECT figure, scenes, total, mean, null_mean, effect FROM diff_effect",
            "SELECT kind, change, sum(turns)::BIGINT FROM diff_count GROUP BY ALL",
            "SELECT count(*) FROM diff_parting",
            "SELECT figure, avg(d.value_a), avg(d.value_b) FROM diff_level d JOIN null_level n USING (scene, figure) "
            "WHERE d.value_a IS NOT NULL AND d.value_b IS NOT NULL AND n.value_b IS NOT NULL GROUP BY figure",
            "SELECT scene, position, parting_path, other_answers, verdicts_to_no, length(revision_b) FROM diff_scene ORDER BY position",
            "SELECT scene, action, flipped, critique, severity_b, recipients_b FROM diff_action "
            "WHERE NOT (in_a AND in_b) OR flipped IS NOT NULL OR recipients_changed OR critique != 'same' "
            "ORDER BY position, step, depth, rank, action",
            null=runs("a2"),
        )
        assert {
            each["name"]: (each["scenes"], each["difference"]["mean"], each["effect"]["mean"]) for each in told["figures"] + told["levels"]
        } == {name: (num, pytest.approx(mean), pytest.approx(effect)) for name, num, _, mean, _, effect in effects}
        assert {each["name"] for each in told["figures"] + told["levels"]} == {*FIGURES, *LEVELS}
        changes = {
            (each["kind"], name): each[name]
            for each in told["kinds"]
            for name in ("same", "direct", "inherited", "edited", "noise", "appeared", "disappeared")
        }
        assert {key: value for key, value in changes.items() if value} == {(kind, change): turns for kind, change, turns in kinds}
        assert [(told["parted"],)] == partings
        assert {each["name"]: (each["a"], each["b"]) for each in told["levels"]} == {
            name: (pytest.approx(a), pytest.approx(b)) for name, a, b in levels
        }
        names = ("scene", "position", "parting_path", "other_answers", "verdicts_to_no", "revision_characters_b")
        assert [tuple(each[name] for name in names) for each in told["scenes"]] == scenes
        names = ("action", "flipped", "critique", "severity_b", "recipients_b")
        assert [
            (scene["scene"], *(action[name] for name in names)) for scene in told["scenes"] for action in scene["actions"] or []
        ] == actions

    def test_the_page_says_what_the_document_says(self, runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
        given = ["diff", str(runs("a")), str(runs("strict")), "--null", str(runs("a2")), "-q"]
        assert main([*given, "--format", "json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert main(given) == 0
        page = capsys.readouterr().out.splitlines()

        by_name = {each["name"]: each for each in told["figures"] + told["levels"]}
        flips, rejected = by_name["verdicts_to_no"], by_name["rejected"]
        [line] = [line for line in page if line.startswith("verdicts from yes to no")]
        numbers = re.findall(r"-?\d+\.\d+", line)
        assert [float(number) for number in numbers] == [
            pytest.approx(value, abs=0.005)
            for value in (flips["difference"]["mean"], flips["null"]["mean"], *(flips["effect"][end] for end in ("mean", "low", "high")))
        ]
        assert line.endswith(" **")
        [line] = [line for line in page if line.startswith("share of acts rejected")]
        assert [float(number) for number in re.findall(r"-?\d+\.\d+", line)] == [
            pytest.approx(value, abs=0.005)
            for value in (
                *(rejected["a"], rejected["b"], *(rejected["difference"][end] for end in ("mean", "low", "high"))),
                *(rejected["null_difference"][end] for end in ("mean", "low", "high")),
            )
        ]
        [line] = [line for line in page if line.startswith("all ")]
        columns = ("same", "direct", "inherited", "noise", "disappeared", "appeared", "other_answers")
        assert line.split()[1:] == [str(sum(kind[name] for kind in told["kinds"])) for name in columns]

    def test_the_page_fits_a_screen(self, runs: Callable[[str], Path]) -> None:
        worst = diff(runs("a"), runs("strict"), null=runs("a2"))
        one = msgspec.structs.replace(worst.figures[0], total=1234567.0)
        everything = [msgspec.structs.replace(one, name=name) for name in FIGURES]
        page = lines(msgspec.structs.replace(worst, figures=everything, configuration=[f"prompts.a_long_name_{n}.txt" for n in range(40)]))

        assert len(page) <= 45
        # But for paths of logs, which are as long as they are.
        assert all(len(line) <= 100 for line in page if not line.startswith(("A ", "B ", "A2 ")) or "differ in" in line)

    def test_texts_are_their_lengths_unless_revealed(self, runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
        given = ["diff", str(runs("a")), str(runs("strict")), "--format", "json", "-q"]
        assert main(given) == 0
        hidden = capsys.readouterr().out
        assert main([*given, "--reveal"]) == 0
        shown = capsys.readouterr().out

        assert "a fall" in shown
        assert "a fall" not in hidden
        assert '"critique_a": {"characters": 6}' in hidden


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a", "a"], "is given twice"),
            (["a", "seed", "--null", "seed"], "is given twice"),
            (["a", "gone"], "does not exist"),
            (["a", "seed", "--threads=0"], "--threads is 0: give at least 1"),
        ],
    )
    def test_logs_that_cannot_be_compared_are_named_in_one_line(
        self, runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        paths = [each if each.startswith("--") else str(runs(each)) for each in arguments]

        assert main(["diff", *paths]) == 2

        shown = capsys.readouterr()
        assert shown.out == ""
        assert message in shown.err
        assert shown.err.count("\n") == 1

    def test_a_log_that_is_being_written_is_refused(self, runs: Callable[[str], Path], tmp_path: Path) -> None:
        with make_log(tmp_path / "run.duckdb", [QUESTION]), pytest.raises(LogLockedError, match="close it first"):
            diff(runs("a"), tmp_path / "run.duckdb")

    def test_logs_are_only_read(self, runs: Callable[[str], Path]) -> None:
        before = runs("a").read_bytes()

        diff(runs("a"), runs("seed"))

        assert runs("a").read_bytes() == before
        assert not [path for path in runs("a").parent.iterdir() if path.suffix != ".duckdb"]


def test_progress_is_told_view_by_view(runs: Callable[[str], Path]) -> None:
    told: list[tuple[str, int]] = []

    diff(runs("a"), runs("seed"), null=runs("a2"), on_progress=lambda name, done: told.append((name, done)))

    assert [done for _, done in told] == list(range(num_steps(with_null=True)))
    assert {name for name, _ in told} >= {"diff_turn", "diff_scene", "diff_figure"}


def test_the_views_have_the_columns_that_are_documented(runs: Callable[[str], Path]) -> None:
    statement = """
        SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns()
        WHERE table_name LIKE 'diff\\_%' ESCAPE '\\'
            AND table_name NOT IN ('diff_said', 'diff_fact', 'diff_act', 'diff_end', 'diff_measure')
        GROUP BY table_name
    """
    [rows] = in_plain_duckdb(runs("a"), runs("seed"), statement, null=runs("a2"))

    documented = {}
    for row in re.findall(r"^\| `(diff_\w+)` \|(.*)\|$", DOCS, re.MULTILINE):
        documented[row[0]] = re.findall(r"`(\w+)`", re.sub(r"\([^()]*\)", "", row[1].split("|")[-1]))
    assert dict(rows) == documented


@pytest.mark.parametrize("query", re.findall(r"```sql\n(.*?)```", DOCS, re.DOTALL), ids=lambda query: query[:40].replace("\n", " "))
def test_the_documented_queries_run(runs: Callable[[str], Path], query: str) -> None:
    [rows] = in_plain_duckdb(runs("a"), runs("strict"), query)

    assert rows
