"""Answers to the same question, before and after a change: how they are read, and what they come to when they are counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from matrix_py import _core
from matrix_py.intervals import ClusteredMean, wilson
from matrix_py.labels.detector import fold
from matrix_py.scene import forms
from matrix_py.scene.quote import Quote

# What a form decides between, in an order for tables, and how to see from a text what was decided.
Choices: TypeAlias = tuple[tuple[str, ...], Callable[[str], str]]
# Of two texts: the same; the same but for case, white space, a full stop at the end, or the order of a list of names; or another.
Likeness: TypeAlias = Literal["identical", "folded", "other"]

# An answer that is no choice: its form failed, or found no room.
_NO_CHOICE = {"form_failed": "form failed", "too_long": "too long"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said: `outcome` and `log_odds` as in `_core.Completion`."""

    text: str
    outcome: str
    log_odds: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """The recorded answer to a turn, and the one to the same turn after the change; `old` and `new` are choices, empty for free text."""

    scene: bytes
    path: str
    before: Answer
    after: Answer
    old: str
    new: str
    likeness: Likeness


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, and its 95 % interval; not a number of too few."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Recorded answers beside those after a change.

    Attributes:
        pairs: answers that are compared.
        choices: what the kind's form decides between, and what became of turns that decided nothing; empty for free text.
        confusion: (recorded choice, choice after the change) -> turns.
        likeness: of the texts, how many are identical, the same when folded, or other.
        agreement: turns with the same choice, or, of free text, an identical one.
        agreement_interval: Wilson's, of the share.
        first_shift: by how much the share of the first choice has grown.
        log_odds_shift: by how much the log-odds of the first of two choices have grown, in nats, where both were recorded.
        length_shift: by how many characters answers have grown.
    """

    pairs: int
    choices: tuple[str, ...]
    confusion: dict[tuple[str, str], int]
    likeness: dict[Likeness, int]
    agreement: int
    agreement_interval: tuple[float, float]
    first_shift: Mean | None
    log_odds_shift: Mean | None
    length_shift: Mean


def choices_of(sampling: _core.Sampling) -> Choices | None:
    """Return what the form of a turn decides between, or None where it decides nothing that could be counted."""
    match sampling.form:
        case forms.VERDICT:
            return forms.VERDICTS, partial(_verdict, forms.read_verdict)
        case forms.VERDICT_FIRST:
            return forms.VERDICTS, partial(_verdict, forms.read_verdict_first)
        case forms.CRITIQUE:
            return (forms.NONE, "1", "2", "3"), _severity
    if len(sampling.choices) == 2:
        return tuple(sampling.choices), partial(_standing_out, sampling.choices)
    return None


def compare(turn: _core.Turn, before: Answer, after: Answer) -> Pair:
    """Return two answers to a turn as a pair."""
    choices = choices_of(turn.sampling)
    old, new = ("", "") if choices is None else (_choice(choices[1], before), _choice(choices[1], after))
    likeness: Likeness = "other"
    if before.outcome == after.outcome:
        if before.text == after.text:
            likeness = "identical"
        elif _folded(turn, before.text) == _folded(turn, after.text):
            likeness = "folded"
    return Pair(turn.scene, turn.path, before, after, old, new, likeness)


class Tally:
    """Counts pairs. What it holds does not grow with their number: scenes are forgotten when all their pairs are there."""

    def __init__(self) -> None:
        """Begin without pairs."""
        self._choices: tuple[str, ...] = ()
        self._confusion: Counter[tuple[str, str]] = Counter()
        self._likeness: Counter[Likeness] = Counter()
        self._means = {name: ClusteredMean() for name in ("first", "log_odds", "length")}

    def add(self, pairs: Sequence[Pair], choices: Sequence[str]) -> None:
        """Count the pairs of a scene, all of them: they have the scene in common, and the intervals allow for that.

        `choices` are what the kind's form decides between, if anything.
        """
        self._choices = tuple(choices)
        first = self._choices[0] if self._choices else ""
        for pair in pairs:
            self._likeness[pair.likeness] += 1
            if self._choices:
                self._confusion[pair.old, pair.new] += 1
        both = [(each.before.log_odds, each.after.log_odds) for each in pairs]
        odds = [new - old for old, new in both if old is not None and new is not None]
        self._means["log_odds"].add(sum(odds), len(odds))
        self._means["length"].add(sum(len(each.after.text) - len(each.before.text) for each in pairs), len(pairs))
        if self._choices:
            self._means["first"].add(sum((each.new == first) - (each.old == first) for each in pairs), len(pairs))

    def result(self) -> Comparison:
        """Return what the pairs come to."""
        pairs = self._likeness.total()
        used = {choice for pair in self._confusion for choice in pair}
        choices = (*self._choices, *(name for name in (*_NO_CHOICE.values(), "unclear") if name in used))
        same = sum(count for (old, new), count in self._confusion.items() if old == new) if self._choices else self._likeness["identical"]
        return Comparison(
            pairs=pairs,
            choices=choices,
            confusion={(old, new): self._confusion[old, new] for old in choices for new in choices},
            likeness={"identical": self._likeness["identical"], "folded": self._likeness["folded"], "other": self._likeness["other"]},
            agreement=same,
            agreement_interval=wilson(same, pairs),
            first_shift=self._mean("first") if self._choices else None,
            log_odds_shift=self._mean("log_odds") if self._means["log_odds"].count else None,
            length_shift=self._mean("length"),
        )

    def _mean(self, name: str) -> Mean:
        mean = self._means[name]
        return Mean(mean.mean, *mean.interval(), mean.count)


def _choice(read: Callable[[str], str], answer: Answer) -> str:
    return _NO_CHOICE.get(answer.outcome) or read(answer.text.strip())


def _verdict(read: Callable[[Quote], tuple[bool, Quote]], text: str) -> str:
    possible, _ = read(Quote(text))
    return forms.VERDICTS[0] if possible else forms.VERDICTS[1]


def _severity(text: str) -> str:
    found = forms.read_critique(Quote(text))
    return forms.NONE if found is None else str(found[0])


def _standing_out(choices: Sequence[str], text: str) -> str:
    """Return the one of two choices that a text is, ends with, or begins with; of the form of somebody else's scene no more is known."""
    for stands in (str.__eq__, str.endswith, str.startswith):
        found = [choice for choice in choices if stands(text, choice)]
        if len(found) == 1:
            return found[0]
    return "unclear"


def _folded(turn: _core.Turn, text: str) -> str:
    # Whoever is on a list of recipients is on it, wherever: scenes read it in the order of the cast.
    return fold(", ".join(sorted(text.split(", ")))) if turn.kind == "recipients" else fold(text)
