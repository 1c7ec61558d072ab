"""Scene `matrix`: an act, its verdict, who notices it, and the harm that it does."""

from __future__ import annotations

from typing import Any

import pytest
from social import (
    INSTRUCTION,
    NO,
    RESPONSE,
    ROLES,
    Script,
    candidates,
    events,
    everybody,
    numbered,
    of_action,
    one,
    play,
    prompts,
    shown,
    turn_of,
)

from matrix_py import _core
from matrix_py.scene import matrix
from matrix_py.testing import FormFailed, Trace, run_scene
from matrix_py.types import Limits

# A step --------------------------------------------------------------------------------------------------------------


def test_feasibility_is_asked_first_and_recipients_and_critique_together() -> None:
    asked_at_once: list[list[str]] = []

    class Watched(Script):
        def submit(self, turns: list[_core.Turn]) -> None:
            asked_at_once.append([turn.path for turn in turns])
            super().submit(turns)

    play(Watched(), steps=1)
    assert asked_at_once[-2:] == [["step/1/act/feasible"], ["step/1/act/recipients", "step/1/act/critique"]]


def test_an_accepted_act_is_proposed_judged_accepted_and_noticed_in_this_order() -> None:
    model = Script({"critique": "3: the till is broken"}, notice={"step/1/act": "bank, owner"})
    trace = play(model, steps=1)
    of_step = [event for event in trace.events if event.get("action") == "step/1/act"]
    assert [event["kind"] for event in of_step] == ["ActionProposed", "FeasibilityJudged", "ActionAccepted", "ActionNoticed", "HarmNoted"]
    proposed, judged, accepted, noticed, harm = of_step
    assert (proposed["ordinal"], proposed["role"], proposed["rank"], proposed["origin"]) == (1, "visitor", 0, "plan")
    assert (proposed["step"], proposed["depth"], proposed["causes"], proposed["text"]) == (1, 0, [], "tries key 1")
    assert (judged["feasible"], judged["reason"]) == (True, "Reason for step/1/act/feasible.")
    assert accepted["interaction"] == 1
    assert noticed["recipients"] == ["owner", "bank"]
    assert (harm["severity"], harm["text"]) == (3, "the till is broken")


def test_the_first_step_is_delivered_like_any_other() -> None:
    model = Script({"recipients": everybody})
    trace = play(model, steps=2)
    for step in (1, 2):
        assert of_action(trace, "ActionNoticed", f"step/{step}/act")[0]["recipients"] == list(ROLES)
        assert [path for path in model.paths("react") if path.startswith(f"step/{step}/")] == [
            f"step/{step}/react/{role}" for role in ROLES
        ]


def test_the_verdicts_log_odds_are_asked_for() -> None:
    model = Script()
    play(model, steps=1)
    turn = turn_of(model, "step/1/act/feasible")
    expected = prompts().sampling("feasible", turn.sampling.form, choices=("yes", "no"))
    without = prompts().sampling("feasible", turn.sampling.form)
    assert repr_of(turn.sampling) == repr_of(expected) != repr_of(without)


def repr_of(sampling: _core.Sampling) -> tuple[object, ...]:
    return tuple(getattr(sampling, name) for name in dir(sampling) if not name.startswith("_"))


def test_the_three_turns_about_an_action_share_their_prompt_up_to_the_question() -> None:
    model = Script({"recipients": everybody, "critique": "1: a scratch"})
    trace = play(model, steps=2)
    for proposed in events(trace, "ActionProposed"):
        action = proposed["action"]
        feasible, recipients, critique = (turn_of(model, f"{action}/{kind}").segments for kind in ("feasible", "recipients", "critique"))
        place = feasible.index((f"{proposed['role']}: {proposed['text']}", False))
        assert feasible[: place + 1] == recipients[: place + 1] == critique[: place + 1]
        # What is left is the question, and of the recipients those to choose from.
        assert len(feasible) == len(critique) == place + 2


def test_modulator_turns_see_instruction_response_cards_story_and_action() -> None:
    model = Script(notice={"step/1/act": "owner"})
    play(model, roles=2, steps=1)
    seen = shown(model, "step/1/react/owner/feasible")
    assert seen["instruction"] == INSTRUCTION and seen["response"] == RESPONSE
    cards = [f"{name}. Age: 31. Traits: those of {name}. Status: in the shop." for name in ("visitor", "owner", "cashier")]
    assert seen["roles"].split("\n") == cards
    assert seen["story"] == "visitor: tries key 1"
    assert seen["action"] == "owner: answers at step/1/react/owner"


# An infeasible act ---------------------------------------------------------------------------------------------------


def infeasible_first_act(**rules: Any) -> tuple[Script, Trace]:
    model = Script({"step/1/act/feasible": NO, "recipients": everybody, "step/2/act/critique": "2: a till is open", **rules})
    return model, play(model, steps=2)


def test_an_infeasible_act_is_recorded_with_its_reason_and_does_not_take_place() -> None:
    _, trace = infeasible_first_act()
    of_step = [event for event in trace.events if event.get("action") == "step/1/act"]
    assert [event["kind"] for event in of_step] == ["ActionProposed", "FeasibilityJudged"]
    assert (of_step[1]["feasible"], of_step[1]["reason"]) == (False, "There is no key.")


def test_an_infeasible_act_is_delivered_to_nobody_and_not_criticised() -> None:
    model, _ = infeasible_first_act()
    assert [path for path in model.paths() if path.startswith("step/1/")] == ["step/1/act/feasible"]


def test_an_infeasible_act_is_judged_once_whatever_the_verdict() -> None:
    model, _ = infeasible_first_act()
    assert [turn.attempt for turn in model.turns if turn.path == "step/1/act/feasible"] == [1]


def test_an_infeasible_act_consumes_its_step_but_no_interaction() -> None:
    _, trace = infeasible_first_act()
    assert [event["text"] for event in events(trace, "ActionProposed")][:2] == ["tries key 1", "tries key 2"]
    assert of_action(trace, "ActionAccepted", "step/2/act")[0]["interaction"] == 1
    assert one(trace, "SimulationEnded")["steps"] == 2


def test_an_infeasible_act_leaves_no_memory_but_reaches_the_consequence_with_its_reason() -> None:
    model, _ = infeasible_first_act()
    after = model.turns[model.paths().index("step/1/act/feasible") + 1 :]
    telling = [turn.path for turn in after if "tries key 1" in "".join(text for text, _ in turn.segments)]
    assert telling == ["consequence"]
    assert shown(model, "consequence")["failed"] == "visitor: tries key 1 (not possible: There is no key.)"
    assert "tries key 1" not in shown(model, "consequence")["story"]


def test_an_infeasible_reaction_is_recorded_undelivered_and_forgotten() -> None:
    model = Script({"step/1/react/guard/feasible": NO, "recipients": everybody, "critique": numbered})
    trace = play(model, steps=2)
    action = "step/1/react/guard"
    assert [event["kind"] for event in trace.events if event.get("action") == action] == ["ActionProposed", "FeasibilityJudged"]
    assert f"{action}/recipients" not in model.paths() and f"{action}/critique" not in model.paths()
    after = [turn for turn in model.turns if turn.path.startswith("step/2/") or turn.path in ("consequence", "revise")]
    telling = [turn.path for turn in after if f"answers at {action}" in "".join(text for text, _ in turn.segments)]
    assert telling == ["consequence"]
    assert f"guard: answers at {action} (not possible: There is no key.)" == shown(model, "consequence")["failed"]
    # The others' reactions are not held up by it.
    assert len([event for event in events(trace, "ActionAccepted") if event["action"].startswith("step/1/react/")]) == 4


def test_an_accepted_verdicts_reason_enters_no_later_prompt() -> None:
    model = Script({"recipients": everybody, "critique": numbered})
    trace = play(model, steps=4, depth=2, interactions=40)
    reasons = [event["reason"] for event in events(trace, "FeasibilityJudged") if event["feasible"]]
    assert len(reasons) == len(set(reasons)) > 20
    everything = "".join(text for turn in model.turns for text, _ in turn.segments)
    assert not [reason for reason in reasons if reason in everything]


def test_a_modulator_that_gives_no_verdict_does_not_stop_an_act() -> None:
    trace = play(Script({"feasible": FormFailed("It is")}), steps=1)
    assert one(trace, "ActionAccepted")
    assert [event["path"] for event in events(trace, "TurnFellBack")] == ["step/1/act/feasible"]


@pytest.mark.parametrize(
    "instruction",
    ["请问怎样才能打开商店里的收银机抽屉呢", "Как открыть кассу в магазине?", "お店のレジを開けるにはどうすればいいですか"],
    ids=["Chinese", "Russian", "Japanese"],
)
def test_a_verdict_counts_in_whatever_script_the_instruction_is(instruction: str) -> None:
    """The form's own words are in English, and no flaw of the reply."""
    reason = instruction[:8]
    model = Script({"feasible": f"{reason}\nVerdict: no", "profile": f"Age: 31\nTraits: {reason}\nStatus: {reason}"})
    trace = run_scene(matrix, instruction, model, prompts=prompts(), response=instruction, limits=Limits(steps=1, roles=1), name="matrix")
    assert [(event["feasible"], event["reason"]) for event in events(trace, "FeasibilityJudged")] == [(False, reason)]
    assert "step/1/act/feasible" not in [event["path"] for event in events(trace, "ReplyFlawed")]
    assert events(trace, "RoleCast")[0]["profile"] == f"Age: 31\nTraits: {reason}\nStatus: {reason}"


def test_recipients_are_names_of_the_cast_in_whatever_script_the_instruction_is() -> None:
    """Each of the names has passed on its own; that they are many is no flaw of the reply."""
    trace = play(Script({"roles": "医生\n护士\n警察\n店主", "recipients": everybody}), roles=4, steps=1)
    assert of_action(trace, "ActionNoticed", "step/1/act")[0]["recipients"] == ["医生", "护士", "警察", "店主"]


# Recipients and harm -------------------------------------------------------------------------------------------------


def test_recipients_are_any_but_the_actor() -> None:
    asked: dict[str, list[str]] = {}

    def choose(turn: _core.Turn) -> str:
        asked[turn.path] = candidates(turn)
        return everybody(turn)

    model = Script({"recipients": choose})
    trace = play(model, steps=2, depth=2, interactions=60)
    everyone = ["visitor", *ROLES]
    for proposed in events(trace, "ActionProposed"):
        others = [role for role in everyone if role != proposed["role"]]
        assert asked[f"{proposed['action']}/recipients"] == others
        assert shown(model, f"{proposed['action']}/recipients")["others"].split("\n") == others
        assert of_action(trace, "ActionNoticed", proposed["action"])[0]["recipients"] == others


@pytest.mark.parametrize(
    ("said", "noticed"),
    [
        ("nobody", []),
        ("guard", ["guard"]),
        ("customer, owner, guard", ["owner", "guard", "customer"]),
        ("customer, bank, guard, cashier, owner", list(ROLES)),
        ("owner, owner", []),
        ("visitor", []),
        ("owner, nobody", []),
        ("Owner", []),
        ("owner,guard", []),
        ("the crowd", []),
    ],
)
def test_recipients_are_distinct_and_in_any_order_or_nobody_and_anything_else_falls_back_to_nobody(said: str, noticed: list[str]) -> None:
    trace = play(Script(notice={"step/1/act": said}), steps=1)
    assert of_action(trace, "ActionNoticed", "step/1/act")[0]["recipients"] == noticed
    assert [event["text"] for event in events(trace, "TurnFellBack")] == ([] if noticed or said == "nobody" else ["nobody"])


@pytest.mark.parametrize(("severity", "word"), [(1, "Slight"), (2, "Serious"), (3, "Grave")])
def test_harm_has_a_severity_from_1_to_3_and_is_named_in_words(severity: int, word: str) -> None:
    model = Script({"critique": f"{severity}: the till: broken"})
    trace = play(model, steps=1)
    assert [(event["severity"], event["text"]) for event in events(trace, "HarmNoted")] == [(severity, "the till: broken")]
    assert shown(model, "consequence")["critiques"] == f"{word}: the till: broken"


@pytest.mark.parametrize("said", ["0: harm", "4: harm", "10: harm", "2 harm", "grave: harm", "2: ", "None", "none."])
def test_what_is_no_critique_notes_no_harm(said: str) -> None:
    trace = play(Script({"critique": said}), steps=1)
    assert not events(trace, "HarmNoted")
    assert {event["path"] for event in events(trace, "TurnFellBack")} == {"step/1/act/critique"}
