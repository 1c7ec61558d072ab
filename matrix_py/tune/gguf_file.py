"""A GGUF as its metadata and its tensors, over all parts of a split model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix_py.errors import ConfigError, ModelError
from matrix_py.models.hub import check_gguf, printable, split_parts
from matrix_py.tune.architecture import Layout, architecture_of

if TYPE_CHECKING:
    from matrix_py.tune.architecture import Rows


class GgufFile:
    """An open GGUF. Tensors are mapped, not read: those that nobody asks for take no memory."""

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Args:
            path: the file; of a split model its first part.

        Raises:
            ConfigError: the package gguf is not installed.
            ModelError: the file is missing or damaged, or its architecture cannot be tuned.
        """
        try:
            import gguf
        except ImportError as error:
            msg = "reading the weights of a GGUF needs the package gguf: pip install 'matrix-py[train]'"
            raise ConfigError(msg) from error
        self.path = path
        parts = [path.with_name(name) for name in split_parts(path.name)]
        self.readers: list[Any] = []
        for part in parts:
            check_gguf(part)
            try:
                self.readers.append(gguf.GGUFReader(part))
            except Exception as error:  # the reader checks little: a damaged file fails somewhere in numpy
                msg = f"model {str(part)!r} is damaged ({printable(error)}): download it again"
                raise ModelError(msg) from error
        self.architecture = architecture_of(str(self.value("general.architecture", "")), str(path))
        self.tensors: dict[str, Any] = {tensor.name: tensor for reader in self.readers for tensor in reader.tensors}
        n_head = self.size("attention.head_count")
        self.layout = Layout(
            self.architecture,
            n_layer=self.size("block_count"),
            n_head=n_head,
            n_head_kv=self.size("attention.head_count_kv", n_head),
        )

    def value(self, key: str, default: Any = None) -> Any:
        """Return what the metadata say under a key."""
        field = self.readers[0].get_field(key)
        return default if field is None else field.contents()

    def own(self, key: str, default: Any = None) -> Any:
        """Return what the metadata say under a key of the architecture's own."""
        return self.value(f"{self.architecture.name}.{key}", default)

    def size(self, key: str, default: int | None = None) -> int:
        """Return a size under a key of the architecture's own.

        Raises:
            ModelError: it is missing, or differs by block, which transformers' models of these architectures cannot.
        """
        value = self.own(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if not isinstance(value, int):
            raise self.refusal(f"has no one {self.architecture.name}.{key} (it is {printable(value)})")
        return value

    def weight(self, name: str) -> Rows:
        """Return a tensor's numbers, dequantised, with the row first.

        Raises:
            ModelError: its type cannot be read.
        """
        return self.dequantise(name, self.tensors[name].data)

    def dequantise(self, name: str, data: Any) -> Rows:
        """Return the numbers of some rows of a tensor; see `weight`."""
        import gguf
        import numpy as np

        kind = self.tensors[name].tensor_type
        try:
            return np.asarray(gguf.dequantize(data, kind), dtype=np.float32)
        except (NotImplementedError, gguf.quants.QuantError) as error:
            raise self.refusal(f"holds {name} as {kind.name}, which cannot be read") from error

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the tensors by name, each with its sizes, rows first."""
        for name, tensor in self.tensors.items():
            yield name, tuple(int(size) for size in reversed(tensor.shape))

    def refusal(self, why: str) -> ModelError:
        """Return the error that says why the model cannot be tuned."""
        return ModelError(f"model {str(self.path)!r} {why}: it cannot be tuned; take another file of the model")
