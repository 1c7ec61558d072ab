"""Scenes, logs and generated plans for tests of the pump."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from matrix_py import _core
from matrix_py.events import Event
from matrix_py.pump import Answerer, Counts, Pump
from matrix_py.scene import Scene, SceneFunction
from matrix_py.testing import FormFailed, ScriptedModel, TooLong, make_prompts
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


# Generated scenes: turns, draws and nested branches, in which every prompt follows from all that was said before -----


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


# Forms ---------------------------------------------------------------------------------------------------------------


def asking(kind: str, replies: list[Any]) -> SceneFunction:
    async def ask(scene: Scene) -> None:
        replies.append(await scene.turn(kind, path="verdict", form=YES_NO, fallback="no", said="x"))

    return ask


# Failures of one scene -----------------------------------------------------------------------------------------------


def failing(turn_number: int, error: Exception, *, of: Callable[[_core.Turn], bool] = lambda turn: True) -> Callable[[_core.Turn], Any]:
    """Answer by request, but with an error at the given one of the chosen turns."""
    numbers = iter(range(10**6))
    return lambda turn: error if of(turn) and next(numbers) == turn_number else by_request(turn)


# Divergence ----------------------------------------------------------------------------------------------------------


def recorded() -> StoredScene:
    log, _ = pump(scene_of(RICH), new_scenes(1), ScriptedModel(by_request))
    (stored,) = log.stored(new_scenes(1))
    return stored
