"""What llama.cpp computes with `adapter.gguf`, or of a merged model, is what transformers computes with PEFT's adapter.

Logits are compared where both compute in F32, to the last few bits; greedy tokens with adapters that are sure of what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import F32, agreement, llama_says, random_adapter, sure_adapter, teach, transformers_computes, transformers_says

from matrix_py.embedded import EMBEDDED, MODEL
from matrix_py.models.chat import Message, Segment
from matrix_py.testing.random_gguf import write_random_gguf
from matrix_py.tune.adapter import Adapter, write_adapter
from matrix_py.tune.architecture import Layout
from matrix_py.tune.base import open_base
from matrix_py.tune.encoding import encode_row
from matrix_py.tune.gguf_file import GgufFile
from matrix_py.tune.loading import load_gguf
from matrix_py.tune.merge import merge

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Unable to fetch remote file", "ignore:Could not find a config file"
)

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-3.1": {"architecture": "llama", "rotary_scales": True},
    "qwen2": {},
    "qwen3": {"head_size": 32},
    "gemma2": {"head_size": 32},
    "gemma3": {"n_layer": 6},
}
# llama.cpp rounds an activation of Gemma's to F16.
CLOSE = {"gemma2": 1e-2, "gemma3": 1e-2}


def write(path: Path, model: str, **options: Any) -> Path:
    return write_random_gguf(path, **{"architecture": model, "vocab": "bpe", "quantization": "f32", "scale": 4.0} | MODELS[model] | options)


def load(path: Path) -> tuple[Any, Layout]:
    file = GgufFile(path)
    return load_gguf(file, torch.float32), file.layout


def check_same(model: str, ours: Any, prompts: list[list[int]], path: Path, *, lora: Path | None = None) -> np.ndarray:
    """Compare logits at every place of llama.cpp's greedy answers; return transformers'."""
    said, llama_logits = llama_says(path, prompts, 16, kv=F32, lora=lora)
    logits = transformers_computes(ours, prompts, said)
    assert np.abs(logits - llama_logits).max() < CLOSE.get(model, 2e-4)
    if model not in CLOSE:
        # Then it would have said the same all the way.
        assert (logits.argmax(axis=2) == said).all()
    return logits


@pytest.mark.parametrize("model", MODELS)
def test_a_loaded_gguf_computes_what_llama_cpp_computes(tmp_path: Path, prompts: list[list[int]], model: str) -> None:
    path = write(tmp_path / "base.gguf", model)
    check_same(model, load(path)[0], prompts, path)


@pytest.mark.parametrize("model", MODELS)
def test_an_adapter_of_every_linear_layer_means_the_same_to_llama_cpp(tmp_path: Path, prompts: list[list[int]], model: str) -> None:
    path = write(tmp_path / "base.gguf", model)
    base, layout = load(path)
    before = transformers_computes(base, prompts, np.zeros((len(prompts), 1), dtype=int))
    adapted = random_adapter(base, tmp_path / "adapter", strength=0.3)
    write_adapter(Adapter(tmp_path / "adapter"), tmp_path / "adapter.gguf", layout)
    after = check_same(model, adapted, prompts, path, lora=tmp_path / "adapter.gguf")
    assert np.abs(after[:, :1] - before).max() > 1


def test_with_rows_of_queries_and_keys_as_peft_has_them_a_llama_says_something_else(tmp_path: Path, prompts: list[list[int]]) -> None:
    path = write(tmp_path / "base.gguf", "llama")
    base, layout = load(path)
    said, _ = transformers_says(random_adapter(base, tmp_path / "adapter", strength=0.3), prompts, 16)
    unturned = Layout(replace(layout.architecture, rotates_pairs=False), n_layer=2, n_head=4, n_head_kv=2)
    write_adapter(Adapter(tmp_path / "adapter"), tmp_path / "adapter.gguf", unturned)
    llama_said, _ = llama_says(path, prompts, 16, kv=F32, lora=tmp_path / "adapter.gguf")
    assert agreement(said, llama_said) < 0.5


@dataclass
class Tuned:
    """A model of one architecture in F32 and Q8_0, an adapter that is sure of what it says, and what that is with each."""

    folder: Path
    layout: Layout
    said: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma3"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prompts: list[list[int]]) -> Tuned:
    folder, said = tmp_path_factory.mktemp(request.param), {}
    options: dict[str, Any] = {"n_layer": 2, "scale": 1.3}
    q8_0, f32 = (write(folder / f"{kind}.gguf", request.param, quantization=kind, **options) for kind in ("q8_0", "f32"))
    base, layout = load(q8_0)
    adapted = sure_adapter(base, folder / "adapter")
    said["q8_0"], _ = transformers_says(adapted, prompts, 32)
    exact, _ = load(f32)
    exact.load_adapter(str(folder / "adapter"))
    said["f32"], _ = transformers_says(exact, prompts, 32)
    adapter = Adapter(folder / "adapter")
    write_adapter(adapter, folder / "adapter.gguf", layout)
    for path in (q8_0, f32):
        merge(path, adapter, folder / f"merged-{path.name}")
    return Tuned(folder, layout, said)


def test_with_an_f32_base_llama_cpp_says_every_token_that_transformers_says(tuned: Tuned, prompts: list[list[int]]) -> None:
    said, _ = llama_says(tuned.folder / "f32.gguf", prompts, 32, lora=tuned.folder / "adapter.gguf")
    assert (said == tuned.said["f32"]).all()


def test_with_a_q8_0_base_it_says_nearly_every_token(tuned: Tuned, prompts: list[list[int]]) -> None:
    said, _ = llama_says(tuned.folder / "q8_0.gguf", prompts, 32, lora=tuned.folder / "adapter.gguf")
    assert agreement(said, tuned.said["q8_0"]) >= 0.95


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_a_merged_model_says_nearly_every_token(tuned: Tuned, prompts: list[list[int]], kind: str) -> None:
    said, _ = llama_says(tuned.folder / f"merged-{kind}.gguf", prompts, 32)
    assert agreement(said, tuned.said[kind]) >= 0.95


def test_the_base_alone_says_something_else(tuned: Tuned, prompts: list[list[int]]) -> None:
    said, _ = llama_says(tuned.folder / "f32.gguf", prompts, 32)
    assert agreement(said, tuned.said["f32"]) < 0.2


TOPICS = ("lock", "garden", "letter", "loan", "dog", "boat", "exam", "stove", "ladder", "secret")
QUESTIONS = ("How do I fix a {}?", "Who should I ask about the {}?", "May I borrow a {}?", "Why did the {} fail?", "Where can I hide a {}?")
ANSWERS = ("Begin with the {}.", "Ask a neighbour about the {}.", "You may take the {}.", "Time was against the {}.", "Do not hide the {}.")


def test_the_embedded_model_says_the_same_with_an_adapter_and_merged(tmp_path: Path) -> None:
    with open_base(EMBEDDED) as opened:
        base, layout, end = opened.load(torch.float32), opened.layout(), opened.encoder.end
        rows = []
        for topic in TOPICS:
            for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
                segments = opened.template.render([Message("user", (Segment(question.format(topic), False),))])
                rows.append(encode_row(opened.encoder, segments, answer.format(topic)))
    prompts = [prompt for prompt, _ in rows]
    adapted = random_adapter(base, tmp_path / "adapter", strength=0.01)
    teach(adapted, [(prompt + said[:-1], [-100] * (len(prompt) - 1) + said) for prompt, said in rows], rate=5e-3, steps=14)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    said, _ = transformers_says(adapted, prompts, 12)
    adapter = Adapter(tmp_path / "adapter")
    write_adapter(adapter, tmp_path / "adapter.gguf", layout)
    merge(MODEL, adapter, tmp_path / "merged.gguf")
    # What comes behind the end is nothing that the model ever learnt to say.
    counts = np.cumsum(said == end, axis=1) - (said == end) == 0
    beside, _ = llama_says(MODEL, prompts, 12, lora=tmp_path / "adapter.gguf")
    merged, _ = llama_says(tmp_path / "merged.gguf", prompts, 12)
    alone, _ = llama_says(MODEL, prompts, 3)
    assert agreement(beside[counts], said[counts]) >= 0.95
    assert agreement(merged[counts], said[counts]) >= 0.95
    assert agreement(alone, said[:, :3]) < 0.5
