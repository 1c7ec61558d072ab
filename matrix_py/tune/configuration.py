"""From the metadata of a GGUF to a configuration of transformers that computes what llama.cpp computes.

transformers can open a GGUF itself (`gguf_file=`), but leaves out of its metadata what these models need in general: the size of a head
(Qwen 3), the scale of rotary frequencies, the caps on logits and the scale of attention (Gemma). What is here was compared with llama.cpp.
"""

from typing import Any

from matrix_py.tune.gguf_file import GgufFile

# llama.cpp knows Gemma's largest models, whose attention is scaled otherwise, by their number of blocks.
_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
_SLIDING_EVERY = {"gemma2": 2, "gemma3": 6}


def configuration(file: GgufFile) -> Any:
    """Return the configuration (`transformers.PretrainedConfig`) of a GGUF.

    Raises:
        ModelError: the model does what transformers' models of its architecture cannot.
    """
    from transformers import AutoConfig

    kind, name = file.architecture.model_types[0], file.architecture.name
    if file.own("expert_count", 0):
        raise file.refusal(f"has {file.own('expert_count')} experts")
    width, heads = file.size("embedding_length"), file.size("attention.head_count")
    head = file.size("attention.key_length", width // heads)
    if (turned := file.size("rope.dimension_count", head)) != head:
        raise file.refusal(f"turns {turned} of {head} numbers of a head only")
    if file.size("attention.value_length", head) != head:
        raise file.refusal("has values of another size than keys")
    fields: dict[str, Any] = {
        "vocab_size": int(file.tensors["token_embd.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": file.size("feed_forward_length"),
        "num_hidden_layers": file.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.size("attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": file.size("context_length"),
        "rms_norm_eps": float(file.own("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_parameters": _rotation(file),
        "bos_token_id": file.value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.value("tokenizer.ggml.eos_token_id"),
        "pad_token_id": None,
    }
    if name == "llama":
        fields |= {"attention_bias": "blk.0.attn_q.bias" in file.tensors, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}
    if name in _SLIDING_EVERY:
        fields |= _gemma(file, head=head, width=width, heads=heads)
    return AutoConfig.for_model(kind, **fields)


def _rotation(file: GgufFile) -> dict[str, Any]:
    scaling, factor = file.own("rope.scaling.type", "linear"), float(file.own("rope.scaling.factor", file.own("rope.scale_linear", 0.0)))
    base = float(file.own("rope.freq_base", 10_000.0))
    if scaling not in {"none", "linear"}:
        raise file.refusal(f"stretches positions by {scaling}")
    if scaling == "none" or factor in {0.0, 1.0}:
        return {"rope_type": "default", "rope_theta": base}
    return {"rope_type": "linear", "rope_theta": base, "factor": factor}


def _gemma(file: GgufFile, *, head: int, width: int, heads: int) -> dict[str, Any]:
    name, layers = file.architecture.name, file.size("block_count")
    window = file.own("attention.sliding_window", 4096 if name == "gemma2" else 0)
    pattern = file.own("attention.sliding_window_pattern", _SLIDING_EVERY[name])
    sliding = pattern if isinstance(pattern, list) else [bool((layer + 1) % pattern) for layer in range(layers)]
    fields: dict[str, Any] = {
        "query_pre_attn_scalar": width // heads if layers == _LARGEST_GEMMA[name] else head,
        "sliding_window": window or None,
        "layer_types": ["sliding_attention" if window and each else "full_attention" for each in sliding],
    }
    if name == "gemma2":
        return fields | {
            "attn_logit_softcapping": float(file.own("attn_logit_softcapping", 50.0)),
            "final_logit_softcapping": float(file.own("final_logit_softcapping", 30.0)),
        }
    near = {"rope_type": "default", "rope_theta": float(file.own("rope.freq_base_swa", 10_000.0))}
    # llama.cpp reads a cap of 0 as none.
    cap = float(file.own("final_logit_softcapping", 0.0)) or None
    return fields | {"rope_parameters": {"full_attention": _rotation(file), "sliding_attention": near}, "final_logit_softcapping": cap}
