"""Casting: who asks, who is affected, what they are like, and what the ego sets out to do.

Nothing here depends on how many roles are asked for, but where the ranked list is cut: the first n roles of a larger cast are the cast of
n, and the plan is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matrix_py.events import ActsPlanned, FutureImagined, RoleCast, RoleOrigin, SituationImagined
from matrix_py.scene import forms
from matrix_py.scene.context import Scene
from matrix_py.scene.quote import Quote

# Names that one list may hold, whatever part of them is wanted.
_LISTED = 8


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


async def make_cast(scene: Scene, response: str) -> Cast:
    """Imagine situation and future, and cast the scene from them."""
    situation = await _text(scene, "situation", instruction=scene.instruction)
    scene.emit(SituationImagined(text=situation))
    ego, future = await scene.gather(
        _name_ego(scene, situation),
        _text(scene, "future", instruction=scene.instruction, response=response, situation=situation),
    )
    scene.emit(FutureImagined(text=future))
    ranked = await _rank_roles(scene, ego, situation, future)
    names = [ego, *(name for name, _ in ranked)]
    profiles, plan = await scene.gather(_profiles(scene, names, situation), _plan(scene, ego, response, situation, future))
    everyone = [Role(name, rank, profile) for rank, (name, profile) in enumerate(zip(names, profiles, strict=True))]
    origins: list[RoleOrigin] = ["situation", *(origin for _, origin in ranked)]
    for role, origin in zip(everyone, origins, strict=True):
        scene.emit(RoleCast(role=role.name, rank=role.rank, origin=origin, profile=role.profile))
    scene.emit(ActsPlanned(acts=tuple(plan)))
    return Cast(everyone[0], tuple(everyone[1:]), tuple(plan))


async def _text(scene: Scene, kind: str, **values: Any) -> Quote:
    return (await scene.turn(kind, path=f"cast/{kind}", **values)).text


async def _name_ego(scene: Scene, situation: str) -> Quote:
    reply = await scene.turn("ego", path="cast/ego", form=forms.NAME, fallback="asker", instruction=scene.instruction, situation=situation)
    return reply.text


async def _rank_roles(scene: Scene, ego: Quote, situation: str, future: str) -> list[tuple[Quote, RoleOrigin]]:
    """Rank those affected. Where the list is too short, a second one, of the public, fills the gaps; a cast may still be smaller."""
    characters = await _text(scene, "characters", situation=situation, future=future)
    form, fallback = forms.names(_LISTED), str(ego)
    reply = await scene.turn(
        "roles", path="cast/roles", form=form, fallback=fallback, times=_LISTED, ego=ego, situation=situation, future=future,
        characters=characters,
    )  # fmt: skip
    ranked: list[tuple[Quote, RoleOrigin]] = [(name, "future") for name in forms.read_names(reply.text, besides=[ego])]
    if len(ranked) < scene.limits.roles:
        reply = await scene.turn(
            "public", path="cast/public", form=form, fallback=fallback, times=_LISTED, situation=situation, future=future
        )
        ranked += [(name, "public") for name in forms.read_names(reply.text, besides=[ego, *(name for name, _ in ranked)])]
    return ranked[: scene.limits.roles]


async def _profiles(scene: Scene, names: Sequence[Quote], situation: str) -> list[Quote]:
    return await scene.gather(*(_profile(scene, name, situation) for name in names))


async def _profile(scene: Scene, name: Quote, situation: str) -> Quote:
    path = f"cast/profile/{name}"
    return (
        await scene.turn("profile", path=path, form=forms.PROFILE, fallback=forms.PROFILE_FALLBACK, role=name, situation=situation)
    ).text


async def _plan(scene: Scene, ego: Quote, response: str, situation: str, future: str) -> list[Quote]:
    steps = scene.limits.steps
    reply = await scene.turn(
        "plan", path="cast/plan", form=forms.plan(steps), fallback="1. acts on the answer", times=steps, steps=str(steps), ego=ego,
        instruction=scene.instruction, response=response, situation=situation, future=future,
    )  # fmt: skip
    return forms.read_plan(reply.text)
