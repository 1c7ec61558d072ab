"""How an adapter is trained: what a recipe says, and what of it is given otherwise."""

import enum
from dataclasses import dataclass, fields, replace
from typing import Any

from matrix_py.errors import ConfigError

# Of each block: attention's four matrices and the three of the feed-forward. Other names are refused before any model is opened.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all"


class Recipe(enum.StrEnum):
    """Settings that go together."""

    DEFAULT = "default"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How an adapter is trained. The defaults are the recipe `default`; `recipe_options` has them all.

    Attributes:
        recipe: what the other settings started from.
        rank: of the adapter's matrices (LoRA r).
        alpha: the adapter counts alpha / rank times.
        dropout: share of an adapter's inputs that is left out while training.
        targets: the linear layers that get an adapter, as transformers calls them.
        rate: the highest learning rate (AdamW); after the warm-up it goes down to 0 along half a cosine.
        warmup: share of the steps in which the rate goes up.
        epochs: how often each row is seen; it may be a fraction.
        batch: sequences that a device computes at once. Packed, one sequence holds several rows.
        accumulation: batches a step.
        max_tokens: of a row, and of a sequence. Longer rows are left out, never cut.
        packing: put several rows into one sequence, about as long as the longest row; none sees another.
        qlora: hold the base's matrices in 4 bits.
        bf16: compute in bfloat16; None for where there is a GPU.
        checkpointing: compute activations again in the place of keeping them (gradient checkpointing); None for where there is a GPU.
        seed: of the adapter's first weights, the order of rows and dropout.
        threads: of the CPU; None for all.
        processes: one a GPU, through `accelerate launch`.
        checkpoint_every: steps between checkpoints; None for a tenth of all, but at least ten.
    """

    recipe: Recipe = Recipe.DEFAULT
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = LINEAR
    rate: float = 2e-4
    warmup: float = 0.03
    epochs: float = 3.0
    batch: int = 1
    accumulation: int = 4
    max_tokens: int = 2048
    packing: bool = True
    qlora: bool = False
    bf16: bool | None = None
    checkpointing: bool | None = None
    seed: int = 0
    threads: int | None = None
    processes: int = 1
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: one is out of range.
        """
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{option(name)} is {value}: give {least} or more")
        for name in ("rate", "epochs"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{option(name)} is {getattr(self, name)}: give a number above 0")
        if not 0 <= self.dropout < 1 or not 0 <= self.warmup < 1:
            name = "warmup" if 0 <= self.dropout < 1 else "dropout"
            raise ConfigError(f"{option(name)} is {getattr(self, name)}: give a share, from 0 to less than 1")
        if unknown := [name for name in self.targets if name not in LINEAR] or ([] if self.targets else ["nothing"]):
            raise ConfigError(f"--target-modules names {unknown[0]!r}: choose from {', '.join(LINEAR)}, or {ALL_LINEAR}")


_LEAST = {"rank": 1, "alpha": 1, "batch": 1, "accumulation": 1, "max_tokens": 16, "threads": 1, "processes": 1, "checkpoint_every": 1}
_NAMES = {"rate": "--lr", "targets": "--target-modules", "checkpointing": "--gradient-checkpointing"}

# Pang et al. (2024), of their model of 30 billion parameters. What it does not state is what its trainer (FastChat's) does: which layers
# get an adapter.
_PUBLISHED: dict[str, Any] = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.05,
    "targets": ("q_proj", "v_proj"),
    "rate": 2e-5,
    "warmup": 0.03,
    "epochs": 3.0,
    "batch": 1,
    "accumulation": 8,
    "max_tokens": 1024,
    "packing": False,
}
ASSUMPTIONS = {
    Recipe.DEFAULT: (),
    Recipe.PUBLISHED: (
        "adapters on q_proj and v_proj (not stated; the default of the trainer that was used)",
        "loss on the completion and the token that ends it (not stated)",
        "rows of more than 1,024 tokens are left out (the published trainer cuts them)",
        "weights in 16 or 32 bits without --qlora (published: 4 bits, for a base of 30 billion parameters)",
    ),
}


def recipe_options(recipe: Recipe, **given: Any) -> TuneOptions:
    """Return a recipe's options with what is given in the place of its own; what is None is not given.

    Raises:
        ConfigError: a value is out of range.
    """
    start = TuneOptions(recipe=recipe, **(_PUBLISHED if recipe is Recipe.PUBLISHED else {}))
    return replace(start, **{name: value for name, value in given.items() if value is not None})


def option(name: str) -> str:
    """Return what the command line calls a field."""
    return _NAMES.get(name, f"--{name.replace('_', '-')}")


def parse_targets(text: str) -> tuple[str, ...]:
    """Return the layers that `--target-modules` names: several behind commas, or all."""
    return LINEAR if text == ALL_LINEAR else tuple(name.strip() for name in text.split(",") if name.strip())


def stated(options: TuneOptions) -> dict[str, Any]:
    """Return every option with its value, for a card, a log and a comparison."""
    return {each.name: getattr(options, each.name) for each in fields(options)}
