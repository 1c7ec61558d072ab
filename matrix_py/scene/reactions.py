"""A wave of reactions: all who noticed something answer it together, from one snapshot."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from matrix_py.scene.casting import Cast, Role
from matrix_py.scene.context import Scene
from matrix_py.scene.memory import Memory
from matrix_py.scene.modulator import Judgement, Proposal
from matrix_py.scene.quote import Quote

# Puts a proposal to the modulator, after a story.
Judge: TypeAlias = Callable[[Proposal, Sequence[Quote]], Coroutine[Any, Any, Judgement]]


@dataclass(frozen=True, slots=True)
class Stimulus:
    """What a role answers: the actions that it noticed, all at once."""

    role: Role
    causes: tuple[str, ...]
    lines: tuple[Quote, ...]


def stimuli(cast: Cast, actions: Sequence[tuple[Proposal, Judgement]]) -> list[Stimulus]:
    """Return who answers these actions, by rank. The ego does not: it answers with its next act."""
    found = []
    for role in cast.roles:
        noticed = [(proposal, judgement) for proposal, judgement in actions if role.name in judgement.recipients]
        if noticed:
            causes = tuple(proposal.path for proposal, _ in noticed)
            lines = (Quote.of(each.line, each.line, judgement.reason, judgement.noticing) for each, judgement in noticed)
            found.append(Stimulus(role, causes, tuple(lines)))
    return found


async def react(
    scene: Scene, cast: Cast, memory: Memory, found: Sequence[Stimulus], *, judge: Judge, step: int, depth: int
) -> list[tuple[Proposal, Judgement]]:
    """Let roles react, and judge the reactions. Nothing of it is remembered yet, so none of them sees another's."""
    story = list(memory.story)
    judged = await scene.gather(*(_react(scene, cast, memory, each, judge, story, step, depth) for each in found))
    return [each for each in judged if each is not None]


async def _react(
    scene: Scene, cast: Cast, memory: Memory, found: Stimulus, judge: Judge, story: Sequence[Quote], step: int, depth: int
) -> tuple[Proposal, Judgement] | None:
    role = found.role
    path = f"step/{step}/react/{role.name}" + (f"/{depth}" if depth > 1 else "")
    reply = await scene.turn(
        "react",
        path=path,
        # Who can only refuse, or finds no words, does nothing.
        fallback="does nothing",
        speakers=[role.name, *cast.others(role)],
        role=role.name,
        profile=role.profile,
        memory=memory.view(role.name, without=found.causes) or ["Nothing yet."],
        noticed=found.lines,
    )
    if reply.fell_back:
        return None
    proposal = Proposal(path, role, "reaction", step, depth, found.causes, reply.text)
    return proposal, await judge(proposal, story)
