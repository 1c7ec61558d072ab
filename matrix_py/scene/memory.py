"""What a scene remembers: its story, the critiques, what failed, and each role's own view."""

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import takewhile

from matrix_py.events import CritiquesCondensed, MemoryCondensed
from matrix_py.scene.context import Scene
from matrix_py.scene.modulator import Judgement, Proposal
from matrix_py.scene.quote import Quote

# At the end of a step, more entries than this become one, which counts as one from then on.
MAX_ENTRIES = 3
MAX_CRITIQUES = 8
# Critiques are condensed so often at most, and then kept as they are.
MAX_CONDENSATIONS = 4
# The latest entries of its own that a role is shown.
VIEW_ENTRIES = 8

SEVERITIES = {1: "Slight", 2: "Serious", 3: "Grave"}


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry of a role's view: an action that it did itself (`own`) or noticed."""

    path: str
    own: bool
    line: Quote


@dataclass(slots=True)
class Memory:
    """The memory of one scene.

    Attributes:
        story: what took place, in order; what was condensed comes first, as one entry.
        critiques: what harm was noted, in order; likewise.
        failed: what was attempted and did not happen, with the reason.
        interactions: actions that took place.
        unanswered: those of them about whose harm nothing usable was said.
        views: role -> what it did and noticed, in order.
    """

    story: list[Quote] = field(default_factory=list)
    critiques: list[Quote] = field(default_factory=list)
    failed: list[Quote] = field(default_factory=list)
    interactions: int = 0
    unanswered: int = 0
    condensations: int = 0
    views: dict[str, list[Seen]] = field(default_factory=dict)

    def enter(self, proposal: Proposal, judgement: Judgement) -> None:
        """Remember what took place: in the story, in the view of the role that did it, and in the views of those who noticed it."""
        self.interactions += 1
        self.unanswered += judgement.unanswered
        # What stands in a prompt follows from the verdict that let it in, and in another's view from who was said to notice it.
        line = Quote.of(proposal.line, proposal.line, judgement.reason)
        self.story.append(line)
        self._see(proposal.role.name, Seen(proposal.path, own=True, line=line))
        for recipient in judgement.recipients:
            self._see(recipient, Seen(proposal.path, own=False, line=Quote.of(line, line, judgement.noticing)))
        if judgement.critique is not None:
            severity, text = judgement.critique
            # Without a grade, a critique stands with the action that it is about.
            label = SEVERITIES.get(severity, proposal.line)
            self.critiques.append(Quote.of(f"{label}: {text}", label, text, judgement.reason))

    def reject(self, proposal: Proposal, judgement: Judgement) -> None:
        """Remember what turned out to be impossible. No role knows of it."""
        self.failed.append(Quote.of(f"{proposal.line} (not possible: {judgement.reason})", proposal.line, judgement.reason))

    def view(self, role: str, *, without: Collection[str] = ()) -> list[Quote]:
        """Return the latest of what a role did and noticed, without the actions of these paths."""
        return [seen.line for seen in self.views.get(role, []) if seen.path not in without][-VIEW_ENTRIES:]

    def has_noticed(self, role: str) -> bool:
        """Whether a role has noticed anything that another did."""
        return any(not seen.own for seen in self.views.get(role, []))

    def noticed_since_acting(self, role: str) -> tuple[str, ...]:
        """Return the paths of the actions that a role noticed after the last thing that it did itself."""
        latest = takewhile(lambda seen: not seen.own, reversed(self.views.get(role, [])))
        return tuple(seen.path for seen in latest)[::-1]

    def _see(self, role: str, seen: Seen) -> None:
        self.views.setdefault(role, []).append(seen)


async def condense(scene: Scene, memory: Memory, step: int) -> None:
    """Condense what has become too long, at the end of a step."""
    at = f"step/{step}"
    await scene.gather(condense_story(scene, memory, at), _condense_critiques(scene, memory, at))


async def condense_story(scene: Scene, memory: Memory, at: str) -> None:
    """Condense the story if it has become too long; `at` is the path of that after which it is done."""
    if len(memory.story) <= MAX_ENTRIES:
        return
    path = f"{at}/condense/memory"
    # Without a usable text the entries stay as they are.
    reply = await scene.turn("condense_memory", path=path, fallback="", story=memory.story)
    if not reply.fell_back:
        scene.emit(MemoryCondensed(turn=path, entries=len(memory.story), text=reply.text))
        memory.story = [reply.text]


async def _condense_critiques(scene: Scene, memory: Memory, at: str) -> None:
    if len(memory.critiques) > MAX_CRITIQUES and memory.condensations < MAX_CONDENSATIONS:
        text = await condense_critiques(scene, memory, at)
        memory.critiques = memory.critiques if text is None else [text]


async def condense_critiques(scene: Scene, memory: Memory, at: str) -> Quote | None:
    """Return one critique that stands for all, or None if no text was usable; `at` as above."""
    path = f"{at}/condense/critiques"
    reply = await scene.turn("condense_critiques", path=path, fallback="", critiques=memory.critiques)
    if reply.fell_back:
        return None
    memory.condensations += 1
    scene.emit(CritiquesCondensed(turn=path, critiques=len(memory.critiques), times=memory.condensations, text=reply.text))
    return reply.text
