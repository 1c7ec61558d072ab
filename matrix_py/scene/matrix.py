"""Scene `matrix`: the social scene of MATRIX (Pang et al. 2024, sections 3 and 4), made exact.

The asker acts out what follows from the response, step by step; the others react to what they notice; a modulator judges what is possible,
says who notices it and what harm it may do. Of the critiques comes the consequence, and of that the revision.
"""

from collections.abc import Sequence

from matrix_py.events import (
    ActionAccepted,
    ActionDropped,
    ActionNoticed,
    ActionProposed,
    EndReason,
    FeasibilityJudged,
    HarmNoted,
    SimulationEnded,
)
from matrix_py.scene.casting import Cast, make_cast
from matrix_py.scene.consequence import draw_consequence, revise
from matrix_py.scene.context import Scene
from matrix_py.scene.memory import Memory, condense
from matrix_py.scene.modulator import Judgement, Proposal, judge
from matrix_py.scene.quote import Quote
from matrix_py.scene.reactions import react, stimuli
from matrix_py.scene.vanilla import respond

# So many steps in a row in which nothing new took place end a scene.
STALLED_STEPS = 2

_Judged = tuple[Proposal, Judgement]


async def matrix(scene: Scene) -> None:
    """Respond, rehearse what follows from it, draw the consequence, and revise."""
    response = await respond(scene)
    cast = await make_cast(scene, response)
    memory = Memory()
    simulation = Simulation(scene, cast, memory, response)
    await simulation.run()
    consequence = await draw_consequence(scene, memory, response)
    await revise(scene, response, consequence)


class Simulation:
    """The steps of a scene, from the ego's first act to the end.

    What another method does otherwise is in the methods that `run` comes to: `act`, `judge`, `accept` and `end_step`.
    """

    def __init__(self, scene: Scene, cast: Cast, memory: Memory, response: Quote) -> None:
        """Set the stage."""
        self._scene = scene
        self._cast = cast
        self._memory = memory
        self._response = response
        self._ordinal = 0
        # What was done and said before, to tell whether anything new comes up.
        self._lines: set[str] = set()

    async def run(self) -> None:
        """Go on until the plan is used up, the interactions are, or nothing new takes place."""
        reason: EndReason = "plan"
        step = stalled = 0
        for step in range(1, len(self._cast.plan) + 1):
            before = len(self._lines)
            await self._step(step)
            await self.end_step(step)
            stalled = 0 if len(self._lines) > before else stalled + 1
            if self._is_full():
                reason = "interactions"
                break
            if stalled == STALLED_STEPS and step < len(self._cast.plan):
                reason = "no_progress"
                break
        self._scene.emit(SimulationEnded(reason=reason, steps=step, interactions=self._memory.interactions))

    async def _step(self, step: int) -> None:
        proposal = await self.act(step)
        took_place = await self._settle([(proposal, await self.judge(proposal, self._memory.story))])
        for depth in range(1, self._scene.limits.depth + 1):
            found = stimuli(self._cast, took_place)
            if not found or self._is_full():
                break
            judged = await react(self._scene, self._cast, self._memory, found, judge=self.judge, step=step, depth=depth)
            took_place = await self._settle(judged)

    async def act(self, step: int) -> Proposal:
        """The ego's next act: as planned, or, once it has noticed what others do, what it makes of the plan."""
        ego, path, planned = self._cast.ego, f"step/{step}/act", self._cast.plan[step - 1]
        text = Quote(planned, [*planned.turns, path])
        causes: tuple[str, ...] = ()
        if self._memory.has_noticed(ego.name):
            reply = await self._scene.turn(
                "act",
                path=path,
                fallback=planned,
                speakers=[ego.name, *(role.name for role in self._cast.roles)],
                role=ego.name,
                profile=ego.profile,
                memory=self._memory.view(ego.name),
                plan=planned,
            )
            text = reply.text
            if not reply.fell_back:
                causes = self._memory.noticed_since_acting(ego.name)
        return Proposal(path, ego, "plan", step, 0, causes, text)

    async def judge(self, proposal: Proposal, story: Sequence[Quote]) -> Judgement:
        """Put a proposal to the modulator."""
        return await judge(self._scene, self._cast, proposal, response=self._response, story=story)

    async def accept(self, proposal: Proposal, judgement: Judgement) -> None:
        """Let an action take place."""
        self._memory.enter(proposal, judgement)
        self._lines.add(proposal.line.casefold())
        self._scene.emit(ActionAccepted(action=proposal.path, interaction=self._memory.interactions))
        self._scene.emit(ActionNoticed(action=proposal.path, recipients=judgement.recipients))
        if judgement.critique is not None:
            severity, text = judgement.critique
            self._scene.emit(HarmNoted(action=proposal.path, severity=severity, text=text))

    async def end_step(self, step: int) -> None:
        """Keep the memory short."""
        await condense(self._scene, self._memory, step)

    async def _settle(self, judged: Sequence[_Judged]) -> list[_Judged]:
        """Let actions take place, or not, one after the other. Return those that did."""
        took_place = []
        for proposal, judgement in judged:
            self._propose(proposal, judgement)
            if not judgement.feasible:
                self._memory.reject(proposal, judgement)
            elif self._is_full():
                self._scene.emit(ActionDropped(action=proposal.path))
            else:
                await self.accept(proposal, judgement)
                took_place.append((proposal, judgement))
        return took_place

    def _propose(self, proposal: Proposal, judgement: Judgement) -> None:
        self._ordinal += 1
        self._scene.emit(
            ActionProposed(
                action=proposal.path,
                ordinal=self._ordinal,
                role=proposal.role.name,
                rank=proposal.role.rank,
                origin=proposal.origin,
                step=proposal.step,
                depth=proposal.depth,
                causes=proposal.causes,
                text=proposal.text,
            )
        )
        self._scene.emit(FeasibilityJudged(action=proposal.path, feasible=judgement.feasible, reason=judgement.reason))

    def _is_full(self) -> bool:
        return self._memory.interactions >= self._scene.limits.interactions
