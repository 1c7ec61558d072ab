"""What a scene's code sees: the instruction, turns to await, events to emit, branches, and random numbers of its own.

A scene is a pure function of instruction, configuration, seed and completions. So its code uses no clock, no files, no asyncio, no
`random`, and never iterates over a set; all that it needs comes from here.
"""

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from matrix_py import _core
from matrix_py.errors import SceneError
from matrix_py.prompts import Prompts
from matrix_py.types import Event, FormFellBack, TurnCompleted

# What a scene's coroutine hands to the pump, and what it gets back: turns newly asked for, then one that is done.
Asked: TypeAlias = list[_core.Turn]
Done: TypeAlias = tuple[_core.Turn, _core.Completion]

_T = TypeVar("_T")


class TurnTooLong(SceneError):
    """A turn's prompt leaves no room in the context. A scene that does not catch it fails, with this as its reason."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a turn came to.

    Attributes:
        text: the completion, without white space at its ends; or the fallback.
        fell_back: whether `text` is the fallback, because the form failed at every attempt.
        finish: what ended the last attempt: eos, stop, form or length.
    """

    text: str
    fell_back: bool
    finish: str


class Scene:
    """The context of one scene."""

    def __init__(
        self, scene_id: bytes, instruction: str, given_response: str | None, *, seed: int, prompts: Prompts, emit: Callable[[Event], None]
    ) -> None:
        """Only the pump makes these; in tests of scenes, `matrix_py.testing` does."""
        self.scene_id = scene_id
        self.instruction = instruction
        self.given_response = given_response
        self.prompts = prompts
        self._seed = seed
        self._emit = emit
        self._paths: set[str] = set()
        self.misuse: SceneError | None = None  # what keeps the scene from going on; the pump looks for it

    def emit(self, event: Event) -> None:
        """Append an event to the scene; in a branch of `gather`, to the branch until all are joined."""
        self._emit(event)

    def draw(self, name: str, choices: int) -> int:
        """Return a random number from 0 to `choices - 1`: a function of run seed, scene and `name`, and of nothing else."""
        if choices < 1:
            raise SceneError(f"draw {name!r} has {choices} choices: it needs at least 1")
        # No turn's path begins with "#", so a draw shares its key with no turn.
        return min(int(_core.draw(self._seed, self.scene_id, f"#draw/{name}", 0) * choices), choices - 1)

    async def turn(
        self, kind: str, *, path: str | None = None, form: str | None = None, fallback: str | None = None, **values: str
    ) -> Reply:
        """Ask the LLM and return its reply.

        Args:
            kind: which prompt file and settings to use.
            path: name of the turn, unique in the scene; the kind, if not given.
            form: a Lark grammar that binds the completion.
            fallback: what stands in for a form that failed at every attempt.
            **values: the prompt's fields. They are untrusted text.

        Raises:
            TurnTooLong: the prompt leaves no room in the context.
            SceneError: the path is taken, or a form has no fallback.
        """
        path = path or kind
        if path in self._paths:
            # Which of two branches comes second depends on timing, so no scene may go on from here, even one that catches this.
            self.misuse = SceneError(f"path {path!r} is used twice in a scene: give each turn a path of its own")
            raise self.misuse
        if (form is None) != (fallback is None):
            raise SceneError(f"turn {path!r} needs a fallback if and only if it has a form")
        self._paths.add(path)
        settings = self.prompts.sampling(kind, form)
        segments = self.prompts.render(kind, values)
        retries = self.prompts.settings[kind].retries if form is not None and settings.temperature > 0 else 0
        for attempt in range(1, retries + 2):
            turn = _core.Turn(
                seed=self._seed, scene=self.scene_id, path=path, attempt=attempt, kind=kind, segments=segments, sampling=settings
            )
            completion = await _Ask(turn)
            self.emit(_completed(turn, completion))
            if completion.outcome == "too_long":
                raise TurnTooLong(f"the prompt of turn {path} leaves no room in the context")
            if completion.outcome == "text":
                return Reply(completion.text.strip(), fell_back=False, finish=completion.finish)
        if fallback is None:
            raise SceneError(f"turn {path!r} has no form, yet the form failed")
        self.emit(FormFellBack(path=path, attempts=attempt, text=fallback))
        return Reply(fallback, fell_back=True, finish=completion.finish)

    async def gather(self, *branches: Coroutine[Any, Any, _T]) -> list[_T]:
        """Run branches in parallel and return their results in order.

        Each branch's events are held back until all are done, and then appended branch by branch: the order in which completions
        arrive leaves no trace. If a branch raises, the first in order is raised once all are done, without the events of the branches
        after it.
        """
        return await _Gather(self, branches)

    def swap_emit(self, emit: Callable[[Event], None]) -> Callable[[Event], None]:
        """Let events go to `emit` from now on, and return where they went."""
        before, self._emit = self._emit, emit
        return before


SceneFunction: TypeAlias = Callable[[Scene], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class _Ask(Awaitable[_core.Completion]):
    """Await one turn."""

    turn: _core.Turn

    def __await__(self) -> Generator[Asked, Done, _core.Completion]:
        _, completion = yield [self.turn]
        return completion


@dataclass(slots=True)
class _Branch(Generic[_T]):
    coroutine: Coroutine[Any, Any, _T]
    events: list[Event]
    result: _T | None = None
    error: Exception | None = None


class _Gather(Awaitable[list[_T]]):
    """Await branches: an inner pump, which hands their turns on and their completions in."""

    def __init__(self, scene: Scene, coroutines: tuple[Coroutine[Any, Any, _T], ...]) -> None:
        self._scene = scene
        self._branches = [_Branch(coroutine, []) for coroutine in coroutines]
        self._owners: dict[tuple[str, int], _Branch[_T]] = {}

    def __await__(self) -> Generator[Asked, Done, list[_T]]:
        try:
            asked = [turn for branch in self._branches for turn in self._step(branch, None)]
            while self._owners:
                done = yield asked
                asked = self._step(self._owners.pop((done[0].path, done[0].attempt)), done)
        finally:
            # Nothing is left to close unless the scene itself is being closed; then all are, whatever one of them does.
            with contextlib.ExitStack() as closing:
                for branch in self._branches:
                    closing.callback(branch.coroutine.close)
        results = []
        for branch in self._branches:
            for event in branch.events:
                self._scene.emit(event)
            if branch.error is not None:
                raise branch.error
            results.append(branch.result)
        return results  # type: ignore[return-value]  # a branch without an error has its result

    def _step(self, branch: _Branch[_T], done: Done | None) -> Asked:
        before = self._scene.swap_emit(branch.events.append)
        try:
            asked: Asked = branch.coroutine.send(done)
        except StopIteration as stop:
            branch.result = stop.value
            return []
        except Exception as error:
            branch.error = error
            return []
        finally:
            self._scene.swap_emit(before)
        for turn in asked:
            self._owners[turn.path, turn.attempt] = branch
        return asked


def _completed(turn: _core.Turn, completion: _core.Completion) -> TurnCompleted:
    return TurnCompleted(
        path=turn.path,
        attempt=turn.attempt,
        turn=turn.kind,
        request=turn.request.hex(),
        outcome=completion.outcome,
        finish=completion.finish,
        text=_core.blake3(completion.text.encode()).hex(),
    )
