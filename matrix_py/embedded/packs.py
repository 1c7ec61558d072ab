"""Turns as training data: those of a scene in one row of tokens, each shared beginning once.

The row is a tree in depth-first order. A token sees its ancestors alone, and its position is its depth, so that the network computes for
each turn what it would compute for the turn by itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

# How much a token counts that the prompt was filled with, beside one of what is to be said.
FILLED = 0.1


@dataclass(slots=True)
class Pack:
    """A row of tokens; `parents` are places in it, -1 for the first."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        """The tokens of the row."""
        return len(self.tokens)


def pack(turns: Iterable[Sequence[tuple[int, float]]], length: int) -> Iterator[Pack]:
    """Yield packs of at most `length` tokens. A turn is its tokens, each with its weight; a longer one is left out."""
    row, children = Pack(), dict[tuple[int, int], int]()
    for turn in turns:
        if len(turn) > length:
            continue
        new = len(turn) - _shared(turn, children)
        if len(row) + new > length:
            yield row
            row, children = Pack(), {}
        parent = -1
        for token, weight in turn:
            place = children.get((parent, token))
            if place is None:
                place = len(row.tokens)
                children[parent, token] = place
                row.tokens.append(token)
                row.parents.append(parent)
                row.depths.append(0 if parent < 0 else row.depths[parent] + 1)
                row.weights.append(weight)
            else:
                row.weights[place] = max(row.weights[place], weight)
            parent = place
    if row.tokens:
        yield row


def _shared(turn: Sequence[tuple[int, float]], children: dict[tuple[int, int], int]) -> int:
    parent = -1
    for place, (token, _) in enumerate(turn):
        found = children.get((parent, token))
        if found is None:
            return place
        parent = found
    return len(turn)
