"""How far texts are apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_py.distance import distance, edits

SEQUENCES = st.lists(st.sampled_from("abc"), max_size=70)


def plainly(one: list[str], other: list[str]) -> int:
    """Levenshtein's recurrence, row by row."""
    row = list(range(len(other) + 1))
    for number, left in enumerate(one, 1):
        before, row = row, [number]
        for place, right in enumerate(other, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (left != right)))
    return row[-1]


@given(SEQUENCES, SEQUENCES)
def test_edits_are_those_of_the_recurrence(one: list[str], other: list[str]) -> None:
    assert edits(one, other) == plainly(one, other) == edits(other, one)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "", 0),
        ("Ask first.", "  ask FIRST . ", 0),
        ("one two three four", "one two 3 four", 0.25),
        ("one two", "", 1),
        ("a b c", "x y", 1),
        ("I can't.", "I can.", 0.4),
    ],
)
def test_the_distance_is_a_share_of_the_longer_text(one: str, other: str, expected: float) -> None:
    assert distance(one, other) == pytest.approx(expected)
