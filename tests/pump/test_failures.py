"""The pump: what ends one scene, and what ends a run."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pumping import (
    PICK,
    RICH,
    SAY,
    Ask,
    MemoryLog,
    Noted,
    by_request,
    failing,
    finished,
    new_scenes,
    payloads,
    pump,
    scene_of,
    undisturbed,
)

from matrix_py import _core
from matrix_py.errors import EngineClosedError, EngineError, StoreError
from matrix_py.pump import Answerer
from matrix_py.scene import Scene, SceneFunction, TurnTooLong
from matrix_py.testing import ScriptedModel, TooLong

# Failures of one scene -----------------------------------------------------------------------------------------------


def other_scenes_are_untouched(function: SceneFunction, model: Answerer, reason: str, *, window: int = 4) -> None:
    """Given a function or model that fails the second scene of three, then the others end as they do alone."""
    expected, _ = undisturbed(RICH, 3)
    scenes = new_scenes(3)
    log, counts = pump(function, scenes, model, window=window)
    assert (counts.open, counts.divergences) == (1, [])
    assert len(counts.errors) == 1
    assert counts.errors[0].startswith(f"scene {scenes[1].scene.hex()[:12]}: ")
    assert reason in counts.errors[0]
    assert not finished(log, scenes[1])
    hashes = log.hashes()
    for scene in (scenes[0], scenes[2]):
        assert hashes[scene.scene] == expected[scene.scene]


@pytest.mark.parametrize("window", [1, 2, 4])
def test_an_engine_error_leaves_its_scene_open_and_the_others_untouched(window: int) -> None:
    victim = new_scenes(3)[1].scene
    model = ScriptedModel(failing(2, EngineError("the decode failed"), of=lambda turn: turn.scene == victim), at_once=1)
    other_scenes_are_untouched(scene_of(RICH), model, "the decode failed", window=window)


@pytest.mark.parametrize("window", [1, 4])
def test_a_bug_in_scene_code_leaves_only_that_scene_open(window: int) -> None:
    act = scene_of(RICH)

    async def buggy(scene: Scene) -> None:
        if scene.instruction == "instruction 1":
            await scene.turn(SAY, said="x")
            raise ValueError("a bug")
        await act(scene)

    other_scenes_are_untouched(buggy, ScriptedModel(by_request), "ValueError: a bug", window=window)


def test_a_path_used_twice_leaves_the_scene_open() -> None:
    act = scene_of(RICH)

    async def twice(scene: Scene) -> None:
        if scene.instruction == "instruction 1":
            await scene.gather(scene.turn(SAY, path="here", said="x"), scene.turn(SAY, path="here", said="y"))
        await act(scene)

    other_scenes_are_untouched(twice, ScriptedModel(by_request), "path 'here' is used twice")


@pytest.mark.parametrize("bad_event", [{"text": 0.5}, {"text": "\ud800"}])
def test_an_event_that_has_no_canonical_form_leaves_the_scene_open(bad_event: dict[str, Any]) -> None:
    act = scene_of(RICH)

    async def floating(scene: Scene) -> None:
        if scene.instruction == "instruction 1":
            scene.emit(Noted(**bad_event))
        await act(scene)

    other_scenes_are_untouched(floating, ScriptedModel(by_request), "")


@pytest.mark.parametrize(
    "foreign",
    [
        lambda scene: scene.turn("unknown", said="x"),
        lambda scene: scene.turn(SAY, instruction="x"),
        lambda scene: Suspend(),
    ],
)
def test_what_cannot_be_asked_leaves_the_scene_open(foreign: Callable[[Scene], Any]) -> None:
    act = scene_of(RICH)

    async def asks(scene: Scene) -> None:
        if scene.instruction == "instruction 1":
            await foreign(scene)
        await act(scene)

    other_scenes_are_untouched(asks, ScriptedModel(by_request), "")


class Suspend:
    """Awaits what the pump does not know, as asyncio's awaitables would."""

    def __await__(self) -> Iterator[None]:
        yield None


@pytest.mark.parametrize("window", [1, 4])
def test_a_turn_refused_at_submit_fails_only_its_scene(window: int) -> None:
    # Given a form that does not parse, which the answerer refuses together with all that it is submitted with
    act = scene_of(RICH)

    async def unparsable(scene: Scene) -> None:
        if scene.instruction == "instruction 1":
            branches = (
                scene.turn(SAY, path="fine", said="x"),
                scene.turn(PICK, form="start: (", fallback="x", said="x"),
            )
            await scene.gather(*branches)
        await act(scene)

    other_scenes_are_untouched(unparsable, ScriptedModel(by_request), "form does not parse", window=window)


def test_only_the_first_few_reasons_are_kept() -> None:
    _, counts = pump(scene_of(RICH), new_scenes(20), ScriptedModel(lambda turn: EngineError("down")))
    assert (counts.open, len(counts.errors)) == (20, 5)


def test_a_prompt_too_long_ends_the_scene_as_failed_with_its_reason() -> None:
    (scene,) = new_scenes(1)
    log, counts = pump(scene_of((Ask(SAY), Ask(SAY))), [scene], ScriptedModel(lambda turn: TooLong()))
    events = payloads(log, scene)
    assert [event["kind"] for event in events] == ["SceneStarted", "TurnCompleted", "SceneFinished"]
    assert events[1]["outcome"] == "too_long"
    reason = "the prompt of turn plan/0 leaves no room in the context"
    assert events[2] == {"kind": "SceneFinished", "v": 1, "count": 2, "end": "failed", "reason": reason}
    assert (counts.failed, counts.completed, counts.open, counts.errors) == (1, 0, 0, [])


def test_a_scene_may_catch_that_a_prompt_is_too_long() -> None:
    async def shortens(scene: Scene) -> None:
        try:
            await scene.turn(SAY, path="long", said="x" * 100)
        except TurnTooLong:
            await scene.turn(SAY, path="short", said="x")

    (scene,) = new_scenes(1)
    log, counts = pump(shortens, [scene], ScriptedModel(lambda turn: TooLong() if turn.path == "long" else "ok"))
    assert [event.get("path") for event in payloads(log, scene)] == [None, "long", "short", None]
    assert counts.completed == 1


# What ends a run -----------------------------------------------------------------------------------------------------


class Ending(ScriptedModel):
    """Ends the run at a collect."""

    def __init__(self, error: BaseException, *, after: int) -> None:
        super().__init__(by_request, at_once=1)
        self._error = error
        self._left = after

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().collect(timeout_s)


@pytest.mark.parametrize("after", [0, 1, 5, 12])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineClosedError("the engine is closed")])
def test_what_ends_a_run_leaves_a_log_that_resume_goes_on_with(error: BaseException, after: int) -> None:
    expected, num_turns = undisturbed(RICH, 3)
    scenes, log = new_scenes(3), MemoryLog()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(type(error)):
            pump(scene_of(RICH), scenes, Ending(error, after=after), log=log, window=2)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []  # such as "was never awaited"
    assert log.open_scenes == []
    for scene in scenes:
        log.core.open(scene.scene)  # raises where the scene is open
    assert sum(len(kept) for kept in log.completions.values()) == after
    model = ScriptedModel(by_request)
    resumed, _ = pump(scene_of(RICH), log.stored(scenes), model)
    assert resumed.hashes() == expected
    assert len(model.turns) == num_turns - after


@pytest.mark.parametrize("error", [EngineError("the engine is gone"), KeyboardInterrupt()])
def test_an_engine_that_is_gone_at_submit_ends_the_run_with_every_scene_left(error: BaseException) -> None:
    class Gone(ScriptedModel):
        def submit(self, turns: list[_core.Turn]) -> None:
            raise error

        def cancel(self, scene: bytes) -> None:
            raise EngineClosedError("the engine is closed")

    log = MemoryLog()
    with pytest.raises(type(error)):
        pump(scene_of(RICH), new_scenes(3), Gone(by_request), log=log)
    assert log.open_scenes == []


def test_a_writer_that_failed_ends_the_run_before_anything_is_asked() -> None:
    def keep_up() -> None:
        raise StoreError("the disk is full")

    model, log = ScriptedModel(by_request), MemoryLog()
    with pytest.raises(StoreError):
        pump(scene_of(RICH), new_scenes(3), model, log=log, keep_up=keep_up)
    assert (model.turns, log.open_scenes) == ([], [])


def test_a_bug_in_an_answerer_ends_the_run() -> None:
    def raises(turn: _core.Turn) -> str:
        raise ZeroDivisionError

    log = MemoryLog()
    with pytest.raises(ZeroDivisionError):
        pump(scene_of(RICH), new_scenes(2), ScriptedModel(raises), log=log)
    assert log.open_scenes == []


@pytest.mark.parametrize("how", ["emits", "asks", "raises"])
def test_what_scene_code_does_while_it_is_closed_is_no_part_of_the_scene(how: str) -> None:
    async def clings(scene: Scene, path: str) -> None:
        try:
            await scene.turn(SAY, path=path, said="x")
        finally:
            if how == "emits":
                scene.emit(Noted(text="goodbye"))
            elif how == "asks":
                await scene.turn(SAY, path=f"{path}/goodbye", said="x")
            else:
                raise RuntimeError("goodbye")

    async def act(scene: Scene) -> None:
        await scene.turn(SAY, path="first", said="x")
        if scene.instruction == "instruction 0":
            await scene.gather(clings(scene, "a"), clings(scene, "b"))
        else:
            await scene.turn(SAY, path="second", said="x")

    scenes = new_scenes(2)
    answer: Callable[[_core.Turn], Any] = lambda turn: EngineError("down") if turn.path == "a" else "ok"  # noqa: E731
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log, counts = pump(act, scenes, ScriptedModel(answer, at_once=1))
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert (counts.open, counts.completed) == (1, 1)
    assert "down" in counts.errors[0]
    assert [event["kind"] for event in payloads(log, scenes[0])] == ["SceneStarted", "TurnCompleted"]
