"""Texts that are nearly the same: found without comparing each with each, and without missing one.

Two texts are near if at most a share of the words of the longer one has to be replaced, added or removed to make one of the other
(`matrix_py.distance`). A text of n words has n + 1 pairs of neighbours, its ends counted as words, and one such edit changes at most two of
them. So near texts have many pairs in common (Gravano et al. 2001, "Approximate String Joins in a Database (Almost) for Free"), and it is
enough to compare a text with those that share one of its rarest pairs, of which it takes only so many (prefix filtering: Chaudhuri, Ganti
and Kaushik 2006, "A Primitive Operator for Similarity Joins in Data Cleaning"). Unlike MinHash, this is exact, and knows no chance.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from matrix_py.distance import distance, words


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, by its pairs of neighbouring words, each with how often it came before: so they are a set."""

    text: str
    num_words: int
    pairs: frozenset[int]
    rarest: list[int]


class NearTexts:
    """Texts, in which near ones are looked for. Those of different groups are never near."""

    def __init__(self, share: float, frequencies: Counter[str] | None = None) -> None:
        """Begin without texts.

        Args:
            share: of words, at most which may differ, less than half; at 0, only case and white space may.
            frequencies: how common words are, as far as that is known: it makes looking faster, and finds no others.
        """
        self._share = share
        self._frequencies = frequencies or Counter()
        self._texts: list[_Text] = []
        # By group and pair, the texts that have it among their rarest.
        self._having: dict[tuple[str, int], list[int]] = {}

    def add(self, text: str, group: str = "") -> int:
        """Take a text in, and return its number, from 0."""
        taken = self._read(text)
        number = len(self._texts)
        self._texts.append(taken)
        for pair in taken.rarest:
            self._having.setdefault((group, pair), []).append(number)
        return number

    def near(self, text: str, group: str = "") -> Iterator[int]:
        """Yield the numbers of the texts that a text is near."""
        own = self._read(text)
        seen: set[int] = set()
        for pair in own.rarest:
            for number in self._having.get((group, pair), ()):
                if number in seen:
                    continue
                seen.add(number)
                other = self._texts[number]
                longer = max(own.num_words, other.num_words)
                if abs(own.num_words - other.num_words) > self._share * longer or len(own.pairs & other.pairs) < self._least(longer):
                    continue
                if distance(text, other.text) <= self._share:
                    yield number

    def _least(self, num_words: int) -> int:
        """Return how many pairs near texts have in common at least, the longer of which has so many words."""
        # What rounding has put just above a whole number is that number.
        return math.ceil((1 - 2 * self._share) * num_words + 1 - 1e-9)

    def _read(self, text: str) -> _Text:
        found = words(text)
        counts: Counter[tuple[str, str]] = Counter()
        ranked = []
        for pair in pairwise(["", *found, ""]):
            # The order of hashes differs from process to process: it decides what is compared first, and not what is found.
            ranked.append((self._frequencies[pair[0]] * self._frequencies[pair[1]], hash((pair, counts[pair]))))
            counts[pair] += 1
        ranked.sort()
        pairs = [pair for _, pair in ranked]
        return _Text(text, len(found), frozenset(pairs), pairs[: len(pairs) - self._least(len(found)) + 1])


def frequencies(texts: Iterable[str]) -> Counter[str]:
    """Return in how many texts each word stands, and, as the word that is empty, how many texts there are."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({"", *words(text)})
    return counts
