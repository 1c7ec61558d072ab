"""Intervals: between what bounds a share or a mean may well lie, given so many observations."""

import math

Z_95 = 1.959964  # of the normal distribution: 95 % of it lie within so many standard deviations


def wilson(count: int, of: int, z: float = Z_95) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927); not a number of nothing.

    It takes observations for independent. Turns of one scene are not quite that, so of turns it is a little too narrow.
    """
    if not of:
        return math.nan, math.nan
    share = count / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(centre - half, 0.0), min(centre + half, 1.0)


class ClusteredMean:
    """A mean over observations that come in clusters, such as the turns of a scene, whose interval allows for what those have in common.

    The standard error is the one of a ratio of cluster sums (Cochran 1977, section 6.4, with its factor for few clusters); the interval is
    that of the normal distribution, too narrow for fewer than some twenty clusters. Only five sums are kept, whatever the number of
    observations.
    """

    def __init__(self) -> None:
        """Begin without observations."""
        self.clusters = 0
        self.count = 0
        self._sum = 0.0
        self._sum_squares = self._sum_products = self._count_squares = 0.0

    def add(self, total: float, count: int) -> None:
        """Add a cluster: the sum of its observations, and how many they are."""
        if count:
            self.clusters += 1
            self.count += count
            self._sum += total
            self._sum_squares += total * total
            self._sum_products += total * count
            self._count_squares += count * count

    @property
    def mean(self) -> float:
        """The mean; not a number of nothing."""
        return self._sum / self.count if self.count else math.nan

    def interval(self, z: float = Z_95) -> tuple[float, float]:
        """Return the interval of the mean; not a number for fewer than two clusters."""
        if self.clusters < 2:
            return math.nan, math.nan
        mean = self.mean
        # The sum over clusters of (total - mean * count)^2.
        residual = self._sum_squares - 2 * mean * self._sum_products + mean * mean * self._count_squares
        half = z * math.sqrt(max(residual, 0.0) * self.clusters / (self.clusters - 1)) / self.count
        return mean - half, mean + half
