"""Scene `matrix`: how it ends, what comes of it, and what makes it fail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from social import (
    INSTRUCTION,
    NO,
    RESPONSE,
    ROLES,
    Rule,
    Script,
    events,
    everybody,
    kinds,
    numbered,
    one,
    play,
    shown,
    turn_of,
)

from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.scene import matrix
from matrix_py.testing import TooLong, run_scene
from matrix_py.testing.fields import fields
from matrix_py.types import Limits

# The end -------------------------------------------------------------------------------------------------------------


def test_a_scene_ends_when_its_plan_is_used_up() -> None:
    ended = one(play(Script(), steps=3), "SimulationEnded")
    assert (ended["reason"], ended["steps"], ended["interactions"]) == ("plan", 3, 3)


@pytest.mark.parametrize("limit", range(1, 13))
def test_a_scene_ends_at_exactly_its_last_interaction(limit: int) -> None:
    model = Script({"recipients": everybody})
    trace = play(model, steps=5, interactions=limit)
    ended = one(trace, "SimulationEnded")
    assert (ended["reason"], ended["interactions"]) == ("interactions", limit)
    assert [event["interaction"] for event in events(trace, "ActionAccepted")] == list(range(1, limit + 1))
    # One act and five reactions make six interactions a step.
    assert ended["steps"] == -(-limit // 6)
    dropped = [event["action"] for event in events(trace, "ActionDropped")]
    in_step = (limit - 1) % 6 + 1
    assert dropped == ([f"step/{ended['steps']}/react/{role}" for role in ROLES[in_step - 1 :]] if in_step > 1 else [])


def test_what_comes_after_the_last_interaction_is_proposed_and_dropped_without_a_trace() -> None:
    model = Script({"recipients": everybody, "critique": numbered})
    trace = play(model, steps=5, interactions=3)
    assert [event["action"] for event in events(trace, "ActionProposed")] == ["step/1/act", *(f"step/1/react/{role}" for role in ROLES)]
    dropped = [f"step/1/react/{role}" for role in ROLES[2:]]
    assert [event["action"] for event in events(trace, "ActionDropped")] == dropped
    for action in dropped:
        assert [event["kind"] for event in trace.events if event.get("action") == action] == [
            "ActionProposed",
            "FeasibilityJudged",
            "ActionDropped",
        ]
        assert not [value for value in shown(model, "consequence").values() if action in value]


def test_an_infeasible_reaction_does_not_count_towards_the_limit() -> None:
    model = Script({"recipients": everybody, "step/1/react/owner/feasible": NO, "step/1/react/bank/feasible": NO})
    trace = play(model, steps=5, interactions=3)
    assert [event["action"] for event in events(trace, "ActionAccepted")] == ["step/1/act", "step/1/react/cashier", "step/1/react/guard"]
    assert [event["action"] for event in events(trace, "ActionDropped")] == ["step/1/react/customer"]


def test_no_wave_begins_after_the_last_interaction() -> None:
    model = Script({"recipients": everybody})
    trace = play(model, steps=5, interactions=1, depth=3)
    assert not model.paths("react") and not events(trace, "ActionDropped")


def test_no_turn_is_told_the_limit() -> None:
    rules: Mapping[str, Any] = {"recipients": everybody, "critique": numbered}
    model, other = Script(rules), Script(rules)
    play(model, steps=4, interactions=9)
    play(other, steps=4, interactions=97)
    asked = {turn.path: turn for turn in other.turns}
    before_the_end = [
        turn for turn in model.turns if turn.path in asked and not turn.path.startswith(("step/2/condense", "consequence", "revise"))
    ]
    assert len(before_the_end) > 40
    assert [turn.path for turn in before_the_end if turn.request != asked[turn.path].request] == []
    play(limited := Script(rules), steps=4, interactions=13)
    assert not [turn.path for turn in limited.turns if re.search(r"\b(13|thirteen)\b", "".join(text for text, _ in turn.segments))]


def test_two_steps_in_which_nothing_new_took_place_end_a_scene() -> None:
    trace = play(Script({"step/2/act/feasible": NO, "step/3/act/feasible": NO}), steps=5)
    ended = one(trace, "SimulationEnded")
    assert (ended["reason"], ended["steps"], ended["interactions"]) == ("no_progress", 3, 1)


def test_one_such_step_does_not_nor_do_two_with_one_between_them() -> None:
    for steps in ([2], [2, 4], [1, 3, 5]):
        trace = play(Script({f"step/{step}/act/feasible": NO for step in steps}), steps=5)
        ended = one(trace, "SimulationEnded")
        assert (ended["reason"], ended["steps"]) == ("plan", 5)


def test_a_repeated_act_is_nothing_new() -> None:
    plan = "1. tries the key\n2. Tries the KEY\n3. tries The key\n4. leaves"
    ended = one(play(Script({"plan": plan}), steps=4), "SimulationEnded")
    assert (ended["reason"], ended["steps"], ended["interactions"]) == ("no_progress", 3, 3)


def test_a_new_reaction_to_a_repeated_act_is_something_new() -> None:
    plan = "1. tries the key\n2. Tries the key\n3. tries The key\n4. tries the Key"
    model = Script({"plan": plan}, notice={f"step/{step}/act": "owner" for step in range(1, 5)})
    assert one(play(model, steps=4), "SimulationEnded")["reason"] == "plan"
    silent = Script({"plan": plan, "react": "shrugs"}, notice={f"step/{step}/act": "owner" for step in range(1, 5)})
    ended = one(play(silent, steps=4), "SimulationEnded")
    assert (ended["reason"], ended["steps"]) == ("no_progress", 3)


def test_the_same_words_of_another_role_are_something_new() -> None:
    plan = "1. shrugs\n2. Shrugs\n3. SHRUGS"
    model = Script({"plan": plan, "react": "shrugs"}, notice={"step/1/act": "nobody", "step/2/act": "owner", "step/3/act": "guard"})
    assert one(play(model, steps=3), "SimulationEnded")["reason"] == "plan"


def test_stalling_at_the_end_of_the_plan_is_the_plans_end() -> None:
    ended = one(play(Script({"step/2/act/feasible": NO, "step/3/act/feasible": NO}), steps=3), "SimulationEnded")
    assert (ended["reason"], ended["steps"]) == ("plan", 3)


def test_a_scene_in_which_nothing_was_possible_keeps_the_response() -> None:
    trace = play(Script({"feasible": NO}), steps=5)
    ended = one(trace, "SimulationEnded")
    assert (ended["reason"], ended["steps"], ended["interactions"]) == ("no_progress", 2, 0)
    assert kinds(trace)[-3:] == ["ConsequenceDrawn", "ResponseKept", "SceneFinished"]


# Consequence and revision --------------------------------------------------------------------------------------------


def test_where_no_harm_was_found_the_response_is_kept_and_that_is_recorded() -> None:
    model = Script({"recipients": everybody})
    trace = play(model)
    assert not model.paths("consequence") and not model.paths("revise")
    assert kinds(trace)[-3:] == ["ConsequenceDrawn", "ResponseKept", "SceneFinished"]
    drawn = one(trace, "ConsequenceDrawn")
    assert (drawn["harmful"], drawn["text"]) == (False, "Nothing harmful was found.")
    assert one(trace, "ResponseKept")["reason"] == "Nothing harmful was found."


def test_one_harm_is_enough_for_consequence_and_revision() -> None:
    model = Script({"step/3/act/critique": "1: a scratch"})
    trace = play(model, steps=3)
    assert kinds(trace)[-3:] == ["ConsequenceDrawn", "ResponseRevised", "SceneFinished"]
    drawn = one(trace, "ConsequenceDrawn")
    assert (drawn["harmful"], drawn["text"]) == (True, "Text of consequence.")
    assert one(trace, "ResponseRevised")["text"] == "Text of revise."
    seen = shown(model, "consequence")
    assert (seen["instruction"], seen["response"], seen["critiques"]) == (INSTRUCTION, RESPONSE, "Slight: a scratch")
    assert seen["story"].split("\n") == [f"visitor: tries key {step}" for step in (1, 2, 3)]
    assert seen["failed"] == "Nothing."


def test_the_harm_of_an_infeasible_act_is_not_asked_for() -> None:
    model = Script({"feasible": NO, "critique": numbered})
    trace = play(model)
    assert not model.paths("critique") and not one(trace, "ConsequenceDrawn")["harmful"]


def test_a_consequence_without_words_is_the_critiques() -> None:
    trace = play(Script({"critique": numbered, "consequence": ""}), steps=2)
    assert one(trace, "ConsequenceDrawn")["text"] == "Serious: harm of step/1/act/critique\nSerious: harm of step/2/act/critique"


@pytest.mark.parametrize("system", ["", "You advise a shop."])
def test_the_revision_is_made_of_instruction_response_and_consequence_under_the_deployments_system_prompt(system: str) -> None:
    files = load_files(None, "matrix")
    deployed = Prompts(files, load_settings(None, None, "matrix"), system=system, template=ChatTemplate.plain())
    model = Script({"critique": numbered})
    run_scene(matrix, INSTRUCTION, model, prompts=deployed, response=RESPONSE, limits=Limits(steps=1), name="matrix")
    turn = turn_of(model, "revise")
    seen = fields(turn)
    assert seen == {"instruction": INSTRUCTION, "response": RESPONSE, "consequence": "Text of consequence."}
    text = "".join(text for text, _ in turn.segments)
    # The template without turns has nothing before the system prompt, and a mark before what the user says.
    head = text[: text.index("### Instruction:")]
    assert head.strip() == system
    writer = files["writer.txt"].strip()
    for other in model.turns:
        said = "".join(text for text, _ in other.segments)
        assert (writer in said) == (other.kind != "revise")
        assert not system or (system in said) == (other.kind == "revise")


def test_a_given_response_is_rehearsed_and_not_asked_for() -> None:
    model = Script({"critique": numbered})
    trace = play(model, response="Ask the owner.")
    assert "respond" not in model.paths()
    assert (one(trace, "ResponseGiven")["given"], one(trace, "ResponseGiven")["text"]) == (True, "Ask the owner.")
    assert shown(model, "revise")["response"] == "Ask the owner."


def test_without_a_given_response_the_model_is_asked_for_one() -> None:
    model = Script({"critique": numbered})
    trace = play(model, response=None)
    assert model.paths()[0] == "respond"
    assert (one(trace, "ResponseGiven")["given"], one(trace, "ResponseGiven")["text"]) == (False, "Text of respond.")
    assert shown(model, "cast/future")["response"] == shown(model, "revise")["response"] == "Text of respond."


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["cast/situation", "cast/profile/guard", "step/2/act/feasible", "step/1/react/owner", "consequence"])
def test_a_prompt_that_does_not_fit_fails_the_scene_with_its_reason(path: str) -> None:
    model = Script({path: TooLong(), "recipients": everybody, "critique": numbered})
    trace = play(model, steps=3)
    finished = trace.events[-1]
    assert (finished["kind"], finished["end"]) == ("SceneFinished", "failed")
    assert path in finished["reason"]


@pytest.mark.parametrize("kind", ["situation", "future", "characters"])
def test_casting_without_a_usable_text_fails_the_scene(kind: str) -> None:
    trace = play(Script({kind: "I'm sorry, but I can't help with that request."}))
    assert (trace.events[-1]["end"], kind in trace.events[-1]["reason"]) == ("failed", True)


@pytest.mark.parametrize("rule", [lambda _: "", lambda _: "I cannot help with that request."], ids=["nothing", "refusals"])
@pytest.mark.parametrize("kind", ["ego", "roles", "profile", "plan", "feasible", "recipients", "react", "act", "condense_memory"])
def test_a_kind_of_turn_that_always_fails_does_not_stop_the_scene(kind: str, rule: Rule) -> None:
    model = Script({"recipients": everybody, "critique": numbered, kind: rule})
    trace = play(model, steps=3, interactions=100)
    assert trace.counts.completed == 1 and model.paths(kind)
    assert {event["path"] for event in events(trace, "TurnFellBack")} == set(model.paths(kind))


REFUSES = "3: I'm sorry, but I can't help with that."


def test_a_model_that_refuses_to_speak_of_harm_does_not_pass_for_one_that_found_none() -> None:
    trace = play(Script({"critique": REFUSES}), steps=2)
    assert not events(trace, "ConsequenceDrawn") and not events(trace, "ResponseKept")
    assert trace.events[-1]["end"] == "failed"
    assert trace.events[-1]["reason"] == "no harm was noted, but 2 of 2 questions about harm went unanswered"


def test_a_refusal_to_speak_of_one_harm_does_not_hide_another() -> None:
    model = Script({"step/1/act/critique": REFUSES, "step/2/act/critique": "2: a loss"})
    trace = play(model, steps=2)
    assert (trace.counts.completed, one(trace, "ConsequenceDrawn")["harmful"]) == (1, True)


def test_what_is_judged_impossible_needs_no_word_on_its_harm() -> None:
    trace = play(Script({"critique": REFUSES, "feasible": NO}), steps=2)
    assert (trace.counts.completed, len(events(trace, "ResponseKept"))) == (1, 1)


def test_the_consequence_says_what_failed_even_if_nothing_was_harmful_or_the_turn_failed() -> None:
    failed = f"visitor: tries key 1 (not possible: {NO.partition(chr(10))[0]})"
    kept = play(Script({"step/1/act/feasible": NO}), steps=2)
    assert one(kept, "ConsequenceDrawn")["text"] == f"Nothing harmful was found.\n{failed}"
    fallen_back = play(Script({"step/1/act/feasible": NO, "step/2/act/critique": "3: a loss", "consequence": ""}), steps=2)
    assert one(fallen_back, "ConsequenceDrawn")["text"] == f"Grave: a loss\n{failed}"
