"""An adapter as PEFT saves it, and as llama.cpp loads it (`adapter.gguf`, for `--lora`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from matrix_py import _core
from matrix_py.errors import ModelError
from matrix_py.models.hub import printable
from matrix_py.tune.drafting import draft

if TYPE_CHECKING:
    from matrix_py.tune.architecture import Layout, Rows

_PREFIX = "base_model.model."
# Of PEFT's configuration: what is more than a product of two matrices added to one that stands, with the name of it.
_BEYOND = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "modules_to_save": "modules trained in full (modules_to_save)",
    "trainable_token_indices": "trained embeddings (trainable_token_indices)",
    "target_parameters": "parameters outside of modules (target_parameters)",
    "lora_bias": "biases of its own",
}
# Ways to begin that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ) take the adapter's beginning out of it.
_BEGINNINGS = {"gaussian", "eva", "orthogonal"}


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter adds to a matrix: `scale * b @ a`.

    Attributes:
        a: rank rows, as many columns as the matrix.
        b: as many rows as the matrix, rank columns.
        scale: what their product is multiplied by.
    """

    a: Rows
    b: Rows
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Sizes of the matrix."""
        return self.b.shape[0], self.a.shape[1]


class Adapter:
    """A LoRA adapter in memory.

    Attributes:
        folder: where PEFT saved it.
        name: what GGUFs call it, by its weights: the same adapter in another folder makes the same files.
        alpha: what a GGUF holds as `adapter.lora.alpha`: llama.cpp multiplies by alpha / rank.
    """

    def __init__(self, folder: Path) -> None:
        """Read an adapter.

        Args:
            folder: with `adapter_config.json` and `adapter_model.safetensors`.

        Raises:
            ModelError: there is none, or it is more than what llama.cpp can add to a model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.folder = folder
        try:
            config = msgspec.json.decode((folder / "adapter_config.json").read_bytes(), type=dict[str, Any])
            tensors = load_file(folder / "adapter_model.safetensors")
        except (OSError, msgspec.MsgspecError, SafetensorError) as error:
            msg = f"folder {str(folder)!r} holds no adapter of PEFT ({printable(error)}): name one with adapter_config.json"
            raise ModelError(msg) from error
        self._check(config)
        self.name = f"adapter {_core.hash_file(folder / 'adapter_model.safetensors').hex()[:12]}"
        self.alpha = float(config["lora_alpha"])
        if config.get("use_rslora"):
            self.alpha *= math.sqrt(config["r"])
        pairs: dict[str, dict[str, Rows]] = {}
        for name, tensor in tensors.items():
            match = re.fullmatch(rf"{re.escape(_PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight", name)
            if match is None or match["module"].endswith(("embed_tokens", "lm_head")):
                module = re.split(r"\.(?:lora_|base_layer\.|weight$|bias$)", name.removeprefix(_PREFIX))[0]
                raise self.refusal(f"changes {printable(module)}, and only matrices inside of blocks can be changed")
            pairs.setdefault(match["module"], {})[match["side"]] = tensor.float().numpy()
        self._deltas = {
            f"{module}.weight": Delta(pair["A"], pair["B"], _scale(config, module, rank=len(pair["A"]))) for module, pair in pairs.items()
        }

    def _check(self, config: dict[str, Any]) -> None:
        if config.get("peft_type") != "LORA":
            raise self.refusal(f"is of the kind {printable(config.get('peft_type'))}, not LoRA")
        for option, name in _BEYOND.items():
            if config.get(option):
                raise self.refusal(f"uses {name}, which llama.cpp's adapters cannot hold")
        if config.get("bias", "none") != "none":
            raise self.refusal(f"trains biases (bias: {printable(config['bias'])}), which llama.cpp's adapters cannot hold")
        beginning = config.get("init_lora_weights", True)
        if isinstance(beginning, str) and beginning not in _BEGINNINGS:
            raise self.refusal(f"began as {printable(beginning)}, which changes the base")

    def deltas(self, layout: Layout) -> Iterator[tuple[str, Delta]]:
        """Yield what is added to each matrix, by its name in a GGUF and with rows in the order there.

        Args:
            layout: the base's.

        Raises:
            ModelError: the base has no such matrix.
        """
        for name, delta in self._deltas.items():
            found = layout.name_in_gguf(name)
            if found is None:
                raise self.foreign(f"it changes {name}, which the model has not")
            yield found, Delta(delta.a, layout.to_gguf(found, delta.b), delta.scale)

    def foreign(self, why: str) -> ModelError:
        """Return the error that says why it is for another base."""
        return ModelError(f"adapter {str(self.folder)!r} is for another base: {why}; name the model that it was trained on")

    def refusal(self, why: str) -> ModelError:
        """Return the error that says why it cannot be used."""
        return ModelError(f"adapter {str(self.folder)!r} {why}: train it as plain LoRA of a model's linear layers")


def write_adapter(adapter: Adapter, out: Path, layout: Layout) -> None:
    """Write an adapter for llama.cpp, in F32. The file is there whole, or not at all.

    Args:
        adapter: the adapter.
        out: the file to write; an existing one is replaced.
        layout: the base's.

    Raises:
        ModelError: see `Adapter.deltas`.
        StoreError: the file cannot be written.
    """
    import gguf
    import numpy as np

    deltas = list(adapter.deltas(layout))
    with draft(out) as path:
        writer = gguf.GGUFWriter(path, layout.architecture.name)
        try:
            writer.add_type(gguf.GGUFType.ADAPTER)
            writer.add_name(adapter.name)
            writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
            writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
            for name, delta in deltas:
                # All but 1 where single matrices have scales of their own.
                more = delta.scale * len(delta.a) / adapter.alpha
                writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(delta.a))
                writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(delta.b * np.float32(more)))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _scale(config: dict[str, Any], module: str, *, rank: int) -> float:
    """Return what PEFT multiplies a module's product by."""
    patterns = config.get("alpha_pattern") or {}
    alpha = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
