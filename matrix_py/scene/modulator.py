"""The modulator: is an action possible there and then, who notices it, and what harm may it do.

Its turns about one action share their prompt up to the question, so that the engine computes it once: see `prompts/matrix/modulator.txt`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matrix_py.events import ActionOrigin
from matrix_py.scene import forms
from matrix_py.scene.casting import Cast, Role
from matrix_py.scene.context import Reply, Scene
from matrix_py.scene.quote import Quote

UNGRADED = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a role sets out to do.

    Attributes:
        path: name of the action in the scene; the turns about it lie under it.
        depth: 0 for the ego's act, else the number of the wave.
        causes: paths of the actions that it answers.
    """

    path: str
    role: Role
    origin: ActionOrigin
    step: int
    depth: int
    causes: tuple[str, ...]
    text: Quote

    @property
    def line(self) -> Quote:
        """The proposal as a line of a prompt."""
        return Quote.of(f"{self.role.name}: {self.text}", self.role.name, self.text)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the modulator said of a proposal.

    Attributes:
        reason: of the verdict.
        recipients: names of the roles that notice it, in the order of the cast.
        noticing: the reply that said so.
        critique: severity (`UNGRADED` where a method does not ask for it) and text of what harm it may do.
        unanswered: whether harm was asked for in vain: nothing usable came back.
    """

    feasible: bool
    reason: Quote
    recipients: tuple[Quote, ...]
    noticing: Quote
    critique: tuple[int, Quote] | None
    unanswered: bool = False


async def judge(scene: Scene, cast: Cast, proposal: Proposal, *, response: str, story: Sequence[str]) -> Judgement:
    """Put a proposal to the modulator, after the story so far. Of what is possible it also says who notices it and what harm it does."""
    shared: dict[str, Any] = {
        "instruction": scene.instruction,
        "response": response,
        "roles": [role.card for role in cast.everyone],
        "story": list(story) or ["Nothing yet."],
        "action": proposal.line,
    }
    path = f"{proposal.path}/feasible"
    verdict = await scene.turn("feasible", path=path, form=forms.VERDICT, fallback=forms.VERDICT_FALLBACK, choices=forms.VERDICTS, **shared)
    feasible, reason = forms.read_verdict(verdict.text)
    if not feasible:
        return Judgement(feasible, reason, (), Quote(forms.NOBODY), None)
    others = cast.others(proposal.role)
    noticed, critique = await scene.gather(
        ask_recipients(scene, proposal, others, times=len(others), **shared), _critique(scene, proposal, shared)
    )
    recipients = tuple(forms.read_some_of(noticed.text, others))
    return Judgement(feasible, reason, recipients, noticed.text, forms.read_critique(critique.text), critique.fell_back)


async def ask_recipients(scene: Scene, proposal: Proposal, others: Sequence[Quote], *, times: int, **values: Any) -> Reply:
    """Ask who of the others notices an action."""
    if not others:
        return Reply(Quote(forms.NOBODY), fell_back=False, finish="")
    return await scene.turn(
        "recipients",
        path=f"{proposal.path}/recipients",
        form=forms.some_of(others),
        fallback=forms.NOBODY,
        times=times,
        others=others,
        **values,
    )


async def _critique(scene: Scene, proposal: Proposal, shared: dict[str, Any]) -> Reply:
    return await scene.turn("critique", path=f"{proposal.path}/critique", form=forms.CRITIQUE, fallback=forms.NONE, **shared)
