"""`matrix show`: a social scene as people read it, one of its turns, what a turn was made from, and the scene as JSON."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from logs import drive, make_log, make_record, plain_sql
from rich.console import Console
from social import INSTRUCTION, RESPONSE, Script
from story import HOSTILE, payloads, social_record, tell

from matrix_py.cli import main
from matrix_py.errors import EngineError
from matrix_py.events import Event, RoleCast
from matrix_py.scene import Quote, Scene
from matrix_py.show import document, why
from matrix_py.show.ancestry import ancestors
from matrix_py.show.reading import read_scene
from matrix_py.store import Log
from matrix_py.testing import ScriptedModel

Show = Callable[..., str]
# What a terminal would obey, other than colours.
LIVE = re.compile("\x1b(?!\\[[0-9;]*m)|[\x07\x9b\u202e\r]")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story's log."""
    path = tmp_path_factory.mktemp("story") / "run.duckdb"
    tell(path)
    return path


@pytest.fixture
def show(story: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run `matrix show` on the story's first scene, or on another log, and return what it prints."""

    def run(*arguments: object, path: Path = story, scene: object = 0) -> str:
        assert main(["show", str(path), str(scene), *map(str, arguments)]) == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        return shown.out

    return run


@pytest.fixture
def refused(story: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run `matrix show` where it is refused, and return its one line."""

    def run(*arguments: object) -> str:
        assert main(["show", str(story), *map(str, arguments)]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert re.fullmatch(r"error: [^\n]+\n", shown.err), shown.err
        return shown.err

    return run


def texts(path: Path, scene: int = 0) -> set[str]:
    """All that a model said in a scene, but for names and the words of forms."""
    statement = (
        "SELECT t.text FROM completions c JOIN scenes s USING (scene) JOIN texts t ON t.hash = c.text WHERE position = ? AND kind NOT IN ?"
    )
    found = plain_sql(path, statement, parameters=[scene, ["ego", "roles", "public", "recipients", "critique"]], read_only=True)
    return {line for (text,) in found for line in text.split("\n") if line} | {INSTRUCTION, "somebody is hurt"}


def part(shown: str, beginning: str) -> str:
    """The part of a transcript that begins with this line: up to the next that is not indented deeper."""
    [(indent, rest)] = re.findall(rf"^( *){re.escape(beginning)}(.*\n(?:\1 +.*\n)*)", shown, re.MULTILINE)
    return f"{indent}{beginning}{rest}"


class TestTranscript:
    def test_it_tells_the_scene_in_order(self, show: Show) -> None:
        shown = show("--reveal")

        assert re.findall(r"^[a-z].*", shown, re.MULTILINE)[1:] == [
            "instruction",
            "response",
            "situation",
            "future",
            "turn cast/profile/bank did not fill its form",
            "cast",
            "plan",
            "step 1",
            "step 2",
            "step 3",
            "step 4",
            "end: as many actions took place as may (interactions; 4 steps, 7 interactions)",
            "consequence",
            "revision",
        ]
        assert part(shown, "instruction") == f"instruction\n  {INSTRUCTION}\n"
        assert part(shown, "plan") == "plan\n" + "".join(f"  {step}: tries key {step}\n" for step in range(1, 6))
        assert part(shown, "revision") == "revision\n  Text of revise.\n"

    def test_the_cast_has_ranks_origins_and_profiles(self, show: Show) -> None:
        shown = part(show("--reveal"), "cast")

        heads = re.findall(r"^  (\d .*)", shown, re.MULTILINE)
        assert heads == [
            "0 visitor, the ego, from the situation",
            *(f"{rank} {role}, from the future" for rank, role in enumerate(("owner", "cashier", "guard", "bank", "customer"), 1)),
        ]
        assert "  4 bank, from the future\n    Age: none\n    Traits: old\n    Status: closed\n" in shown

    def test_an_action_that_took_place_says_who_noticed_it_and_what_harm_it_did(self, show: Show) -> None:
        shown = show("--reveal")

        assert part(shown, "1 visitor (step/1/act):").startswith("  1 visitor (step/1/act): tries key 1\n")
        assert "    noticed by owner, cashier\n" in part(shown, "1 visitor (step/1/act):")
        owner = part(shown, "2 owner (step/1/react/owner, answering 1):")
        assert "    noticed by visitor, guard\n" in owner
        assert "    harm, serious: somebody is hurt\n" in owner
        assert "    noticed by nobody\n" in part(shown, "6 visitor (step/3/act):")
        assert part(shown, "4 visitor (step/2/act, having noticed 2):").startswith(
            "  4 visitor (step/2/act, having noticed 2): waits outside\n"
        )

    def test_an_action_that_did_not_take_place_says_why(self, show: Show) -> None:
        shown = show("--reveal")

        assert part(shown, "3 cashier (step/1/react/cashier, answering 1):") == (
            "  3 cashier (step/1/react/cashier, answering 1): answers at step/1/react/cashier\n    not possible: She is not there.\n"
        )
        assert part(shown, "9 bank (step/4/react/bank, answering 7):") == (
            "  9 bank (step/4/react/bank, answering 7): answers at step/4/react/bank\n    dropped: it came after the last interaction\n"
        )
        assert shown.count("not possible") == 1
        assert shown.count("dropped") == 1

    def test_flaws_and_fallbacks_stand_where_they_happened(self, show: Show) -> None:
        shown = show("--reveal")

        assert "    turn step/1/act/feasible did not fill its form\n" in part(shown, "1 visitor (step/1/act):")
        assert "    turn step/2/act flawed: refusal, retried\n" in part(shown, "4 visitor (step/2/act, having noticed 2):")
        assert [line for line in part(shown, "6 visitor (step/3/act):").splitlines() if "turn" in line] == [
            "    turn step/3/act flawed: refusal, retried",
            "    turn step/3/act#2 flawed: refusal, retried",
            "    turn step/3/act#3 flawed: refusal, fell back",
            "    turn step/3/act fell back after 3 attempts: tries key 3",
        ]
        # Who does nothing has no action, but has its place in the step.
        step = part(shown, "step 2")
        assert "  turn step/2/react/guard fell back after 3 attempts: does nothing\n" in step
        assert step.index("4 visitor") < step.index("turn step/2/react/guard") < step.index("5 owner")
        assert "  memory of 4 entries, condensed\n    Text of step/2/condense/memory.\n" in step

    def test_a_response_that_was_kept_says_so(self, show: Show) -> None:
        shown = show(scene=1)

        assert part(shown, "response kept") == "response kept\n  Nothing harmful was found.\n"
        assert "consequence, nothing harmful\n" in shown
        assert "\nrevision\n" not in shown
        assert "\nresponse, from the input\n" in shown

    def test_texts_are_hidden_but_the_structure_is_not(self, show: Show, story: Path) -> None:
        revealed, hidden = show("--reveal"), show()

        said = texts(story)
        assert len(said) > 30
        assert [text for text in said if text in hidden] == []
        assert f"instruction\n  [{len(INSTRUCTION)} characters hidden; --reveal shows them]\n" in hidden
        assert "  3 cashier (step/1/react/cashier, answering 1): [31 characters]\n    not possible: [17 characters]\n" in hidden
        assert "    harm, serious: [16 characters]\n" in hidden

        assert [line for line in hidden.splitlines() if line.partition("[")[0] not in revealed] == []
        assert len(hidden.splitlines()) > 50

    def test_hostile_text_is_neither_obeyed_nor_taken_for_a_part(self, show: Show) -> None:
        shown = show("--reveal")

        assert not LIVE.search(shown)
        assert "\x1b" not in shown
        assert r"2 owner (step/1/react/owner, answering 1): runs \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eback [bold]x[/bold]" in shown
        # Its second line is further in than the lines of an action, such as those that say who noticed it.
        assert re.findall(r"^( *)noticed by everybody$", shown, re.MULTILINE) == [" " * 8]
        assert {len(indent) for indent in re.findall(r"^( *)noticed by (?!everybody)", shown, re.MULTILINE)} == {4}

    def test_on_a_terminal_what_did_not_take_place_is_struck_out(self, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matrix_py.terminal.console", Console(highlight=False, force_terminal=True, color_system="256"))

        shown = show("--reveal")

        struck = re.findall("\x1b\\[[0-9;]*\\b9[0-9;]*m([^\x1b]*)", shown)
        assert struck == ["answers at step/1/react/cashier", "answers at step/4/react/bank"]
        assert not LIVE.search(shown)

    def test_the_method_published_is_told_with_what_is_its_own(self, show: Show, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, [INSTRUCTION], record=social_record("published")) as log:
            drive(log, Script(notice={"step/1/act": "owner"}))

        shown = show("--reveal", path=path)

        for kind, heading in (("TargetNamed", "target"), ("OutcomeSummarised", "outcome"), ("ResponseSummarised", "response, summarised")):
            [payload] = payloads(path, kind)
            assert part(shown, f"{heading}\n") == f"{heading}\n  {payload['text']}\n"
        assert "    harm: Harm of step/1/act/critique.\n" in part(shown, "1 visitor (step/1/act):")

    def test_a_scene_that_was_stopped_shows_as_far_as_it_came(self, show: Show, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, [INSTRUCTION], record=social_record()) as log:
            drive(log, Script({"step/2/act/feasible": EngineError("the power went")}))

        shown = show("--reveal", path=path)

        assert shown.startswith("scene ")
        assert shown.splitlines()[0].endswith(", open")
        assert "  1 visitor (step/1/act): tries key 1\n    noticed by nobody\n" in shown
        assert "step 2" not in shown
        found = document(path, "0", reveal=True)
        assert (found["state"], found["revision"], found["end_reason"]) == ("open", None, None)
        assert [action["action"] for action in found["actions"]] == ["step/1/act"]


class SomethingSaid(Event, frozen=True):
    """An event of a user's own."""

    text: str
    whom: list[str]


async def own_scene(scene: Scene) -> None:
    """A user's own scene, with names that no form has bound."""
    scene.emit(RoleCast(role=HOSTILE, rank=0, origin="situation", profile="Calm."))
    scene.emit(SomethingSaid(text="Own words.", whom=["a nurse"]))


class TestOwnScenes:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        with make_log(tmp_path / "own.duckdb", ["Why?"], record=make_record(f"{__name__}:own_scene")) as log:
            drive(log, Script())
        return tmp_path / "own.duckdb"

    def test_a_kind_of_ones_own_shows_with_its_text(self, show: Show, path: Path) -> None:
        assert part(show("--reveal", path=path), "SomethingSaid") == "SomethingSaid\n  Own words.\n"
        assert part(show(path=path), "SomethingSaid") == "SomethingSaid\n  [10 characters hidden; --reveal shows them]\n"

    def test_a_hostile_name_stays_a_name(self, show: Show, path: Path) -> None:
        shown = show(path=path)

        assert "\x1b" not in shown
        assert not LIVE.search(shown)
        assert r"  0 runs \x1b[31mred" in shown
        assert r"x[/bold]\nnoticed by everybody, the ego, from the situation" in shown

    def test_a_kind_of_ones_own_is_in_the_document(self, show: Show, path: Path) -> None:
        revealed, hidden = (json.loads(show("--format=json", *options, path=path)) for options in (["--reveal"], []))

        assert revealed["events"] == [{"seq": 2, "kind": "SomethingSaid", "fields": {"text": "Own words.", "whom": ["a nurse"]}}]
        assert hidden["events"][0]["fields"] == {"text": {"characters": 10}, "whom": [{"characters": 7}]}
        assert hidden["roles"][0]["role"] == HOSTILE


class TestTurn:
    def test_a_turn_shows_its_facts_and_hides_its_completion(self, show: Show, story: Path, tmp_path: Path) -> None:
        path = Path(shutil.copy(story, tmp_path / "run.duckdb"))
        turn = "step/1/act/feasible"
        plain_sql(
            path,
            "UPDATE completions SET prompt_tokens = 412, cached_tokens = 396, generated_tokens = 23, masked_tokens = 4, log_odds = 1.25, "
            f"queued_us = 1500 WHERE path = '{turn}' AND attempt = 2",
        )
        completed = next(each for each in payloads(story, "TurnCompleted") if (each["path"], each["attempt"]) == (turn, 2))

        hidden, revealed = show("--turn", f"{turn}#2", path=path), show("--turn", f"{turn}#2", "--reveal", path=path)

        for shown in (hidden, revealed):
            for fact in (
                "kind: feasible",
                "outcome: text, ended by form",
                "tokens: 412 of the prompt (396 taken over from KV), 23 generated, 4 of these only because of the form",
                "time: queue 0.002 s, prompt 0.000 s, answer 0.000 s",
                "log-odds: 1.2500",
                *(f"{name}: {completed[name]}" for name in ("request", "template", "inputs")),
                f"reads: {', '.join(completed['reads'])}",
            ):
                assert f"  {fact}\n" in shown
        assert hidden.endswith("completion\n  [29 characters hidden; --reveal shows them]\n")
        assert revealed.endswith("completion\n  There is a till.\n  Verdict: yes\n")

    def test_an_attempt_shows_its_own_flaws(self, show: Show) -> None:
        first, second = show("--turn=step/2/act", "--reveal"), show("--turn=step/2/act#2", "--reveal")

        assert "turn step/2/act flawed: refusal, retried\n" in first
        assert first.endswith("can't assist with that request.\n")
        assert "flawed" not in second
        assert second.endswith("completion\n  waits outside\n")

    def test_a_turn_without_its_event_says_that_it_has_none_yet(self, show: Show, story: Path, tmp_path: Path) -> None:
        path = Path(shutil.copy(story, tmp_path / "run.duckdb"))
        plain_sql(path, "DELETE FROM events WHERE payload ->> 'path' = 'revise'")

        shown = show("--turn=revise", path=path)

        assert [f"  {name}: not in the log yet\n" in shown for name in ("template", "inputs", "reads")] == [True] * 3
        assert show("--why=revise", path=path).splitlines()[2].strip() == "what it was made from is not in the log yet"


def read_sets(story: Path) -> dict[str, list[str]]:
    """What each turn was made from, and the act that is as planned."""
    turns = {numbered(payload): payload["reads"] for payload in payloads(story, "TurnCompleted")}
    return turns | {"step/1/act": ["cast/plan"]}


def closure(reads: Mapping[str, list[str]], turn: str) -> set[str]:
    """What a turn was made from, and what that was made from, and so on."""
    found: set[str] = set()
    waiting = list(reads[turn])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += reads[name]
    return found


def numbered(payload: dict[str, Any]) -> str:
    return payload["path"] if payload["attempt"] == 1 else f"{payload['path']}#{payload['attempt']}"


class TestWhy:
    def test_the_ancestors_of_every_turn_are_the_closure_over_what_was_read(self, story: Path) -> None:
        with Log.open(story, read_only=True) as log:
            reading = read_scene(log, "0")
        reads = read_sets(story)
        assert len(reads) > 50

        for name in reads:
            first, *rest = ancestors(reading, name)

            assert (first.name, first.depth) == (name, 0)
            assert len({each.name for each in rest}) == len(rest)
            # Asked about itself, the act as planned comes from its verdict, too.
            verdict = {"step/1/act/feasible#2", *closure(reads, "step/1/act/feasible#2")} - {name} if name == "step/1/act" else set()
            assert {each.name for each in rest} == closure(reads, name) | verdict

    def test_each_source_is_listed_below_or_said_to_be_above(self, story: Path) -> None:
        reads = read_sets(story)

        found = why(story, "0", "revise")

        for place, each in enumerate(found):
            below = [child.name for child in _below(found, place) if child.depth == each.depth + 1]
            assert sorted([*each.above, *below]) == sorted(reads[each.name])
            assert set(each.above) <= {before.name for before in found[:place]}

    def test_it_names_kind_action_and_role_and_prints_a_shared_ancestor_once(self, show: Show) -> None:
        shown = show("--why=step/1/react/owner", "--reveal")

        assert shown.startswith("step/1/react/owner (react, action 2, owner)\n  runs \\x1b[31mred")
        assert "    step/1/act/recipients (recipients, action 1, visitor)\n      owner, cashier\n" in shown
        assert "    cast/profile/owner (profile, owner)\n" in shown
        assert len(re.findall(r"^ *cast/situation \(situation\)$", shown, re.MULTILINE)) == 1
        assert shown.count("Text of cast/situation.") == 1
        assert "      cast/ego, cast/situation (above)\n" in shown

    def test_texts_are_hidden(self, show: Show, story: Path) -> None:
        shown = show("--why=revise")

        assert [text for text in texts(story) if text in shown] == []
        assert "consequence (consequence)\n" in shown
        assert "[20 characters hidden; --reveal shows them]" in shown

    def test_flaws_and_fallbacks_are_said(self, show: Show) -> None:
        shown = show("--why=step/3/act/feasible")

        found = part(shown, "step/3/act#3 (act, action 6, visitor)")
        assert "fell back after 3 attempts\n" in found
        assert "flawed: refusal, fell back\n" in found

    def test_an_act_as_planned_comes_from_the_plan_and_its_verdict(self, show: Show, story: Path) -> None:
        first, *rest = why(story, "0", "step/1/act")
        reads = read_sets(story)

        assert (first.kind, first.role, first.action, first.text) == ("action", "visitor", 1, "tries key 1")
        assert first.note == "as planned, took place as interaction 1"
        assert [each.name for each in rest if each.depth == 1] == ["cast/plan", "step/1/act/feasible#2"]
        expected = {"cast/plan", "step/1/act/feasible#2"} | closure(reads, "cast/plan") | closure(reads, "step/1/act/feasible#2")
        expected -= {"step/1/act"}
        assert {each.name for each in rest} == expected
        assert show("--why=step/1/act", "--reveal").startswith("step/1/act (action 1, visitor)\n  tries key 1\n  as planned, took place")

    def test_a_chain_of_turns_may_be_longer_than_the_stack_of_python(self, tmp_path: Path) -> None:
        with make_log(tmp_path / "run.duckdb", ["Why?"], record=make_record(f"{__name__}:long_scene")) as log:
            drive(log, ScriptedModel(lambda turn: f"{turn.path}."))

        found = why(tmp_path / "run.duckdb", "0", f"turn/{LONG}")

        assert [(each.name, each.depth) for each in found] == [(f"turn/{LONG - depth}", depth) for depth in range(LONG)]


LONG = 1100


async def long_scene(scene: Scene) -> None:
    """Each turn is made from the one before."""
    text = Quote(scene.instruction)
    for place in range(1, LONG + 1):
        text = (await scene.turn("respond", path=f"turn/{place}", instruction=text)).text


def _below(found: list[Any], place: int) -> Iterator[Any]:
    """What is in the tree below one of its nodes."""
    for each in found[place + 1 :]:
        if each.depth <= found[place].depth:
            return
        yield each


class TestDocument:
    def test_it_holds_the_whole_scene(self, show: Show, story: Path) -> None:
        printed = show("--format=json", "--reveal")

        found = json.loads(printed)
        assert printed.count("\n") == 1
        assert all(char.isprintable() or char == "\n" for char in printed)
        columns = [
            *("scene", "position", "label", "row", "meta", "state", "reason", "instruction", "response"),
            *("end_reason", "steps", "interactions", "consequence", "revision", "kept"),
        ]
        [row] = plain_sql(story, f"SELECT {', '.join(columns)} FROM scene WHERE position = 0", read_only=True)
        expected = dict(zip(columns, row, strict=True))
        assert {name: found[name] for name in expected} == expected | {"meta": json.loads(expected["meta"])}
        assert (found["situation"], found["future"]) == ("Text of cast/situation.", "Text of cast/future.")
        assert (found["response_given"], found["harmful"]) == (False, True)
        assert found["plan"] == payloads(story, "ActsPlanned")[0]["acts"]
        assert found["roles"] == [_without(payload) for payload in payloads(story, "RoleCast")]
        assert found["flaws"] == [_without(payload) for payload in payloads(story, "ReplyFlawed")]
        assert len(found["flaws"]) == 7
        assert found["fallbacks"] == [_without(payload) for payload in payloads(story, "TurnFellBack")]
        assert [(each["of"], each["turn"], each["count"]) for each in found["condensations"]] == [
            ("memory", "step/2/condense/memory", 4),
            ("memory", "step/4/condense/memory", 4),
        ]
        assert found["events"] == []

    def test_its_actions_and_turns_are_those_of_the_views(self, show: Show, story: Path) -> None:
        found = json.loads(show("--format=json", "--reveal"))

        for key, view, order in (
            ("actions", "action", "ordinal"),
            ("turns", "turn LEFT JOIN request USING (scene, path, attempt)", "path, attempt"),
        ):
            names = [name for name in found[key][0] if name != "dropped"]
            columns = ", ".join("turn.request" if name == "request" else name for name in names)
            scene = f"scene = '{found['scene']}'"
            rows = plain_sql(story, f"SELECT {columns} FROM {view} WHERE {scene} ORDER BY {order}", read_only=True)
            listed = sorted(found[key], key=lambda each: [each[name] for name in order.split(", ")])
            assert [{name: each[name] for name in names} for each in listed] == [dict(zip(names, row, strict=True)) for row in rows]
        assert [each["action"] for each in found["actions"] if each["dropped"]] == ["step/4/react/bank"]
        assert [each["path"] for each in found["turns"]] == [payload["path"] for payload in payloads(story, "TurnCompleted")]

    def test_without_reveal_lengths_stand_for_texts(self, show: Show, story: Path) -> None:
        printed = show("--format=json")
        hidden, revealed = json.loads(printed), json.loads(show("--format=json", "--reveal"))

        assert [text for text in texts(story) if json.dumps(text)[1:-1] in printed] == []
        assert hidden["instruction"] == {"characters": len(INSTRUCTION)}
        assert hidden["actions"][1]["text"] == {"characters": len(HOSTILE)}
        assert hidden["meta"] == {"row": 0}
        # All else is there.
        assert _filled(hidden, revealed) == revealed


def _filled(hidden: Any, revealed: Any) -> Any:
    """A document in which texts of the right length stand for lengths."""
    match hidden:
        case {"characters": int(length)}:
            assert len(revealed) == length
            return revealed
        case dict():
            assert hidden.keys() == revealed.keys()
            return {name: _filled(value, revealed[name]) for name, value in hidden.items()}
        case list():
            return [_filled(*pair) for pair in zip(hidden, revealed, strict=True)]
    return hidden


def _without(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name not in ("kind", "v")}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("9",), ("no scene", "'9'")),
        (("0", "--turn=step/1/act"), ("no turn 'step/1/act'", "as planned in cast/plan; --why step/1/act")),
        (("0", "--turn=step/9/act"), ("no turn 'step/9/act'", "its turns are respond, cast/situation")),
        (("0", "--turn=revise#2"), ("no turn 'revise#2'",)),
        (("0", "--turn=no\x1b[31m\nsuch"), (r"no turn 'no\x1b[31m\nsuch'",)),
        (("0", "--why=step/9/act"), ("no turn and no action 'step/9/act'", "and 38 more")),
        (("9", "--why=revise"), ("no scene", "'9'")),
        (("9", "--format=json"), ("no scene", "'9'")),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(refused: Show, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    line = refused(*arguments)

    assert [part for part in parts if part not in line] == [], line


def test_a_turn_and_what_it_was_made_from_are_there_as_json(show: Show) -> None:
    turn = json.loads(show("--turn=step/2/act#2", "--format=json", "--reveal"))
    assert (turn["path"], turn["attempt"], turn["text"], turn["flaws"]) == ("step/2/act", 2, "waits outside", [])
    assert "step/1/react/owner" in turn["reads"]

    tree = json.loads(show("--why=step/2/act#2", "--format=json"))
    assert (tree[0]["name"], tree[0]["depth"], tree[0]["text"]) == ("step/2/act#2", 0, {"characters": len("waits outside")})
    assert {"cast/plan", "step/1/react/owner"} <= {each["name"] for each in tree if each["depth"] == 1}


def test_a_response_from_the_input_is_an_ancestor(story: Path) -> None:
    found = {each.name: each for each in why(story, "1", "cast/plan")}
    assert (found["respond"].kind, found["respond"].text, found["respond"].note) == ("response", RESPONSE, "from the input")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("0", "--turn=respond", "--why=respond"), "--turn and --why each show something else"),
        (("0", "--turn=respond", "--prompt", "--format=json"), "--prompt is shown as text only"),
    ],
)
def test_what_cannot_be_shown_together_is_refused(refused: Show, arguments: tuple[str, ...], problem: str) -> None:
    assert problem in refused(*arguments)
