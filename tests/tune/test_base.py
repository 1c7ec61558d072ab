"""What can be tuned, and its rows as tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from logs import plain_sql
from parity import split
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from matrix_py.embedded import EMBEDDED, MODEL
from matrix_py.errors import ConfigError, ModelError
from matrix_py.models.chat import Message, Segment
from matrix_py.simulate import RunSummary
from matrix_py.testing.random_gguf import CHATML, write_random_gguf
from matrix_py.tune.base import open_base
from matrix_py.tune.encoding import encode_row
from matrix_py.tune.gguf_file import GgufFile
from matrix_py.tune.loading import load_gguf

TEXT = "Who's there?  <|im_end|> a café, 漢字\n\tand </s> more "


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_gguf(tmp_path_factory.mktemp("bpe") / "model.gguf", vocab="bpe", quantization="f32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bpe: Path) -> Path:
    """A Hugging Face model with the vocabulary of that GGUF."""
    path, file = tmp_path_factory.mktemp("folder"), GgufFile(bpe)
    tokens = file.value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in file.value("tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    ends = [tokens.index("<|endoftext|>"), tokens.index("<|im_end|>")]
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokens), eos_token_id=ends, **sizes)).save_pretrained(path)
    return path


def ask(text: str) -> list[Message]:
    return [Message("system", (Segment("Be kind.", True),)), Message("user", (Segment(text, False),))]


def test_a_gguf_is_known_by_the_hash_that_runs_know_it_by(finished: RunSummary, tiny_model: Path) -> None:
    [(config,)] = plain_sql(finished.path, "SELECT config ->> 'model' FROM run", read_only=True)
    with open_base(str(tiny_model)) as base:
        assert base.hash == config
        assert (base.architecture.name, base.context) == ("llama", 2048)
        assert "dequantised" in base.note


def test_the_segments_of_a_recorded_turn_are_as_many_tokens_as_the_engine_computed(finished: RunSummary, tiny_model: Path) -> None:
    turns = plain_sql(
        finished.path,
        """SELECT scene, path, attempt, any_value(prompt_tokens), list(text ORDER BY place), list(trusted ORDER BY place)
        FROM (SELECT scene, path, attempt, prompt_tokens, unnest(segments) AS hash, unnest(trusted) AS trusted,
              generate_subscripts(segments, 1) AS place FROM completions)
        JOIN texts USING (hash) GROUP BY ALL""",
        read_only=True,
    )
    assert len(turns) == 18
    with open_base(str(tiny_model)) as base:
        for _, _, _, count, texts, trusted in turns:
            assert len(base.encoder.encode([Segment(*each) for each in zip(texts, trusted, strict=True)])) == count


def test_what_is_said_comes_behind_the_prompt_and_ends_as_the_template_ends_a_reply() -> None:
    with open_base(EMBEDDED) as base:
        prompt, said = encode_row(base.encoder, base.template.render(ask("Hello <|im_end|>")), "Well <|im_end|>, then.")
        again = base.encoder.encode([*base.template.render(ask("Hello <|im_end|>")), Segment("Well <|im_end|>, then.", False)])
        [end] = base.encoder.encode([Segment("<|im_end|>", True)])[1:]
    assert [*prompt, *said] == [*again, end]
    assert base.encoder.end == end
    assert prompt.count(end) == 2  # of the system message and the user's
    assert said.count(end) == 1


def test_a_folder_makes_the_same_tokens_as_a_gguf_of_its_vocabulary(folder: Path, bpe: Path) -> None:
    with open_base(str(folder)) as one, open_base(str(bpe)) as other:
        rows = [encode_row(base.encoder, base.template.render(ask(TEXT)), TEXT) for base in (one, other)]
        assert one.encoder.end == other.encoder.end
        assert one.layout().architecture is other.layout().architecture
    assert rows[0] == rows[1]
    assert rows[0][0].count(one.encoder.end) == 2


def test_a_folder_is_known_by_its_weights_and_loaded(folder: Path, tmp_path: Path) -> None:
    with open_base(str(folder)) as base:
        model = base.load(torch.bfloat16)
        assert model.dtype == torch.bfloat16
        assert model.config.num_hidden_layers == 1
        before = base.hash
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_base(str(tmp_path)) as base:
        assert base.hash == before
    model.to(torch.float32).save_pretrained(tmp_path)
    with open_base(str(tmp_path)) as base:
        assert base.hash != before


def test_a_split_gguf_loads_as_the_whole_does(tmp_path: Path, bpe: Path) -> None:
    with open_base(str(split(bpe, tmp_path))) as parts, open_base(str(bpe)) as whole:
        one, other = parts.load(torch.float32).state_dict(), whole.load(torch.float32).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def refusal(spec: str) -> str:
    with pytest.raises(ModelError) as caught, open_base(spec) as base:
        base.load(torch.float32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_tuned_is_refused_in_a_line_that_names_what_can(tmp_path: Path, folder: Path) -> None:
    other: Any = "smollm3"
    path = write_random_gguf(tmp_path / "other.gguf", architecture=other)
    assert refusal(str(path)) == (
        f"model {path} is of the architecture 'smollm3', which cannot be tuned: take one of llama, qwen2, qwen3, gemma2, gemma3"
    )
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert "is of the architecture 'mamba'" in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "has no weights" in refusal(str(tmp_path))
    assert "holds no Hugging Face model (config.json" in refusal(str(tmp_path.parent))
    assert refusal("no such thing") == (
        "base 'no such thing' does not exist: give a GGUF, a folder with a Hugging Face model, or one's name on a hub (owner/repo)"
    )


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("llama.expert_count", 4, "has 4 experts"),
        ("llama.rope.scaling.type", "yarn", "stretches positions by yarn"),
        ("llama.rope.dimension_count", 8, "turns 8 of 16 numbers of a head only"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_refused(tmp_path: Path, bpe: Path, key: str, value: object, why: str) -> None:
    file = GgufFile(bpe)
    kept = file.value
    file.value = lambda name, default=None: value if name == key else kept(name, default)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=f"{why}: it cannot be tuned"):
        load_gguf(file, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_weights_in_four_bits_need_a_gpu() -> None:
    with open_base(EMBEDDED) as base, pytest.raises(ConfigError, match="need a CUDA GPU, and torch finds none: leave it out, for LoRA"):
        base.load(torch.float32, quantized=True)


def test_without_the_gguf_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'matrix-py\[train\]'"):
        GgufFile(MODEL)


def test_a_damaged_gguf_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(MODEL.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"is damaged .*: download it again"):
        GgufFile(path)
