"""A scene as one JSON document, for programs. Where texts are not revealed, `{"characters": n}` stands for each."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec

from matrix_py.events import (
    ActionAccepted,
    ActionDropped,
    ActionNoticed,
    ActionProposed,
    ActsPlanned,
    ConsequenceDrawn,
    CritiquesCondensed,
    Event,
    FeasibilityJudged,
    FutureImagined,
    HarmNoted,
    MemoryCondensed,
    ReplyFlawed,
    ResponseGiven,
    ResponseKept,
    ResponseRevised,
    RoleCast,
    SceneFinished,
    SceneStarted,
    SimulationEnded,
    SituationImagined,
    TurnCompleted,
    TurnFellBack,
)
from matrix_py.show.ancestry import Ancestor
from matrix_py.show.reading import Action, OtherEvent, Reading, TurnFacts

# Kinds that are told under names of their own; all others are listed under `events`.
_TOLD = (
    *(SceneStarted, TurnCompleted, ReplyFlawed, TurnFellBack, ResponseGiven, ResponseRevised, SceneFinished),
    *(SituationImagined, FutureImagined, RoleCast, ActsPlanned, ActionProposed, FeasibilityJudged, ActionAccepted, ActionDropped),
    *(ActionNoticed, HarmNoted, MemoryCondensed, CritiquesCondensed, SimulationEnded, ConsequenceDrawn, ResponseKept),
)

_Show: TypeAlias = Callable[[Any], Any]
_E = TypeVar("_E", bound=Event)


def scene_document(reading: Reading, *, reveal: bool) -> dict[str, Any]:
    """Return a scene as a value of JSON; what did not come up in it, or not yet, is null or empty.

    Its keys: of the scene `scene`, `position`, `label`, `row`, `meta`, `state`, `reason`, `instruction`, `response`, `response_given`; of
    the cast `situation`, `future`, `roles`, `plan`; then `actions`, `condensations`, `end_reason`, `steps`, `interactions`; at the end
    `consequence`, `harmful`, `revision`, `kept`; `flaws` and `fallbacks`; `events` of kinds that have no key of their own; and `turns`.

    Args:
        reading: the scene.
        reveal: whether texts that may be harmful are there, or their lengths. Names of roles are always there.
    """
    show = _as_it_is if reveal else _hidden
    events = reading.events
    response, revision = _last(reading, ResponseGiven), _last(reading, ResponseRevised)
    situation, future = _last(reading, SituationImagined), _last(reading, FutureImagined)
    plan, ended = _last(reading, ActsPlanned), _last(reading, SimulationEnded)
    consequence, kept = _last(reading, ConsequenceDrawn), _last(reading, ResponseKept)
    return {
        "scene": reading.scene,
        "position": reading.position,
        "label": reading.label,
        "row": reading.row,
        "meta": show(msgspec.json.decode(reading.meta)),
        "state": reading.end.end if reading.end else "open",
        "reason": (reading.end.reason or None) if reading.end else None,
        "instruction": show(reading.instruction),
        "response": show(response.text) if response else None,
        "response_given": response.given if response else None,
        "situation": show(situation.text) if situation else None,
        "future": show(future.text) if future else None,
        "roles": [{"role": role.role, "rank": role.rank, "origin": role.origin, "profile": show(role.profile)} for role in reading.cast],
        "plan": [show(act) for act in plan.acts] if plan else [],
        "actions": [_action(reading, action, show) for action in reading.actions.values()],
        "condensations": [_condensation(event, show) for event in events if isinstance(event, MemoryCondensed | CritiquesCondensed)],
        "end_reason": ended.reason if ended else None,
        "steps": ended.steps if ended else None,
        "interactions": ended.interactions if ended else None,
        "consequence": show(consequence.text) if consequence else None,
        "harmful": consequence.harmful if consequence else None,
        "revision": show(revision.text) if revision else None,
        "kept": kept is not None,
        "flaws": [_fields(event) for event in events if isinstance(event, ReplyFlawed)],
        "fallbacks": [
            {"path": event.path, "attempts": event.attempts, "text": show(event.text)}
            for event in events
            if isinstance(event, TurnFellBack)
        ],
        "events": [
            {"seq": seq, "kind": event.kind if isinstance(event, OtherEvent) else type(event).__name__, "fields": show(_fields(event))}
            for seq, event in enumerate(events)
            if not isinstance(event, _TOLD)
        ],
        "turns": [_turn(turn, show) for turn in reading.turns.values()],
    }


def turn_document(turn: TurnFacts, *, reveal: bool) -> dict[str, Any]:
    """Return a turn as a value of JSON: its facts, `text`, `flaws`, and `template`, `inputs`, `reads`: null until its event."""
    return _turn(turn, _as_it_is if reveal else _hidden) | {"flaws": [_fields(flaw) for flaw in turn.flaws]}


def ancestors_document(found: list[Ancestor], *, reveal: bool) -> list[dict[str, Any]]:
    """Return what something was made from as a value of JSON: the fields of `Ancestor`, in its order."""
    show = _as_it_is if reveal else _hidden
    return [{**msgspec.to_builtins(each), "text": show(each.text), "flaws": [_fields(flaw) for flaw in each.flaws]} for each in found]


def _action(reading: Reading, action: Action, show: _Show) -> dict[str, Any]:
    proposal, verdict, harm = action.proposal, action.verdict, action.harm
    verdicts = reading.attempts(f"{proposal.action}/feasible")
    return {
        **_fields(proposal),
        "text": show(proposal.text),
        "feasible": verdict.feasible if verdict else None,
        "reason": show(verdict.reason) if verdict else None,
        "log_odds": verdicts[-1].log_odds if verdicts else None,
        "interaction": action.interaction,
        "took_place": action.interaction is not None,
        "dropped": action.dropped,
        "recipients": action.recipients,
        "severity": harm.severity if harm else None,
        "critique": show(harm.text) if harm else None,
    }


def _condensation(event: MemoryCondensed | CritiquesCondensed, show: _Show) -> dict[str, Any]:
    of, count = ("memory", event.entries) if isinstance(event, MemoryCondensed) else ("critiques", event.critiques)
    return {"of": of, "turn": event.turn, "count": count, "text": show(event.text)}


def _turn(turn: TurnFacts, show: _Show) -> dict[str, Any]:
    made = turn.completed
    facts: dict[str, Any] = msgspec.to_builtins(turn)
    del facts["completed"], facts["flaws"]
    return facts | {
        "text": show(turn.text),
        "template": made.template if made else None,
        "inputs": made.inputs if made else None,
        "reads": made.reads if made else None,
    }


def _last(reading: Reading, kind: type[_E]) -> _E | None:
    return next((event for event in reversed(reading.events) if isinstance(event, kind)), None)


def _fields(event: Event | OtherEvent) -> dict[str, Any]:
    fields: dict[str, Any] = dict(event.fields) if isinstance(event, OtherEvent) else msgspec.to_builtins(event)
    fields.pop("kind", None)
    return fields


def _as_it_is(value: Any) -> Any:
    return value


def _hidden(value: Any) -> Any:
    """Put their lengths in the place of all texts in a value of JSON."""
    match value:
        case str():
            return {"characters": len(value)}
        case list() | tuple():
            return [_hidden(item) for item in value]
        case dict():
            return {name: _hidden(item) for name, item in value.items()}
    return value
