"""A dataset, and how it came about."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from matrix_py import _core
from matrix_py.dataset.options import DatasetOptions
from matrix_py.dataset.row import Row, RowKind
from matrix_py.errors import ConfigError
from matrix_py.models.chat import ChatTemplate
from matrix_py.opening import recorded_template
from matrix_py.store import DatasetRow
from matrix_py.types import RunRecord

_DOMAIN = "matrix.dataset.1"
SPLITS = ("train", "held_out")
# What to do where no row of a kind came out.
_REMEDIES = {
    RowKind.ALIGNED: "simulate instructions whose responses do harm, or leave the kind out with --mix 0:1:1",
    RowKind.HELPFUL: "say which instructions are benign with --benign NAME, or leave the kind out with --mix 1:0:1",
    RowKind.SIMULATION: "use a scene that has turns of its own, or leave the kind out with --mix 1:1:0",
}


@dataclass(frozen=True, slots=True)
class SourceRun:
    """A run that a dataset was made from.

    Attributes:
        path: its log.
        root: its root hash; None while some of its scenes are not finished.
        num_scenes: its scenes.
        num_finished: of them, those that are finished.
    """

    path: Path
    record: RunRecord
    root: bytes | None
    num_scenes: int
    num_finished: int

    @property
    def template(self) -> ChatTemplate:
        """The chat template that its prompts were made with."""
        return recorded_template(self.record.config)

    @property
    def model(self) -> str:
        """Hash of its model, hex."""
        return self.record.config.model


@dataclass(slots=True)
class KindCounts:
    """What became of the candidates of a kind.

    Attributes:
        candidates: turns that could have given a row.
        kept: of them, those that did.
        dropped: reason -> of the others.
    """

    candidates: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows to train on, and rows that are held out. No instruction has rows in both.

    Attributes:
        runs: what they are from.
        options: how they were chosen.
        train: in the order in which they are to be learnt.
        held_out: in an order of the same sort.
        counts: by kind.
        entries: by run, all candidates: what `record` writes.
        benign: how many finished scenes were taken for benign.
    """

    runs: tuple[SourceRun, ...]
    options: DatasetOptions
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    counts: dict[RowKind, KindCounts]
    entries: dict[str, tuple[DatasetRow, ...]]
    benign: int

    @property
    def hash(self) -> bytes:
        """BLAKE3 over the hashes of the rows, in order, split by split. Where rows are from does not count."""
        splits = [[row.hash.hex() for row in rows] for rows in (self.train, self.held_out)]
        return _core.blake3(msgspec.json.encode([_DOMAIN, *splits]))

    @property
    def splits(self) -> dict[str, tuple[Row, ...]]:
        """The rows, by the name of their split."""
        return dict(zip(SPLITS, (self.train, self.held_out), strict=True))

    @property
    def templates(self) -> tuple[tuple[str, ChatTemplate], ...]:
        """Of each model that answered in the runs, its hash and its chat template, each pair once."""
        found = {(run.model, run.template.source, run.template.tokens): run.template for run in self.runs}
        return tuple((model, template) for (model, _, _), template in found.items())

    def check(self) -> None:
        """Refuse a dataset that cannot be trained on.

        Raises:
            ConfigError: a kind that was asked for has no row, or there is no row to train on.
        """
        for kind, share in self.options.shares.items():
            counts = self.counts[kind]
            usable = counts.kept + counts.dropped.get("mix", 0)
            if share and not usable:
                dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.dropped.items())) or "there are none"
                raise ConfigError(f"no {kind} row came of {counts.candidates} candidates ({dropped}): {_REMEDIES[kind]}")
        if not self.train:
            raise ConfigError("the dataset has no row to train on: simulate more scenes, or lower --held-out")

    def describe(self) -> dict[str, Any]:
        """Return how it was made, for a log and for whoever reads what was made of it."""
        return {
            **msgspec.to_builtins(self.options),
            "runs": [
                {"run_id": run.record.run_id, "root": None if run.root is None else run.root.hex(), "model": run.model} for run in self.runs
            ],
        }
