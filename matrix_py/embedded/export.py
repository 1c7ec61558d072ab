"""Writes the model as GGUF: Llama architecture, matrices as Q8_0, with vocabulary and chat template."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from matrix_py.embedded.corpus import END
from matrix_py.embedded.tokenizer import BOS, UNKNOWN, Vocabulary

NAME = "matrix embedded demonstration model"


@dataclass(frozen=True, slots=True)
class Shape:
    """The model's hyperparameters.

    Attributes:
        n_vocab: tokens.
        n_ctx: positions that the file announces.
        n_layer: blocks.
        n_embd: width of the residual stream.
        n_head: attention heads.
        n_ff: width of the feed-forward layer.
    """

    n_vocab: int
    n_ctx: int = 4096
    n_layer: int = 6
    n_embd: int = 256
    n_head: int = 8
    n_ff: int = 640
    rope_base: float = 100_000_000.0
    norm_eps: float = 1e-5


def write_gguf(path: Path, shape: Shape, vocabulary: Vocabulary, tensors: Mapping[str, Any], *, template: str) -> None:
    """Write a GGUF file; without tensors it is good for its vocabulary alone.

    Args:
        path: the file to write.
        shape: the model's hyperparameters.
        vocabulary: its tokens.
        tensors: by their names in GGUF, float32 arrays; two-dimensional ones are quantised to Q8_0.
        template: source of the chat template.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(NAME)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.encode() for token in vocabulary.tokens])
    writer.add_token_types(vocabulary.types)
    writer.add_token_scores(vocabulary.scores)
    ids = {token: place for place, token in enumerate(vocabulary.tokens)}
    writer.add_unk_token_id(ids[UNKNOWN])
    writer.add_bos_token_id(ids[BOS])
    writer.add_eos_token_id(ids[END])
    writer.add_eot_token_id(ids[END])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, gguf.quants.quantize(tensor, q8_0), raw_dtype=q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
