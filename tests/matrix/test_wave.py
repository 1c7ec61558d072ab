"""Scene `matrix`: the reactions to an act, and those to the reactions."""

from __future__ import annotations

import pytest
from social import (
    NO,
    ROLES,
    Script,
    events,
    everybody,
    numbered,
    play,
    shown,
)

from matrix_py import _core


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
