"""An adapter of PEFT's as llama.cpp's: what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from parity import random_adapter
from transformers import LlamaConfig, LlamaForCausalLM

from matrix_py.errors import ModelError, StoreError
from matrix_py.tune.adapter import Adapter, write_adapter
from matrix_py.tune.architecture import ARCHITECTURES, Layout

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Unable to fetch remote file", "ignore:Could not find a config file"
)
LAYOUT = Layout(ARCHITECTURES["llama"], n_layer=1, n_head=4, n_head_kv=2)


def small_model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5, "layers.0.mlp.up_proj": 7}},
        {"use_rslora": True, "rank_pattern": {"down_proj": 4}},
        {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 3},
    ],
)
def test_what_is_added_to_each_matrix_is_what_peft_adds(tmp_path: Path, options: dict[str, Any]) -> None:
    adapted = random_adapter(small_model(), tmp_path / "adapter", strength=1.0, **options)
    write_adapter(Adapter(tmp_path / "adapter"), tmp_path / "adapter.gguf", LAYOUT)
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    alpha = reader.get_field("adapter.lora.alpha").contents()
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    deltas = {name: module.get_delta_weight("default") for name, module in adapted.named_modules() if hasattr(module, "get_delta_weight")}
    assert len(tensors) == 2 * len(deltas) > 0
    for name, delta in deltas.items():
        found = LAYOUT.name_in_gguf(f"{name.removeprefix('base_model.model.')}.weight")
        a, b = tensors[f"{found}.lora_a"], tensors[f"{found}.lora_b"]
        added = LAYOUT.from_gguf(str(found), b * np.float32(alpha / len(a))) @ a
        np.testing.assert_allclose(added, delta.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_rows_in_the_order_of_a_gguf_and_back_are_the_same() -> None:
    rows = np.arange(32 * 3, dtype=np.float32).reshape(32, 3)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"):
        assert (LAYOUT.from_gguf(name, LAYOUT.to_gguf(name, rows)) == rows).all()
    # Of the first head of four: eight rows, halves of which alternate.
    assert LAYOUT.to_gguf("blk.0.attn_q.weight", rows)[:8, 0].tolist() == [0, 12, 3, 15, 6, 18, 9, 21]
    assert (LAYOUT.to_gguf("blk.0.attn_v.weight", rows) == rows).all()


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"use_dora": True}, "uses DoRA, which llama.cpp's adapters cannot hold"),
        ({"modules_to_save": ["lm_head"]}, r"uses modules trained in full \(modules_to_save\)"),
        ({"bias": "lora_only"}, r"trains biases \(bias: lora_only\)"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "changes model.embed_tokens, and only matrices inside of blocks"),
        ({"target_modules": ["q_proj", "lm_head"]}, "changes lm_head, and only matrices inside of blocks"),
    ],
)
def test_what_llama_cpp_cannot_add_is_refused_in_one_line(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    random_adapter(small_model(), tmp_path / "adapter", strength=1.0, **options)
    with pytest.raises(ModelError, match=why) as caught:
        Adapter(tmp_path / "adapter")
    assert str(caught.value).endswith(": train it as plain LoRA of a model's linear layers")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"peft_type": "IA3"}, "is of the kind IA3, not LoRA"),
        ({"init_lora_weights": "pissa"}, "began as pissa, which changes the base"),
        ({"alora_invocation_tokens": [1]}, "uses activated LoRA"),
    ],
)
def test_another_kind_of_adapter_is_refused(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    random_adapter(small_model(), tmp_path, strength=1.0)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    with pytest.raises(ModelError, match=why):
        Adapter(tmp_path)


def test_an_adapter_of_more_blocks_is_for_another_base(tmp_path: Path) -> None:
    random_adapter(small_model(), tmp_path / "adapter", strength=1.0)
    none = Layout(ARCHITECTURES["llama"], n_layer=0, n_head=4, n_head_kv=2)
    with pytest.raises(ModelError, match=r"is for another base: it changes model\.layers\.0\.\S+, which the model has not"):
        write_adapter(Adapter(tmp_path / "adapter"), tmp_path / "adapter.gguf", none)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_without_an_adapter_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter of PEFT .*: name one with adapter_config.json"):
        Adapter(tmp_path)
    random_adapter(small_model(), tmp_path, strength=1.0)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="holds no adapter of PEFT"):
        Adapter(tmp_path)


def test_an_adapter_of_bfloat16_is_written_in_f32(tmp_path: Path) -> None:
    random_adapter(small_model(), tmp_path / "adapter", strength=1.0).to(torch.bfloat16).save_pretrained(
        tmp_path / "adapter", save_embedding_layers=False
    )
    write_adapter(Adapter(tmp_path / "adapter"), tmp_path / "adapter.gguf", LAYOUT)
    assert {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "adapter.gguf").tensors} == {"F32"}


def test_where_it_cannot_be_written_nothing_is_left(tmp_path: Path) -> None:
    random_adapter(small_model(), tmp_path / "adapter", strength=1.0)
    with pytest.raises(StoreError, match=r"cannot be written .*: free room, or write it elsewhere"):
        write_adapter(Adapter(tmp_path / "adapter"), tmp_path / "none" / "adapter.gguf", LAYOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
