"""The architectures that can be tuned, and how their weights lie in a GGUF and in transformers.

The names are those of the package gguf. Two things of the weights themselves differ: of some architectures, a GGUF has the rows of queries
and keys in another order, and what norms are multiplied by is one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matrix_py.errors import ModelError
from matrix_py.models.hub import printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture.

    Attributes:
        name: what a GGUF calls it (`general.architecture`).
        model_types: what transformers calls it, in a model's config.json.
        rotates_pairs: llama.cpp turns neighbouring rows of queries and keys together, transformers those half a head apart.
        adds_one: norms multiply by their weight plus one, which a GGUF holds ready.
    """

    name: str
    model_types: tuple[str, ...]
    rotates_pairs: bool = False
    adds_one: bool = False


ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("llama", ("llama", "mistral"), rotates_pairs=True),
        Architecture("qwen2", ("qwen2",)),
        Architecture("qwen3", ("qwen3",)),
        Architecture("gemma2", ("gemma2",), adds_one=True),
        Architecture("gemma3", ("gemma3_text",), adds_one=True),
    )
}


def architecture_of(name: str, model: str) -> Architecture:
    """Return the architecture that a GGUF names.

    Args:
        name: `general.architecture`.
        model: what an error calls the model.

    Raises:
        ModelError: it cannot be tuned.
    """
    if name not in ARCHITECTURES:
        raise _refusal(name, model)
    return ARCHITECTURES[name]


def architecture_of_type(model_type: str, model: str) -> Architecture:
    """Return the architecture that transformers names; arguments and errors as of `architecture_of`."""
    for architecture in ARCHITECTURES.values():
        if model_type in architecture.model_types:
            return architecture
    raise _refusal(model_type, model)


def _refusal(name: str, model: str) -> ModelError:
    known = ", ".join(ARCHITECTURES)
    return ModelError(f"model {model} is of the architecture {printable(name)!r}, which cannot be tuned: take one of {known}")


class Layout:
    """Where the weights of a model of some size lie."""

    def __init__(self, architecture: Architecture, *, n_layer: int, n_head: int, n_head_kv: int) -> None:
        """Set the sizes: blocks, heads of queries, heads of keys and values."""
        import gguf

        self.architecture = architecture
        self._heads = {"attn_q": n_head, "attn_k": n_head_kv}
        [arch] = [key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture.name]
        self._names: Any = gguf.get_tensor_name_map(arch, n_layer)

    def name_in_gguf(self, name: str) -> str | None:
        """Return what a GGUF calls a weight of transformers (`model.layers.0.mlp.up_proj.weight`); None where it has none such."""
        found: str | None = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        return found

    def to_gguf(self, name: str, rows: Rows) -> Rows:
        """Bring rows of a weight of transformers into the order of a GGUF.

        Args:
            name: what the GGUF calls the weight.
            rows: the weight, or any matrix with as many rows, such as the outer one of an adapter.
        """
        heads = self._turned(name)
        if heads is None:
            return rows
        # A head's first half and its second: they alternate in a GGUF.
        return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    def from_gguf(self, name: str, weight: Rows) -> Rows:
        """Return a weight of a GGUF as transformers has it."""
        if self.architecture.adds_one and name.endswith("norm.weight"):
            return weight - 1
        heads = self._turned(name)
        if heads is None:
            return weight
        return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)

    def _turned(self, name: str) -> int | None:
        """Return how many heads a weight has whose rows are in another order; None if they are not."""
        return self._heads.get(name.split(".")[-2]) if self.architecture.rotates_pairs else None
