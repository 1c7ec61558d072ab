"""What dropping did over all scenes, in figures."""

from collections import Counter
from collections.abc import Sequence

from matrix_py.attribution.story import Effect
from matrix_py.intervals import ClusteredMean


class Group:
    """Effects that have something in common.

    Attributes:
        distance: their mean distance; those without an answer have none.
        changes: by what became of another kind, how often.
    """

    def __init__(self) -> None:
        """Begin without effects."""
        self.distance = ClusteredMean()
        self.changes: Counter[str] = Counter()
        self.drops = 0
        self.unmoved = 0

    def add(self, effects: Sequence[Effect]) -> None:
        """Add the effects of one scene."""
        distances = [effect.distance for effect in effects if effect.distance is not None]
        self.distance.add(sum(distances), len(distances))
        self.changes.update(change for effect in effects for change in effect.changes)
        self.drops += len(effects)
        self.unmoved += distances.count(0.0)


class Summary:
    """Effects in groups.

    Attributes:
        every: all of them.
        first: of each scene that had more than one to choose from, the one that moved its answer most; `others`: the rest.
        sole: of scenes that had only one: without it, there is nothing to revise for.
        severities: by the gravest critique that was dropped.
        ranks: by the rank of the role that acted, 0 for the ego.
        steps: by step. Of critiques that were dropped together, only those of one step or role count here.
        deciding: scenes that had more than one, in which one alone moved the answer at all.
        choosing: scenes that had more than one.
    """

    def __init__(self) -> None:
        """Begin without effects."""
        self.every, self.first, self.others, self.sole = Group(), Group(), Group(), Group()
        self.severities: dict[int, Group] = {}
        self.ranks: dict[int, Group] = {}
        self.steps: dict[int, Group] = {}
        self.deciding = 0
        self.choosing = 0

    def add(self, effects: Sequence[Effect]) -> None:
        """Add the effects of one scene, the heaviest first."""
        self.every.add(effects)
        if len(effects) == 1:
            self.sole.add(effects)
        else:
            self.first.add(effects[:1])
            self.others.add(effects[1:])
            self.choosing += 1
            self.deciding += sum(effect.weight > (False, 0.0) for effect in effects) == 1
        for groups, name in ((self.ranks, "rank"), (self.steps, "step")):
            of_value: dict[int, list[Effect]] = {}
            for effect in effects:
                values = {getattr(critique, name) for critique in effect.drop.critiques}
                if len(values) == 1:
                    of_value.setdefault(values.pop(), []).append(effect)
            _add(groups, of_value)
        _add(self.severities, {severity: [each for each in effects if each.drop.severity == severity] for severity in (1, 2, 3)})


def _add(groups: dict[int, Group], effects: dict[int, list[Effect]]) -> None:
    for value, chosen in effects.items():
        if chosen:
            groups.setdefault(value, Group()).add(chosen)
