"""How far two texts are apart, in words."""

import re
from collections import defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Return a text's words and punctuation marks, without regard to case and white space."""
    return _WORD.findall(text.casefold())


def distance(one: str, other: str) -> float:
    """Return how many words have to be replaced, added or removed to make one text of the other, as a share of the longer: 0 to 1."""
    first, second = words(one), words(other)
    longest = max(len(first), len(second))
    return edits(first, second) / longest if longest else 0.0


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Return Levenshtein's distance of two sequences.

    By bits, a whole column of the table at a time (Myers 1999, as Hyyrö 2003 writes it). Python's integers are as long as need be: two
    answers of 500 words take a millisecond.
    """
    if not one:
        return len(other)
    places: defaultdict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    # Bit i says whether a column of the table rises (falls) from row i to row i + 1. `score` is the bottom of the column.
    everything, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    rises, falls, score = everything, 0, len(one)
    for word in other:
        same = places.get(word, 0)
        diagonal = (((same & rises) + rises) ^ rises) | same | falls
        rises_across, falls_across = falls | ~(diagonal | rises), rises & diagonal
        score += bool(rises_across & last) - bool(falls_across & last)
        rises_across, falls_across = (rises_across << 1) | 1, falls_across << 1
        rises, falls = (falls_across | ~(diagonal | rises_across)) & everything, rises_across & diagonal & everything
    return score
