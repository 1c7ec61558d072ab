"""Weights into a model of transformers: those of a GGUF, dequantised, or those of a folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matrix_py.errors import ConfigError, ModelError
from matrix_py.models.hub import printable
from matrix_py.tune.configuration import configuration
from matrix_py.tune.gguf_file import GgufFile

_ROTARY_SCALES = "rope_freqs.weight"


def load_gguf(file: GgufFile, dtype: Any, *, quantized: bool = False) -> Any:
    """Return a model with the weights of a GGUF, dequantised one by one; arguments, outcome and errors as of `Base.load`."""
    import torch
    from transformers import AutoModelForCausalLM

    how = _options(dtype, quantized=quantized)
    config = configuration(file)
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(config)
    wanted = {name: tuple(weight.shape) for name, weight in shape.state_dict().items()}
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    names = {file.layout.name_in_gguf(name): name for name in wanted}
    weights = {}
    for name in file.tensors:
        if name == _ROTARY_SCALES:
            continue
        if name not in names:
            raise file.refusal(f"holds {name}, which models of the architecture {file.architecture.name} have not")
        weight = torch.from_numpy(file.layout.from_gguf(name, file.weight(name)).copy())
        if weight.shape != wanted[names[name]]:
            raise file.refusal(f"holds {name} of {tuple(weight.shape)} numbers, not {wanted[names[name]]}")
        weights[names[name]] = weight.to(dtype)
    if missing := [name for name in names if name not in file.tensors]:
        raise file.refusal(f"lacks {missing[0]}")
    model = type(shape).from_pretrained(None, config=config, state_dict=weights, **how)
    if _ROTARY_SCALES in file.tensors:
        # Llama 3.1 and later: by how much slower each pair turns, as llama.cpp reads it, and not by the formula that it comes from.
        scales, rotation = torch.from_numpy(file.weight(_ROTARY_SCALES).copy()), model.model.rotary_emb
        for buffer in (rotation.inv_freq, rotation.original_inv_freq):
            buffer.div_(scales.to(buffer.device))
    return model


def load_folder(folder: Path, dtype: Any, *, quantized: bool = False) -> Any:
    """Return the model in a folder; arguments, outcome and errors as of `Base.load`."""
    from transformers import AutoModelForCausalLM

    how = _options(dtype, quantized=quantized)
    try:
        return AutoModelForCausalLM.from_pretrained(folder, **how)
    except (OSError, ValueError, RuntimeError) as error:
        msg = f"model {str(folder)!r} cannot be loaded ({printable(error)}): download it again"
        raise ModelError(msg) from error


def _options(dtype: Any, *, quantized: bool) -> dict[str, Any]:
    """Return how transformers is to load a model.

    Raises:
        ConfigError: matrices cannot be held in 4 bits here.
    """
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # the caller's own says how far it is
    if not quantized:
        return {"dtype": dtype}
    if not torch.cuda.is_available():
        raise ConfigError("weights in 4 bits (QLoRA) need a CUDA GPU, and torch finds none: leave it out, for LoRA")
    if find_spec("bitsandbytes") is None:
        raise ConfigError("weights in 4 bits (QLoRA) need the package bitsandbytes: pip install bitsandbytes")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    return {"dtype": dtype, "quantization_config": nf4, "device_map": {"": 0}}
