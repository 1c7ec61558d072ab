"""What a dataset is to hold."""

from dataclasses import dataclass
from typing import Literal

from matrix_py.dataset.row import RowKind
from matrix_py.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What a dataset is to hold. All of it is in the order of its rows, or in which there are.

    Attributes:
        mix: ratio of aligned, helpful and simulation rows; 0 leaves a kind out.
        helpful: what a helpful row says: the scene's response, or its revision where it was revised.
        benign: which instructions are benign: names of inputs, or `COLUMN=VALUE` of their other columns. Empty for those whose response
            was kept, since no harm was found.
        exclude: inputs of evaluation sets (see `matrix_py.instructions`); scenes about their instructions give no row.
        max_rows: rows at most, of both splits together.
        held_out: share of instructions that are held out.
        seed: of the choice among rows that are too many, and of their order.
        near: texts are near-duplicates if at most this share of the words of the longer one has to be changed; 0 for exact ones only.
        unchanged: a revision that changes at most this share of the response's words is none.
    """

    mix: tuple[int, int, int] = (1, 1, 1)
    helpful: Literal["response", "revision"] = "response"
    benign: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_rows: int | None = None
    held_out: float = 0.05
    seed: int = 0
    near: float = 0.2
    unchanged: float = 0.05

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: an option is.
        """
        if min(self.mix) < 0 or not any(self.mix):
            given = ":".join(map(str, self.mix))
            raise ConfigError(f"--mix is {given}: give whole numbers for aligned:helpful:simulation, such as 1:1:1, not all of them 0")
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"--max-rows is {self.max_rows}: give at least 1")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"--held-out is {self.held_out:g}: give a share from 0 to less than 1")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed is {self.seed}: give a number from 0 to 2^63 - 1")
        for name, value in (("near", self.near), ("unchanged", self.unchanged)):
            if not 0 <= value < 0.5:
                raise ConfigError(f"--{name} is {value:g}: give a share of words from 0 to less than 0.5")

    @property
    def shares(self) -> dict[RowKind, int]:
        """The ratio, by kind."""
        return dict(zip(RowKind, self.mix, strict=True))
