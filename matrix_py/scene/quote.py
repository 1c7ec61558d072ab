"""Text that turns gave, and the turns that gave it: its sources."""

from collections.abc import Iterable
from itertools import chain
from typing import Self


class Quote(str):
    """A text that remembers the turns it was made from: a `str` like any other, but for `turns`.

    What scene code puts together with `+` or an f-string is a plain `str` and remembers nothing: use `of` there.

    Attributes:
        turns: paths of turns (`path#2` for a second attempt), and of what stands where a turn could: an act as planned, a response as
            given. In order, each once.
    """

    __slots__ = ("turns",)

    turns: tuple[str, ...]

    def __new__(cls, text: str, turns: Iterable[str] = ()) -> Self:
        """Make a quote of `text` from these turns."""
        quote = str.__new__(cls, text)
        quote.turns = tuple(dict.fromkeys(turns))
        return quote

    @classmethod
    def of(cls, text: str, *sources: str) -> Self:
        """Make a quote of `text`, from the turns that the sources are made from; a source that is no quote counts for nothing."""
        return cls(text, _turns(sources))


def turns_of(*texts: str) -> tuple[str, ...]:
    """Return the turns that texts are made from, in order, each once."""
    return tuple(dict.fromkeys(_turns(texts)))


def _turns(texts: Iterable[str]) -> Iterable[str]:
    return chain.from_iterable([text.turns for text in texts if isinstance(text, Quote)])
