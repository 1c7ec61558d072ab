"""The pump: program order, the window of open scenes, and random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pumping import (
    PICK,
    PLANS,
    PROMPTS,
    RICH,
    SAY,
    MemoryLog,
    Noted,
    Plan,
    asking,
    by_request,
    new_scenes,
    payloads,
    pump,
    says,
    scene_of,
    undisturbed,
)

from matrix_py import _core
from matrix_py.errors import RequestError, SceneError
from matrix_py.pump import Counts, Pump
from matrix_py.scene import Scene
from matrix_py.testing import ScriptedModel, make_prompts, run_scene
from matrix_py.types import Limits, StoredScene

# Program order -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(plan=PLANS, window=st.integers(1, 4), shuffle=st.integers(0, 2**32), at_once=st.sampled_from([1, 2, 3, None]))
def test_arrival_order_and_batching_leave_no_trace(plan: Plan, window: int, shuffle: int, at_once: int | None) -> None:
    expected, _ = undisturbed(plan, 3)
    model = ScriptedModel(by_request, order=random.Random(shuffle), at_once=at_once)
    log, counts = pump(scene_of(plan), new_scenes(3), model, window=window)
    assert log.hashes() == expected
    assert (counts.completed + counts.failed, counts.open, counts.divergences) == (3, 0, [])
    assert counts.turns == counts.live_turns == len(model.turns)


@pytest.mark.parametrize("shuffle", range(5))
def test_branches_append_their_events_in_program_order(shuffle: int) -> None:
    async def branch(scene: Scene, name: str, turns: int) -> str:
        scene.emit(Noted(text=f"{name} begins"))
        for number in range(turns):
            await scene.turn(SAY, path=f"{name}/{number}", said=name)
        return name

    async def outer(scene: Scene) -> list[str]:
        inner = await scene.gather(branch(scene, "b1", 1), branch(scene, "b2", 2))
        scene.emit(Noted(text="b joins"))
        return inner

    async def act(scene: Scene) -> None:
        joined: list[Any] = await scene.gather(branch(scene, "a", 3), outer(scene), branch(scene, "c", 0))
        scene.emit(Noted(text=str(joined)))

    (scene,) = new_scenes(1)
    log, _ = pump(act, [scene], ScriptedModel(lambda turn: "ok", order=random.Random(shuffle), at_once=1))
    told = [event.get("path") or event.get("text") for event in payloads(log, scene)[1:-1]]
    assert told == [
        *("a begins", "a/0", "a/1", "a/2"),
        *("b1 begins", "b1/0", "b2 begins", "b2/0", "b2/1", "b joins"),
        *("c begins", "['a', ['b1', 'b2'], 'c']"),
    ]


def test_gather_asks_all_branches_before_it_waits_and_may_be_empty() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.gather() == []
        await scene.gather(*(scene.turn(SAY, path=f"p{number}", said="x") for number in range(5)))

    model = says("ok")
    sizes: list[int] = []
    submit = model.submit
    model.submit = lambda turns: (sizes.append(len(turns)), submit(turns))[1]  # type: ignore[method-assign]
    _, counts = pump(act, new_scenes(2), model)
    assert (sizes, counts.completed) == ([10], 2)


@pytest.mark.parametrize("shuffle", range(4))
def test_the_first_branch_in_order_that_raises_ends_the_gather_once_all_are_done(shuffle: int) -> None:
    async def raising(scene: Scene, name: str) -> None:
        scene.emit(Noted(text=name))
        await scene.turn(SAY, path=name, said="x")
        raise LookupError(name)

    async def act(scene: Scene) -> None:
        try:
            await scene.gather(scene.turn(SAY, path="fine", said="x"), raising(scene, "first"), raising(scene, "second"))
        except LookupError as error:
            scene.emit(Noted(text=f"caught {error}"))

    (scene,) = new_scenes(1)
    model = ScriptedModel(lambda turn: "ok", order=random.Random(shuffle), at_once=1)
    log, counts = pump(act, [scene], model)
    told = [event.get("path") or event.get("text") for event in payloads(log, scene)[1:-1]]
    assert told == ["fine", "first", "first", "caught first"]
    assert (len(model.turns), counts.completed) == (3, 1)


# The window ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    window=st.integers(1, 6),
    num_scenes=st.integers(0, 15),
    at_once=st.sampled_from([1, 3, None]),
    shuffle=st.integers(0, 99),
)
def test_no_more_scenes_are_open_or_read_than_the_window_holds(window: int, num_scenes: int, at_once: int | None, shuffle: int) -> None:
    log, read, seen = MemoryLog(), 0, []

    def source() -> Iterator[StoredScene]:
        nonlocal read
        for scene in new_scenes(num_scenes):
            read += 1
            yield scene

    def progress(counts: Counts, num_open: int) -> None:
        assert num_open == len(log.open_scenes) <= window
        assert read == counts.scenes + num_open
        seen.append((counts.completed, num_open))

    async def two_turns(scene: Scene) -> None:
        if scene.draw("short", 3):  # a third of the scenes end at once, without a turn
            await scene.turn(SAY, path="a", said="x")
            await scene.turn(SAY, path="b", said="x")

    model = ScriptedModel(lambda turn: "ok", order=random.Random(shuffle), at_once=at_once)
    driver = Pump(
        two_turns,
        "test",
        prompts=PROMPTS,
        limits=Limits(),
        seed=0,
        log=log,  # type: ignore[arg-type]
        answerer=model,
        window=window,
        on_progress=progress,
    )
    counts = driver.run(source())
    assert counts.completed == num_scenes == read
    assert log.most_open <= min(window, num_scenes)
    assert seen[-1] == (num_scenes, 0)


def test_a_window_is_used_in_full() -> None:
    log, _ = pump(scene_of(RICH), new_scenes(9), ScriptedModel(by_request), window=4)
    assert log.most_open == 4


# Random numbers ------------------------------------------------------------------------------------------------------


async def draws(scene: Scene) -> None:
    scene.emit(Noted(text=" ".join(str(scene.draw(f"number {number}", 10**6)) for number in range(8))))


def drawn(seed: int, num_scenes: int, *, which: int = 0) -> str:
    scenes = new_scenes(num_scenes)
    log, _ = pump(draws, scenes, None, seed=seed)
    return str(payloads(log, scenes[which])[1]["text"])


def test_draws_follow_from_seed_and_scene_and_name_alone() -> None:
    assert drawn(7, 1) == drawn(7, 5)
    assert drawn(7, 1) != drawn(8, 1)
    assert drawn(7, 5, which=3) != drawn(7, 5)
    assert len(set(drawn(7, 1).split())) == 8


def test_turns_have_keys_of_their_own_by_seed_scene_path_and_attempt() -> None:
    keys = []
    for seed in (0, 1):
        model = says("perhaps")
        pump(asking(PICK, []), new_scenes(3), model, seed=seed)
        keys += [turn.key for turn in model.turns]
    assert len(set(keys)) == len(keys) == 2 * 3 * 3


@given(choices=st.integers(1, 2**53), name=st.text(max_size=5))
@settings(max_examples=50)
def test_a_draw_is_one_of_its_choices(choices: int, name: str) -> None:
    numbers: list[int] = []

    async def draw(scene: Scene) -> None:
        numbers.extend(scene.draw(name, choices) for _ in range(2))

    run_scene(draw, "x", says(""), prompts=PROMPTS)
    assert 0 <= numbers[0] == numbers[1] < choices


def test_a_draw_needs_a_choice() -> None:
    async def draw(scene: Scene) -> None:
        with pytest.raises(SceneError, match="has 0 choices"):
            scene.draw("none", 0)

    assert run_scene(draw, "x", says(""), prompts=PROMPTS).counts.completed == 1


def test_a_scene_of_any_place_in_any_company_has_the_same_hashes() -> None:
    alone = undisturbed(RICH, 1)[0]
    scenes = new_scenes(6)
    log, _ = pump(scene_of(RICH), scenes[::-1], ScriptedModel(by_request), window=3)
    assert log.hashes() == undisturbed(RICH, 6)[0]
    assert log.hashes()[scenes[0].scene] == alone[scenes[0].scene]


def test_the_identity_of_a_scene_is_in_its_first_event() -> None:
    given_scene = StoredScene(_core.scene_id("test", "one", "two", 3), "one", "two", 3)
    log, _ = pump(draws, [given_scene], None)
    assert payloads(log, given_scene)[0] == {
        "kind": "SceneStarted",
        "v": 1,
        "scene": "test",
        "instruction": _core.blake3(b"one").hex(),
        "response": _core.blake3(b"two").hex(),
        "occurrence": 3,
    }


def test_a_request_error_is_no_completion() -> None:
    # Given an answerer that finds out late, then it is treated as at submit: the scene stays open
    _, counts = pump(scene_of(RICH), new_scenes(1), ScriptedModel(lambda turn: RequestError("an empty prompt")))
    assert (counts.open, counts.live_turns) == (1, 0)


def test_a_path_used_twice_ends_the_scene_even_if_a_branch_catches_it() -> None:
    """Which branch comes second depends on timing, so nothing after it may reach the log."""

    async def branch(scene: Scene, first: str) -> None:
        await scene.turn("say", path=first, text="x")
        try:
            await scene.turn("say", path="common", text="x")
        except SceneError:
            scene.emit(Noted(text=first))

    async def scene_code(scene: Scene) -> None:
        await scene.gather(branch(scene, "a"), branch(scene, "b"))

    trace = run_scene(scene_code, "x", ScriptedModel(lambda _: "y"), prompts=make_prompts({"say": "{text}"}))
    assert trace.counts.open == 1
    assert "used twice" in trace.counts.errors[0]
    assert [event["kind"] for event in trace.events] == ["SceneStarted"]
