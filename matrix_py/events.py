"""Events: what a scene's hash chain is made of.

They are hashed in the form that `encode` gives them: the fields in the order below, integers, booleans, strings and lists of these, no
floats. A change of a field, its meaning or its place raises that event's `version`. Turns and actions go by their paths in the scene.
"""

from typing import Any, ClassVar, Literal, TypeAlias

import msgspec


class Event(msgspec.Struct, frozen=True, tag_field="kind", kw_only=True):
    """A fact of a scene, in the past tense."""

    # Version of this kind's fields.
    version: ClassVar[int] = 1


# Of every scene


class SceneStarted(Event, frozen=True):
    """A scene began; texts by their BLAKE3 hashes (hex)."""

    scene: str
    instruction: str
    response: str | None
    occurrence: int


class TurnCompleted(Event, frozen=True):
    """The LLM answered a turn. The same request on the same model gives the same text."""

    path: str
    attempt: int
    turn: str
    request: str
    # Hashes of what the request was made from: the kind's prompt and settings, and the values that the scene filled in.
    template: str
    inputs: str
    # What those values are made from: the turns whose texts they are, and those that decided that they belong there. An act that is as
    # planned is named beside the plan; a response that was given goes by the path of its turn, had there been one.
    reads: tuple[str, ...]
    outcome: str
    finish: str
    text: str


# What was done about a flawed reply. `passed_over`: that of an earlier attempt, which is flawed but usable, was kept in its place.
Policy: TypeAlias = Literal["cut", "retried", "kept", "passed_over", "fell_back", "failed"]


class ReplyFlawed(Event, frozen=True):
    """A reply had a flaw (see `matrix_py.scene.flaws`)."""

    path: str
    attempt: int
    flaw: str
    policy: Policy


class TurnFellBack(Event, frozen=True):
    """No attempt of a turn gave a usable reply; the scene goes on with the documented fallback."""

    path: str
    attempts: int
    text: str


class ResponseGiven(Event, frozen=True):
    """The scene has its initial response: from the input (`given`) or from a turn."""

    given: bool
    text: str


class ResponseRevised(Event, frozen=True):
    """The scene has its revision."""

    text: str


SceneEnd: TypeAlias = Literal["completed", "failed"]


class SceneFinished(Event, frozen=True):
    """The scene's last event. `count` is the number of events before it; `reason` says why a scene failed."""

    count: int
    end: SceneEnd
    reason: str = ""


# Of scene `critique-revise`


class CritiqueWritten(Event, frozen=True):
    """A critique of the response by a principle."""

    principle: str
    text: str


# Of the social scene, in the order in which they come up


class SituationImagined(Event, frozen=True):
    """In which situation somebody asks this."""

    text: str


class FutureImagined(Event, frozen=True):
    """What comes next if the response is acted on."""

    text: str


# Where a role comes from: the situation (the ego), the future (those affected), or the public (a second list that fills gaps).
RoleOrigin: TypeAlias = Literal["situation", "future", "public"]


class RoleCast(Event, frozen=True):
    """A role is in the cast. Rank 0 is the ego; the others are ranked from 1, the most affected first."""

    role: str
    rank: int
    origin: RoleOrigin
    profile: str


class ActsPlanned(Event, frozen=True):
    """The ego has its plan: one act a step."""

    acts: tuple[str, ...]


# What an action comes from: the ego's plan, or something that the role noticed.
ActionOrigin: TypeAlias = Literal["plan", "reaction"]


class ActionProposed(Event, frozen=True):
    """A role set out to do something. Whether it happens is the modulator's to say.

    `action` is its path, by which other events refer to it; `ordinal` counts the scene's actions from 1; `depth` is 0 for the ego's act
    and the number of the wave for a reaction; `causes` are the actions that a reaction answers, or that the ego
    noticed since its last act that took place, if its act takes account of them.
    """

    action: str
    ordinal: int
    role: str
    rank: int
    origin: ActionOrigin
    step: int
    depth: int
    causes: tuple[str, ...]
    text: str


class FeasibilityJudged(Event, frozen=True):
    """The modulator said whether an action is possible there and then."""

    action: str
    feasible: bool
    reason: str


class ActionAccepted(Event, frozen=True):
    """A feasible action took place: it is in the scene's memory. `interaction` counts these from 1."""

    action: str
    interaction: int


class ActionDropped(Event, frozen=True):
    """A feasible action came after the scene's last interaction, and did not take place."""

    action: str


class ActionNoticed(Event, frozen=True):
    """Who noticed an action: roles other than the one that acted, in the order of the cast; possibly nobody."""

    action: str
    recipients: tuple[str, ...]


class HarmNoted(Event, frozen=True):
    """The modulator noted what harm an action may do. Severity: 1 slight, 2 serious, 3 grave; 0 where the method does not ask for it."""

    action: str
    severity: int
    text: str


class MemoryCondensed(Event, frozen=True):
    """The scene's memory, of so many entries, became one; `turn` is the path of the turn that wrote it."""

    turn: str
    entries: int
    text: str


class CritiquesCondensed(Event, frozen=True):
    """So many critiques became one; `times` counts how often that happened in the scene."""

    turn: str
    critiques: int
    times: int
    text: str


# plan: all acts are used up. interactions: the limit is reached. no_progress: nothing new took place for too long.
EndReason: TypeAlias = Literal["plan", "interactions", "no_progress"]


class SimulationEnded(Event, frozen=True):
    """The social part of the scene is over, after so many steps and interactions."""

    reason: EndReason
    steps: int
    interactions: int


# How a consequence without harm begins.
NO_HARM = "Nothing harmful was found."


class ConsequenceDrawn(Event, frozen=True):
    """What acting on the response came to, as a critique of it. `harmful` says whether any harm was noted."""

    harmful: bool
    text: str


class ResponseKept(Event, frozen=True):
    """The response stands as it is, for this reason: there is no revision."""

    reason: str


# Of the method `published` only


class TargetNamed(Event, frozen=True):
    """What the ego is after."""

    text: str


class OutcomeSummarised(Event, frozen=True):
    """How the simulation ended, in a summary that nothing else uses."""

    text: str


class ResponseSummarised(Event, frozen=True):
    """The response in one sanitised sentence, which stands for it in the revision's prompt."""

    text: str


def encode(event: Event) -> bytes:
    """Return the canonical payload of an event: compact JSON, UTF-8; first its kind and the version of its fields."""
    text = _ENCODER.encode(event)
    kind_end = len(b'{"kind":""') + len(type(event).__name__)
    return b'%s,"v":%d%s' % (text[:kind_end], event.version, text[kind_end:])


def _plain(value: Any) -> str:
    """Texts of replies are of a class of their own, which knows where they come from."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError(f"an event holds a {type(value).__name__}: use integers, booleans, strings and lists of these")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
