"""Casting: who asks, who is affected, what they are like, and what the ego sets out to do.

In `make_cast`, nothing depends on how many roles are asked for, but where the ranked list is cut: the first n roles of a larger cast are
the cast of n, and the plan is the same. The functions after it are what casting is made of, here and in the scene `published`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from matrix_py.events import ActsPlanned, FutureImagined, RoleCast, RoleOrigin, SituationImagined
from matrix_py.scene import forms
from matrix_py.scene.context import Scene
from matrix_py.scene.quote import Quote

# Names that one list may hold, whatever part of them is wanted.
_LISTED = 8

# A role's name, and where it comes from.
Ranked: TypeAlias = tuple[Quote, RoleOrigin]


@dataclass(frozen=True, slots=True)
class Role:
    """A participant: a person, a group or a thing."""

    name: Quote
    rank: int
    profile: Quote

    @property
    def card(self) -> Quote:
        """The role in one line."""
        return Quote.of(f"{self.name}. {self.profile.replace(chr(10), '. ')}.", self.name, self.profile)


@dataclass(frozen=True, slots=True)
class Cast:
    """The ego with its plan, and the other roles by rank."""

    ego: Role
    roles: tuple[Role, ...]
    plan: tuple[Quote, ...]

    @property
    def everyone(self) -> tuple[Role, ...]:
        """The ego, then the others by rank."""
        return (self.ego, *self.roles)

    def others(self, role: Role) -> list[Quote]:
        """The names of everyone but this role, in the order of the cast."""
        return [other.name for other in self.everyone if other is not role]


async def make_cast(scene: Scene, response: str) -> Cast:
    """Imagine situation and future, and cast the scene from them."""
    situation, ego, future = await imagine(scene, response)
    ranked = await _rank_roles(scene, ego, situation, future)
    names = [ego, *(name for name, _ in ranked)]
    profiles, plan = await scene.gather(
        _profiles(scene, names, situation),
        _plan(scene, ego, response, situation, future),
    )
    return assemble(scene, ego, ranked, profiles, plan)


async def imagine(scene: Scene, response: str) -> tuple[Quote, Quote, Quote]:
    """Return the situation in which this is asked, the name of the one who asks, and the future."""
    situation = await ask_text(scene, "situation", instruction=scene.instruction)
    scene.emit(SituationImagined(text=situation))
    ego, future = await scene.gather(
        _name_ego(scene, situation),
        ask_text(scene, "future", instruction=scene.instruction, response=response, situation=situation),
    )
    scene.emit(FutureImagined(text=future))
    return situation, ego, future


def rank(ego: Quote, chosen: Quote, public: Quote | None = None) -> list[Ranked]:
    """Return who is on these lists, each once, without the ego: those of the second come after those of the first."""
    ranked: list[Ranked] = [(name, "future") for name in forms.read_names(chosen, besides=[ego])]
    if public is not None:
        ranked += [(name, "public") for name in forms.read_names(public, besides=[ego, *(name for name, _ in ranked)])]
    return ranked


def assemble(scene: Scene, ego: Quote, ranked: Sequence[Ranked], profiles: Sequence[Quote], plan: Sequence[Quote]) -> Cast:
    """Return the cast: the ego and the ranked, whose profiles come in that order."""
    roles = []
    for place, ((name, origin), profile) in enumerate(zip([(ego, "situation"), *ranked], profiles, strict=True)):
        scene.emit(RoleCast(role=name, rank=place, origin=origin, profile=profile))
        roles.append(Role(name, place, profile))
    scene.emit(ActsPlanned(acts=tuple(plan)))
    return Cast(roles[0], tuple(roles[1:]), tuple(plan))


async def ask_text(scene: Scene, kind: str, *, fallback: str | None = None, **values: Any) -> Quote:
    """Ask for free text."""
    return (await scene.turn(kind, path=f"cast/{kind}", fallback=fallback, **values)).text


async def ask_names(scene: Scene, kind: str, *, most: int, times: int, ego: Quote, **values: Any) -> Quote:
    """Ask for a list of names."""
    path, form = f"cast/{kind}", forms.names(most)
    # The ego is in the cast already, so its name stands for nobody.
    return (await scene.turn(kind, path=path, form=form, fallback=str(ego), times=times, ego=ego, **values)).text


async def ask_profile(scene: Scene, name: Quote, *, form: str, fallback: str, **values: Any) -> Quote:
    """Ask what a role is like."""
    return (await scene.turn("profile", path=f"cast/profile/{name}", form=form, fallback=fallback, role=name, **values)).text


async def ask_plan(scene: Scene, *, times: int, **values: Any) -> list[Quote]:
    """Ask for the ego's plan."""
    steps = scene.limits.steps
    form, fallback = forms.plan(steps), "1. acts on the answer"
    reply = await scene.turn("plan", path="cast/plan", form=form, fallback=fallback, times=times, steps=str(steps), **values)
    return forms.read_plan(reply.text)


async def _name_ego(scene: Scene, situation: str) -> Quote:
    reply = await scene.turn("ego", path="cast/ego", form=forms.NAME, fallback="asker", instruction=scene.instruction, situation=situation)
    return reply.text


async def _rank_roles(scene: Scene, ego: Quote, situation: str, future: str) -> list[Ranked]:
    """Rank those affected. Where the list is too short, a second one, of the public, fills the gaps; a cast may still be smaller."""
    characters = await ask_text(scene, "characters", situation=situation, future=future)
    sizes: Any = {"most": _LISTED, "times": _LISTED}
    chosen = await ask_names(scene, "roles", **sizes, ego=ego, situation=situation, future=future, characters=characters)
    ranked = rank(ego, chosen)
    if len(ranked) < scene.limits.roles:
        ranked = rank(ego, chosen, await ask_names(scene, "public", **sizes, ego=ego, situation=situation, future=future))
    return ranked[: scene.limits.roles]


async def _profiles(scene: Scene, names: Sequence[Quote], situation: str) -> list[Quote]:
    form, fallback = forms.PROFILE, forms.PROFILE_FALLBACK
    return await scene.gather(*(ask_profile(scene, name, form=form, fallback=fallback, situation=situation) for name in names))


async def _plan(scene: Scene, ego: Quote, response: str, situation: str, future: str) -> list[Quote]:
    values = {"instruction": scene.instruction, "response": response, "situation": situation, "future": future}
    return await ask_plan(scene, times=scene.limits.steps, ego=ego, **values)
