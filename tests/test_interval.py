"""Intervals of means: Student's t against printed tables, and how often the interval holds the true mean."""

import math
import random
import statistics

import pytest

from matrix_py.diff.interval import interval, t_quantile


@pytest.mark.parametrize(
    ("level", "degrees", "expected"),
    # Fisher and Yates 1963, table III.
    [
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 9, 2.262),
        (0.95, 29, 2.045),
        (0.95, 120, 1.980),
        (0.99, 1, 63.657),
        (0.99, 19, 2.861),
        (0.999, 10, 4.587),
        (0.5, 5, 0.727),
    ],
)
def test_quantiles_are_those_of_the_tables(level: float, degrees: int, expected: float) -> None:
    assert t_quantile(level, degrees) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99, 0.998])
def test_of_many_degrees_they_are_those_of_the_normal_distribution(level: float) -> None:
    assert t_quantile(level, 10**7) == pytest.approx(statistics.NormalDist().inv_cdf((1 + level) / 2), rel=1e-5)


def test_one_value_says_nothing_of_how_far_values_vary() -> None:
    assert interval(3.0, None, 1) is None


def test_values_that_are_all_alike_have_an_interval_without_width() -> None:
    assert interval(1.0, 0.0, 20) == (1.0, 1.0)


@pytest.mark.parametrize(("num", "least"), [(20, 0.92), (100, 0.935)])
def test_nineteen_of_twenty_intervals_hold_the_mean_of_paired_counts(num: int, least: float) -> None:
    # What effects are made of: small counts, mostly zero, skewed, less others of the same sort.
    luck = random.Random(7)
    held = 0
    for _ in range(1000):
        values = [_count(luck, 0.9) - _count(luck, 0.4) for _ in range(num)]
        ends = interval(statistics.mean(values), statistics.stdev(values) / math.sqrt(num), num)
        assert ends is not None
        held += ends[0] <= 0.5 <= ends[1]
    assert least <= held / 1000 <= 0.98


def _count(luck: random.Random, mean: float) -> int:
    """A Poisson count."""
    count, product = -1, 1.0
    while product > math.exp(-mean):
        product *= luck.random()
        count += 1
    return count
