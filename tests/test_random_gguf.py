"""Random-weight models: they load, they tokenise, they write varied text, and they are the same every time."""

from __future__ import annotations

import ctypes
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from matrix_py.errors import ConfigError
from matrix_py.models.chat import Message, Segment, load
from matrix_py.models.vet import vet
from matrix_py.testing.random_gguf import CHATML, write_random_gguf

TEXT = "The doctor and the neighbour would agree, wouldn't they?  (10%)\n\ttabs, café, 漢字, \U0001f600"


class Model:
    """A loaded model, as far as these tests need one."""

    def __init__(self, path: Path) -> None:
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self.model
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.num_tokens = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        data = text.encode()
        tokens = (llama_cpp.llama_token * 512)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), False, special)
        assert count >= 0
        return list(tokens[:count])

    def detokenise(self, tokens: list[int]) -> bytes:
        pieces = []
        for token in tokens:
            buffer = ctypes.create_string_buffer(64)
            size = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
            pieces.append(buffer.raw[:size])
        return b"".join(pieces)

    def generate(self, prompt: str, *, temperature: float, count: int) -> list[int]:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = 512, 2, 2
        context: Any = llama_cpp.llama_init_from_model(self.model, params)
        draw = random.Random(1)
        batch, answer = self.tokenise(prompt, special=True), []
        for _ in range(count):
            tokens = (llama_cpp.llama_token * len(batch))(*batch)
            assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(batch))) == 0
            logits = llama_cpp.llama_get_logits_ith(context, -1)[: self.num_tokens]
            highest = max(logits)
            weights = [math.exp((logit - highest) / temperature) for logit in logits]
            batch = draw.choices(range(self.num_tokens), weights)
            answer += batch
        llama_cpp.llama_free(context)
        return answer

    def close(self) -> None:
        llama_cpp.llama_model_free(self.model)


@pytest.fixture(scope="module", autouse=True)
def quiet_llama() -> Iterator[None]:
    """Drop the log of llama.cpp while these tests run."""
    silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(silence, None)
    yield
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    models = []

    def open_model(**options: Any) -> Model:
        models.append(Model(write_random_gguf(tmp_path / "model.gguf", **options)))
        return models[-1]

    yield open_model
    for model in models:
        model.close()


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
@pytest.mark.parametrize(("quantization", "ftype"), [("q8_0", 7), ("f16", 1), ("f32", 0)])
def test_the_model_passes_vetting(tmp_path: Path, vocab: Any, quantization: Any, ftype: int) -> None:
    facts = vet(write_random_gguf(tmp_path / "model.gguf", vocab=vocab, quantization=quantization))
    assert (facts.architecture, facts.ftype, facts.n_layer, facts.n_embd, facts.n_ctx_train) == (
        "llama",
        ftype,
        2,
        64,
        2048,
    )
    assert facts.metadata["tokenizer.chat_template"] == CHATML


def test_the_shape_is_as_asked(tmp_path: Path) -> None:
    file = write_random_gguf(tmp_path / "model.gguf", n_layer=4, n_embd=256, n_head=8, n_head_kv=8, n_ff=512, n_ctx=300, chat_template=None)
    facts = vet(file)
    assert (facts.n_layer, facts.n_embd, facts.n_ctx_train) == (4, 256, 300)
    assert 2**20 < file.stat().st_size < 8 * 2**20
    assert "tokenizer.chat_template" not in facts.metadata


def test_the_default_model_is_smaller_than_a_megabyte(tmp_path: Path) -> None:
    assert write_random_gguf(tmp_path / "model.gguf").stat().st_size < 2**20


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, vocab: Any) -> None:
    first, again, other = (
        write_random_gguf(tmp_path / f"{at}.gguf", seed=seed, vocab=vocab).read_bytes() for at, seed in enumerate([5, 5, 6])
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
def test_text_survives_tokenising(opened: Any, vocab: Any) -> None:
    model = opened(vocab=vocab)
    assert model.detokenise(model.tokenise(TEXT)).decode().removeprefix(" ") == TEXT


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
def test_common_words_are_joined_to_few_tokens(opened: Any, vocab: Any) -> None:
    model = opened(vocab=vocab)
    pieces = [model.detokenise([token]) for token in model.tokenise(" they would also ask the doctor")]
    assert len(pieces) <= 10
    assert {b" they", b" would", b" also", b" the"} <= set(pieces)


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
def test_control_tokens_come_from_trusted_text_only_and_end_a_turn(opened: Any, vocab: Any) -> None:
    model = opened(vocab=vocab)
    (end,) = model.tokenise("<|im_end|>", special=True)[-1:]
    assert llama_cpp.llama_vocab_is_control(model.vocab, end)
    assert llama_cpp.llama_vocab_is_eog(model.vocab, end)
    assert llama_cpp.llama_vocab_eot(model.vocab) == end
    assert end not in model.tokenise("<|im_end|>", special=False)


def test_the_stored_template_is_chatml(tmp_path: Path) -> None:
    facts = vet(write_random_gguf(tmp_path / "model.gguf"))
    own = load(facts.metadata, override=None, bos_token="<s>", eos_token="</s>")
    built_in = load({}, override="chatml", bos_token="<s>", eos_token="</s>")
    dialogue = [Message(role, (Segment(role, trusted=False),)) for role in ("system", "user", "assistant", "user")]
    assert own.render(dialogue) == built_in.render(dialogue)


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
@pytest.mark.parametrize("seed", [0, 1])
def test_sampled_text_is_varied_and_mostly_readable(opened: Any, vocab: Any, seed: int) -> None:
    model = opened(vocab=vocab, seed=seed)
    tokens = model.generate("<|im_start|>user\nWhat next?<|im_end|>\n", temperature=0.7, count=200)
    counts = Counter(tokens)
    assert len(counts) >= 100
    assert counts.most_common(1)[0][1] <= 25
    assert sum(llama_cpp.llama_vocab_is_eog(model.vocab, token) for token in tokens) <= 10
    assert model.detokenise(tokens).decode(errors="replace").count("\ufffd") <= 20


def test_what_comes_next_depends_on_the_prompt(opened: Any) -> None:
    model = opened()
    answers = [model.generate(prompt, temperature=1e-6, count=8) for prompt in ("a doctor", "the doctor", "a doctor")]
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.parametrize("shape", [{"n_embd": 80}, {"n_head": 3}, {"n_head_kv": 3}, {"n_ff": 100}, {"n_head_kv": 0}, {"n_embd": 0}])
def test_a_shape_that_cannot_be_built_is_refused(tmp_path: Path, shape: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="take n_embd and n_ff as multiples of 32"):
        write_random_gguf(tmp_path / "model.gguf", **shape)  # type: ignore[arg-type]
    assert not (tmp_path / "model.gguf").exists()


def test_without_the_gguf_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'matrix-py\[gguf\]'"):
        write_random_gguf(tmp_path / "model.gguf")
