"""Scene `matrix`: who is in it, and what they plan."""

from __future__ import annotations

import re

import pytest
from social import (
    INSTRUCTION,
    RESPONSE,
    Script,
    events,
    everybody,
    kinds,
    one,
    play,
    prompts,
    shown,
)

from matrix_py.scene import matrix
from matrix_py.testing import FormFailed, run_scene
from matrix_py.types import Limits


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
