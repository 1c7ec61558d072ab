"""The pump: resume at any turn, and replay."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pumping import (
    PLANS,
    RICH,
    SAY,
    Plan,
    by_request,
    failing,
    new_scenes,
    pump,
    scene_of,
    undisturbed,
)

from matrix_py import _core
from matrix_py.errors import EngineError
from matrix_py.scene import Scene
from matrix_py.testing import ScriptedModel


@settings(max_examples=25)
@given(plan=PLANS, shuffle=st.integers(0, 2**32), at_once=st.sampled_from([1, 2, None]), data=st.data())
def test_resume_after_an_error_at_any_turn_ends_as_an_undisturbed_run(
    plan: Plan, shuffle: int, at_once: int | None, data: st.DataObject
) -> None:
    expected, num_turns = undisturbed(plan, 2)
    scenes = new_scenes(2)
    at = data.draw(st.integers(0, max(num_turns - 1, 0)), label="failing turn")
    # Given a run in which one turn has no completion
    first = ScriptedModel(failing(at, EngineError("down")), order=random.Random(shuffle), at_once=at_once)
    log, counts = pump(scene_of(plan), scenes, first, window=2)
    assert counts.open == (1 if num_turns else 0)
    # When it is resumed
    stored = log.stored(scenes)
    second = ScriptedModel(by_request, order=random.Random(shuffle + 1), at_once=at_once)
    resumed, after = pump(scene_of(plan), stored, second, window=2)
    # Then it ends as if nothing had been, and asks nothing that was answered
    assert resumed.hashes() == expected
    assert (after.open, after.divergences) == (0, [])
    answered = {(scene.scene, *key) for scene in stored for key in scene.completions}
    asked = {(turn.scene, turn.path, turn.attempt) for turn in second.turns}
    assert not answered & asked
    assert after.live_turns == len(asked)
    assert after.turns == len(asked | answered)


@pytest.mark.parametrize("at_once", [1, None])
@pytest.mark.parametrize("shuffle", [None, 1, 2])
def test_resume_after_an_error_at_every_turn_of_a_rich_scene(at_once: int | None, shuffle: int | None) -> None:
    expected, num_turns = undisturbed(RICH, 1)
    assert num_turns >= 9
    for at in range(num_turns):
        order = None if shuffle is None else random.Random(shuffle)
        log, counts = pump(scene_of(RICH), new_scenes(1), ScriptedModel(failing(at, EngineError("down")), order=order, at_once=at_once))
        assert counts.open == 1
        (stored,) = log.stored(new_scenes(1))
        # Everything that was answered is kept, also what came together with the error.
        assert len(stored.completions) == counts.live_turns >= at
        model = ScriptedModel(by_request)
        resumed, _ = pump(scene_of(RICH), [stored], model)
        assert resumed.hashes() == expected
        assert len(model.turns) == num_turns - len(stored.completions)


def test_resumes_that_fail_again_and_again_still_come_to_the_end() -> None:
    expected, num_turns = undisturbed(RICH, 1)
    scenes = new_scenes(1)
    for answered in range(1, num_turns + 1):
        log, counts = pump(scene_of(RICH), scenes, ScriptedModel(failing(1, EngineError("down")), at_once=1))
        assert counts.live_turns == 1
        scenes = log.stored(scenes)
        assert len(scenes[0].completions) == answered
    assert counts.completed + counts.failed == 1
    assert log.hashes() == expected


def test_nothing_more_is_asked_for_a_scene_that_was_left() -> None:
    async def branch(scene: Scene, name: str) -> None:
        for number in range(3):
            await scene.turn(SAY, path=f"{name}/{number}", said="x")

    async def act(scene: Scene) -> None:
        await scene.gather(branch(scene, "a"), branch(scene, "b"), branch(scene, "c"))

    # Given answers that come in twos: to a, which goes on, and to b, an error; c waits
    scenes = new_scenes(2)
    left = scenes[0].scene
    down: Callable[[_core.Turn], bool] = lambda turn: (turn.scene, turn.path) == (left, "b/0")  # noqa: E731
    model = ScriptedModel(lambda turn: EngineError("down") if down(turn) else "ok", at_once=2)
    log, counts = pump(act, scenes, model)
    # Then what a would ask next is not asked, and c is cancelled
    assert [turn.path for turn in model.turns if turn.scene == left] == ["a/0", "b/0", "c/0"]
    assert list(log.completions[left]) == [("a/0", 1)]
    assert (counts.open, counts.completed) == (1, 1)


def test_what_an_answerer_completes_after_its_scene_was_left_is_kept() -> None:
    class Late(ScriptedModel):
        """Cannot cancel what it has begun, like the engine."""

        def cancel(self, scene: bytes) -> None:
            pass

    async def act(scene: Scene) -> None:
        await scene.gather(scene.turn(SAY, path="a", said="x"), scene.turn(SAY, path="b", said="x"))

    scenes = new_scenes(2)
    answer: Callable[[_core.Turn], Any] = failing(0, EngineError("down"))
    log, counts = pump(act, scenes, Late(answer, at_once=1), window=2)
    assert (counts.open, counts.completed) == (1, 1)
    assert list(log.completions[scenes[0].scene]) == [("b", 1)]
    assert len(log.events[scenes[0].scene]) == 1  # it started, and nothing follows from half of a gather


def test_resume_hands_the_writer_only_what_is_new() -> None:
    scenes = new_scenes(1)
    log, _ = pump(scene_of(RICH), scenes, ScriptedModel(failing(4, EngineError("down")), at_once=1))
    (stored,) = log.stored(scenes)
    resumed, _ = pump(scene_of(RICH), [stored], ScriptedModel(by_request))
    for part, events, completions in (
        (log, len(stored.events), len(stored.completions)),
        (resumed, len(resumed.events[stored.scene]) - len(stored.events), len(resumed.completions[stored.scene])),
    ):
        batches = part.core.drain()
        assert batches is not None
        assert (len(batches[2]), len(batches[3])) == (completions, events)


@settings(max_examples=25)
@given(plan=PLANS)
def test_replay_needs_no_answerer_and_derives_the_same(plan: Plan) -> None:
    expected, _ = undisturbed(plan, 3)
    log, live = pump(scene_of(plan), new_scenes(3), ScriptedModel(by_request))
    replayed, counts = pump(scene_of(plan), log.stored(new_scenes(3)), None, window=2, complete=True)
    assert replayed.hashes() == expected
    assert (counts.completed, counts.failed) == (live.completed, live.failed)
    assert (counts.turns, counts.live_turns, counts.divergences) == (live.turns, 0, [])
    assert replayed.core.pending == 0


def test_replay_of_an_unfinished_scene_goes_as_far_as_the_log() -> None:
    scenes = new_scenes(1)
    log, _ = pump(scene_of(RICH), scenes, ScriptedModel(failing(4, EngineError("down")), at_once=1))
    replayed, counts = pump(scene_of(RICH), log.stored(scenes), None)
    assert replayed.hashes() == log.hashes()
    assert (counts.open, counts.errors, counts.divergences) == (1, [], [])
