"""Scene `matrix`: what roles know, what is remembered, and what is condensed."""

from __future__ import annotations

import pytest
from social import (
    INSTRUCTION,
    RESPONSE,
    Script,
    candidates,
    events,
    everybody,
    numbered,
    one,
    play,
    shown,
)

from matrix_py.testing.fields import fields

# What roles know -----------------------------------------------------------------------------------------------------


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


# Memory --------------------------------------------------------------------------------------------------------------


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
