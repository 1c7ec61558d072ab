"""The rows of a dataset as tokens, as the base reads them, and how many sequences and steps they are."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from matrix_py.dataset import Dataset, Row
from matrix_py.errors import ConfigError
from matrix_py.tune.base import Base
from matrix_py.tune.encoding import encode_row
from matrix_py.tune.job import Rows, Tokens
from matrix_py.tune.options import TuneOptions

# TRL packs so many rows at a time.
_PACKED_TOGETHER = 1000


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """A dataset as tokens.

    Attributes:
        rows: those that fit.
        too_long: how many were left out, for they do not.
        longest: tokens of the longest row, fitting or not.
    """

    rows: Rows
    too_long: int
    longest: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows to learn from, prompts and completions."""
        return sum(len(row.ids) for row in self.rows.train)

    @property
    def num_learnt(self) -> int:
        """Of these, the tokens of completions, and those that end them."""
        return sum(len(row.ids) - row.prompt for row in self.rows.train)

    def num_sequences(self, options: TuneOptions) -> int:
        """Return how many sequences an epoch has: rows, or packs of them."""
        lengths = [len(row.ids) for row in self.rows.train]
        if not options.packing:
            return len(lengths)
        parts = [lengths[at : at + _PACKED_TOGETHER] for at in range(0, len(lengths), _PACKED_TOGETHER)]
        return sum(num_packs(part, self.rows.sequence_tokens(options)) for part in parts)

    def num_steps(self, options: TuneOptions) -> int:
        """Return how many steps the training has."""
        batches = ceil(self.num_sequences(options) / (options.batch * options.processes))
        return max(ceil(options.epochs * ceil(batches / options.accumulation)), 1)


def encode_rows(
    dataset: Dataset, base: Base, options: TuneOptions, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> EncodedRows:
    """Make tokens of a dataset's rows, by the base's chat template and vocabulary. Rows that are too long are left out, never cut.

    Raises:
        ConfigError: none fits.
        TemplateError: the base's chat template cannot hold a row.
    """
    total = len(dataset.train) + len(dataset.held_out)
    longest, shortest, done = 0, 1 << 62, 0
    splits: list[list[Tokens]] = []
    for rows in (dataset.train, dataset.held_out):
        kept: list[Tokens] = []
        for row in rows:
            tokens = _encode(row, base)
            longest, shortest = max(longest, len(tokens.ids)), min(shortest, len(tokens.ids))
            if len(tokens.ids) <= options.max_tokens:
                kept.append(tokens)
            done += 1
            on_progress(done, total)
        splits.append(kept)
    train, held_out = splits
    if not train:
        raise ConfigError(f"no row fits into --max-tokens {options.max_tokens}: the shortest has {shortest}, the longest {longest} tokens")
    return EncodedRows(Rows(train, held_out), total - len(train) - len(held_out), longest)


def _encode(row: Row, base: Base) -> Tokens:
    prompt, said = encode_row(base.encoder, base.template.render(row.messages, prefill=row.prefill), row.completion)
    return Tokens([*prompt, *said], len(prompt))


def num_packs(lengths: Sequence[int], size: int) -> int:
    """Return how many packs of a size hold rows of these lengths: best fit, the longest first, as TRL packs them."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = bisect_left(rooms, length)
        room = rooms.pop(at) if at < len(rooms) else size
        insort(rooms, room - length)
    return len(rooms)
