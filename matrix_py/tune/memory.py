"""About how much memory a training takes: an estimate from the shapes of the base's weights, without loading them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from matrix_py.tune.base import Base, FolderBase, GgufBase
from matrix_py.tune.gguf_file import GgufFile
from matrix_py.tune.options import LINEAR, TuneOptions

_IN_GGUF = dict(zip(LINEAR, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), strict=True))
# Of a linear layer's parameters in 4 bits, with what scales them.
_QUANTISED_BYTES = 0.56
# An adapter's weights, gradients and AdamW's two moments, each in 32 bits.
_TRAINED_BYTES = 16
# Python, torch and the libraries around it, as they were measured on a small model.
_LIBRARIES_BYTES = 1000 << 20
# What a block keeps of a token for its gradients, in widths of the residual stream and of the feed-forward.
_KEPT_WIDTHS, _KEPT_FORWARDS = 12, 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a base and options.

    Attributes:
        parameters: of the base.
        trainable: of the adapter.
        gpu_bytes: on a GPU, in bfloat16 and with gradient checkpointing, where the options do not say otherwise.
        cpu_bytes: on a CPU, in 32 bits and without.
    """

    parameters: int
    trainable: int
    gpu_bytes: int
    cpu_bytes: int


def estimate(base: Base, options: TuneOptions) -> Estimate:
    """Return about how much memory a training takes."""
    shapes = _shapes(base)
    parameters = sum(rows * columns for rows, columns in shapes.values())
    linear = {name: shape for name, shape in shapes.items() if any(part in name for part in (*LINEAR, *_IN_GGUF.values()))}
    wanted = {part for target in options.targets for part in (target, _IN_GGUF[target])}
    trainable = sum(options.rank * sum(shape) for name, shape in linear.items() if name.split(".")[-2] in wanted)
    blocks = sum("q_proj.weight" in name or "attn_q.weight" in name for name in linear)
    width = next(shape[1] for name, shape in linear.items() if "q_proj.weight" in name or "attn_q.weight" in name)
    forward = next(shape[0] for name, shape in linear.items() if "up_proj.weight" in name or "ffn_up.weight" in name)

    def needed(*, half: bool, checkpointing: bool) -> int:
        size = 2 if half else 4
        tokens = options.batch * options.max_tokens
        block = tokens * size * (_KEPT_WIDTHS * width + _KEPT_FORWARDS * forward)
        kept = block + tokens * size * width * blocks if checkpointing else block * blocks
        in_linear = sum(rows * columns for rows, columns in linear.values())
        weights = (parameters - in_linear) * size + in_linear * (_QUANTISED_BYTES if options.qlora else size)
        return round(weights + trainable * _TRAINED_BYTES + kept)

    half, checkpointing = options.bf16, options.checkpointing
    return Estimate(
        parameters,
        trainable,
        needed(half=half is not False, checkpointing=checkpointing is not False),
        needed(half=bool(half), checkpointing=bool(checkpointing)) + _LIBRARIES_BYTES,
    )


def _shapes(base: Base) -> dict[str, tuple[int, int]]:
    """Return the base's matrices, as rows and columns."""
    if isinstance(base, GgufBase):
        found = dict(GgufFile(base.path).shapes())
    else:
        assert isinstance(base, FolderBase)  # there is no other
        found = {name: shape for path in sorted(base.folder.glob("*.safetensors")) for name, shape in _safetensors(path).items()}
    return {name: (shape[0], shape[1]) for name, shape in found.items() if len(shape) == 2}


def _safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a file's header names: a length, then JSON."""
    with path.open("rb") as file:
        [size] = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
