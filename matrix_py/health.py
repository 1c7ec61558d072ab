"""How healthy the simulations of a run were: whether its social scenes came to life, and whether budgets sufficed."""

from dataclasses import dataclass

from matrix_py.store import Log


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    count: int
    total: int

    @property
    def rate(self) -> float | None:
        """The share; None of nothing."""
        return self.count / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Health:
    """What ails a run's simulations.

    Attributes:
        infeasible: acts that were judged impossible, of those judged: the rejection rate.
        unnoticed: acts that took place and that nobody noticed, of those whose recipients were asked for.
        repeated: reactions whose text, but for case, an earlier reaction of the scene has, of all.
        length: by kind of turn, completions that the budget cut, of all.
    """

    infeasible: Share
    unnoticed: Share
    repeated: Share
    length: dict[str, Share]


def read_health(log: Log) -> Health:
    """Read a run's health out of its log, of whatever format.

    Raises:
        StoreError: the log cannot be read.
    """
    shares = {(measure, kind): Share(count, total) for measure, kind, count, total in log.health()}
    return Health(
        infeasible=shares["infeasible", None],
        unnoticed=shares["unnoticed", None],
        repeated=shares["repeated", None],
        length={kind: share for (measure, kind), share in shares.items() if measure == "length" and kind is not None},
    )
