"""The pump: it drives many scene coroutines against one answerer. Live, resumed, replayed and tested runs all use it.

A scene's turns are answered from what the log holds of the scene, as far as it goes, and then by the answerer; its events are compared
with those in the log, as far as they go. So replay is a run without an answerer, and resume is replay that goes on.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from matrix_py import _core
from matrix_py.errors import DivergenceError, EngineError, MatrixError, RequestError, SceneError
from matrix_py.events import Event, ReplyFlawed, SceneEnd, SceneFinished, SceneStarted, TurnFellBack, encode
from matrix_py.prompts import Prompts
from matrix_py.scene.context import Done, OnTurn, Scene, SceneFunction, TurnFailed
from matrix_py.scene.rules import RULES
from matrix_py.types import Limits, StoredScene


class Answerer(Protocol):
    """Who answers turns: the engine, or a script."""

    def submit(self, turns: list[_core.Turn]) -> None:
        """Queue turns.

        Raises:
            MatrixError: a turn cannot be asked; then none is queued.
        """

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        """Return what is answered; wait up to `timeout_s` seconds for the first. An exception is no completion: it may be retried."""

    def cancel(self, scene: bytes) -> None:
        """Cancel a scene's turns. Answers to them may still come."""


@dataclass(slots=True)
class KindCounts:
    """What the model was asked in turns of one kind."""

    turns: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


@dataclass(slots=True)
class Counts:
    """What became of the scenes and turns that a pump has driven."""

    completed: int = 0
    failed: int = 0  # finished, with `end` failed: part of the log like any other
    open: int = 0  # left open by an engine error
    turns: int = 0  # turns answered, recorded ones included
    live: dict[str, KindCounts] = field(default_factory=dict)  # of the turns that the model answered, by kind
    reused: Counter[str] = field(default_factory=Counter)  # turns that an older log answered, by kind
    edited: Counter[str] = field(default_factory=Counter)  # turns whose answer was given by who forked the run, by kind
    flaws: Counter[tuple[str, str]] = field(default_factory=Counter)  # flaw of a reply and what was done about it
    fallbacks: int = 0
    divergences: list[DivergenceError] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # the first few reasons why scenes stayed open

    @property
    def live_turns(self) -> int:
        """Turns that the model answered."""
        return sum(kind.turns for kind in self.live.values())

    @property
    def generated_tokens(self) -> int:
        """Tokens that the model generated."""
        return sum(kind.generated_tokens for kind in self.live.values())

    @property
    def scenes(self) -> int:
        """Scenes that are done with, one way or another."""
        return self.completed + self.failed + self.open + len(self.divergences)


class _OpenScene:
    """A scene under way."""

    def __init__(self, stored: StoredScene, scene: Scene, coroutine: Coroutine[Any, Any, SceneEnd]) -> None:
        self.stored = stored
        self.scene = scene
        self.coroutine = coroutine
        self.next_seq = 0
        self.waiting = 0  # turns that the answerer has
        self.divergence: DivergenceError | None = None  # the first: it stands, even if the scene's code catches it

    def check(self) -> None:
        """Raise what keeps the scene from going on, even if its code caught it."""
        error = self.divergence or self.scene.misuse
        if error is not None:
            raise error


def _left(event: Event) -> None:
    raise SceneError(f"{type(event).__name__} is emitted after the end of its scene")


class Pump:
    """Drives scenes, a window of them at a time: memory does not grow with their number."""

    def __init__(
        self,
        function: SceneFunction,
        name: str,
        *,
        prompts: Prompts,
        limits: Limits,
        seed: int,
        log: _core.EventLog,
        answerer: Answerer | None,
        window: int,
        rules: int = RULES,
        complete: bool = False,
        on_progress: Callable[[Counts, int], None] | None = None,
        on_turn: OnTurn | None = None,
        keep_up: Callable[[], None] | None = None,
    ) -> None:
        """Set up a pump.

        Args:
            function: the scene's code.
            name: the scene's name, part of each SceneStarted.
            prompts: prompts and settings.
            limits: how far the social scene may go.
            seed: the run's seed.
            log: gives events their sequence numbers and hashes, and buffers what is new.
            answerer: answers the turns that the log does not hold; None for a replay.
            window: scenes open at a time.
            rules: of the scene's code; see `matrix_py.scene.rules`.
            complete: whether the log claims to hold all of every scene, so that anything beyond it is a divergence.
            on_progress: called with the counts and the number of open scenes, after each round.
            on_turn: called with each turn that a scene asks, whoever answers it.
            keep_up: called each round; blocks while the writer is behind, and raises if it failed.
        """
        self._function = function
        self._name = name
        self._prompts = prompts
        self._limits = limits
        self._seed = seed
        self._log = log
        self._answerer = answerer
        self._window = window
        self._rules = rules
        self._complete = complete
        self._stopping = False
        self._begun = 0
        self._on_progress = on_progress
        self._on_turn = on_turn
        self._keep_up = keep_up
        self._open: dict[bytes, _OpenScene] = {}
        self._asked: list[_core.Turn] = []
        self.counts = Counts()

    def run(self, scenes: Iterable[StoredScene]) -> Counts:
        """Drive all scenes to their end, and return what became of them.

        Raises:
            EngineError: the answerer is gone.
            StoreError: the writer failed.
        """
        source = iter(scenes)
        more = True
        try:
            while not self._stopping and (more or self._open):
                more = self._fill(source)
                if self._keep_up is not None:
                    self._keep_up()
                self._submit()
                if self._open and self._answerer is not None:
                    for turn, result in self._answerer.collect(0.2):
                        self._take(turn, result)
                if self._on_progress is not None:
                    self._on_progress(self.counts, len(self._open))
        finally:
            # After an error or a stop: what the log holds is whole, and resume goes on from there.
            for open_scene in list(self._open.values()):
                self._leave(open_scene)
            if self._answerer is not None:
                with contextlib.suppress(EngineError):
                    # What is answered is paid for.
                    for turn, result in self._answerer.collect(0.0):
                        self._take(turn, result)
        return self.counts

    def stop(self) -> None:
        """Let `run` end after the round under way and leave the open scenes. May be called from a signal handler."""
        self._stopping = True

    def _fill(self, source: Iterator[StoredScene]) -> bool:
        """Open scenes up to the window, as many as that at most, for some may end at once. False when there are no more."""
        for _ in range(self._window - len(self._open)):
            stored = next(source, None)
            if stored is None:
                return False
            self._begin(stored)
        return True

    def _begin(self, stored: StoredScene) -> None:
        self._log.open(stored.scene, len(stored.events))
        self._begun += 1
        scene = Scene(
            stored.scene,
            stored.instruction,
            stored.response,
            seed=self._seed,
            prompts=self._prompts,
            limits=self._limits,
            emit=lambda event: self._append(open_scene, event),
            # The oldest scene goes first, so that scenes end, and few are half done at any time.
            rank=self._begun,
            rules=self._rules,
            on_turn=self._on_turn,
        )
        open_scene = _OpenScene(stored, scene, self._drive(scene, stored))
        self._open[stored.scene] = open_scene
        self._step(open_scene, None)

    async def _drive(self, scene: Scene, stored: StoredScene) -> SceneEnd:
        """Run a scene's code between the events that frame every scene's own."""
        response = stored.response
        scene.emit(
            SceneStarted(
                scene=self._name,
                instruction=_core.blake3(stored.instruction.encode()).hex(),
                response=None if response is None else _core.blake3(response.encode()).hex(),
                occurrence=stored.occurrence,
            )
        )
        end: SceneEnd = "completed"
        reason = ""
        try:
            await self._function(scene)
        except TurnFailed as error:
            end, reason = "failed", str(error)
        scene.emit(SceneFinished(count=self._open[stored.scene].next_seq, end=end, reason=reason))
        return end

    def _append(self, open_scene: _OpenScene, event: Event) -> None:
        open_scene.check()
        payload = encode(event)
        seq, digest = self._log.append(open_scene.stored.scene, payload)
        open_scene.next_seq = seq + 1
        match event:
            case TurnFellBack():
                self.counts.fallbacks += 1
            case ReplyFlawed():
                self.counts.flaws[event.flaw, event.policy] += 1
        if seq >= len(open_scene.stored.events):
            if self._complete:
                raise self._divergence(open_scene, seq, "no event: the log ends here", payload.decode())
        else:
            expected = open_scene.stored.events[seq]
            if expected.payload != payload.decode():
                raise self._divergence(open_scene, seq, expected.payload, payload.decode())
            if expected.hash != digest:
                raise self._divergence(open_scene, seq, f"hash {expected.hash.hex()}", f"hash {digest.hex()}")

    def _divergence(self, open_scene: _OpenScene, seq: int, expected: str, actual: str, turn: _core.Turn | None = None) -> DivergenceError:
        if open_scene.divergence is None:
            open_scene.divergence = DivergenceError(open_scene.stored.scene.hex(), seq, expected, actual, turn)
        return open_scene.divergence

    def _step(self, open_scene: _OpenScene, done: Done | None) -> None:
        """Run a scene's code until all the turns that it waits for are with the answerer, or it ends."""
        ready: deque[Done | None] = deque([done])
        try:
            while ready:
                asked = open_scene.coroutine.send(ready.popleft())  # None starts it
                open_scene.check()
                for turn in asked:
                    recorded = self._recorded(open_scene, turn)
                    if recorded is not None:
                        self.counts.turns += 1
                        ready.append((turn, recorded))
                    else:
                        open_scene.waiting += 1
                        self._asked.append(turn)
            if self._answerer is None:
                self._missing(open_scene)
        except StopIteration as stop:
            self._end(open_scene, stop.value)
        except Exception as error:
            # A divergence, or a bug in the scene's code, or a prompt that cannot be rendered: of this scene and no other.
            self._abandon(open_scene, error)

    def _recorded(self, open_scene: _OpenScene, turn: _core.Turn) -> _core.Completion | None:
        found = open_scene.stored.completions.get((turn.path, turn.attempt))
        if found is None:
            return None
        request, text, outcome, finish = found
        if request != turn.request:
            expected = f"request {request.hex()} of turn {turn.name}"
            raise self._divergence(open_scene, open_scene.next_seq, expected, f"request {turn.request.hex()}", turn)
        try:
            return _core.Completion(turn, text=text, outcome=outcome, finish=finish)
        except RequestError as error:  # a name that no engine writes
            raise self._divergence(open_scene, open_scene.next_seq, "a completion", str(error)) from error

    def _missing(self, open_scene: _OpenScene) -> None:
        """In a replay, a turn waits for a completion that the log does not hold: fine where the scene was left open there."""
        path = self._asked[0].path
        self._asked.clear()
        seq, stored = open_scene.next_seq, open_scene.stored.events
        if seq < len(stored) or self._complete:
            expected = stored[seq].payload if seq < len(stored) else "a completion"
            raise self._divergence(open_scene, seq, expected, f"turn {path}, whose completion is missing")
        self.counts.open += 1
        self._leave(open_scene)

    def _end(self, open_scene: _OpenScene, end: SceneEnd) -> None:
        self._leave(open_scene)
        seq, stored = open_scene.next_seq, open_scene.stored.events
        if seq < len(stored):
            self._divergence(open_scene, seq, stored[seq].payload, "the end of the scene")
        if open_scene.divergence is not None:
            self._diverged(open_scene.divergence)
        elif end == "completed":
            self.counts.completed += 1
        else:
            self.counts.failed += 1

    def _diverged(self, error: DivergenceError) -> None:
        """A replay counts divergences and goes on. A run must not: it would mix what two versions of the code say in one log."""
        # The traceback's frames hold the whole scene.
        error.__traceback__ = error.__context__ = None
        if self._answerer is not None:
            raise error
        self.counts.divergences.append(error)

    def _abandon(self, open_scene: _OpenScene, error: Exception) -> None:
        self._leave(open_scene)
        seq, stored = open_scene.next_seq, open_scene.stored.events
        text = str(error) if isinstance(error, MatrixError) else f"{type(error).__name__}: {error}"
        if self._answerer is None and seq < len(stored):
            self._divergence(open_scene, seq, stored[seq].payload, text)
        if open_scene.divergence is not None:
            self._diverged(open_scene.divergence)
            return
        self.counts.open += 1
        if len(self.counts.errors) < 5:
            self.counts.errors.append(f"scene {open_scene.stored.scene.hex()[:12]}: {text}")

    def _leave(self, open_scene: _OpenScene) -> None:
        scene = open_scene.stored.scene
        if self._open.pop(scene, None) is None:
            return
        self._asked = [turn for turn in self._asked if turn.scene != scene]
        if open_scene.waiting and self._answerer is not None:
            with contextlib.suppress(EngineError):  # an engine that is gone has nothing to cancel
                self._answerer.cancel(scene)
        # In this order: what the scene's code does while it is closed, in a `finally`, is no part of the scene.
        self._log.close(scene)
        with contextlib.suppress(Exception):
            open_scene.coroutine.close()
        # A scene knows who takes its events, and that knows the scene: without this, each waits for the garbage collector.
        open_scene.scene.swap_emit(_left)

    def _submit(self) -> None:
        if not self._asked or self._answerer is None:
            return
        asked, self._asked = self._asked, []
        try:
            self._answerer.submit(asked)
        except EngineError:
            raise
        except MatrixError:
            # One of them cannot be asked. Ask one by one, so that it fails its own scene only.
            for turn in asked:
                self._submit_alone(turn)

    def _submit_alone(self, turn: _core.Turn) -> None:
        open_scene = self._open.get(turn.scene)
        if open_scene is None or self._answerer is None:
            return
        try:
            self._answerer.submit([turn])
        except EngineError:
            raise
        except MatrixError as error:
            self._abandon(open_scene, error)

    def _take(self, turn: _core.Turn, result: _core.Completion | Exception) -> None:
        if not isinstance(result, Exception):
            self._count(turn, result)
            # Before the scene sees it: no event without its completions.
            self._log.record(turn, result)
        open_scene = self._open.get(turn.scene)
        if open_scene is None:
            return  # its scene was left meanwhile; its resume need not ask again
        open_scene.waiting -= 1
        if isinstance(result, Exception):
            self._abandon(open_scene, result)
        else:
            self._step(open_scene, (turn, result))

    def _count(self, turn: _core.Turn, completion: _core.Completion) -> None:
        self.counts.turns += 1
        match completion.source:
            case "reused":
                self.counts.reused[turn.kind] += 1
            case "edited":
                self.counts.edited[turn.kind] += 1
            case _:
                kind = self.counts.live.setdefault(turn.kind, KindCounts())
                kind.turns += 1
                kind.prompt_tokens += completion.prompt_tokens
                kind.cached_tokens += completion.cached_tokens
                kind.generated_tokens += completion.generated_tokens
