"""What a log holds of one scene: its events, its turns, and its actions with what became of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from matrix_py import events
from matrix_py.errors import StoreError
from matrix_py.events import (
    ActionAccepted,
    ActionDropped,
    ActionNoticed,
    ActionProposed,
    Event,
    FeasibilityJudged,
    HarmNoted,
    ReplyFlawed,
    RoleCast,
    SceneFinished,
    TurnCompleted,
    TurnFellBack,
)
from matrix_py.store import ReadableLog
from matrix_py.types import turn_name

_KINDS = {name: kind for name, kind in vars(events).items() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event}
# Turns about an action lie under its path.
_ABOUT_ACTIONS = ("feasible", "recipients", "critique")
_MAX_NAMED = 20

_HEAD = """
    SELECT s.position, s.label, s.row, instruction.text, s.meta
    FROM scenes s JOIN texts instruction ON instruction.hash = s.instruction WHERE s.scene = unhex(?)
"""
_EVENTS = "SELECT kind, payload FROM events WHERE scene = unhex(?) ORDER BY seq"
_TURNS = """
    SELECT c.path, c.attempt, c.kind, c.outcome, c.finish, t.text, c.prompt_tokens, c.cached_tokens, c.generated_tokens, c.masked_tokens,
        c.log_odds, c.queued_us, c.prefill_us, c.decode_us, lower(hex(c.request))
    FROM completions c JOIN texts t ON t.hash = c.text WHERE c.scene = unhex(?) ORDER BY c.recorded_at, c.path, c.attempt
"""


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """An event of a kind that is not the package's own, or that this version cannot read."""

    kind: str
    fields: dict[str, Any]


AnyEvent: TypeAlias = Event | OtherEvent


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """A turn: what it was made from, what came back, and what was found wrong with that.

    Attributes:
        completed: the event that follows from the completion; a run that was stopped may not have it yet.
        flaws: of this attempt, in the order in which they were found.
        log_odds: of the two texts that the turn's form decided between; None for other turns.
    """

    completed: TurnCompleted | None
    flaws: tuple[ReplyFlawed, ...]
    path: str
    attempt: int
    kind: str
    outcome: str
    finish: str
    text: str
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    masked_tokens: int
    log_odds: float | None
    queued_us: int
    prefill_us: int
    decode_us: int
    request: str

    @property
    def name(self) -> str:
        """The turn as read sets spell it."""
        return turn_name(self.path, self.attempt)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the turns that the request was made from."""
        return self.completed.reads if self.completed else ()


@dataclass(frozen=True, slots=True)
class Action:
    """What a role set out to do, and what became of it.

    Attributes:
        verdict: None where the scene stopped before it.
        interaction: its number among the actions that took place; None if it did not.
        dropped: whether it was feasible, but came after the last interaction.
        recipients: who noticed it; None where that was not asked.
    """

    proposal: ActionProposed
    verdict: FeasibilityJudged | None
    interaction: int | None
    dropped: bool
    recipients: tuple[str, ...] | None
    harm: HarmNoted | None


@dataclass(frozen=True, slots=True)
class Reading:
    """A scene as the log holds it.

    Attributes:
        scene: the scene's id, hex.
        meta: the other columns of the input, JSON.
        turns: by name, in the order of their events; then those that have none yet.
        actions: by path, in order.
    """

    scene: str
    position: int
    label: str
    row: int
    instruction: str
    meta: str
    events: tuple[AnyEvent, ...]
    turns: dict[str, TurnFacts]
    actions: dict[str, Action]

    @property
    def end(self) -> SceneFinished | None:
        """The scene's last event; None while it is open."""
        return next((event for event in reversed(self.events) if isinstance(event, SceneFinished)), None)

    @property
    def cast(self) -> tuple[RoleCast, ...]:
        """The roles, the ego first."""
        return tuple(event for event in self.events if isinstance(event, RoleCast))

    @property
    def fallbacks(self) -> dict[str, TurnFellBack]:
        """By path, the turns of which no attempt was usable."""
        return {event.path: event for event in self.events if isinstance(event, TurnFellBack)}

    def action_of(self, path: str) -> Action | None:
        """Return the action that a turn gave or is about."""
        action, _, about = path.rpartition("/")
        return self.actions.get(path) or (self.actions.get(action) if about in _ABOUT_ACTIONS else None)

    def attempts(self, path: str) -> list[TurnFacts]:
        """Return a turn's attempts, in order."""
        return [turn for turn in self.turns.values() if turn.path == path]

    def turn(self, name: str) -> TurnFacts:
        """Return a turn by its name; `path` and `path#1` are the same.

        Raises:
            StoreError: there is none.
        """
        found = self.turns.get(turn_name(*parse_name(name)))
        if found is None and name in self.actions:
            raise StoreError(
                f"scene {self.scene[:12]} has no turn {name!r}: that action is as planned in cast/plan; --why {name} shows more"
            )
        if found is None:
            raise StoreError(f"scene {self.scene[:12]} has no turn {name!r}: its turns are {self.turn_names()}")
        return found

    def turn_names(self) -> str:
        """Name the scene's turns for a message; of many, the first."""
        names = list(self.turns)
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        return ", ".join(names[:_MAX_NAMED]) + more or "none yet"


def parse_name(name: str) -> tuple[str, int]:
    """Return path and attempt of a turn's name."""
    path, _, attempt = name.rpartition("#")
    return (path, int(attempt)) if path and attempt.isdecimal() else (name, 1)


def read_scene(log: ReadableLog, scene: str) -> Reading:
    """Read a scene; `scene` is its id, or its place in the input, or the first digits of the id.

    Raises:
        StoreError: the log cannot be read, or no one scene goes by that name.
    """
    found = find_scene_id(log, scene)
    _, [(position, label, row, instruction, meta)] = log.query(_HEAD, [found])
    _, rows = log.query(_EVENTS, [found])
    happened = tuple(_decode(kind, payload) for kind, payload in rows)
    _, rows = log.query(_TURNS, [found])
    return Reading(found, position, label, row, instruction, meta, happened, _turns(happened, rows), _actions(happened))


def find_scene_id(log: ReadableLog, scene: str) -> str:
    """Return the id of the scene that goes by this id, these first digits of it, or this place in the input.

    Raises:
        StoreError: none does, or more than one.
    """
    if scene.isdecimal() and len(scene) < 12:
        _, rows = log.query("SELECT lower(hex(scene)) FROM scenes WHERE position = ?", [int(scene)])
    else:
        _, rows = log.query("SELECT lower(hex(scene)) AS id FROM scenes WHERE starts_with(id, ?) LIMIT 2", [scene.lower()])
    if len(rows) != 1:
        problem = "no scene" if not rows else "more than one scene"
        raise StoreError(f"{problem} of {log.path} goes by {scene!r}: give a scene's id, its first digits, or its place in the input")
    return str(rows[0][0])


def _decode(kind: str, payload: str) -> AnyEvent:
    if kind in _KINDS:
        try:
            event: Event = msgspec.json.decode(payload, type=_KINDS[kind])
            return event
        except msgspec.MsgspecError:  # of another version, or changed after the run: show it as what it is
            pass
    fields = msgspec.json.decode(payload)
    if not isinstance(fields, dict):
        raise StoreError(f"the payload of a {kind} is no object: it was changed after the run")
    return OtherEvent(kind, {name: value for name, value in fields.items() if name not in ("kind", "v")})


def _turns(happened: tuple[AnyEvent, ...], rows: list[tuple[Any, ...]]) -> dict[str, TurnFacts]:
    completed = {turn_name(event.path, event.attempt): event for event in happened if isinstance(event, TurnCompleted)}
    flaws: dict[str, list[ReplyFlawed]] = {}
    for event in happened:
        if isinstance(event, ReplyFlawed):
            flaws.setdefault(turn_name(event.path, event.attempt), []).append(event)
    stored = {}
    for row in rows:
        name = turn_name(row[0], row[1])
        stored[name] = TurnFacts(completed.get(name), tuple(flaws.get(name, ())), *row)
    order = [name for name in completed if name in stored]
    return {name: stored[name] for name in [*order, *(name for name in stored if name not in completed)]}


def _actions(happened: tuple[AnyEvent, ...]) -> dict[str, Action]:
    verdicts = {event.action: event for event in happened if isinstance(event, FeasibilityJudged)}
    interactions = {event.action: event.interaction for event in happened if isinstance(event, ActionAccepted)}
    dropped = {event.action for event in happened if isinstance(event, ActionDropped)}
    recipients = {event.action: event.recipients for event in happened if isinstance(event, ActionNoticed)}
    harms = {event.action: event for event in happened if isinstance(event, HarmNoted)}

    def found() -> Iterator[Action]:
        for event in happened:
            if isinstance(event, ActionProposed):
                path = event.action
                yield Action(event, verdicts.get(path), interactions.get(path), path in dropped, recipients.get(path), harms.get(path))

    return {action.proposal.action: action for action in found()}
