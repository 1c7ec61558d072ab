"""What a scene's code sees: the instruction, turns to await, events to emit, branches, and random numbers of its own.

A scene is a pure function of instruction, configuration, seed and completions. So its code uses no clock, no files, no asyncio, no
`random`, and never iterates over a set; all that it needs comes from here.
"""

import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from matrix_py import _core
from matrix_py.errors import SceneError
from matrix_py.events import Event, Policy, ReplyFlawed, TurnCompleted, TurnFellBack
from matrix_py.prompts import Prompts, Value
from matrix_py.scene.flaws import clean, find_flaw, find_flaw_in_form
from matrix_py.scene.quote import Quote, turns_of
from matrix_py.scene.rules import RULES
from matrix_py.types import Limits

# What a scene's coroutine hands to the pump, and what it gets back: turns newly asked for, then one that is done.
Asked: TypeAlias = list[_core.Turn]
Done: TypeAlias = tuple[_core.Turn, _core.Completion]
# Told of each turn before it is asked: with the values that its prompt is filled with, and the number of things that it is about. Values
# may be lists that the scene goes on with: they are as they are now only during the call.
OnTurn: TypeAlias = Callable[[_core.Turn, Mapping[str, Value], int], None]

_T = TypeVar("_T")


# A text with such a flaw is still a text. One with another flaw says nothing that a scene could go on with.
_USABLE = frozenset({"assistant", "language", "loop"})
# A terminal of a form that is a regular expression: a place that the model fills with words of its own.
_PLACE = re.compile(r"^[A-Z_]+:.*/", re.MULTILINE)
# A quote is a string like any other.
_INPUTS = msgspec.json.Encoder(enc_hook=str)


class TurnFailed(SceneError):
    """A turn came to nothing. A scene that does not catch it fails, with this as its reason."""


class TurnTooLong(TurnFailed):
    """A turn's prompt leaves no room in the context."""


class ReplyUnusable(TurnFailed):
    """No attempt of a turn without a fallback gave a usable reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a turn came to.

    Attributes:
        text: the completion, without white space at its ends and without what does not belong to it (see `flaws`); or the fallback.
        fell_back: whether `text` is the fallback, because no attempt was usable.
        finish: what ended the last attempt: eos, stop, form or length.
    """

    text: Quote
    fell_back: bool
    finish: str


class Scene:
    """The context of one scene."""

    def __init__(
        self,
        scene_id: bytes,
        instruction: str,
        given_response: str | None,
        *,
        seed: int,
        prompts: Prompts,
        limits: Limits,
        emit: Callable[[Event], None],
        rank: int = 0,
        rules: int = RULES,
        on_turn: OnTurn | None = None,
    ) -> None:
        """Only the pump makes these; in tests of scenes, `matrix_py.testing` does."""
        self.scene_id = scene_id
        self.instruction = instruction
        self.given_response = given_response
        self.prompts = prompts
        self.limits = limits
        self.rules = rules
        self._seed = seed
        self._rank = rank
        self._emit = emit
        self._on_turn = on_turn
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
        self,
        kind: str,
        *,
        path: str | None = None,
        form: str | None = None,
        fallback: str | None = None,
        choices: Sequence[str] = (),
        times: int = 1,
        speakers: Sequence[str] = (),
        **values: Value,
    ) -> Reply:
        """Ask the LLM and return its reply.

        A reply that does not fill its form, or has a flaw (see `matrix_py.scene.flaws`), is asked for again, as far as the kind's settings
        allow and a second attempt could come out otherwise. After the last, a form that is filled, or a text without a fallback, is kept if
        it is usable in spite of its flaw: the latest such. Else the fallback stands in, and where there is none, the scene fails.

        Args:
            kind: which prompt file and settings to use.
            path: name of the turn, unique in the scene; the kind, if not given.
            form: a Lark grammar that binds the completion.
            fallback: what stands in for a reply that never was usable. A form needs one.
            choices: two texts that the form decides between, whose log-odds are recorded.
            times: how many things the turn is about, each of which has the kind's budget.
            speakers: names of who may speak in the scene, the one that speaks here first: the reply ends where another begins.
            **values: the prompt's fields: a text, or its lines. They are untrusted. Give the texts of replies as they are, or put them
                together with `Quote.of`: so the log knows which turns a prompt was made from.

        Raises:
            TurnTooLong: the prompt leaves no room in the context.
            ReplyUnusable: no attempt was usable, and there is no fallback.
            SceneError: the path is taken, or a form has no fallback.
        """
        path = path or kind
        if path in self._paths:
            # Which of two branches comes second depends on timing, so no scene may go on from here, even one that catches this.
            self.misuse = SceneError(f"path {path!r} is used twice in a scene: give each turn a path of its own")
            raise self.misuse
        if form is not None and fallback is None:
            raise SceneError(f"turn {path!r} has a form but no fallback: say what stands in for a form that failed")
        self._paths.add(path)
        sampling = self.prompts.sampling(kind, form, times=times, choices=choices)
        settings = self.prompts.settings[kind]
        attempts = self.prompts.attempts(kind)
        # The latest reply that is usable in spite of its flaw, and the event that says that it was kept.
        flawed: tuple[Reply, ReplyFlawed] | None = None
        for attempt in range(1, attempts + 1):
            segments = self.prompts.render(kind, values, retry=attempt > 1)
            turn = _core.Turn(
                seed=self._seed,
                scene=self.scene_id,
                path=path,
                attempt=attempt,
                kind=kind,
                segments=segments,
                sampling=sampling,
                rank=self._rank,
            )
            if self._on_turn is not None:
                self._on_turn(turn, values, times)
            completion = await _Ask(turn)
            self.emit(self._completed(turn, completion, values, form))
            if completion.outcome == "too_long":
                raise TurnTooLong(f"the prompt of turn {path} leaves no room in the context")
            # A model may answer in the language of the instruction, or in that of the prompt.
            like = self.instruction, self.prompts.wording(kind, retry=attempt > 1)
            text, flaw = self._examine(turn, completion, form, speakers, like=like, in_world=settings.system == "writer")
            reply = Reply(Quote(text, [turn.name]), fell_back=False, finish=completion.finish)
            if flaw is None and completion.outcome == "text":
                return reply
            if flaw is None:
                continue
            if flaw in _USABLE and (form is not None or fallback is None):
                flawed = reply, ReplyFlawed(path=path, attempt=attempt, flaw=flaw, policy="kept")
                if attempt == attempts:
                    break
            policy: Policy = "passed_over" if flawed else "failed" if fallback is None else "fell_back"
            self.emit(ReplyFlawed(path=path, attempt=attempt, flaw=flaw, policy="retried" if attempt < attempts else policy))
        if flawed is not None:
            reply, kept = flawed
            self.emit(kept)
            return reply
        if fallback is None:
            raise ReplyUnusable(f"turn {path} gave no usable reply in {attempts} attempts: {flaw or 'its form failed'}")
        self.emit(TurnFellBack(path=path, attempts=attempts, text=fallback))
        return Reply(Quote(fallback, [turn.name]), fell_back=True, finish=completion.finish)

    def _examine(
        self,
        turn: _core.Turn,
        completion: _core.Completion,
        form: str | None,
        speakers: Sequence[str],
        *,
        like: tuple[str, ...],
        in_world: bool,
    ) -> tuple[str, str | None]:
        """Return the text that a completion comes to, and its flaw. `like` is as for `find_flaw`."""
        text = completion.text.strip()
        if completion.outcome != "text":
            return text, None
        if form is not None:
            # A form leaves no room for thoughts or other speakers; what is said in its places is examined place by place. One that has
            # none, a choice among given names, says nothing of the model's own.
            examined = in_world and _PLACE.search(form)
            return text, find_flaw_in_form(text, like=like) if examined else None
        text, cuts = clean(text, speakers)
        for cut in cuts:
            self.emit(ReplyFlawed(path=turn.path, attempt=turn.attempt, flaw=cut, policy="cut"))
        return text, find_flaw(text, like=like, in_world=in_world, cuts=cuts)

    def _completed(self, turn: _core.Turn, completion: _core.Completion, values: Mapping[str, Value], form: str | None) -> TurnCompleted:
        used: dict[str, Sequence[str]] = {}
        for name in sorted(self.prompts.fields(turn.kind)):
            value = values[name]
            used[name] = [value] if isinstance(value, str) else list(value)
        return TurnCompleted(
            path=turn.path,
            attempt=turn.attempt,
            turn=turn.kind,
            request=turn.request.hex(),
            template=self.prompts.template_hash(turn.kind).hex(),
            inputs=_core.blake3(_INPUTS.encode([used, form or ""])).hex(),
            reads=turns_of(*chain.from_iterable(used.values())),
            outcome=completion.outcome,
            finish=completion.finish,
            text=_core.blake3(completion.text.encode()).hex(),
        )

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
