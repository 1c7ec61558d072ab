"""Named queries: each says of scenes whose script is known what that script had in mind."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pytest
from company import set_facts, tell_all
from live_run import LiveRun, live_run
from logs import plain_sql
from social import NO, RESPONSE
from story import REFUSAL, payloads, tell

from matrix_py import ask, named_queries, open_for_reading
from matrix_py.cli import main
from matrix_py.errors import ConfigError, LogLockedError, StoreError
from matrix_py.prompts import load_files
from matrix_py.scene.memory import MAX_CRITIQUES
from matrix_py.store import Log, find_query
from matrix_py.testing import TooLong

DOCS = (Path(__file__).parents[1] / "docs" / "sql.md").read_text("utf-8")

HARM = {"step/1/act/critique": "2: somebody is hurt"}
# A refusal as the assistant writes it, and a text that tells of the simulation.
LEAK = "In the simulation, the owner was hurt."
# It does not end in what it repeats, which would be cut off.
LOOP = "Open the till. " * 12 + "Then go home."


def rows(path: Path, name: str, *others: Path, **parameters: Any) -> list[dict[str, Any]]:
    """What a named query answers."""
    with open_for_reading(path, others=others) as log:
        return pyarrow.table(ask(log, name, **parameters)).to_pylist()


def columns(found: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in found]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story's log."""
    path = tmp_path_factory.mktemp("story") / "run.duckdb"
    tell(path)
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    """A run in another process that waits after four turns."""
    with live_run(tmp_path_factory.mktemp("live") / "run.duckdb") as run:
        yield run


class TestRevisions:
    def test_a_revision_is_unusable_for_each_reason_there_is(self, tmp_path: Path) -> None:
        path = tell_all(
            tmp_path / "run.duckdb",
            {
                "sound": HARM,
                "harmless": {},
                "failed": HARM | {"revise": TooLong()},
                "same": HARM | {"revise": f"  {RESPONSE.upper()} "},
                "refused": HARM | {"revise": REFUSAL},
                "told": HARM | {"revise": LEAK},
                "cut": HARM,
                "mended": HARM | {"revise": lambda turn: LOOP if turn.attempt == 1 else "Ask the owner to open it."},
            },
        )
        set_facts(path, "revise", 6, finish="length")
        set_facts(path, "step/1/act", 0, finish="length")

        found = rows(path, "unusable")

        assert columns(found, "position", "why", "detail") == [
            (2, "failed", "the prompt of turn revise leaves no room in the context"),
            (3, "unchanged", None),
            (4, "refusal", "refusal"),
            (5, "leak", "leak"),
            (6, "cut", None),
        ]

    def test_revisions_that_change_nothing_or_tell_of_the_simulation_are_listed(self, tmp_path: Path) -> None:
        scenes = {"sound": HARM, "same": HARM | {"revise": f"{RESPONSE}\n"}, "told": HARM | {"revise": LEAK}, "harmless": {}}
        path = tell_all(tmp_path / "run.duckdb", scenes)

        found = rows(path, "idle_revisions")

        assert columns(found, "position", "unchanged", "leak") == [(1, True, False), (2, False, True)]
        assert columns(found, "response", "revision") == [(len(RESPONSE), len(RESPONSE)), (len(RESPONSE), len(LEAK))]

    def test_benign_instructions_that_became_refusals_come_with_the_critiques_that_reached_the_consequence(self, tmp_path: Path) -> None:
        refused = {"step/1/act/critique": "1: a scare", "step/1/react/owner/critique": "3: a fire", "revise": REFUSAL}
        path = tell_all(
            tmp_path / "run.duckdb",
            {"benign": refused, "sound": HARM, "harmful": refused, "refused at first": refused | {"respond": REFUSAL}},
            notice={"step/1/act": "owner"},
            meta={"benign": {"topic": "good"}, "sound": {"topic": "good"}, "harmful": {"topic": "bad"}},
            responses={"refused at first": None},
        )

        found = rows(path, "benign_refusals", category="topic", benign="good")

        assert columns(found, "position", "instruction", "severity", "role", "step", "critique", "through") == [
            (0, "benign", 3, "owner", 1, "a fire", []),
            (0, "benign", 1, "visitor", 1, "a scare", []),
        ]
        assert {row["instruction"] for row in rows(path, "benign_refusals")} == {"benign", "harmful"}


class TestVerdicts:
    @pytest.fixture(scope="class")
    @staticmethod
    def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Three instructions of two topics; the visitor is rejected twice, and once by a hair."""
        path = tell_all(
            tmp_path_factory.mktemp("judged") / "run.duckdb",
            {"knives": {"step/1/act/feasible": NO}, "guns": {"step/1/act/feasible": NO}, "cakes": {}},
            notice={"step/1/act": "owner"},
            meta={"knives": {"topic": "arms"}, "guns": {"topic": "arms"}, "cakes": {"topic": "food"}},
        )
        for position, log_odds in enumerate((-0.5, -3.0, 0.25)):
            set_facts(path, "step/1/act/feasible", position, log_odds=log_odds)
        return path

    def test_rejections_are_counted_by_role_step_and_category(self, judged: Path) -> None:
        found = rows(judged, "rejections", category="topic")

        assert columns(found, "role", "step", "category", "actions", "rejected", "share", "log_odds", "near") == [
            ("visitor", 1, "arms", 2, 2, 1.0, -1.75, 1),
            ("owner", 1, "food", 1, 0, 0.0, None, 0),
            ("visitor", 1, "food", 1, 0, 0.0, 0.25, 1),
        ]
        assert columns(rows(judged, "rejections", category="topic", near=0.3), "near") == [(0,), (0,), (1,)]
        # Without such a column, by the name of the input.
        assert columns(rows(judged, "rejections"), "category", "actions") == [("test", 3), ("test", 1)]

    def test_the_closest_verdicts_come_first(self, judged: Path) -> None:
        found = rows(judged, "close_verdicts")

        assert columns(found, "position", "action", "feasible", "log_odds") == [
            (2, "step/1/act", True, 0.25),
            (0, "step/1/act", False, -0.5),
            (1, "step/1/act", False, -3.0),
        ]
        assert len(rows(judged, "close_verdicts", most=1)) == 1


class TestTurns:
    def test_what_followed_a_refusal_is_told(self, tmp_path: Path) -> None:
        path = tell_all(
            tmp_path / "run.duckdb",
            {
                "sound": {},
                "once": {"cast/characters": lambda turn: REFUSAL if turn.attempt == 1 else "a baker"},
                "for good": {"step/1/react/owner": REFUSAL},
                "failed": {"situation": REFUSAL},
            },
            notice={"step/1/act": "owner"},
        )

        found = rows(path, "refused_turns")

        assert columns(found, "position", "path", "kind", "refusals", "followed", "state") == [
            (1, "cast/characters", "characters", 1, "answered", "completed"),
            (2, "step/1/react/owner", "react", 3, "fell_back", "completed"),
            (3, "cast/situation", "situation", 3, "failed", "failed"),
        ]

    def test_flaws_are_counted_by_kind_and_policy(self, story: Path) -> None:
        found = rows(story, "flaws")

        told = Counter(
            (payload["path"].split("/")[2], payload["flaw"], payload["policy"])
            for position in (0, 1)
            for payload in payloads(story, "ReplyFlawed", position)
        )
        assert {(row["kind"], row["flaw"], row["policy"]): row["replies"] for row in found} == told
        [(acts,)] = plain_sql(story, "SELECT count(*) FROM completions WHERE kind = 'act'", read_only=True)
        [share] = [row["share"] for row in found if (row["kind"], row["policy"]) == ("act", "fell_back")]
        assert share == round(told["act", "refusal", "fell_back"] / acts, 3)

    def test_cost_is_summed_by_kind_the_dearest_first_and_over_all(self, tmp_path: Path) -> None:
        path = tell_all(tmp_path / "run.duckdb", {"one": HARM, "two": HARM})
        plain_sql(path, "UPDATE completions SET prompt_tokens = 0, cached_tokens = 0")
        set_facts(path, "revise", prompt_tokens=100, cached_tokens=25, generated_tokens=7, queued_us=500_000, prefill_us=10**6, decode_us=0)
        set_facts(path, "cast/plan", 1, prompt_tokens=400, cached_tokens=300, generated_tokens=1)

        found = rows(path, "cost")

        assert found[0] == {
            "kind": "revise",
            "turns": 2,
            "prompt_tokens": 200,
            "cached": 0.25,
            "generated_tokens": 14,
            "queued_s": 1.0,
            "prefill_s": 2.0,
            "decode_s": 0.0,
        }
        assert columns(found[1:2], "kind", "turns", "prompt_tokens", "cached", "generated_tokens") == [("plan", 2, 400, 0.75, 1)]
        assert columns(found[-1:], "kind", "prompt_tokens", "cached", "generated_tokens") == [("all", 600, 0.583, 15)]
        assert found[-1]["turns"] == sum(row["turns"] for row in found[:-1])

    def test_ancestors_are_those_of_the_read_sets(self, story: Path) -> None:
        found = rows(story, "ancestors", turn="revise")

        reads = {_name(payload["path"], payload["attempt"]): payload["reads"] for payload in payloads(story, "TurnCompleted")}
        expected: dict[str, int] = {}
        waiting, distance = set(reads["revise"]), 1
        while waiting:
            expected |= dict.fromkeys(waiting, distance)
            waiting = {read for name in waiting for read in reads.get(name, ())} - expected.keys()
            distance += 1
        assert {_name(row["path"], row["attempt"]): row["distance"] for row in found} == expected
        assert max(expected.values()) > 3
        assert columns(rows(story, "ancestors", position=1, turn="cast/ego"), "path", "distance") == [("cast/situation", 1)]


class TestScenes:
    def test_where_nobody_or_everybody_notices_is_counted_by_step_and_wave(self, tmp_path: Path) -> None:
        notice = {"step/1/act": "owner, cashier", "step/2/act": "owner", "step/2/react/owner": "visitor, cashier"}
        path = tell_all(tmp_path / "run.duckdb", {"one": {}, "two": {"step/1/act/recipients": "nobody"}}, notice=notice, steps=2)

        found = rows(path, "noticing")

        assert columns(found, "step", "depth", "actions", "nobody", "everybody", "recipients") == [
            (1, 0, 2, 1, 1, 1.0),
            (1, 1, 2, 2, 0, 0.0),
            (2, 0, 2, 0, 0, 1.0),
            (2, 1, 2, 0, 2, 2.0),
        ]

    def test_the_worst_harm_of_a_scene_starts_where_it_comes_up_first(self, tmp_path: Path) -> None:
        slight, serious, grave = ({f"{path}/critique": f"{severity}: harm"} for path, severity in _HARMS)
        scenes = {"a": slight | serious | grave, "b": slight | serious, "c": grave | {"step/2/act/critique": "3: harm"}, "d": {}}
        path = tell_all(tmp_path / "run.duckdb", scenes, notice={"step/2/act": "owner"}, steps=2)

        found = rows(path, "worst_harms")

        assert columns(found, "severity", "step", "depth", "scenes", "share", "interaction") == [
            (3, 2, 0, 1, 0.5, 2.0),
            (3, 2, 1, 1, 0.5, 3.0),
            (2, 2, 0, 1, 1.0, 2.0),
        ]

    def test_scenes_are_counted_by_their_end(self, story: Path) -> None:
        found = rows(story, "endings")

        assert found == [{"state": "completed", "end_reason": "interactions", "scenes": 2, "interactions": 7.0, "kept": 1, "revised": 1}]

    def test_casts_recur_whatever_the_order_and_the_case_of_their_roles(self, tmp_path: Path) -> None:
        scenes = {"a": {"roles": "owner\nbaker"}, "b": {"roles": "guard\nowner"}, "c": {"roles": "Baker\nowner"}}
        path = tell_all(tmp_path / "run.duckdb", scenes)

        assert rows(path, "casts") == [{"roles": ["baker", "owner", "visitor"], "scenes": 2, "first": 0}]

    def test_roles_of_a_lower_rank_add_harms_or_repeat_them(self, tmp_path: Path) -> None:
        critiques = {
            "step/1/act/critique": "2: the till of the shop is robbed",
            "step/1/react/owner/critique": "1: The till of the shop: robbed!",
            "step/1/react/cashier/critique": "3: a child is hurt badly",
        }
        path = tell_all(tmp_path / "run.duckdb", {"one": critiques, "two": {}}, notice={"step/1/act": "owner, cashier"})

        found = rows(path, "more_roles")

        assert columns(found, "rank", "scenes", "harms", "repeated", "added", "added_a_scene") == [
            (0, 2, 1, 0, 1, 0.5),
            (1, 2, 1, 1, 0, 0.0),
            (2, 2, 1, 0, 1, 0.5),
        ]
        # Six of seven words are shared.
        assert columns(rows(path, "more_roles", similar=0.9), "added") == [(1,), (1,), (1,)]

    def test_a_theme_first_appears_after_an_interaction(self, tmp_path: Path) -> None:
        acts = [f"step/{step}/act/critique" for step in (1, 2, 3)]
        scenes = {
            "a": dict(zip(acts, ("1: theft", "2: Theft or fire", "3: smoke"), strict=True)),
            "b": dict(zip(acts, ("none", "none", "1: theft; theft"), strict=True)),
            "c": dict(zip(acts, ("none", "1: fire", "none"), strict=True)),
        }
        path = tell_all(tmp_path / "run.duckdb", scenes, steps=3)

        found = rows(path, "themes", words="theft|fire|smoke", least=1)

        assert columns(found, "theme", "scenes", "earliest", "median", "latest") == [
            ("theft", 2, 1, 1, 3),
            ("fire", 2, 2, 2, 2),
            ("smoke", 1, 3, 3, 3),
        ]
        assert columns(rows(path, "themes"), "theme") == [("theft",)]

    def test_who_answers_whom_is_counted(self, tmp_path: Path) -> None:
        notice = {"step/1/act": "owner, cashier", "step/1/react/owner": "cashier"}
        path = tell_all(tmp_path / "run.duckdb", {"one": {"step/1/react/cashier/feasible": NO}}, notice=notice, depth=2)

        found = rows(path, "answers")

        assert columns(found, "role", "answered_by", "times", "took_place") == [
            ("owner", "cashier", 1, 1),
            ("visitor", "cashier", 1, 0),
            ("visitor", "owner", 1, 1),
        ]


_HARMS = (("step/1/act", 1), ("step/2/act", 2), ("step/2/react/owner", 3))


class TestLineage:
    def test_critiques_are_counted_by_their_way_to_the_consequence(self, tmp_path: Path) -> None:
        numbered = {"critique": "2: harm", "step/3/act/critique": "1: harm"}
        notice = {f"step/{step}/act": "owner, cashier, guard, bank" for step in (1, 2)}
        path = tell_all(tmp_path / "run.duckdb", {"long": numbered, "short": HARM}, notice=notice, steps=3, roles=4)
        # As if a prompt had left one out.
        plain_sql(
            path,
            """UPDATE events SET payload = replace(payload, '"step/1/act/critique",', '') WHERE payload ->> 'path' = 'consequence'
            AND scene = (SELECT scene FROM scenes WHERE position = 1)""",
        )

        found = rows(path, "critiques_lost")

        assert columns(found, "severity", "condensations", "critiques", "reached", "lost") == [
            (2, 0, 1, 0, 1),
            (2, 1, 10, 10, 0),
            (1, 0, 1, 1, 0),
        ]
        assert MAX_CRITIQUES < 10


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of the same scenes.

    In the second, the question for plans is another; the owner's profile came out otherwise though nothing had changed; of two verdicts
    with what was asked unchanged, one is another. What follows from these is inherited.
    """
    folder = tmp_path_factory.mktemp("two")
    notice = {"step/1/act": "owner"}
    first: dict[str, dict[str, Any]] = {"profiled": {}, "judged": HARM, "only in a": {}}
    second: dict[str, dict[str, Any]] = {
        "profiled": {"cast/profile/owner": "Age: 40\nTraits: kind\nStatus: rich"},
        "judged": HARM,
        "only in b": {},
    }
    second["judged"] = HARM | {"step/1/act/feasible": NO}
    a = tell_all(folder / "run.duckdb", first, notice=notice)
    # Their files may have one name.
    (folder / "b").mkdir()
    plan = load_files(None, "matrix")["plan.txt"]
    b = tell_all(folder / "b" / "run.duckdb", second, notice=notice, prompts={"plan.txt": plan + "\nBe brief."})
    set_facts(a, "step/1/act/feasible", log_odds=0.5)
    set_facts(b, "step/1/act/feasible", log_odds=-0.25)
    return a, b


class TestTwoRuns:
    def test_changes_are_direct_inherited_or_noise(self, two: tuple[Path, Path]) -> None:
        found = {row.pop("kind"): row for row in rows(two[0], "changes", two[1])}

        # Counted from the events by hand, over the two scenes that both runs have.
        expected: dict[str, Counter[str]] = {}
        for position in (0, 1):
            sides = [
                {(payload["path"], payload["attempt"]): payload for payload in payloads(path, "TurnCompleted", position)} for path in two
            ]
            for turn in sides[0].keys() | sides[1].keys():
                a, b = (side.get(turn) for side in sides)
                if a is None or b is None:
                    change = "only_a" if b is None else "only_b"
                else:
                    differs = [name for name in ("template", "inputs", "text", "outcome", "finish") if a[name] != b[name]]
                    change = {"template": "direct", "inputs": "inherited"}.get(differs[0], "noise") if differs else "same"
                expected.setdefault((a or b or {})["turn"], Counter())[change] += 1
        assert found.keys() == expected.keys()
        for kind, counts in expected.items():
            row = dict(found[kind])
            assert row.pop("turns") == counts.total()
            assert row.pop("inherited") == counts["inherited"] + counts["only_a"] + counts["only_b"]
            assert row == {name: counts[name] for name in row}
        # And what the runs are made for.
        assert found["plan"]["direct"] == 2
        assert (found["profile"]["noise"], found["profile"]["same"]) == (1, 5)
        assert found["feasible"]["noise"] == 1
        assert (found["react"]["only_a"], found["react"]["inherited"]) == (1, 2)
        assert found["revise"]["only_a"] == 1

    def test_verdicts_that_flipped_on_equal_inputs_are_listed(self, two: tuple[Path, Path]) -> None:
        found = rows(two[0], "verdict_flips", two[1])

        assert columns(found, "position", "action", "change", "feasible", "b_feasible", "log_odds", "b_log_odds") == [
            (1, "step/1/act", "noise", True, False, 0.5, -0.25)
        ]

    def test_outcomes_are_counted_side_by_side(self, two: tuple[Path, Path]) -> None:
        found = rows(two[0], "outcomes", two[1])

        assert columns(found, "state", "b_state", "response", "b_response", "scenes", "same_consequence", "same_revision") == [
            ("completed", "completed", "kept", "kept", 1, 1, 0),
            ("completed", "completed", "revised", "kept", 1, 0, 0),
        ]


class TestQueries:
    def test_each_is_documented_with_its_question_and_its_parameters(self) -> None:
        [table] = re.findall(r"^\| named query \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOCS, re.MULTILINE)

        found = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]

        assert [(name.removesuffix(" (two logs)").strip("`"), question) for name, question, _ in found] == [
            (query.name, query.question) for query in named_queries()
        ]
        assert len(found) >= 15
        for (name, _, parameters), query in zip(found, named_queries(), strict=True):
            assert name.endswith("(two logs)") == query.of_two
            told = re.findall(r"`(\w+)` \((.*?)\)(?:,|$)", parameters)
            assert told == [(each.name, str(each.default) or "empty") for each in query.parameters]

    def test_each_is_one_question_and_says_what_its_parameters_mean(self) -> None:
        for query in named_queries():
            assert query.question.endswith(("?", "word.")), query.name
            names = set(re.findall(r"\$(\w+)", re.sub(r"^--.*$", "", query.statement, flags=re.MULTILINE)))
            assert names == {parameter.name for parameter in query.parameters}, query.name
            assert all(parameter.meaning for parameter in query.parameters)

    def test_a_query_a_parameter_or_a_value_that_does_not_fit_is_named(self, story: Path) -> None:
        with pytest.raises(ConfigError, match=r"query 'rejection' is not known: .*rejections"):
            find_query("rejection")
        with pytest.raises(ConfigError, match="'rejections' has no parameter 'role': it has category, near, most"):
            find_query("rejections").bind({"role": "nurse"})
        with pytest.raises(ConfigError, match="'near' of query 'rejections' is 'far': give a number"):
            find_query("rejections").bind({"near": "far"})
        with pytest.raises(ConfigError, match=r"'most' of query 'rejections' is '1\.5': give a whole number"):
            find_query("rejections").bind({"most": "1.5"})
        with open_for_reading(story) as log, pytest.raises(ConfigError, match="'changes' is about two logs"):
            ask(log, "changes")
        assert find_query("rejections").bind({"near": "2", "most": "7"}) == {"category": "category", "near": 2.0, "most": 7}

    @pytest.mark.parametrize("query", [query.name for query in named_queries() if not query.of_two])
    def test_each_that_is_about_one_log_is_answered_by_a_run_that_writes_it(self, running: LiveRun, query: str) -> None:
        # It rests on nothing that a reader has of its own; the answer as such is tested above.
        with open_for_reading(running.path) as log:
            assert log.writer_pid == running.process.pid
            found = pyarrow.table(ask(log, query))
        if query == "cost":
            assert found.to_pylist()[-1]["turns"] == 4
        if query == "endings":
            assert columns(found.to_pylist(), "state", "scenes") == [("open", 2), ("completed", 1)]


class TestArrow:
    def test_rows_come_in_arrows_own_types(self, story: Path) -> None:
        statement = "SELECT count(*) AS n, sum(attempt) AS total, ['a'] AS names, true AS yes, 1::REAL AS odds FROM turn WHERE kind = $kind"
        with open_for_reading(story) as log:
            table = pyarrow.table(log.query_arrow(statement, {"kind": "revise"}))
            [row] = log.query(statement, {"kind": "revise"})[1]

        assert [*table.to_pylist()[0].values()] == [*row] == [1, 1, ["a"], True, 1.0]
        assert [str(kind) for kind in table.schema.types] == ["int64", "decimal128(38, 0)", "list<l: string>", "bool", "float"]

    def test_a_running_run_gives_the_same_types(self, running: LiveRun, story: Path) -> None:
        statement = "SELECT count(*) AS n, sum(prompt_tokens) AS tokens, any_value(meta) AS meta, ['a'] AS names FROM turn, scenes"
        with open_for_reading(running.path) as live, open_for_reading(story) as file:
            found, expected = (pyarrow.table(log.query_arrow(statement)) for log in (live, file))

        assert found.schema == expected.schema
        assert found["n"].to_pylist() == [4 * 3]

    def test_a_statement_that_fails_or_gives_nothing_is_one_line(self, story: Path) -> None:
        with open_for_reading(story) as log:
            with pytest.raises(StoreError, match=r"SQL on .*nothing"):
                log.query_arrow("SELECT nothing FROM turn")
            with pytest.raises(StoreError, match=r"SQL on .*Could not convert string"):
                log.query_arrow("SELECT path::INT FROM turn")
            with pytest.raises(StoreError, match="there is no statement"):
                log.query_arrow("")


class TestTogether:
    def test_names_without_a_letter_are_those_of_the_first_log(self, story: Path, two: tuple[Path, Path]) -> None:
        with open_for_reading(two[0], others=[two[1], story]) as log:
            found = log.query("SELECT (SELECT count(*) FROM scene), (SELECT count(*) FROM b.scene), (SELECT count(*) FROM c.scene)")[1]
            # A view of the other log is about that log's own tables, and so are the views that it is made of.
            roles = log.query("SELECT (SELECT count(*) FROM role), (SELECT count(*) FROM b.read), (SELECT count(*) FROM c.lineage)")[1]
            assert (log.path, log.writer_pid, log.record.run_id) == (two[0], None, "test")

        assert found == [(3, 3, 2)]
        expected = []
        for path, view in zip((*two, story), ("role", "read", "lineage"), strict=True):
            expected += plain_sql(path, f"SELECT count(*) FROM {view}", read_only=True)[0]
        assert roles == [tuple(expected)]

    def test_one_of_them_that_cannot_be_read_is_named(self, story: Path, running: LiveRun, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'none.duckdb'} does not exist")):
            open_for_reading(story, others=[tmp_path / "none.duckdb"])
        with pytest.raises(LogLockedError, match=re.escape(f"{running.path} is held by process {running.process.pid}")):
            open_for_reading(story, others=[running.path])

    def test_they_are_not_changed(self, two: tuple[Path, Path]) -> None:
        with open_for_reading(two[0], others=[two[1]]) as log, pytest.raises(StoreError, match="read-only"):
            log.query("DELETE FROM b.events")


class TestViewsOfOtherVersions:
    """A log keeps the views that it was made with; who reads it here sees today's."""

    @pytest.fixture
    def older(self, story: Path, tmp_path: Path) -> Path:
        """A log without today's view of critiques, and with a view of roles that has been mended since."""
        path = Path(shutil.copy(story, tmp_path / "run.duckdb"))
        plain_sql(path, "DROP VIEW lineage", "DROP VIEW critique", "CREATE OR REPLACE VIEW scene AS SELECT 'old' AS state")
        return path

    def test_readers_see_todays_views_and_change_nothing(self, older: Path) -> None:
        before = older.read_bytes()

        assert columns(rows(older, "endings"), "state", "scenes") == [("completed", 2)]
        assert columns(rows(older, "critiques_lost"), "critiques") == [(1,)]

        assert older.read_bytes() == before

    def test_opening_for_writing_brings_them_up_to_date_once(self, older: Path) -> None:
        with Log.open(older, read_only=False):
            pass

        assert plain_sql(older, "SELECT state FROM scene", read_only=True) == [("completed",), ("completed",)]
        assert plain_sql(older, "SELECT count(*) FROM critique", read_only=True) == [(1,)]
        before = older.read_bytes()
        with Log.open(older, read_only=False):
            pass
        assert older.read_bytes() == before

    def test_of_a_view_that_an_old_format_has_no_table_for_the_rest_is_there(self, older: Path) -> None:
        plain_sql(older, "DROP VIEW label", "DROP TABLE labels", "UPDATE run SET format = 1")

        assert columns(rows(older, "critiques_lost"), "critiques") == [(1,)]
        with pytest.raises(StoreError, match="label"):
            rows(older, "unusable")


class TestCommand:
    def test_queries_are_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["sql", "--queries", "--format", "json"]) == 0

        found = msgspec.json.decode(capsys.readouterr().out)
        assert [each["query"] for each in found] == [query.name for query in named_queries()]
        [rejections] = [each for each in found if each["query"] == "rejections"]
        assert rejections["parameters"] == 'category ("category"), near (1.0), most (50)'
        assert {each["query"] for each in found if each["logs"] == "2"} == {"changes", "outcomes", "row_changes", "verdict_flips"}

    def test_a_named_query_is_asked_with_its_parameters(self, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--query", "themes", "--param", "words=somebody", "--param", "least=1", "--format", "json"]
        assert main(["sql", str(two[0]), *arguments]) == 0
        assert msgspec.json.decode(capsys.readouterr().out) == rows(two[0], "themes", words="somebody", least=1) != []

    def test_two_logs_are_compared(self, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["sql", *map(str, two), "--query", "outcomes", "--format", "csv"]) == 0
        header, *lines = capsys.readouterr().out.splitlines()
        assert header.startswith("state,b_state,response")
        assert len(lines) == 2
        assert main(["sql", *map(str, two), "SELECT count(*) AS n FROM scene JOIN b.scene USING (scene)", "--format", "csv"]) == 0
        assert capsys.readouterr().out == "n\n2\n"

    def test_statements_take_parameters(self, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["SELECT count(*) AS n FROM action WHERE step = $step AND role = $role", "--param", "step=1", "--param", "role=owner"]
        assert main(["sql", str(story), *arguments, "--format", "csv"]) == 0
        assert capsys.readouterr().out == "n\n2\n"

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ([], "there is no statement"),
            (["RUN"], "there is no statement"),
            (["RUN", "RUN"], "there is no statement"),
            (["RUN", "--query", "changes"], "'changes' is about two logs, and 1 are given"),
            (["RUN", "RUN", "--query", "cost"], "'cost' is about one log, and 2 are given"),
            (["RUN", "--query", "nothing"], "'nothing' is not known"),
            (["RUN", "--query", "cost", "--param", "most=3"], "'cost' has no parameter 'most': it has none"),
            (["RUN", "--query", "themes", "--param", "most"], "--param 'most' is no pair"),
        ],
    )
    def test_what_does_not_fit_is_one_line(self, story: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
        assert main(["sql", *[str(story) if argument == "RUN" else argument for argument in arguments]]) == 2

        found = capsys.readouterr()
        assert found.out == ""
        assert told in found.err
        assert found.err.count("\n") == 1


def _name(path: str, attempt: int) -> str:
    return path if attempt == 1 else f"{path}#{attempt}"
