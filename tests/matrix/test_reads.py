"""Scene `matrix`: which turns an event goes back to."""

from __future__ import annotations

from social import (
    Script,
    events,
    numbered,
    play,
)

from matrix_py.testing import Trace


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
