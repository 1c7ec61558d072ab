"""Scene `published`: what the released code of MATRIX does, where it bears on results, without its defects.

The course of a scene is that of `matrix`: its steps, waves of reactions, limits and ends. What is done otherwise:

- The future, not the response, is split into the ego's plan. A second list of roles is asked for in any case. Profiles have no age.
- The ego does what it planned, whatever it noticed, and a role reacts to what it observed without any memory.
- Who may be aware of an action is asked before its feasibility, and the verdict comes before its reason. The critique cannot be "none".
- Memory and critiques are condensed as soon as they have become long. After so many condensations, nothing is criticised any more.
- The consequence is the critiques themselves. The revision is given a summary of the response, under a persona and with a worked refusal.

The released code lets every action happen. Here, what is judged impossible is recorded and no more: it reaches nobody, leaves no memory and
gets no critique, and no later turn is told of it. docs/published.md says what else was left out, and how to compare the methods.
"""

import contextlib
from collections.abc import Sequence

from matrix_py.events import ConsequenceDrawn, OutcomeSummarised, ResponseSummarised, TargetNamed
from matrix_py.scene import forms
from matrix_py.scene.casting import Cast, Ranked, ask_names, ask_plan, ask_profile, ask_text, assemble, imagine, rank
from matrix_py.scene.consequence import note_no_harm, revise
from matrix_py.scene.context import Reply, Scene, TurnFailed
from matrix_py.scene.matrix import Simulation
from matrix_py.scene.memory import MAX_CONDENSATIONS, MAX_CRITIQUES, Memory, condense_critiques, condense_story
from matrix_py.scene.modulator import UNGRADED, Judgement, Proposal, ask_recipients
from matrix_py.scene.quote import Quote
from matrix_py.scene.vanilla import respond


async def published(scene: Scene) -> None:
    """Respond, rehearse what follows from it, and revise by the critiques of what took place."""
    response = await respond(scene)
    cast, target = await _make_cast(scene, response)
    memory = Memory()
    simulation = _Simulation(scene, cast, memory, response)
    await simulation.run()
    critiques = await simulation.close()
    await _summarise_outcome(scene, cast, target, response, memory.story)
    if not critiques:
        note_no_harm(scene, memory)
        await revise(scene, response, None)
        return
    consequence = Quote.of("\n".join(critiques), *critiques)
    scene.emit(ConsequenceDrawn(harmful=True, text=consequence))
    await revise(scene, await _summarise_response(scene, response), consequence)


async def _make_cast(scene: Scene, response: str) -> tuple[Cast, Quote]:
    """Return the cast, and what the ego is after."""
    situation, ego, future = await imagine(scene, response)
    ranked = await _rank_roles(scene, ego, response, situation, future)
    plan, (*profiles, traits, target) = await scene.gather(
        ask_plan(scene, times=1, ego=ego, future=future), _profiles(scene, ego, [name for name, _ in ranked])
    )
    profile = Quote.of(f"Traits: {traits}\nTarget: {target}", traits, target)
    cast = assemble(scene, ego, ranked, [profile, *profiles], plan)
    scene.emit(TargetNamed(text=target))
    return cast, target


async def _rank_roles(scene: Scene, ego: Quote, response: str, situation: str, future: str) -> list[Ranked]:
    most = scene.limits.roles
    characters = await ask_text(scene, "characters", situation=situation, future=future)
    chosen, public = await scene.gather(
        ask_names(scene, "roles", most=most, times=1, number=str(most), ego=ego, situation=situation, characters=characters),
        ask_names(scene, "public", most=most, times=1, number=str(most), ego=ego, instruction=scene.instruction, response=response),
    )
    return rank(ego, chosen, public)[:most]


async def _profiles(scene: Scene, ego: Quote, names: Sequence[Quote]) -> list[Quote]:
    """Return the roles' profiles, the ego's traits, and its target."""
    form, fallback = forms.AGELESS_PROFILE, forms.AGELESS_PROFILE_FALLBACK
    return await scene.gather(
        *(ask_profile(scene, name, form=form, fallback=fallback) for name in names),
        ask_text(scene, "traits", fallback="not known", role=ego),
        ask_text(scene, "target", fallback="not known", instruction=scene.instruction),
    )


class _Simulation(Simulation):
    def __init__(self, scene: Scene, cast: Cast, memory: Memory, response: Quote) -> None:
        super().__init__(scene, cast, memory, response)
        # The memory holds the critiques that are pending.
        self._condensed: list[Quote] = []

    async def act(self, step: int) -> Proposal:
        path, planned = f"step/{step}/act", self._cast.plan[step - 1]
        return Proposal(path, self._cast.ego, "plan", step, 0, (), Quote(planned, [*planned.turns, path]))

    async def judge(self, proposal: Proposal, story: Sequence[Quote]) -> Judgement:
        others = self._cast.others(proposal.role)
        noticed, verdict = await self._scene.gather(
            ask_recipients(self._scene, proposal, others, times=1, action=proposal.line), self._ask_verdict(proposal, story)
        )
        noticing = noticed.text
        feasible, reason = forms.read_verdict_first(verdict.text)
        if not feasible:
            return Judgement(feasible, reason, (), noticing, None)
        recipients = tuple(forms.read_some_of(noticing, others))
        if self._memory.condensations >= MAX_CONDENSATIONS:
            return Judgement(feasible, reason, recipients, noticing, None)
        critique = await self._ask_critique(proposal)
        return Judgement(feasible, reason, recipients, noticing, critique, unanswered=critique is None)

    async def accept(self, proposal: Proposal, judgement: Judgement) -> None:
        await super().accept(proposal, judgement)
        await self._scene.gather(self._condense(proposal.path, MAX_CRITIQUES), condense_story(self._scene, self._memory, proposal.path))

    async def end_step(self, step: int) -> None:
        """Nothing is left to do: what has become long is condensed action by action."""

    async def close(self) -> list[Quote]:
        """Return the critiques, with those that are still pending condensed."""
        await self._condense("end", 0)
        return [*self._condensed, *self._memory.critiques]

    async def _ask_verdict(self, proposal: Proposal, story: Sequence[Quote]) -> Reply:
        form, fallback = forms.VERDICT_FIRST, forms.VERDICT_FIRST_FALLBACK
        return await self._scene.turn(
            "feasible",
            path=f"{proposal.path}/feasible",
            form=form,
            fallback=fallback,
            choices=forms.VERDICTS,
            story=list(story) or ["Nothing yet."],
            action=proposal.line,
        )

    async def _ask_critique(self, proposal: Proposal) -> tuple[int, Quote] | None:
        reply = await self._scene.turn(
            "critique",
            path=f"{proposal.path}/critique",
            fallback="",
            ego=self._cast.ego.name,
            instruction=self._scene.instruction,
            response=self._response,
            action=proposal.line,
        )
        return None if reply.fell_back else (UNGRADED, reply.text)

    async def _condense(self, at: str, most: int) -> None:
        """Condense the pending critiques if they are more than so many."""
        if len(self._memory.critiques) <= most:
            return
        text = await condense_critiques(self._scene, self._memory, at)
        if text is not None:
            self._condensed.append(text)
            self._memory.critiques = []


async def _summarise_outcome(scene: Scene, cast: Cast, target: Quote, response: str, story: Sequence[Quote]) -> None:
    # Of nothing, a model would make something up.
    if not story:
        return
    # Nothing depends on it, so no scene fails for it.
    with contextlib.suppress(TurnFailed):
        reply = await scene.turn("outcome", ego=cast.ego.name, target=target, response=response, plan=cast.plan, story=story)
        scene.emit(OutcomeSummarised(text=reply.text))


async def _summarise_response(scene: Scene, response: str) -> Quote:
    fallback = "An answer that is not repeated here."
    reply = await scene.turn("summary", fallback=fallback, instruction=scene.instruction, response=response)
    scene.emit(ResponseSummarised(text=reply.text))
    return reply.text
