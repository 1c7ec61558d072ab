"""The pump: program order, retries, fallbacks, resume at any turn, divergence, and scenes kept apart."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_py import _core
from matrix_py.errors import DivergenceError, EngineClosedError, EngineError, RequestError, SceneError, StoreError
from matrix_py.events import Event
from matrix_py.pump import Answerer, Counts, KindCounts, Pump
from matrix_py.scene import Scene, SceneFunction, TurnTooLong
from matrix_py.testing import FormFailed, ScriptedModel, TooLong, make_prompts, run_scene
from matrix_py.types import Limits, StoredEvent, StoredScene, TurnSettings

YES_NO = 'start: "yes" | "no"'
# Free text; free text whose prompt may be too long; free text at temperature 0.5, which may be flawed; a form at temperature 0.5; a form at
# temperature 0.
SAY, RISK, TELL, PICK, CHOOSE = "say", "risk", "tell", "pick", "choose"
PROMPTS = make_prompts(
    {SAY: "{said}", RISK: "At length: {said}", TELL: "Tell: {said}", PICK: "Yes or no? {said}", CHOOSE: "No or yes? {said}"},
    settings={
        TELL: TurnSettings(max_tokens=64, temperature=0.5),
        PICK: TurnSettings(max_tokens=4, temperature=0.5),
        CHOOSE: TurnSettings(max_tokens=4, temperature=0.0),
    },
)
REFUSAL = "I'm sorry, but I can't help with that."


class Noted(Event, frozen=True):
    """A scene under test says something."""

    text: str


@dataclass
class MemoryLog:
    """An event log that remembers what each scene's part of it holds, and how many scenes were open at a time."""

    core: _core.EventLog = field(default_factory=_core.EventLog)
    events: dict[bytes, list[StoredEvent]] = field(default_factory=dict)
    completions: dict[bytes, dict[tuple[str, int], tuple[bytes, str, str, str]]] = field(default_factory=dict)
    open_scenes: list[bytes] = field(default_factory=list)
    most_open: int = 0

    def open(self, scene: bytes, stored: int = 0) -> None:
        self.core.open(scene, stored)
        self.events[scene] = []
        self.open_scenes.append(scene)
        self.most_open = max(self.most_open, len(self.open_scenes))

    def append(self, scene: bytes, payload: bytes) -> tuple[int, bytes]:
        seq, digest = self.core.append(scene, payload)
        self.events[scene].append(StoredEvent(payload.decode(), digest))
        return seq, digest

    def record(self, turn: _core.Turn, completion: _core.Completion) -> None:
        kept = self.completions.setdefault(turn.scene, {})
        assert (turn.path, turn.attempt) not in kept, f"{turn!r} is stored twice"
        assert completion.request == turn.request
        self.core.record(turn, completion)
        kept[turn.path, turn.attempt] = (turn.request, completion.text, completion.outcome, completion.finish)

    def close(self, scene: bytes) -> tuple[int, bytes]:
        self.open_scenes.remove(scene)
        return self.core.close(scene)

    def hashes(self) -> dict[bytes, list[bytes]]:
        return {scene: [event.hash for event in events] for scene, events in self.events.items()}

    def stored(self, scenes: list[StoredScene]) -> list[StoredScene]:
        """Return scenes as this log would give them to a resume."""
        return [
            replace(
                scene,
                events=list(self.events.get(scene.scene, scene.events)),
                completions=scene.completions | self.completions.get(scene.scene, {}),
            )
            for scene in scenes
        ]


def new_scenes(count: int) -> list[StoredScene]:
    names = [f"instruction {number}" for number in range(count)]
    return [StoredScene(_core.scene_id("test", name, None, 0), name, None, 0) for name in names]


def pump(
    function: SceneFunction,
    scenes: list[StoredScene],
    model: Answerer | None,
    *,
    window: int = 4,
    seed: int = 0,
    log: MemoryLog | None = None,
    **options: Any,
) -> tuple[MemoryLog, Counts]:
    log = log or MemoryLog()
    driver = Pump(
        function,
        "test",
        prompts=PROMPTS,
        limits=Limits(),
        seed=seed,
        log=log,
        answerer=model,
        window=window,
        **options,  # type: ignore[arg-type]
    )
    counts = driver.run(iter(scenes))
    assert log.open_scenes == []
    assert counts.scenes == len(scenes)
    return log, counts


def says(text: str) -> ScriptedModel:
    return ScriptedModel(lambda turn: text)


def payloads(log: MemoryLog, scene: StoredScene) -> list[dict[str, Any]]:
    return [json.loads(event.payload) for event in log.events[scene.scene]]


def finished(log: MemoryLog, scene: StoredScene) -> bool:
    events = payloads(log, scene)
    return bool(events) and events[-1]["kind"] == "SceneFinished"


# Generated scenes: turns, draws and nested branches, in which every prompt follows from all that was said before ------


@dataclass(frozen=True)
class Ask:
    kind: str


@dataclass(frozen=True)
class Draw:
    pass


@dataclass(frozen=True)
class Fork:
    branches: tuple[tuple[Ask | Draw | Fork, ...], ...]


Plan = tuple[Ask | Draw | Fork, ...]
BOUNDS: dict[str, dict[str, Any]] = {
    TELL: {"fallback": "nothing", "speakers": ["tell"]},
    PICK: {"form": YES_NO, "fallback": "no"},
    CHOOSE: {"form": YES_NO, "fallback": "no"},
}


def plans(max_steps: int = 4) -> st.SearchStrategy[Plan]:
    asks = st.sampled_from([SAY, RISK, TELL, PICK, CHOOSE]).map(Ask)
    leaf = st.lists(st.one_of(asks, asks, st.just(Draw())), min_size=1, max_size=max_steps).map(tuple)
    return st.recursive(
        leaf,
        lambda inner: st.tuples(
            st.lists(inner, max_size=3).map(tuple).map(Fork),
            st.one_of(asks, st.lists(inner, max_size=2).map(tuple).map(Fork)),
        ),
        max_leaves=5,
    )


def scene_of(plan: Plan, *, parallel: bool = True) -> SceneFunction:
    async def walk(scene: Scene, steps: Plan, path: str, said: str) -> str:
        for at, step in enumerate(steps):
            here = f"{path}/{at}"
            match step:
                case Draw():
                    scene.emit(Noted(text=f"{here} drew {scene.draw(here, 1000)}"))
                case Ask(kind):
                    reply = await scene.turn(kind, path=here, said=said, **BOUNDS.get(kind, {}))
                    said = reply.text
                    scene.emit(Noted(text=f"{here} heard {said}"))
                case Fork(branches):
                    if parallel:
                        heard = await scene.gather(*(walk(scene, each, f"{here}.{i}", said) for i, each in enumerate(branches)))
                    else:
                        heard = [await walk(scene, each, f"{here}.{i}", said) for i, each in enumerate(branches)]
                    said = " ".join([said, *heard])
        return said

    async def planned(scene: Scene) -> None:
        scene.emit(Noted(text=await walk(scene, plan, "plan", scene.instruction)))

    return planned


def by_request(turn: _core.Turn) -> str | FormFailed | TooLong:
    """Answer as a deterministic model would: by the request and nothing else."""
    chance = turn.request[0]
    if turn.kind == TELL and chance < 160:
        return (REFUSAL, "...", "tell: It is so.", "<think>It may be.</think>")[chance % 4]
    if turn.sampling.form is None:
        return TooLong() if turn.kind == RISK and chance < 64 else turn.request[1:4].hex()
    return ("yes", "no", "perhaps", FormFailed("ye"))[chance % 4]


PLANS = plans()
RICH: Plan = (
    Ask(SAY),
    Fork(((Ask(SAY), Ask(PICK)), (Draw(), Fork(((Ask(CHOOSE),), (Ask(SAY), Ask(SAY)))), Ask(PICK)), (Ask(SAY), Ask(TELL)))),
    Ask(SAY),
)


@cache
def undisturbed(plan: Plan, num_scenes: int) -> tuple[dict[bytes, list[bytes]], int]:
    """Hashes of a run without branches in parallel, one scene at a time; and the number of its turns."""
    model = ScriptedModel(by_request)
    log, _ = pump(scene_of(plan, parallel=False), new_scenes(num_scenes), model, window=1)
    return log.hashes(), len(model.turns)


# Program order --------------------------------------------------------------------------------------------------------


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


# Forms ----------------------------------------------------------------------------------------------------------------


def asking(kind: str, replies: list[Any]) -> SceneFunction:
    async def ask(scene: Scene) -> None:
        replies.append(await scene.turn(kind, path="verdict", form=YES_NO, fallback="no", said="x"))

    return ask


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


# Counts ---------------------------------------------------------------------------------------------------------------


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


# Failures of one scene ------------------------------------------------------------------------------------------------


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


def failing(turn_number: int, error: Exception, *, of: Callable[[_core.Turn], bool] = lambda turn: True) -> Callable[[_core.Turn], Any]:
    """Answer by request, but with an error at the given one of the chosen turns."""
    numbers = iter(range(10**6))
    return lambda turn: error if of(turn) and next(numbers) == turn_number else by_request(turn)


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


# Resume ---------------------------------------------------------------------------------------------------------------


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


# Divergence -----------------------------------------------------------------------------------------------------------


def recorded() -> StoredScene:
    log, _ = pump(scene_of(RICH), new_scenes(1), ScriptedModel(by_request))
    (stored,) = log.stored(new_scenes(1))
    return stored


def diverges(function: SceneFunction, stored: StoredScene, *, complete: bool = True, seed: int = 0) -> DivergenceError:
    """Given a stored scene that the function does not derive, then replay counts that, and a run says the same and goes no further."""
    log, counts = pump(function, [stored], None, complete=complete, seed=seed)
    assert (counts.open, counts.completed, counts.failed) == (0, 0, 0)
    (counted,) = counts.divergences
    assert counted.__traceback__ is None, "a counted divergence keeps the whole scene alive"
    healthy = new_scenes(2)[1]
    log, model = MemoryLog(), ScriptedModel(by_request)
    with pytest.raises(DivergenceError) as raised:
        pump(function, [stored, healthy], model, complete=complete, seed=seed, log=log)
    assert (model.turns, log.open_scenes) == ([], [])
    assert healthy.scene not in log.events
    assert log.core.drain() is None or not complete
    assert str(raised.value) == str(counted)
    assert counted.scene == stored.scene.hex()
    return counted


def test_a_completion_to_another_request_is_a_divergence() -> None:
    stored = recorded()
    path, attempt = "plan/1.1/2", 1
    request, *rest = stored.completions[path, attempt]
    stored.completions[path, attempt] = (bytes(32), *rest)  # type: ignore[assignment]
    error = diverges(scene_of(RICH), stored)
    assert error.expected == f"request {bytes(32).hex()} of turn {path}"
    assert error.actual == f"request {request.hex()}"
    assert error.seq == 3  # SceneStarted, the first turn and what it noted; the branches have not been joined


def test_a_divergence_names_the_attempt() -> None:
    log, _ = pump(asking(PICK, []), new_scenes(1), says("perhaps"))
    (stored,) = log.stored(new_scenes(1))
    stored.completions["verdict", 2] = (bytes(32), *stored.completions["verdict", 2][1:])  # type: ignore[assignment]
    assert diverges(asking(PICK, []), stored).expected.endswith("of turn verdict#2")


def test_a_stored_event_that_differs_is_a_divergence_at_its_seq() -> None:
    for seq, original in enumerate(recorded().events):
        stored = recorded()
        stored.events[seq] = StoredEvent(original.payload.replace('"v":1', '"v":2'), original.hash)
        error = diverges(scene_of(RICH), stored)
        assert (error.seq, error.expected, error.actual) == (seq, stored.events[seq].payload, original.payload)


@pytest.mark.parametrize("seq", [0, 3])
def test_a_stored_hash_that_differs_is_a_divergence(seq: int) -> None:
    stored = recorded()
    digest = stored.events[seq].hash
    stored.events[seq] = StoredEvent(stored.events[seq].payload, bytes(32))
    error = diverges(scene_of(RICH), stored)
    assert (error.seq, error.expected, error.actual) == (seq, f"hash {bytes(32).hex()}", f"hash {digest.hex()}")


def test_a_completion_whose_text_was_changed_is_a_divergence() -> None:
    stored = recorded()
    request, text, outcome, finish = stored.completions["plan/2", 1]
    stored.completions["plan/2", 1] = (request, text + "!", outcome, finish)
    assert json.loads(diverges(scene_of(RICH), stored).actual)["path"] == "plan/2"


def test_stored_events_beyond_the_derived_ones_are_a_divergence() -> None:
    stored = recorded()
    stored.events.append(stored.events[1])
    error = diverges(scene_of(RICH), stored)
    assert (error.seq, error.expected, error.actual) == (
        len(stored.events) - 1,
        stored.events[1].payload,
        "the end of the scene",
    )


def test_in_a_complete_log_events_beyond_the_stored_ones_are_a_divergence() -> None:
    stored = recorded()
    last = stored.events.pop()
    error = diverges_in_replay(stored)
    assert (error.seq, error.actual) == (len(stored.events), last.payload)
    # And without the claim to be complete, it is a scene to go on with.
    resumed, counts = pump(scene_of(RICH), [stored], ScriptedModel(by_request))
    assert counts.divergences == []
    assert resumed.events[stored.scene][-1] == last


def diverges_in_replay(stored: StoredScene, *, complete: bool = True) -> DivergenceError:
    _, counts = pump(scene_of(RICH), [stored], None, complete=complete)
    assert (counts.open, counts.errors) == (0, [])
    (error,) = counts.divergences
    return error


def test_a_replay_that_lacks_a_completion_which_events_follow_from_diverges() -> None:
    for complete in (True, False):
        stored = recorded()
        del stored.completions["plan/2", 1]
        error = diverges_in_replay(stored, complete=complete)
        assert json.loads(error.expected)["path"] == "plan/2"
        assert error.actual == "turn plan/2, whose completion is missing"


def test_a_complete_log_cannot_lack_the_completion_of_its_last_turn() -> None:
    stored = recorded()
    cut = next(seq for seq, event in enumerate(stored.events) if '"path":"plan/2"' in event.payload)
    del stored.events[cut:], stored.completions["plan/2", 1]
    error = diverges_in_replay(stored)
    assert (error.seq, error.expected) == (cut, "a completion")


def test_another_seed_or_another_scene_code_diverges() -> None:
    assert diverges(scene_of(RICH), recorded(), seed=1).expected.startswith("request ")
    assert json.loads(diverges(scene_of((*RICH[:2], Draw())), recorded()).actual)["text"].startswith("plan/2 drew")


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_scene_code_that_catches_everything_does_not_hide_a_divergence(seq: int) -> None:
    async def careless(scene: Scene) -> None:
        for number in range(3):
            with contextlib.suppress(Exception):
                await scene.turn(SAY, path=f"p{number}", said="x")
        with contextlib.suppress(Exception):
            scene.emit(Noted(text="never mind"))

    log, _ = pump(careless, new_scenes(1), says("ok"))
    (stored,) = log.stored(new_scenes(1))
    original = stored.events[seq]
    # Given a log that ends with an event that is not derived, and turns that would have to be asked beyond it
    stored.events[seq] = StoredEvent(original.payload.replace('"v":1', '"v":2'), original.hash)
    del stored.events[seq + 1 :]
    for number in range(seq, 3):
        del stored.completions[f"p{number}", 1]
    # Then that is the divergence, and nothing is written after it
    replayed, counts = pump(careless, [stored], None)
    assert [(error.seq, error.actual) for error in counts.divergences] == [(seq, original.payload)]
    assert (counts.completed, counts.open, replayed.core.pending) == (0, 0, 0)
    resumed, model = MemoryLog(), says("ok")
    with pytest.raises(DivergenceError, match=f"diverges at seq {seq}"):
        pump(careless, [stored], model, log=resumed)
    assert (resumed.core.pending, model.turns) == (0, [])


# The window -----------------------------------------------------------------------------------------------------------


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


# What ends a run ------------------------------------------------------------------------------------------------------


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


# Random numbers -------------------------------------------------------------------------------------------------------


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
