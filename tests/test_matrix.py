"""Scene `matrix`, rule by rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from social import INSTRUCTION, RESPONSE, ROLES, Script, events, kinds, play, prompts

from matrix_py import _core
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.scene import matrix
from matrix_py.testing import FormFailed, TooLong, Trace, run_scene
from matrix_py.testing.fields import fields
from matrix_py.types import Limits

NO = "There is no key.\nVerdict: no"


def candidates(turn: _core.Turn) -> list[str]:
    """Whom a turn of kind `recipients` lets choose."""
    assert turn.sampling.form is not None
    return re.findall(r'"([^"]*)" rest', turn.sampling.form)


def everybody(turn: _core.Turn) -> str:
    return ", ".join(candidates(turn))


def turn_of(model: Script, path: str, attempt: int = 1) -> _core.Turn:
    [turn] = [turn for turn in model.turns if (turn.path, turn.attempt) == (path, attempt)]
    return turn


def shown(model: Script, path: str) -> dict[str, str]:
    """What the prompt of a turn was filled with."""
    return fields(turn_of(model, path))


def of_action(trace: Trace, kind: str, action: str) -> list[dict[str, Any]]:
    return [event for event in events(trace, kind) if event["action"] == action]


def one(trace: Trace, kind: str) -> dict[str, Any]:
    [event] = events(trace, kind)
    return event


def numbered(turn: _core.Turn) -> str:
    """A harm that nothing else has."""
    return f"2: harm of {turn.path}"


# Casting --------------------------------------------------------------------------------------------------------------


def test_casting_asks_for_the_ego_then_the_roles_then_one_profile_a_role_and_the_plan() -> None:
    model = Script()
    trace = play(model, roles=2)
    assert [path for path in model.paths() if path.startswith("cast/")] == [
        "cast/situation",
        "cast/ego",
        "cast/future",
        "cast/characters",
        "cast/roles",
        "cast/profile/visitor",
        "cast/profile/owner",
        "cast/profile/cashier",
        "cast/plan",
    ]
    assert kinds(trace)[:8] == [
        "SceneStarted",
        "ResponseGiven",
        "SituationImagined",
        "FutureImagined",
        "RoleCast",
        "RoleCast",
        "RoleCast",
        "ActsPlanned",
    ]


def test_the_ego_has_rank_0_and_the_others_are_ranked_as_listed() -> None:
    trace = play(Script(), roles=3)
    cast = [(event["role"], event["rank"], event["origin"]) for event in events(trace, "RoleCast")]
    assert cast == [("visitor", 0, "situation"), ("owner", 1, "future"), ("cashier", 2, "future"), ("guard", 3, "future")]


def test_things_may_be_roles_and_have_no_age() -> None:
    profile = "Age: none\nTraits: made of paper\nStatus: in the till"
    trace = play(Script({"roles": "the money", "cast/profile/the money": profile}), roles=1)
    assert (events(trace, "RoleCast")[1]["role"], events(trace, "RoleCast")[1]["profile"]) == ("the money", profile)
    assert not events(trace, "TurnFellBack")


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_the_plan_has_exactly_as_many_acts_as_there_are_steps(steps: int) -> None:
    model = Script()
    trace = play(model, steps=steps)
    assert one(trace, "ActsPlanned")["acts"] == [f"tries key {step}" for step in range(1, steps + 1)]
    assert shown(model, "cast/plan")["steps"] == str(steps)


def test_a_second_list_of_the_public_fills_the_gaps_of_the_first() -> None:
    trace = play(Script({"roles": "owner\nthe guard", "public": "Guard\nclerk\nowner\nmayor\nvoter"}), roles=4)
    cast = [(event["role"], event["origin"]) for event in events(trace, "RoleCast")]
    assert cast[1:] == [("owner", "future"), ("the guard", "future"), ("clerk", "public"), ("mayor", "public")]


def test_the_public_is_not_asked_for_where_the_first_list_is_long_enough() -> None:
    model = Script()
    play(model, roles=5)
    assert "cast/public" not in model.paths()


def test_two_short_lists_give_a_smaller_cast() -> None:
    trace = play(Script({"roles": "owner", "public": "the Owner\nclerk"}), roles=5)
    assert [event["role"] for event in events(trace, "RoleCast")] == ["visitor", "owner", "clerk"]


LISTS: dict[str, tuple[str | FormFailed, str | FormFailed]] = {
    "long enough": ("a1\nb2\nc3\nd4\ne5\nf6\ng7\nh8", "unused"),
    "just long enough": ("a1\nb2\nc3\nd4\ne5\nf6\ng7", "unused"),
    "long enough for four only": ("a1\nb2\nc3\nd4\ne5", "p1\np2\np3\np4"),
    "too short for both": ("a1\nb2", "p1\na1\np2\np3\np4\np5\np6"),
    "too short even with the public": ("a1\nb2", "a1\nb2"),
    "with duplicates": ("a1\na1\nb2\na1\nc3\nb2\nd4\nd4", "c3\np1\np1\np2\np3"),
    "with articles": ("the bank\nbank\na clerk\nan owner\nclerk\nowner\nthe guard", "The Bank\nbanks\nguard\nmayor"),
    "in different case": ("Bank\nbank\nBANK\nthe BANK\nClerk", "clerk\nOwner\nowner\nmayor"),
    "with the ego's own name": ("visitor\nthe visitor\nVisitor\nowner\nA Visitor\nguard", "the VISITOR\nclerk\nmayor"),
    "of the ego alone": ("visitor", "the visitor"),
    "of nobody": ("nobody", "Nobody\nnone"),
    "without form": (FormFailed("1. owner\n2. guard"), FormFailed("owner, guard,")),
    "failed, then the public": (FormFailed(), "p1\np2\np3\np4\np5"),
}


@pytest.mark.parametrize(("roles", "public"), LISTS.values(), ids=LISTS.keys())
def test_the_first_roles_of_a_larger_cast_are_the_smaller_cast(roles: str | FormFailed, public: str | FormFailed) -> None:
    rules = {"roles": roles, "public": public}
    small, large = play(Script(rules), roles=4), play(Script(rules), roles=7)

    assert events(small, "RoleCast") == events(large, "RoleCast")[:5]
    assert events(small, "ActsPlanned") == events(large, "ActsPlanned")
    requests = {(event["path"], event["attempt"]): event["request"] for event in events(large, "TurnCompleted")}
    casting = [event for event in events(small, "TurnCompleted") if event["path"].startswith("cast/")]
    assert all(event["request"] == requests[event["path"], event["attempt"]] for event in casting)


@pytest.mark.parametrize(("roles", "public"), LISTS.values(), ids=LISTS.keys())
def test_names_of_a_cast_are_distinct_whatever_their_case_and_articles(roles: str | FormFailed, public: str | FormFailed) -> None:
    trace = play(Script({"roles": roles, "public": public}), roles=7)
    bare = [re.sub(r"^(a|an|the) ", "", event["role"].lower()) for event in events(trace, "RoleCast")]
    assert len(set(bare)) == len(bare)
    assert "nobody" not in bare and "none" not in bare


def test_a_list_with_numbers_or_commas_does_not_fill_its_form_and_is_asked_for_again() -> None:
    model = Script(
        {"roles": lambda turn: "1. owner\n2. guard" if turn.attempt == 1 else "owner,\nguard," if turn.attempt == 2 else "clerk"}
    )
    trace = play(model, roles=1)
    outcomes = [event["outcome"] for event in events(trace, "TurnCompleted") if event["path"] == "cast/roles"]
    assert outcomes == ["form_failed", "form_failed", "text"]
    assert [event["role"] for event in events(trace, "RoleCast")] == ["visitor", "clerk"]


def test_a_scene_of_the_ego_alone_asks_for_no_recipients_and_ends() -> None:
    model = Script({"roles": "visitor", "public": "the visitor", "critique": "2: the shop is robbed"})
    trace = play(model, steps=2)
    assert [event["role"] for event in events(trace, "RoleCast")] == ["visitor"]
    assert not model.paths("recipients") and not model.paths("react") and not model.paths("act")
    assert [event["recipients"] for event in events(trace, "ActionNoticed")] == [[], []]
    assert kinds(trace)[-1] == "SceneFinished" and trace.counts.completed == 1
    assert one(trace, "ConsequenceDrawn")["harmful"]


def test_a_scene_with_one_role_besides_the_ego() -> None:
    trace = play(Script({"recipients": everybody}), roles=1, steps=2)
    actions = [(event["role"], event["causes"]) for event in events(trace, "ActionProposed")]
    assert actions == [
        ("visitor", []),
        ("owner", ["step/1/act"]),
        ("visitor", ["step/1/react/owner"]),
        ("owner", ["step/2/act"]),
    ]


def test_an_ego_that_nobody_can_name_is_the_asker() -> None:
    trace = play(Script({"ego": "I cannot say who that is, sorry."}))
    assert events(trace, "RoleCast")[0]["role"] == "asker"


def test_an_ego_cannot_be_called_nobody() -> None:
    trace = play(Script({"ego": "Nobody"}))
    assert events(trace, "RoleCast")[0]["role"] == "asker"


@pytest.mark.parametrize(
    "names",
    [
        ("Ärztin", "Frau Müller-Lüdenscheidt"),
        ("O'Brien", "the shop’s owner"),
        ("डॉक्टर", "नर्स"),
        ("แพทย์", "พยาบาล"),
        ("医生", "护士"),
        ("طبيب", "مُمَرِّضة"),
        ("Jose\u0301", "Zoe\u0308"),
        ("nurse", "head nurse", "nurse manager", "nurse 2"),
    ],
    ids=lambda names: names[0],
)
def test_names_of_any_script_go_through_the_whole_scene(names: tuple[str, ...]) -> None:
    instruction = " ".join([INSTRUCTION, *names * 4])  # or else they are flawed, being in another script than the instruction
    model = Script({"roles": "\n".join(names), "recipients": everybody})
    limits = Limits(roles=len(names), steps=1)
    trace = run_scene(matrix, instruction, model, prompts=prompts(), response=RESPONSE, limits=limits, name="matrix")
    assert [event["role"] for event in events(trace, "RoleCast")][1:] == list(names)
    assert events(trace, "ActionNoticed")[0]["recipients"] == list(names)
    assert [event["role"] for event in events(trace, "ActionProposed")[1:]] == list(names)


# A step ---------------------------------------------------------------------------------------------------------------


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


# An infeasible act ----------------------------------------------------------------------------------------------------


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


# Recipients and harm --------------------------------------------------------------------------------------------------


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


# The wave of reactions ------------------------------------------------------------------------------------------------


def test_every_recipient_reacts_and_nobody_else() -> None:
    model = Script(notice={"step/1/act": "customer, cashier"})
    trace = play(model, steps=1)
    assert model.paths("react") == ["step/1/react/cashier", "step/1/react/customer"]
    assert [event["causes"] for event in events(trace, "ActionProposed")[1:]] == [["step/1/act"], ["step/1/act"]]


def test_reactions_of_a_wave_do_not_see_one_another() -> None:
    model = Script({"recipients": everybody, "critique": numbered})
    trace = play(model, steps=2)
    for step in (1, 2):
        said = [event["text"] for event in events(trace, "ActionProposed") if event["step"] == step and event["depth"] == 1]
        assert len(said) == 5
        for turn in model.turns:
            if turn.path.startswith(f"step/{step}/react/"):
                others = [text for text in said if not text.endswith(turn.path.removesuffix(f"/{turn.kind}"))]
                assert len(others) == 4
                assert not [text for text in others if text in "".join(text for text, _ in turn.segments)]


def test_reactions_are_judged_against_the_snapshot_of_the_waves_start() -> None:
    model = Script({"recipients": everybody})
    play(model, steps=2)
    stories = {shown(model, f"step/1/react/{role}/{kind}")["story"] for role in ROLES for kind in ("feasible", "recipients", "critique")}
    assert stories == {"visitor: tries key 1"}
    # The second step begins from all that was accepted in the first, condensed, and its wave from that and the ego's act.
    assert shown(model, "step/2/act/feasible")["story"] == "Text of step/1/condense/memory."
    stories = {shown(model, f"step/2/react/{role}/feasible")["story"] for role in ROLES}
    assert stories == {"Text of step/1/condense/memory.\nvisitor: answers at step/2/act"}


@pytest.mark.parametrize("late", ["owner", "customer"])
def test_accepted_reactions_enter_in_role_order_whichever_comes_first(late: str) -> None:
    class Late(Script):
        """Answers about one role only when nothing else waits."""

        def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
            self._waiting.sort(key=lambda turn: f"react/{late}" in turn.path)
            return super().collect(timeout_s)

    trace = play(Late({"recipients": everybody}, at_once=1), steps=1)
    accepted = [event["action"] for event in events(trace, "ActionAccepted")]
    assert accepted == ["step/1/act", *(f"step/1/react/{role}" for role in ROLES)]
    assert [event["interaction"] for event in events(trace, "ActionAccepted")] == [1, 2, 3, 4, 5, 6]
    assert trace.hashes == play(Script({"recipients": everybody}), steps=1).hashes


def test_reactions_are_noticed_and_enter_the_noticers_own_memories() -> None:
    notice = {"step/1/act": "owner", "step/1/react/owner": "bank, visitor", "step/2/act": "bank, guard"}
    model = Script(notice=notice)
    play(model, steps=2)
    assert shown(model, "step/2/react/bank")["memory"] == "owner: answers at step/1/react/owner"
    assert shown(model, "step/2/react/guard")["memory"] == "Nothing yet."
    assert shown(model, "step/2/act")["memory"] == "visitor: tries key 1\nowner: answers at step/1/react/owner"


def test_at_depth_1_reactions_are_not_reacted_to_within_the_step() -> None:
    model = Script({"recipients": everybody})
    trace = play(model, steps=2)
    assert {event["depth"] for event in events(trace, "ActionProposed")} == {0, 1}
    assert len(model.paths("react")) == 10


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_depth_gives_so_many_waves(depth: int) -> None:
    trace = play(Script({"recipients": everybody}), steps=1, roles=3, depth=depth, interactions=100)
    depths = [event["depth"] for event in events(trace, "ActionProposed")]
    assert depths == [0, *(wave for wave in range(1, depth + 1) for _ in range(3))]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_nobody_reacts_to_itself(depth: int) -> None:
    model = Script({"recipients": everybody})
    trace = play(model, steps=2, depth=depth, interactions=100)
    actors = {event["action"]: event["role"] for event in events(trace, "ActionProposed")}
    for proposed in events(trace, "ActionProposed"):
        assert proposed["role"] not in [actors[cause] for cause in proposed["causes"]]
        if proposed["depth"]:
            noticed = shown(model, proposed["action"])["noticed"].split("\n")
            assert not [line for line in noticed if line.startswith(f"{proposed['role']}: ")]


def test_the_ego_answers_with_its_next_act_and_not_in_a_wave() -> None:
    model = Script({"recipients": everybody})
    trace = play(model, steps=2, depth=3, interactions=100)
    assert not [path for path in model.paths("react") if "visitor" in path]
    [act] = [event for event in events(trace, "ActionProposed") if event["action"] == "step/2/act"]
    assert act["origin"] == "plan" and act["depth"] == 0
    assert act["causes"] == [
        event["action"] for event in events(trace, "ActionProposed") if event["step"] == 1 and event["role"] != "visitor"
    ]


def test_a_role_answers_all_that_it_noticed_in_a_deeper_wave_in_one_turn() -> None:
    notice = {
        "step/1/act": "owner, cashier, guard",
        "step/1/react/owner": "bank, guard",
        "step/1/react/cashier": "bank",
        "step/1/react/guard": "bank, owner",
    }
    model = Script(notice=notice)
    trace = play(model, steps=1, depth=2)
    second = {event["role"]: event["causes"] for event in events(trace, "ActionProposed") if event["depth"] == 2}
    assert second == {
        "owner": ["step/1/react/guard"],
        "guard": ["step/1/react/owner"],
        "bank": ["step/1/react/owner", "step/1/react/cashier", "step/1/react/guard"],
    }
    assert model.paths("react").count("step/1/react/bank/2") == 1
    assert shown(model, "step/1/react/bank/2")["noticed"].split("\n") == [
        f"{role}: answers at step/1/react/{role}" for role in ("owner", "cashier", "guard")
    ]


def test_a_deeper_wave_is_judged_against_the_waves_before_it() -> None:
    model = Script(notice={"step/1/act": "owner, guard", "step/1/react/guard": "owner, bank"})
    play(model, steps=1, depth=2)
    expected = ["visitor: tries key 1", "owner: answers at step/1/react/owner", "guard: answers at step/1/react/guard"]
    for role in ("owner", "bank"):
        assert shown(model, f"step/1/react/{role}/2/feasible")["story"].split("\n") == expected


def test_an_infeasible_or_unnoticed_reaction_ends_the_cascade() -> None:
    model = Script({"step/1/react/owner/feasible": NO}, notice={"step/1/act": "owner, guard"})
    trace = play(model, steps=1, depth=5)
    assert max(event["depth"] for event in events(trace, "ActionProposed")) == 1


def test_a_role_without_words_does_nothing() -> None:
    model = Script(
        {"step/1/react/owner": "I'm sorry, but I can't help with that request.", "step/1/react/guard": " \n"},
        notice={"step/1/act": "owner, guard"},
    )
    trace = play(model, steps=1)
    assert [event["action"] for event in events(trace, "ActionProposed")] == ["step/1/act"]
    assert [(event["path"], event["text"]) for event in events(trace, "TurnFellBack")] == [
        ("step/1/react/owner", "does nothing"),
        ("step/1/react/guard", "does nothing"),
    ]


# What roles know ------------------------------------------------------------------------------------------------------


def test_the_egos_act_is_the_plans_word_for_word_while_it_has_noticed_nothing() -> None:
    model = Script(notice={"step/1/act": "owner, bank", "step/2/act": "guard"})
    trace = play(model, steps=3)
    assert not model.paths("act")
    assert [event["text"] for event in events(trace, "ActionProposed") if event["role"] == "visitor"] == [
        "tries key 1",
        "tries key 2",
        "tries key 3",
    ]


def test_the_ego_adapts_its_plan_once_it_has_noticed_something() -> None:
    notice = {"step/1/act": "owner", "step/1/react/owner": "visitor"}
    model = Script({"step/2/act": "runs away"}, notice=notice)
    trace = play(model, steps=3)
    acts = [(event["text"], event["causes"]) for event in events(trace, "ActionProposed") if event["role"] == "visitor"]
    assert acts == [("tries key 1", []), ("runs away", ["step/1/react/owner"]), ("answers at step/3/act", [])]
    assert shown(model, "step/2/act")["plan"] == "tries key 2"
    assert shown(model, "step/3/act")["memory"].split("\n")[-1] == "visitor: runs away"


def test_an_ego_without_words_keeps_to_its_plan() -> None:
    notice = {"step/1/act": "owner", "step/1/react/owner": "visitor"}
    trace = play(Script({"act": ""}, notice=notice), steps=2)
    act = events(trace, "ActionProposed")[-1]
    assert (act["text"], act["causes"]) == ("tries key 2", [])


def test_who_noticed_nothing_is_never_asked_and_knows_nothing() -> None:
    notice = {"step/1/act": "owner, cashier", "step/1/react/owner": "cashier", "step/2/act": "owner", "step/3/act": "guard"}
    model = Script(notice=notice)
    play(model, steps=3)
    assert not [path for path in model.paths("react") if path.endswith(("bank", "customer"))]
    # The guard notices the last act and none of what was before.
    seen = shown(model, "step/3/react/guard")
    assert (seen["memory"], seen["noticed"]) == ("Nothing yet.", "visitor: tries key 3")


def test_role_turns_hold_the_card_and_the_roles_own_view_only() -> None:
    model = Script({"recipients": lambda turn: "owner, bank" if "owner" in candidates(turn) else "bank"})
    trace = play(model, steps=3)
    proposed = {event["action"]: event for event in events(trace, "ActionProposed")}
    noticed = {event["action"]: event["recipients"] for event in events(trace, "ActionNoticed")}
    lines = {action: f"{event['role']}: {event['text']}" for action, event in proposed.items()}
    profiles = {event["role"]: event["profile"] for event in events(trace, "RoleCast")}
    asked = [turn for turn in model.turns if turn.kind == "react"]
    assert len(asked) == 6
    for turn in asked:
        role, seen = proposed[turn.path]["role"], fields(turn)
        before = [action for action, event in proposed.items() if event["ordinal"] < proposed[turn.path]["ordinal"]]
        causes = proposed[turn.path]["causes"]
        # Of its own wave, a role sees nothing, though it comes later in the order of roles.
        earlier = [action for action in before if proposed[action]["step"] < proposed[turn.path]["step"]]
        view = [lines[action] for action in earlier if role in (proposed[action]["role"], *noticed[action])]
        assert seen["role"] == role and seen["profile"] == profiles[role]
        assert seen["memory"].split("\n") == (view[-8:] or ["Nothing yet."])
        assert seen["noticed"].split("\n") == [lines[cause] for cause in causes]
        prompt = "".join(text for text, _ in turn.segments)
        for hidden in (INSTRUCTION, RESPONSE, "Text of cast/", "Reason for"):
            assert hidden not in prompt


def test_a_role_is_shown_the_last_eight_entries_of_its_view() -> None:
    # The owner notices every act and reacts to it: two entries a step.
    model = Script({"recipients": lambda turn: "owner" if "owner" in candidates(turn) else "nobody"})
    play(model, steps=7, interactions=40)
    assert len(shown(model, "step/5/react/owner")["memory"].split("\n")) == 8
    expected = [line for step in (3, 4, 5, 6) for line in (f"visitor: tries key {step}", f"owner: answers at step/{step}/react/owner")]
    assert shown(model, "step/7/react/owner")["memory"].split("\n") == expected


def test_views_are_not_condensed() -> None:
    model = Script({"recipients": everybody, "critique": numbered})
    play(model, steps=3, interactions=40)
    assert not [
        turn.path for turn in model.turns if turn.kind in ("react", "act") and "condense" in "".join(text for text, _ in turn.segments)
    ]


# The end --------------------------------------------------------------------------------------------------------------


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


# Memory ---------------------------------------------------------------------------------------------------------------


def test_three_entries_are_kept_and_four_are_condensed_to_one() -> None:
    model = Script()
    trace = play(model, steps=4)
    assert model.paths("condense_memory") == ["step/4/condense/memory"]
    condensed = one(trace, "MemoryCondensed")
    assert (condensed["turn"], condensed["entries"], condensed["text"]) == ("step/4/condense/memory", 4, "Text of step/4/condense/memory.")
    assert shown(model, "step/4/condense/memory")["story"].split("\n") == [f"visitor: tries key {step}" for step in (1, 2, 3, 4)]


def test_a_condensed_entry_counts_one() -> None:
    model = Script()
    trace = play(model, steps=11)
    assert [(event["turn"], event["entries"]) for event in events(trace, "MemoryCondensed")] == [
        ("step/4/condense/memory", 4),
        ("step/7/condense/memory", 4),
        ("step/10/condense/memory", 4),
    ]
    assert shown(model, "step/7/act/feasible")["story"].split("\n") == [
        "Text of step/4/condense/memory.",
        "visitor: tries key 5",
        "visitor: tries key 6",
    ]


def test_memory_is_condensed_once_at_the_end_of_a_step_and_not_in_its_middle() -> None:
    model = Script({"recipients": everybody})
    trace = play(model, steps=2, depth=2, interactions=100)
    assert [(event["turn"], event["entries"]) for event in events(trace, "MemoryCondensed")] == [
        ("step/1/condense/memory", 11),
        ("step/2/condense/memory", 12),
    ]
    paths = model.paths()
    assert [
        path.startswith("step/2/") for path in paths[paths.index("step/1/condense/memory") + 1 : paths.index("step/2/condense/memory")]
    ].count(False) == 0
    # In the middle of the step, all entries stand by themselves.
    assert len(shown(model, "step/1/react/owner/2/feasible")["story"].split("\n")) == 6


def test_entries_that_cannot_be_condensed_are_kept() -> None:
    model = Script({"condense_memory": ""})
    trace = play(model, steps=5)
    assert not events(trace, "MemoryCondensed")
    assert shown(model, "step/5/act/feasible")["story"].split("\n") == [f"visitor: tries key {step}" for step in (1, 2, 3, 4)]
    assert set(model.paths("condense_memory")) == {"step/4/condense/memory", "step/5/condense/memory"}


@pytest.mark.parametrize(("critiques", "condensed"), [(8, []), (9, [9]), (16, [9]), (17, [9, 9])])
def test_eight_critiques_are_kept_nine_are_condensed_and_a_condensed_one_counts_one(critiques: int, condensed: list[int]) -> None:
    model = Script({"critique": numbered})
    trace = play(model, steps=critiques, interactions=100)
    assert [event["critiques"] for event in events(trace, "CritiquesCondensed")] == condensed
    assert len(shown(model, "consequence")["critiques"].split("\n")) == (critiques - sum(condensed) + len(condensed))


def test_critiques_are_condensed_at_most_four_times_and_then_kept() -> None:
    model = Script({"critique": numbered})
    trace = play(model, steps=60, interactions=100)
    assert [(event["critiques"], event["times"]) for event in events(trace, "CritiquesCondensed")] == [(9, 1), (9, 2), (9, 3), (9, 4)]
    last = events(trace, "CritiquesCondensed")[-1]["turn"]
    assert last == "step/33/condense/critiques"
    kept = [f"Serious: harm of step/{step}/act/critique" for step in range(34, 61)]
    assert shown(model, "consequence")["critiques"].split("\n") == [f"Text of {last}.", *kept]


def test_critiques_are_condensed_at_the_end_of_a_step_and_not_in_its_middle() -> None:
    model = Script({"recipients": everybody, "critique": numbered})
    trace = play(model, steps=2, depth=2, interactions=100)
    assert [event["critiques"] for event in events(trace, "CritiquesCondensed")] == [11, 12]
    assert model.paths("condense_critiques") == ["step/1/condense/critiques", "step/2/condense/critiques"]


def test_critiques_that_cannot_be_condensed_are_kept_and_do_not_count_as_condensed() -> None:
    failing = {f"step/{step}/condense/critiques": "" for step in range(9, 15)}
    trace = play(Script({"critique": numbered, **failing}), steps=60, interactions=100)
    assert [(event["turn"], event["critiques"], event["times"]) for event in events(trace, "CritiquesCondensed")][:2] == [
        ("step/15/condense/critiques", 15, 1),
        ("step/23/condense/critiques", 9, 2),
    ]


# Consequence and revision ---------------------------------------------------------------------------------------------


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


# Reads ----------------------------------------------------------------------------------------------------------------


def reads(trace: Trace, path: str) -> list[str]:
    [found] = [event["reads"] for event in events(trace, "TurnCompleted") if (event["path"], event["attempt"]) == (path, 1)]
    return sorted(found)


def test_what_was_let_in_by_a_verdict_reads_that_verdict() -> None:
    model = Script({"critique": numbered}, notice={"step/1/act": "owner"})
    trace = play(model, steps=1)
    assert reads(trace, "step/1/react/owner") == [
        "cast/ego",
        "cast/plan",
        "cast/profile/owner",
        "cast/roles",
        "step/1/act",
        "step/1/act/feasible",
        "step/1/act/recipients",
    ]
    story = [
        "cast/ego",
        "cast/plan",
        "cast/roles",
        "respond",
        "step/1/act",
        "step/1/act/feasible",
        "step/1/react/owner",
        "step/1/react/owner/feasible",
    ]
    critiques = ["step/1/act/critique", "step/1/react/owner/critique"]
    assert reads(trace, "consequence") == sorted([*story, *critiques])


def test_condensed_critiques_read_the_verdicts_that_let_them_in() -> None:
    trace = play(Script({"critique": numbered}), steps=9)
    expected = [f"step/{step}/act/{kind}" for step in range(1, 10) for kind in ("critique", "feasible")]
    assert reads(trace, "step/9/condense/critiques") == sorted(expected)


def test_an_act_that_fell_back_to_the_plan_reads_the_turn_that_failed() -> None:
    trace = play(Script({"act": ""}, notice={"step/1/act": "owner", "step/1/react/owner": "visitor"}), steps=2)
    assert [path for path in reads(trace, "step/2/act/feasible") if path.startswith("step/2/")] == ["step/2/act#3"]


# Failures -------------------------------------------------------------------------------------------------------------


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


Rule = Callable[[_core.Turn], str]


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
