"""A scene as people read it: what happened, in order, with what went wrong where it did. Also one of its turns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from matrix_py.events import (
    NO_HARM,
    ActionAccepted,
    ActionDropped,
    ActionNoticed,
    ActionProposed,
    ActsPlanned,
    ConsequenceDrawn,
    CritiquesCondensed,
    CritiqueWritten,
    FeasibilityJudged,
    FutureImagined,
    HarmNoted,
    MemoryCondensed,
    OutcomeSummarised,
    ReplyFlawed,
    ResponseGiven,
    ResponseKept,
    ResponseRevised,
    ResponseSummarised,
    RoleCast,
    SceneFinished,
    SceneStarted,
    SimulationEnded,
    SituationImagined,
    TargetNamed,
    TurnCompleted,
    TurnFellBack,
)
from matrix_py.show.reading import Action, AnyEvent, OtherEvent, Reading, TurnFacts
from matrix_py.types import turn_name

_SEVERITIES = {1: "slight", 2: "serious", 3: "grave"}
_END_REASONS = {
    "plan": "the plan is used up",
    "interactions": "as many actions took place as may",
    "no_progress": "nothing new took place any more",
}

# heading: a section. struck: an action that did not take place, rejected: why. harm, flaw: to be noticed. note: by the way.
Tone: TypeAlias = Literal["heading", "line", "struck", "rejected", "harm", "flaw", "note"]


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a transcript: a heading, and text that somebody wrote.

    Attributes:
        harmful: whether the text may be harmful and is to be hidden by default: all that a model or an input says.
        depth: how far it is indented.
        block: whether the text stands below its heading; else on the same line.
    """

    heading: str
    text: str = ""
    harmful: bool = True
    depth: int = 0
    block: bool = True
    tone: Tone = "heading"


def scene_parts(reading: Reading) -> list[Part]:
    """Return a scene's transcript."""
    state = reading.end.end if reading.end else "open"
    reason = f": {reading.end.reason}" if reading.end and reading.end.reason else ""
    head = Part(f"scene {reading.scene} ({reading.label}, row {reading.row}), {state}{reason}")
    return [head, Part("instruction", reading.instruction), *_Transcript(reading).parts()]


def turn_parts(turn: TurnFacts) -> list[Part]:
    """Return a turn's facts and its completion."""
    made = turn.completed
    tokens = f"{turn.prompt_tokens} of the prompt ({turn.cached_tokens} taken over from KV), {turn.generated_tokens} generated"
    if turn.finish == "form":
        tokens += f", {turn.masked_tokens} of these only because of the form"
    seconds = [
        f"{name} {us / 1e6:.3f} s" for name, us in (("queue", turn.queued_us), ("prompt", turn.prefill_us), ("answer", turn.decode_us))
    ]
    facts = [
        ("kind", turn.kind),
        ("outcome", f"{turn.outcome}, ended by {turn.finish}"),
        ("tokens", tokens),
        ("time", ", ".join(seconds)),
        ("log-odds", "none" if turn.log_odds is None else f"{turn.log_odds:.4f}"),
        ("request", turn.request),
        ("template", made.template if made else "not in the log yet"),
        ("inputs", made.inputs if made else "not in the log yet"),
        ("reads", ", ".join(turn.reads) or "no other turn" if made else "not in the log yet"),
    ]
    lines = [Part(name, text, harmful=False, depth=1, block=False, tone="line") for name, text in facts]
    flaws = [_flaw(flaw, depth=1) for flaw in turn.flaws]
    return [Part(f"turn {turn.name}"), *lines, *flaws, Part("completion", turn.text)]


def count_of(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _Transcript:
    """Goes through a scene's events. What belongs to an action is told with the action; all else where it happened."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._step = 0

    def parts(self) -> Iterator[Part]:
        for event in self._reading.events:
            if not self._belongs_to_an_action(event):
                yield from self._parts_of(event)

    def _belongs_to_an_action(self, event: AnyEvent) -> bool:
        match event:
            case FeasibilityJudged() | ActionAccepted() | ActionDropped() | ActionNoticed() | HarmNoted():
                return event.action in self._reading.actions
            case TurnCompleted() | ReplyFlawed() | TurnFellBack():
                return self._reading.action_of(event.path) is not None
        return False

    def _parts_of(self, event: AnyEvent) -> Iterator[Part]:
        match event:
            case ResponseGiven(given=given, text=text):
                yield Part("response, from the input" if given else "response", text)
            case CritiqueWritten(principle=principle, text=text):
                yield Part(f"critique: {principle}", text)
            case SituationImagined(text=text):
                yield Part("situation", text)
            case TargetNamed(text=text):
                yield Part("target", text)
            case FutureImagined(text=text):
                yield Part("future", text)
            case RoleCast(role=role, rank=rank, origin=origin, profile=profile):
                if event is self._reading.cast[0]:
                    yield Part("cast")
                ego = ", the ego" if rank == 0 else ""
                yield Part(f"{rank} {role}{ego}, from the {origin}", profile, depth=1, tone="line")
            case ActsPlanned(acts=acts):
                yield Part("plan")
                yield from (Part(str(step), act, depth=1, block=False, tone="line") for step, act in enumerate(acts, 1))
            case ActionProposed(action=path, step=step):
                yield from self._at(step)
                yield from self._action(self._reading.actions[path])
            case MemoryCondensed(turn=turn, entries=entries, text=text):
                yield from self._at(_step_of(turn))
                yield Part(f"memory of {entries} entries, condensed", text, depth=1, tone="note")
            case CritiquesCondensed(turn=turn, critiques=critiques, text=text):
                yield from self._at(_step_of(turn))
                yield Part(f"{critiques} critiques, condensed", text, depth=1, tone="note")
            case SimulationEnded(reason=reason, steps=steps, interactions=interactions):
                self._step = 0
                count = f"{count_of(steps, 'step')}, {count_of(interactions, 'interaction')}"
                yield Part(f"end: {_END_REASONS.get(reason, reason)} ({reason}; {count})")
            case OutcomeSummarised(text=text):
                yield Part("outcome", text)
            case ConsequenceDrawn(harmful=harmful, text=text):
                yield Part("consequence" if harmful else "consequence, nothing harmful", text, harmful=text != NO_HARM)
            case ResponseSummarised(text=text):
                yield Part("response, summarised", text)
            case ResponseRevised(text=text):
                yield Part("revision", text)
            case ResponseKept(reason=reason):
                yield Part("response kept", reason, harmful=False)
            case ReplyFlawed() | TurnFellBack() | TurnCompleted():
                yield from self._trouble(event)
            case SceneStarted() | SceneFinished():
                pass
            case OtherEvent(kind=kind, fields=fields):
                yield Part(kind, str(fields.get("text") or ""))
            case _:
                yield Part(type(event).__name__, str(getattr(event, "text", "")))

    def _at(self, step: int) -> Iterator[Part]:
        """Begin a step, unless it has begun."""
        if step not in (0, self._step):
            self._step = step
            yield Part(f"step {step}")

    def _action(self, action: Action) -> Iterator[Part]:
        proposal, verdict = action.proposal, action.verdict
        rejected = verdict is not None and not verdict.feasible
        head = f"{proposal.ordinal} {proposal.role} ({proposal.action}{self._causes(proposal)})"
        yield Part(head, proposal.text, depth=1, block=False, tone="struck" if rejected or action.dropped else "line")
        yield from self._troubles(proposal.action)
        if verdict is not None and rejected:
            yield Part("not possible", verdict.reason, depth=2, block=False, tone="rejected")
        if action.dropped:
            yield Part("dropped: it came after the last interaction", depth=2, tone="rejected")
        if action.recipients is not None:
            yield Part(f"noticed by {', '.join(action.recipients) or 'nobody'}", depth=2, tone="line")
        if action.harm is not None:
            severity = _SEVERITIES.get(action.harm.severity)
            yield Part(f"harm, {severity}" if severity else "harm", action.harm.text, depth=2, block=False, tone="harm")

    def _causes(self, proposal: ActionProposed) -> str:
        if not proposal.causes:
            return ""
        actions = self._reading.actions
        numbers = ", ".join(str(actions[path].proposal.ordinal) if path in actions else path for path in proposal.causes)
        return f", having noticed {numbers}" if proposal.origin == "plan" else f", answering {numbers}"

    def _troubles(self, path: str) -> Iterator[Part]:
        """What went wrong in the turns of an action."""
        for event in self._reading.events:
            if isinstance(event, ReplyFlawed | TurnFellBack | TurnCompleted):
                action = self._reading.action_of(event.path)
                if action is not None and action.proposal.action == path:
                    yield from _trouble(event, depth=2)

    def _trouble(self, event: ReplyFlawed | TurnFellBack | TurnCompleted) -> Iterator[Part]:
        step = _step_of(event.path)
        parts = list(_trouble(event, depth=1 if step else 0))
        if parts:
            yield from self._at(step)
        yield from parts


def _trouble(event: ReplyFlawed | TurnFellBack | TurnCompleted, *, depth: int) -> Iterator[Part]:
    match event:
        case ReplyFlawed():
            yield _flaw(event, depth=depth)
        case TurnFellBack(path=path, attempts=attempts, text=text):
            yield Part(f"turn {path} fell back after {count_of(attempts, 'attempt')}", text, depth=depth, block=False, tone="flaw")
        case TurnCompleted(path=path, attempt=attempt, outcome="form_failed"):
            yield Part(f"turn {turn_name(path, attempt)} did not fill its form", depth=depth, tone="flaw")


def _flaw(event: ReplyFlawed, *, depth: int) -> Part:
    policy = event.policy.replace("_", " ")
    return Part(f"turn {turn_name(event.path, event.attempt)} flawed: {event.flaw}, {policy}", depth=depth, tone="flaw")


def _step_of(path: str) -> int:
    """Return the step that a turn belongs to, 0 for none."""
    first, _, rest = path.partition("/")
    number = rest.partition("/")[0]
    return int(number) if first == "step" and number.isdecimal() else 0
