"""What attribution needs of a scene: its critiques, and what it came to in the end."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import msgspec

from matrix_py.distance import distance
from matrix_py.events import SceneEnd
from matrix_py.labels.detector import Subject
from matrix_py.labels.refusal import REFUSAL
from matrix_py.types import StoredScene

# What can be dropped at a time: one critique, or all that a role's actions were criticised for.
By: TypeAlias = Literal["critique", "role"]


@dataclass(frozen=True, slots=True)
class Critique:
    """A critique of an action (its path), and who acted."""

    action: str
    role: str
    rank: int
    step: int
    severity: int


@dataclass(frozen=True, slots=True)
class Ending:
    """What a scene came to.

    Attributes:
        end: None while it is open.
        response: the first response; empty before it is given.
        answer: the revision; the response where it was kept; empty where there is neither.
        kept: whether the response was kept.
    """

    end: SceneEnd | None = None
    response: str = ""
    answer: str = ""
    kept: bool = False

    def after(self, payload: bytes | str) -> "Ending":
        """Return the ending once this event has happened."""
        found = _decoded(payload, ("ResponseGiven", "ResponseRevised", "ResponseKept", "SceneFinished"))
        match found.get("kind"):
            case "ResponseGiven":
                return replace(self, response=found["text"])
            case "ResponseRevised":
                return replace(self, answer=found["text"], kept=False)
            case "ResponseKept":
                return replace(self, answer=self.response, kept=True)
            case "SceneFinished":
                return replace(self, end=found["end"])
        return self

    def refuses(self, instruction: str) -> bool:
        """Whether the answer refuses what was asked, as the detector of labels has it."""
        return REFUSAL.find(Subject(self.answer, "revise", in_world=False, instruction=instruction, response=self.response)) is not None


@dataclass(frozen=True, slots=True)
class Story:
    """A scene as far as it concerns attribution: its critiques in the order in which they were noted, and its ending."""

    scene: bytes
    instruction: str
    critiques: tuple[Critique, ...]
    ending: Ending

    def drops(self, by: By) -> list["Drop"]:
        """Return what can be dropped, in the order in which it first came up."""
        if by == "critique":
            return [Drop(critique.action, (critique,)) for critique in self.critiques]
        roles = dict.fromkeys(critique.role for critique in self.critiques)
        return [Drop(role, tuple(critique for critique in self.critiques if critique.role == role)) for role in roles]


@dataclass(frozen=True, slots=True)
class Drop:
    """Critiques that are dropped together, and what they go by: the action's path, or the role's name."""

    name: str
    critiques: tuple[Critique, ...]

    @property
    def severity(self) -> int:
        """The gravest of them."""
        return max(critique.severity for critique in self.critiques)


@dataclass(frozen=True, slots=True)
class Effect:
    """What dropping something did.

    Attributes:
        distance: from the answer to the one without what was dropped, in words (`matrix_py.distance`); None where no answer came.
        changes: what is of another kind: `revised -> kept`, `answer -> refusal`, `completed -> failed` and the like.
        live: turns that the model was asked.
    """

    drop: Drop
    before: Ending
    after: Ending
    distance: float | None
    changes: tuple[str, ...]
    live: int

    @property
    def weight(self) -> tuple[bool, float]:
        """By which effects of a scene are ranked: those that change what kind of answer it is come first, then the farthest."""
        return bool(self.changes), 1.0 if self.distance is None else self.distance


@dataclass(slots=True)
class Playing:
    """A scene that is played without something: what it has come to by now, and the turns that the model was asked."""

    drop: Drop
    ending: Ending = field(default_factory=Ending)
    live: int = 0

    def effect(self, story: Story) -> Effect:
        """Compare with the scene as it was."""
        before, after = story.ending, self.ending
        changes = []
        if after.end != before.end:
            changes.append(f"{before.end} -> {after.end or 'open'}")
            return Effect(self.drop, before, after, None, tuple(changes), self.live)
        if after.kept != before.kept:
            changes.append("kept -> revised" if before.kept else "revised -> kept")
        refused, refuses = before.refuses(story.instruction), after.refuses(story.instruction)
        if refused != refuses:
            changes.append("refusal -> answer" if refused else "answer -> refusal")
        return Effect(self.drop, before, after, distance(before.answer, after.answer), tuple(changes), self.live)


def read_story(stored: StoredScene) -> Story:
    """Read a scene's critiques and its ending from its events."""
    ending, critiques = Ending(), []
    proposed: dict[str, dict[str, Any]] = {}
    for event in stored.events:
        ending = ending.after(event.payload)
        found = _decoded(event.payload, ("ActionProposed", "HarmNoted"))
        if found.get("kind") == "ActionProposed":
            proposed[found["action"]] = found
        elif found:
            action = proposed[found["action"]]
            critiques.append(Critique(found["action"], action["role"], action["rank"], action["step"], found["severity"]))
    return Story(stored.scene, stored.instruction, tuple(critiques), ending)


def _decoded(payload: bytes | str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return an event's fields if it is of one of these kinds, else none."""
    text = payload if isinstance(payload, bytes) else payload.encode()
    # The kind comes first: most events need not be decoded.
    if not text.startswith(tuple(b'{"kind":"%s"' % kind.encode() for kind in kinds)):
        return {}
    return msgspec.json.decode(text, type=dict[str, Any])
