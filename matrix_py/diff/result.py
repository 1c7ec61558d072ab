"""What a comparison of two runs comes to."""

from __future__ import annotations

from typing import Any

import msgspec


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over scenes, with the ends of its 95% interval; None where fewer than two scenes have the figure."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether zero lies outside of the interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """How often something differs, in the mean of the scenes.

    Attributes:
        scenes: that it is a mean over.
        total: in all of them.
        difference: between A and B.
        null: between A and A2; None without an A2.
        effect: of each scene, what differs between A and B less what differs between A and A2.
        survives: whether zero is also outside of the effect's interval if that is made so wide that of all figures together none would
            leave zero out by chance in 95% of comparisons; None without an effect.
    """

    name: str
    scenes: int
    total: float
    difference: Estimate
    null: Estimate | None = None
    effect: Estimate | None = None
    survives: bool | None = None


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured in each run by itself, in the mean of the scenes that have it in all.

    Attributes:
        scenes: that it is a mean over.
        a, b, null: the runs' means.
        difference: B - A, scene by scene.
        null_difference: A2 - A.
        effect: B - A less A2 - A, which is B - A2.
        survives: as of a `Figure`, for `difference`.
    """

    name: str
    scenes: int
    a: float
    b: float
    difference: Estimate
    null: float | None = None
    null_difference: Estimate | None = None
    effect: Estimate | None = None
    survives: bool | None = None


class KindChanges(msgspec.Struct, frozen=True, kw_only=True):
    """The turns of a kind, by what changed; the sum of all but `other_answers` and `same_request` is the turns of both runs.

    Attributes:
        direct: the kind's prompt, settings, system prompt or chat template changed.
        inherited: what the scene filled in changed.
        edited: whoever forked the run gave the answer, and it is another.
        noise: neither prompt nor what was filled in changed, and the answer is another.
        same_request: of `noise`, how many had the same request to the letter, random key included.
        appeared: in B only.
        disappeared: in A only.
        other_answers: turns of both runs whose answers differ.
    """

    kind: str
    same: int
    direct: int
    inherited: int
    edited: int
    noise: int
    same_request: int
    appeared: int
    disappeared: int
    other_answers: int


class Parting(msgspec.Struct, frozen=True, kw_only=True):
    """Scenes whose first turn that is answered otherwise, or is in one run only, is of this sort.

    Attributes:
        step: of the plan; None outside of steps.
        rank: of the role whose turn it is, or that the turn is about: 0 is the ego; None where it is about nobody.
    """

    change: str
    kind: str
    step: int | None
    rank: int | None
    scenes: int


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Scenes that came to an end for this reason in A and for that in B; `failed` where the scene failed; None without a social scene."""

    a: str | None
    b: str | None
    scenes: int


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the runs.

    Attributes:
        run: path of its log.
        scenes, finished: scenes of the log, and how many of them are finished.
        parent: `run_id` of the run that it is a fork of, or reuses; empty without one.
        edits: what a fork changed in turns, as path and what was done, each once.
    """

    run: str
    run_id: str
    scene: str
    seed: int
    scenes: int
    finished: int
    parent: str
    edits: list[str]


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two runs, and what between A and another run of A's configuration.

    Attributes:
        null: A2.
        configuration: what differs between the configurations of A and B, by name.
        null_configuration: the same of A and A2; other seeds are all that should be here.
        compared: scenes finished in A and in B, which all else is about.
        only_a, only_b: scenes of one run only.
        unfinished: scenes of both that one of them has not finished.
        compared_null: of `compared`, scenes that A2 has finished, too, which figures and levels are about then.
        parted: scenes with an answer that differs.
    """

    a: Side
    b: Side
    null: Side | None
    configuration: list[str]
    null_configuration: list[str]
    compared: int
    only_a: int
    only_b: int
    unfinished: int
    compared_null: int | None
    parted: int
    kinds: list[KindChanges]
    partings: list[Parting]
    endings: list[Ending]
    figures: list[Figure]
    levels: list[Level]
    scenes: list[dict[str, Any]] | None = None
