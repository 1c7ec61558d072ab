"""Why a turn came out as it did: the turns that its request was made from, those that theirs were made from, and so on."""

from dataclasses import dataclass

from matrix_py.errors import StoreError
from matrix_py.events import ReplyFlawed, ResponseGiven
from matrix_py.show.reading import Action, Reading, TurnFacts, parse_name
from matrix_py.show.transcript import Part, count_of
from matrix_py.types import turn_name

# The turn that gives the ego its plan.
_PLAN = "plan"
_ACTION = "action"
# The path that a given response goes by.
_RESPONSE = "respond"


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A turn, or an action or a response that has no turn of its own, in the tree of what something was made from.

    Attributes:
        name: of the turn (`path#2` for a second attempt), or the action's path.
        depth: 0 for what was asked about; what was made from it is one less deep.
        kind: of the turn; `action` or `response` for what has none; empty where the log has no such turn.
        role: whose part it is, where that is known.
        action: number of the action that the turn gave or is about.
        text: the completion; of an action, what was attempted.
        flaws: of the turn.
        above: what it was made from, too, and what is in the list before it.
        note: what came of an action, that a turn fell back, or what is missing in the log.
    """

    name: str
    depth: int
    kind: str
    role: str | None
    action: int | None
    text: str
    flaws: tuple[ReplyFlawed, ...]
    above: tuple[str, ...]
    note: str


def ancestors(reading: Reading, name: str) -> list[Ancestor]:
    """Return a turn or an action, then all that it was made from, each once: a tree in depth-first order.

    What one thing was made from comes in the order in which it happened, so that all of it that is not below it is above it. `name` is a
    turn's. It may also be the path of an action that has no turn of its own, since the ego acted as planned: that one comes from the plan,
    and from the verdict that let it take place or not.

    Raises:
        StoreError: there is neither a turn nor an action of that name.
    """
    path, attempt = parse_name(name)
    name = turn_name(path, attempt)
    if name not in reading.turns and name not in reading.actions:
        raise StoreError(f"scene {reading.scene[:12]} has no turn and no action {name!r}: its turns are {reading.turn_names()}")
    order: dict[str, float] = {turn: place for place, turn in enumerate(reading.turns)}
    # An act as planned comes before what is said of it.
    order |= {action: order.get(f"{action}/feasible", -1) - 0.5 for action in reading.actions if _is_planned(reading, action)}
    found: list[Ancestor] = []
    listed: set[str] = set()
    # A stack, not recursion: chains of turns may be longer than Python's.
    waiting = [(name, 0)]
    while waiting:
        name, depth = waiting.pop()
        if name in listed:
            continue
        listed.add(name)
        sources = _sources(reading, name, whole=depth == 0)
        found.append(_describe(reading, name, depth, tuple(source for source in sources if source in listed)))
        fresh = sorted((source for source in sources if source not in listed), key=lambda source: order.get(source, -1))
        waiting += [(source, depth + 1) for source in reversed(fresh)]
    return found


def ancestor_parts(found: list[Ancestor]) -> list[Part]:
    """Return a tree of ancestors as a transcript."""
    parts = []
    for each in found:
        # Two levels for each, so that no text stands where a name could.
        depth = 2 * each.depth
        number = "" if each.action is None else f"action {each.action}"
        kind = "" if each.kind == _ACTION else each.kind or "not in the log"
        facts = ", ".join(fact for fact in (kind, number, each.role) if fact)
        parts.append(Part(f"{each.name} ({facts})", each.text, depth=depth))
        notes = [each.note] if each.note else []
        notes += [f"flawed: {flaw.flaw}, {flaw.policy.replace('_', ' ')}" for flaw in each.flaws]
        notes += [f"{', '.join(each.above)} (above)"] if each.above else []
        parts += [Part(note, depth=depth + 1, tone="note") for note in notes]
    return parts


def _sources(reading: Reading, name: str, *, whole: bool) -> tuple[str, ...]:
    """Return what something was made from; with `whole`, of an act as planned also the verdict, which what follows from it names itself."""
    if _is_planned(reading, name):
        verdicts = reading.attempts(f"{name}/feasible")[-1:] if whole else []
        return tuple(turn.name for turn in [*_plan(reading), *verdicts])
    turn = reading.turns.get(name)
    return turn.reads if turn else ()


def _describe(reading: Reading, name: str, depth: int, above: tuple[str, ...]) -> Ancestor:
    if _is_planned(reading, name):
        action = reading.actions[name]
        proposal = action.proposal
        note = f"as planned, {_outcome(action)}"
        return Ancestor(name, depth, _ACTION, proposal.role, proposal.ordinal, proposal.text, (), above, note)
    turn = reading.turns.get(name)
    if turn is None:
        given = next((event.text for event in reading.events if isinstance(event, ResponseGiven) and event.given), None)
        if name == _RESPONSE and given is not None:
            return Ancestor(name, depth, "response", None, None, given, (), above, "from the input")
        return Ancestor(name, depth, "", None, None, "", (), above, "")
    about, fallback = reading.action_of(turn.path), reading.fallbacks.get(turn.path)
    note = f"fell back after {count_of(fallback.attempts, 'attempt')}" if fallback else ""
    if turn.completed is None:
        note = "what it was made from is not in the log yet"
    return Ancestor(
        name,
        depth,
        turn.kind,
        about.proposal.role if about else _role(reading, turn.path),
        about.proposal.ordinal if about else None,
        turn.text,
        turn.flaws,
        above,
        note,
    )


def _is_planned(reading: Reading, name: str) -> bool:
    """Whether a name is that of an action that has no turn of its own."""
    return name in reading.actions and name not in reading.turns


def _plan(reading: Reading) -> list[TurnFacts]:
    plans = [turn for turn in reading.turns.values() if turn.kind == _PLAN]
    return plans[-1:]


def _outcome(action: Action) -> str:
    if action.verdict is None:
        return "not judged yet"
    if not action.verdict.feasible:
        return "not possible"
    return "dropped" if action.dropped else f"took place as interaction {action.interaction}"


def _role(reading: Reading, path: str) -> str | None:
    """Return the role that a turn is named after, as profiles and reactions are."""
    last = path.rpartition("/")[2]
    return last if any(role.role == last for role in reading.cast) else None
