"""A model that follows a script, and the running of single scenes on it."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from matrix_py import _core
from matrix_py.errors import MatrixError
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts
from matrix_py.pump import Counts, Pump
from matrix_py.scene.context import SceneFunction
from matrix_py.types import Limits, StoredEvent, StoredScene, TurnSettings


@dataclass(frozen=True, slots=True)
class FormFailed:
    """The completion was cut before its form was complete."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class TooLong:
    """The prompt leaves no room in the context."""


class ScriptedModel:
    """Answers turns by a function. Implements `matrix_py.pump.Answerer`.

    A turn with a form is held to it: a text that the form does not accept is a failed form, as it would be if the budget had cut it.

    Attributes:
        turns: the turns asked so far, in the order of asking.
    """

    def __init__(
        self,
        answer: Callable[[_core.Turn], str | FormFailed | TooLong | Exception],
        *,
        order: random.Random | None = None,
        at_once: int | None = None,
    ) -> None:
        """Set up a script.

        Args:
            answer: what the model says to a turn. An exception is an engine error.
            order: shuffles the order in which answers arrive; None keeps the order of asking.
            at_once: answers that one `collect` gives at most; None for all.
        """
        self.turns: list[_core.Turn] = []
        self._answer = answer
        self._order = order
        self._at_once = at_once
        self._waiting: list[_core.Turn] = []

    def submit(self, turns: list[_core.Turn]) -> None:
        """Queue turns.

        Raises:
            RequestError: a form does not parse; then none is queued.
        """
        for turn in turns:
            if turn.sampling.form is not None:
                _accepts(turn.sampling.form, "")
        self.turns += turns
        self._waiting += turns

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        """Return the answers to some of the waiting turns."""
        if self._order is not None:
            self._order.shuffle(self._waiting)
        at_once = len(self._waiting) if self._at_once is None else self._at_once
        now, self._waiting = self._waiting[:at_once], self._waiting[at_once:]
        return [(turn, self._complete(turn)) for turn in now]

    def cancel(self, scene: bytes) -> None:
        """Forget a scene's waiting turns."""
        self._waiting = [turn for turn in self._waiting if turn.scene != scene]

    def _complete(self, turn: _core.Turn) -> _core.Completion | Exception:
        said = self._answer(turn)
        match said:
            case Exception():
                return said
            case FormFailed(text):
                return _core.Completion(turn, text=text, outcome="form_failed", finish="length")
            case TooLong():
                return _core.Completion(turn, text="", outcome="too_long", finish="none")
        form = turn.sampling.form
        if form is None:
            return _core.Completion(turn, text=said)
        if _accepts(form, said):
            return _core.Completion(turn, text=said, finish="form")
        return _core.Completion(turn, text=said, outcome="form_failed", finish="length")


@lru_cache(maxsize=4096)
def _accepts(form: str, text: str) -> bool:
    return _core.form_accepts(form, text)


@dataclass(frozen=True, slots=True)
class Trace:
    """What a scene did.

    Attributes:
        events: the payloads, as dictionaries with the keys `kind`, `v` and the event's fields.
        hashes: the hash chain.
        counts: how the pump counted the scene.
        completions: by path and attempt, as a log would hold them.
    """

    scene: bytes
    events: list[dict[str, Any]]
    hashes: list[bytes]
    counts: Counts
    completions: dict[tuple[str, int], tuple[bytes, str, str, str]] = field(default_factory=dict)

    def stored(self, instruction: str, response: str | None = None) -> StoredScene:
        """Return the scene as a log would give it to a replay."""
        payloads = [msgspec.json.encode(event).decode() for event in self.events]
        events = [StoredEvent(payload, digest) for payload, digest in zip(payloads, self.hashes, strict=True)]
        return StoredScene(self.scene, instruction, response, 0, events, dict(self.completions))


def make_prompts(
    texts: Mapping[str, str], *, settings: Mapping[str, TurnSettings] | None = None, files: Mapping[str, str] | None = None
) -> Prompts:
    """Return prompts for a scene under test.

    Args:
        texts: kind of turn -> text of its one user message, with fields such as `{instruction}`.
        settings: by kind, where 64 tokens at temperature 0 are not what is wanted.
        files: further files, such as `principles.txt`.
    """
    chosen = {kind: (settings or {}).get(kind, TurnSettings(max_tokens=64)) for kind in texts}
    prompts = {f"{kind}.txt": f"--- user\n{text}\n" for kind, text in texts.items()}
    return Prompts(prompts | dict(files or {}), chosen, system="", template=ChatTemplate.plain())


def run_scene(
    function: SceneFunction,
    instruction: str,
    model: ScriptedModel,
    *,
    prompts: Prompts,
    response: str | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    name: str = "test",
    stored: StoredScene | None = None,
) -> Trace:
    """Run one scene to its end, or to where an engine error leaves it.

    Args:
        function: the scene.
        instruction: its instruction.
        model: answers its turns.
        prompts: see `make_prompts`.
        response: a given response.
        limits: how far a social scene may go.
        seed: the run's seed.
        name: the scene's name.
        stored: what a log holds of the scene already: then this is a resume.

    Raises:
        MatrixError: what is stored is not what the scene derives.
    """
    scene = stored or StoredScene(_core.scene_id(name, instruction, response, 0), instruction, response, 0)
    log = Recorder()
    pump = Pump(function, name, prompts=prompts, limits=limits or Limits(), seed=seed, log=log, answerer=model, window=1)  # type: ignore[arg-type]
    counts = pump.run([scene])
    if counts.divergences:
        raise counts.divergences[0]
    hashes = [digest for _, digest in log.events[scene.scene]]
    completions = dict(scene.completions) | log.completions[scene.scene]
    return Trace(scene.scene, log.decoded(scene.scene), hashes, counts, completions)


class Recorder:
    """An event log for a pump that remembers instead of buffering for a writer. The hashes are the real ones.

    Attributes:
        events: payloads and hashes by scene.
        completions: by scene, then by path and attempt, as a log would hold them.
    """

    def __init__(self) -> None:
        """Make an empty log."""
        self._log = _core.EventLog()
        self.events: defaultdict[bytes, list[tuple[bytes, bytes]]] = defaultdict(list)
        self.completions: defaultdict[bytes, dict[tuple[str, int], tuple[bytes, str, str, str]]] = defaultdict(dict)

    def decoded(self, scene: bytes) -> list[dict[str, Any]]:
        """Return a scene's payloads as dictionaries."""
        return [msgspec.json.decode(payload, type=dict[str, Any]) for payload, _ in self.events[scene]]

    def open(self, scene: bytes, stored: int = 0) -> None:
        """Begin a scene, of which a log holds so many events; see `EventLog`."""
        self._log.open(scene, stored)

    def append(self, scene: bytes, payload: bytes) -> tuple[int, bytes]:
        """Add an event; see `EventLog`."""
        seq, digest = self._log.append(scene, payload)
        self.events[scene].append((payload, digest))
        return seq, digest

    def record(self, turn: _core.Turn, completion: _core.Completion) -> None:
        """Keep a completion.

        Raises:
            MatrixError: the turn has one already.
        """
        key = (turn.path, turn.attempt)
        if key in self.completions[turn.scene]:
            raise MatrixError(f"turn {turn!r} was answered twice")
        self.completions[turn.scene][key] = (turn.request, completion.text, completion.outcome, completion.finish)

    def close(self, scene: bytes) -> tuple[int, bytes]:
        """End a scene; see `EventLog`."""
        return self._log.close(scene)
