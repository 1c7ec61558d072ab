"""The pump: retries, fallbacks, and what is counted."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from pumping import (
    CHOOSE,
    PICK,
    PLANS,
    SAY,
    YES_NO,
    Plan,
    asking,
    by_request,
    new_scenes,
    payloads,
    pump,
    says,
    scene_of,
)

from matrix_py import _core
from matrix_py.pump import KindCounts
from matrix_py.scene import Scene
from matrix_py.testing import FormFailed, ScriptedModel

# Forms ---------------------------------------------------------------------------------------------------------------


def test_a_form_that_never_validates_ends_in_its_fallback_after_three_attempts() -> None:
    (scene,), replies, model = new_scenes(1), [], says("perhaps")
    log, counts = pump(asking(PICK, replies), [scene], model)
    events = payloads(log, scene)[1:-1]
    assert [(event["kind"], event.get("attempt"), event.get("outcome")) for event in events] == [
        *(("TurnCompleted", attempt, "form_failed") for attempt in (1, 2, 3)),
        ("TurnFellBack", None, None),
    ]
    assert events[-1] == {"kind": "TurnFellBack", "v": 1, "path": "verdict", "attempts": 3, "text": "no"}
    assert {event["path"] for event in events} == {"verdict"}
    # Each attempt has random numbers of its own: the same key would only give the same text again.
    assert len({turn.key for turn in model.turns}) == len({turn.request for turn in model.turns}) == 3
    assert [str(turn)[5:15].split(" ")[0] for turn in model.turns] == ["verdict", "verdict#2", "verdict#3"]
    assert (replies[0].text, replies[0].fell_back, counts.fallbacks, counts.completed) == ("no", True, 1, 1)


def test_a_greedy_form_is_tried_once() -> None:
    (scene,), replies, model = new_scenes(1), [], says("perhaps")
    log, counts = pump(asking(CHOOSE, replies), [scene], model)
    assert [event["kind"] for event in payloads(log, scene)[1:-1]] == ["TurnCompleted", "TurnFellBack"]
    assert payloads(log, scene)[2]["attempts"] == 1
    assert (len(model.turns), replies[0].fell_back, counts.fallbacks) == (1, True, 1)


def test_a_form_that_validates_at_the_second_attempt_needs_no_fallback() -> None:
    (scene,), replies = new_scenes(1), []
    model = ScriptedModel(lambda turn: "yes" if turn.attempt == 2 else FormFailed("ye"))
    log, counts = pump(asking(PICK, replies), [scene], model)
    events = payloads(log, scene)[1:-1]
    assert [(event["kind"], event["attempt"], event["outcome"], event["finish"]) for event in events] == [
        ("TurnCompleted", 1, "form_failed", "length"),
        ("TurnCompleted", 2, "text", "form"),
    ]
    assert (replies[0].text, replies[0].fell_back, counts.fallbacks) == ("yes", False, 0)


def test_a_form_needs_a_fallback() -> None:
    async def ask(scene: Scene) -> None:
        await scene.turn(SAY, form=YES_NO, said="x")

    model = says("yes")
    _, counts = pump(ask, new_scenes(1), model)
    assert "turn 'say' has a form but no fallback" in counts.errors[0]
    assert (counts.open, model.turns) == (1, [])


# Counts --------------------------------------------------------------------------------------------------------------


class Counting(ScriptedModel):
    """Says how many tokens a turn took: 100 of prompt, 30 of them cached at a second attempt, and as many as the text has letters."""

    def _complete(self, turn: _core.Turn) -> _core.Completion | Exception:
        said = super()._complete(turn)
        assert isinstance(said, _core.Completion)
        return _core.Completion(
            turn,
            text=said.text,
            outcome=said.outcome,
            finish=said.finish,
            prompt_tokens=100,
            cached_tokens=30 if turn.attempt > 1 else 0,
            generated_tokens=len(said.text),
        )


def test_what_was_asked_is_counted_by_kind_of_turn() -> None:
    async def act(scene: Scene) -> None:
        await scene.turn(SAY, path="first", said="x")
        await scene.gather(asking(PICK, [])(scene), scene.turn(SAY, path="second", said="x"))

    scenes, said = new_scenes(2), {SAY: "four", PICK: "no?"}
    log, counts = pump(act, scenes, Counting(lambda turn: said[turn.kind]))
    assert counts.live == {
        SAY: KindCounts(turns=4, prompt_tokens=400, cached_tokens=0, generated_tokens=16),
        PICK: KindCounts(turns=6, prompt_tokens=600, cached_tokens=120, generated_tokens=18),
    }
    assert (counts.turns, counts.live_turns, counts.generated_tokens, counts.fallbacks) == (10, 10, 34, 2)
    # What is recorded already costs nothing.
    _, replayed = pump(act, log.stored(scenes), None, complete=True)
    assert (replayed.turns, replayed.live, replayed.live_turns, replayed.generated_tokens) == (10, {}, 0, 0)


@settings(max_examples=30)
@given(plan=PLANS)
def test_flaws_and_fallbacks_are_counted_as_their_events_say_live_and_replayed(plan: Plan) -> None:
    scenes = new_scenes(3)
    log, live = pump(scene_of(plan), scenes, ScriptedModel(by_request))
    _, replayed = pump(scene_of(plan), log.stored(scenes), None, complete=True)
    events = [event for scene in scenes for event in payloads(log, scene)]
    flaws = Counter((event["flaw"], event["policy"]) for event in events if event["kind"] == "ReplyFlawed")
    assert live.flaws == replayed.flaws == flaws
    assert live.fallbacks == replayed.fallbacks == sum(event["kind"] == "TurnFellBack" for event in events)
