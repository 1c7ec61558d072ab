"""Intervals of means, by Student's t: differences are taken scene by scene, and scenes are independent of one another."""

import math
from functools import cache

LEVEL = 0.95

# The continued fraction below converges long before; so near is near enough.
_MOST_TERMS = 500
_NEAR = 1e-14


def interval(mean: float, error: float | None, num: int, *, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of a mean: mean ± t * standard error, with t of `num - 1` degrees of freedom (Student 1908).

    Args:
        mean: of `num` values.
        error: standard error of it; None of fewer than two values.
        num: how many values there are.
        level: of confidence.

    Returns:
        its ends; None of fewer than two values, which say nothing of how far they vary.
    """
    if error is None or num < 2:
        return None
    half = error * t_quantile(level, num - 1)
    return mean - half, mean + half


@cache
def t_quantile(level: float, degrees: int) -> float:
    """Return the t between whose negative and which a t-distributed value of so many degrees of freedom lies with probability `level`."""
    low, high = 0.0, 1.0
    while _within(high, degrees) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _within(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return high


def _within(t: float, degrees: int) -> float:
    """Return the probability that a t-distributed value lies between -t and t (Abramowitz and Stegun 1964, 26.7.1)."""
    if t <= 0:
        return 0.0
    return 1 - _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function (DLMF 8.17), from that side on which its fraction converges fast."""
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction of DLMF 8.17.22, by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = 1 + step / c, 1 / (1 + step * d)
            value *= c * d
        if abs(c * d - 1) < _NEAR:
            break
    return value
