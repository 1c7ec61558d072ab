"""The views of a log: what they say agrees with the events that they are made from, and docs/sql.md with both."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from company import tell_all
from logs import drive, make_log, plain_sql
from social import INSTRUCTION, RESPONSE, Script, numbered
from story import HARMLESS, REFUSAL, payloads, social_record, tell

from matrix_py import events
from matrix_py.events import NO_HARM, Event

DOCS = (Path(__file__).parents[1] / "docs" / "sql.md").read_text("utf-8")
HERE = "scene = (SELECT scene FROM scene WHERE position = 0)"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story's log."""
    path = tmp_path_factory.mktemp("story") / "run.duckdb"
    tell(path)
    return path


@pytest.fixture
def changed(story: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copy(story, tmp_path / "run.duckdb"))


def select(path: Path, columns: str, rest: str) -> list[dict[str, Any]]:
    """Rows by column."""
    names = [name.strip() for name in columns.split(",")]
    return [dict(zip(names, row, strict=True)) for row in plain_sql(path, f"SELECT {columns} FROM {rest}", read_only=True)]


def without(payload: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name not in ("kind", "v", *names)}


def documented(heading: str) -> dict[str, list[str]]:
    """The rows of the tables in docs/sql.md that have this heading: name -> what it names in its last column, outside of parentheses."""
    found = {}
    for table in re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOCS, re.MULTILINE):
        for row in table.splitlines():
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            found[cells[0].strip("`")] = re.findall(r"`(\w+)`", re.sub(r"\([^()]*\)", "", cells[-1]))
    return found


class TestScene:
    def test_what_came_of_a_scene_is_in_its_row(self, story: Path) -> None:
        found = select(
            story, "instruction, response, consequence, revision, kept, end_reason, steps, interactions, state", "scene ORDER BY position"
        )

        ended = {"end_reason": "interactions", "steps": 4, "interactions": 7, "state": "completed"}
        assert found == [
            {
                "instruction": INSTRUCTION,
                "response": "Text of respond.",
                "consequence": "Text of consequence.",
                "revision": "Text of revise.",
                "kept": False,
                **ended,
            },
            {
                "instruction": HARMLESS,
                "response": RESPONSE,
                "consequence": NO_HARM + "\ncashier: answers at step/1/react/cashier (not possible: She is not there.)",
                "revision": None,
                "kept": True,
                **ended,
            },
        ]

    def test_of_other_scenes_nothing_social_is_said(self, tmp_path: Path) -> None:
        with make_log(tmp_path / "run.duckdb", ["Why?"]) as log:
            drive(log, Script())

        found = select(tmp_path / "run.duckdb", "consequence, kept, end_reason, steps, interactions, state", "scene")
        assert found == [
            {"consequence": None, "kept": False, "end_reason": None, "steps": None, "interactions": None, "state": "completed"}
        ]
        for view in ("role", "action"):
            assert select(tmp_path / "run.duckdb", "scene", view) == []


class TestRoleAndAction:
    def test_roles_are_the_events_of_their_casting(self, story: Path) -> None:
        found = select(story, "role, rank, origin, profile", f"role WHERE {HERE} ORDER BY rank")

        assert found == [without(payload) for payload in payloads(story, "RoleCast")]
        assert [role["role"] for role in found] == ["visitor", "owner", "cashier", "guard", "bank", "customer"]

    def test_actions_say_what_was_attempted_and_what_came_of_it(self, story: Path) -> None:
        proposed = "action, ordinal, role, rank, origin, step, depth, causes, text"
        found = select(
            story,
            f"{proposed}, feasible, reason, interaction, took_place, recipients, severity, critique",
            f"action WHERE {HERE} ORDER BY ordinal",
        )

        # Put together from the events by hand.
        expected = [without(payload) for payload in payloads(story, "ActionProposed")]
        by_path = {each["action"]: each for each in expected}
        for path in by_path:
            by_path[path] |= dict.fromkeys(("interaction", "recipients", "severity", "critique")) | {"took_place": False}
        for payload in payloads(story, "FeasibilityJudged"):
            by_path[payload["action"]] |= without(payload)
        for payload in payloads(story, "ActionAccepted"):
            by_path[payload["action"]] |= without(payload) | {"took_place": True}
        for payload in payloads(story, "ActionNoticed"):
            by_path[payload["action"]] |= without(payload)
        for payload in payloads(story, "HarmNoted"):
            by_path[payload["action"]] |= {"severity": payload["severity"], "critique": payload["text"]}
        assert found == expected
        assert len(found) == 9
        # And what the story is made for.
        rejected, dropped, harmful = (by_path[path] for path in ("step/1/react/cashier", "step/4/react/bank", "step/1/react/owner"))
        assert (rejected["feasible"], rejected["reason"], rejected["took_place"]) == (False, "She is not there.", False)
        assert (dropped["feasible"], dropped["interaction"], dropped["recipients"]) == (True, None, None)
        assert (harmful["severity"], harmful["critique"]) == (2, "somebody is hurt")
        assert harmful["recipients"] == ["visitor", "guard"]
        assert by_path["step/3/act"]["recipients"] == []
        assert by_path["step/2/act"]["causes"] == ["step/1/react/owner"]

    @pytest.mark.parametrize(("last", "expected"), [("-2.5", -2.5), ("NULL", None)])
    def test_log_odds_are_those_of_the_last_attempt_at_the_verdict(self, changed: Path, last: str, expected: float | None) -> None:
        path = "step/1/act/feasible"
        plain_sql(
            changed,
            f"UPDATE completions SET log_odds = 1.5 WHERE path = '{path}' AND attempt = 1",
            f"UPDATE completions SET log_odds = {last} WHERE path = '{path}' AND attempt = 2",
            "UPDATE completions SET log_odds = 4 WHERE path = 'step/2/act/feasible'",
        )

        found = {row["action"]: row["log_odds"] for row in select(changed, "action, log_odds", f"action WHERE {HERE}")}

        assert (found["step/1/act"], found["step/2/act"], found["step/4/act"]) == (expected, 4, None)

    def test_an_action_that_was_not_judged_yet_has_no_verdict(self, changed: Path) -> None:
        plain_sql(changed, "DELETE FROM events WHERE kind NOT IN ('ActionProposed', 'SceneStarted')")

        found = select(changed, "feasible, reason, interaction, took_place, recipients, severity", f"action WHERE {HERE}")

        assert len(found) == 9
        assert all(row == dict.fromkeys(row) | {"took_place": False} for row in found)


# Four roles who notice every act of the visitor: five actions a step, each with a critique.
CROWD = {f"step/{step}/act": "owner, cashier, guard, bank" for step in range(1, 5)}
FAILING = {"step/2/condense/critiques": REFUSAL}


def crowd(path: Path, rules: dict[str, Any], method: str = "matrix") -> Path:
    critique = numbered if method == "matrix" else "somebody is hurt"
    scenes = {INSTRUCTION: {"critique": critique} | rules}
    return tell_all(path, scenes, notice=CROWD, method=method, steps=4, roles=4, interactions=20)


class TestCritiques:
    def test_critiques_are_the_harms_that_were_noted(self, story: Path) -> None:
        found = select(story, "ordinal, action, role, rank, step, depth, interaction, severity, text, turn, through, reached", "critique")

        assert found == [
            {
                "ordinal": 1,
                "action": "step/1/react/owner",
                "role": "owner",
                "rank": 1,
                "step": 1,
                "depth": 1,
                "interaction": 2,
                "severity": 2,
                "text": "somebody is hurt",
                "turn": "step/1/react/owner/critique",
                "through": [],
                "reached": True,
            }
        ]

    @pytest.mark.parametrize(
        ("rules", "expected"),
        [
            ({}, {1: [2, 4], 2: [2, 4], 3: [4], 4: [4]}),
            # Where no text came of it, the critiques stay as they are until the next.
            (FAILING, {1: [3], 2: [3], 3: [3], 4: []}),
        ],
        ids=["condensed twice", "failed once"],
    )
    def test_condensations_take_critiques_along(self, tmp_path: Path, rules: dict[str, Any], expected: dict[int, list[int]]) -> None:
        path = crowd(tmp_path / "run.duckdb", rules)

        found = select(path, "ordinal, step, through, reached", "critique ORDER BY ordinal")

        assert [row["ordinal"] for row in found] == [*range(1, 21)]
        for row in found:
            assert row["through"] == [f"step/{step}/condense/critiques" for step in expected[row["step"]]]
            assert row["reached"] is True

    def test_lineage_goes_from_a_critique_to_the_revision(self, tmp_path: Path) -> None:
        path = crowd(tmp_path / "run.duckdb", {})

        found = select(path, "place, stage, turn, text", "lineage WHERE action = 'step/1/react/guard' ORDER BY place")

        turn = "step/1/react/guard/critique"
        assert [tuple(row.values()) for row in found] == [
            (0, "critique", turn, f"harm of {turn}"),
            (1, "condensation", "step/2/condense/critiques", "Text of step/2/condense/critiques."),
            (2, "condensation", "step/4/condense/critiques", "Text of step/4/condense/critiques."),
            (3, "consequence", "consequence", "Text of consequence."),
            (4, "revision", "revise", "Text of revise."),
        ]
        assert len(select(path, "place", "lineage")) == 10 * 5 + 10 * 4

    def test_a_critique_that_the_consequence_was_not_made_from_is_lost(self, changed: Path) -> None:
        plain_sql(
            changed,
            "UPDATE events SET payload = replace(payload, '\"step/1/react/owner/critique\",', '') WHERE payload ->> 'path' = 'consequence'",
        )

        assert select(changed, "through, reached", "critique") == [{"through": [], "reached": False}]
        assert select(changed, "stage", "lineage") == [{"stage": "critique"}]

    def test_before_a_consequence_is_drawn_nothing_has_reached_it(self, changed: Path) -> None:
        plain_sql(changed, "DELETE FROM events WHERE kind = 'ConsequenceDrawn'")

        assert select(changed, "reached", "critique") == [{"reached": None}]
        assert select(changed, "stage", "lineage") == [{"stage": "critique"}]

    def test_where_no_turn_draws_the_consequence_the_revision_takes_it_from_the_critiques(self, tmp_path: Path) -> None:
        path = crowd(tmp_path / "run.duckdb", {}, "published")

        found = select(path, "ordinal, severity, through, reached", "critique ORDER BY ordinal")

        assert len(found) > 9
        assert all(row["severity"] == 0 and row["reached"] and len(row["through"]) == 1 for row in found)
        assert found[-1]["through"] == ["end/condense/critiques"]
        stages = select(path, "stage, turn", "lineage WHERE action = 'step/1/act' ORDER BY place")
        assert [row["stage"] for row in stages] == ["critique", "condensation", "consequence", "revision"]
        assert [row["turn"] for row in stages[2:]] == [None, "revise"]


class TestTurns:
    def test_requests_are_the_events_of_turns(self, story: Path) -> None:
        found = select(story, "path, attempt, template, inputs, reads", f"request WHERE {HERE} ORDER BY path, attempt")

        completed = sorted(payloads(story, "TurnCompleted"), key=lambda payload: (payload["path"], payload["attempt"]))
        assert found == [{name: payload[name] for name in ("path", "attempt", "template", "inputs", "reads")} for payload in completed]
        [(turns, both)] = plain_sql(
            story, "SELECT count(*), count(r.path) FROM turn t LEFT JOIN request r USING (scene, path, attempt)", read_only=True
        )
        assert turns == both > 100

    def test_reads_are_numbered_and_name_turns(self, story: Path) -> None:
        found = select(story, "path, attempt, place, reads, reads_path, reads_attempt", f"read WHERE {HERE} ORDER BY path, attempt, place")

        completed = sorted(payloads(story, "TurnCompleted"), key=lambda payload: (payload["path"], payload["attempt"]))
        assert [(row["path"], row["attempt"], row["place"], row["reads"]) for row in found] == [
            (payload["path"], payload["attempt"], place, name) for payload in completed for place, name in enumerate(payload["reads"], 1)
        ]
        assert {(row["reads_path"], row["reads_attempt"]) for row in found if "#" in row["reads"]} == {
            ("cast/profile/bank", 2),
            ("step/1/act/feasible", 2),
            ("step/2/act", 2),
            ("step/3/act", 3),
        }
        turns = {(payload["path"], payload["attempt"]) for payload in completed}
        assert {(row["reads_path"], row["reads_attempt"]) for row in found} - turns == {("step/1/act", 1)}

    def test_a_completion_without_its_event_is_a_turn_but_no_request(self, changed: Path) -> None:
        plain_sql(changed, "DELETE FROM events WHERE kind = 'TurnCompleted' AND payload ->> 'path' = 'revise'")

        assert len(select(changed, "path", f"turn WHERE path = 'revise' AND {HERE}")) == 1
        assert select(changed, "path", f"request WHERE path = 'revise' AND {HERE}") == []
        assert select(changed, "path", f"read WHERE path = 'revise' AND {HERE}") == []

    def test_flaws_are_listed_by_attempt(self, story: Path) -> None:
        found = select(story, "path, attempt, flaw, policy", f"flaw WHERE {HERE} ORDER BY path, attempt")

        tried = [(attempt, "refusal", "retried" if attempt < 3 else "fell_back") for attempt in (1, 2, 3)]
        assert [tuple(row.values()) for row in found] == [
            ("step/2/act", 1, "refusal", "retried"),
            *(("step/2/react/guard", *rest) for rest in tried),
            *(("step/3/act", *rest) for rest in tried),
        ]


class TestDocs:
    def test_views_have_the_columns_that_are_documented(self, story: Path) -> None:
        found: dict[str, list[str]] = {}
        statement = """
            SELECT table_name, column_name FROM duckdb_columns()
            WHERE table_name IN (SELECT view_name FROM duckdb_views() WHERE NOT internal) ORDER BY table_name, column_index
        """
        for view, column in plain_sql(story, statement, read_only=True):
            found.setdefault(view, []).append(column)

        assert found == documented("view")

    def test_events_have_the_fields_that_are_documented(self) -> None:
        kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event]

        assert documented("kind") == {kind.__name__: list(kind.__struct_fields__) for kind in kinds}

    def test_views_are_typed(self, story: Path) -> None:
        statement = """
            SELECT column_name, data_type FROM duckdb_columns()
            WHERE table_name IN ('scene', 'role', 'action', 'critique', 'lineage', 'request', 'read', 'flaw')
        """
        types = set(plain_sql(story, statement, read_only=True))

        assert {("causes", "VARCHAR[]"), ("recipients", "VARCHAR[]"), ("feasible", "BOOLEAN"), ("kept", "BOOLEAN")} <= types
        assert {(name, "UINTEGER") for name in ("ordinal", "step", "steps", "rank", "attempt", "severity", "place")} <= types
        assert {kind for _, kind in types} == {"VARCHAR", "VARCHAR[]", "BOOLEAN", "UINTEGER", "UBIGINT", "FLOAT", "JSON"}

    @pytest.mark.parametrize("query", re.findall(r"```sql\n(.*?)```", DOCS, re.DOTALL), ids=lambda query: query[:40].replace("\n", " "))
    def test_the_queries_run(self, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
        monkeypatch.chdir(tmp_path)

        found = plain_sql(story, query, read_only=True)

        # The story has no principles, and no completion of it was made under a mask.
        assert found or "CritiqueWritten" in query


def test_the_method_published_fills_the_views(tmp_path: Path) -> None:
    notice = {"step/1/act": "owner", "step/1/react/owner": "visitor"}
    with make_log(tmp_path / "run.duckdb", [INSTRUCTION], record=social_record("published")) as log:
        drive(log, Script(notice=notice))

    [first, second, *_] = select(tmp_path / "run.duckdb", "action, feasible, recipients, severity, critique", "action ORDER BY ordinal")
    assert first == {
        "action": "step/1/act",
        "feasible": True,
        "recipients": ["owner"],
        "severity": 0,
        "critique": "Harm of step/1/act/critique.",
    }
    assert (second["action"], second["recipients"]) == ("step/1/react/owner", ["visitor"])
