"""Vetting: every way in which a GGUF can be bad ends in one line, and the parent lives on."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from matrix_py.errors import ModelError
from matrix_py.models.vet import vet
from matrix_py.testing.random_gguf import write_random_gguf

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K-f32.gguf"
Bend = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "matrix"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_random_gguf(tmp_path / "good.gguf")


@pytest.fixture
def bend(tmp_path: Path) -> Bend:
    """Copy a good model with some keys or weights changed; a key changed to None is left out."""

    def copy(keys: dict[str, Any] | None = None, weights: dict[str, float] | None = None, *, tensors: bool = True) -> Path:
        reader = gguf.GGUFReader(write_random_gguf(tmp_path / "source.gguf", quantization="f32"))
        keys = keys or {}
        writer = gguf.GGUFWriter(tmp_path / "bent.gguf", keys.get("general.architecture", "llama"))
        for key, stored in reader.fields.items():
            value = keys.get(key, stored.contents())
            if key.startswith("GGUF.") or key == "general.architecture" or value is None:
                continue
            sub_type = stored.types[-1] if stored.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value, stored.types[0], sub_type=sub_type)
        if "llama.attention.causal" in keys:
            writer.add_bool("llama.attention.causal", keys["llama.attention.causal"])
        for tensor in reader.tensors if tensors else ():
            data = tensor.data.copy()
            data[:] = (weights or {}).get(tensor.name, data)
            writer.add_tensor(tensor.name, data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "bent.gguf"

    return copy


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Put a shell script in the place of the interpreter that runs the child."""

    def replace(script: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr("sys.executable", str(program))

    return replace


def refusal(path: Path, **options: Any) -> str:
    """Vet a bad model and return the error, which is one printable line that names the file."""
    with pytest.raises(ModelError) as caught:
        vet(path, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"model {str(path)!r} ")
    return message


def test_a_good_model_yields_its_facts(good: Path) -> None:
    facts = vet(good)
    assert (facts.architecture, facts.name, facts.description) == ("llama", "matrix random spm 0", "llama ?B Q8_0")
    assert (facts.n_ctx_train, facts.n_embd, facts.n_layer, facts.ftype, facts.n_swa) == (2048, 64, 2, 7, 0)
    assert (facts.recurrent, facts.hybrid, facts.encoder, facts.add_bos) == (False, False, False, True)
    assert (facts.bos_token, facts.bos_id, facts.eos_token, facts.eos_id) == ("<s>", 1, "</s>", 2)
    assert facts.n_vocab == int(facts.metadata["llama.vocab_size"])
    assert 0 < facts.size_bytes < good.stat().st_size
    assert facts.n_params > facts.n_vocab * 64 * 2
    assert "tokenizer.ggml.model" in facts.metadata
    assert "tokenizer.ggml.tokens" not in facts.metadata


def test_a_relative_path_is_vetted(good: Path) -> None:
    assert vet(Path(os.path.relpath(good))).architecture == "llama"


def test_a_path_that_is_no_utf8_is_vetted(good: Path) -> None:
    odd = good.rename(good.with_name(os.fsdecode(b"odd \xff\n.gguf")))
    assert vet(odd) == vet(odd)


@pytest.mark.parametrize("kept_bytes", [8, 24, 3000, -5000, -1])
def test_a_truncated_model_is_refused(good: Path, kept_bytes: int) -> None:
    good.write_bytes(good.read_bytes()[:kept_bytes])
    assert "is truncated or damaged (" in refusal(good)


def test_garbage_after_the_header_is_refused(good: Path) -> None:
    good.write_bytes(good.read_bytes()[:24] + bytes((at * 73 + 11) % 256 for at in range(5000)))
    assert "is truncated or damaged (" in refusal(good)


def test_a_flipped_magic_is_refused(good: Path) -> None:
    good.write_bytes(b"GGUX" + good.read_bytes()[4:])
    assert "is no GGUF file (it starts with b'GGUX')" in refusal(good)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.gguf")


def test_an_spm_vocabulary_without_byte_tokens_is_refused(tmp_path: Path) -> None:
    message = refusal(write_random_gguf(tmp_path / "model.gguf", byte_tokens=False))
    assert "has no byte tokens: characters outside its vocabulary would crash llama.cpp (SIGABRT" in message


def test_a_bpe_vocabulary_without_byte_tokens_is_refused(tmp_path: Path) -> None:
    message = refusal(write_random_gguf(tmp_path / "model.gguf", byte_tokens=False, vocab="bpe"))
    assert "has no byte tokens: characters outside its vocabulary, such as U+0009, are lost" in message


def test_an_unknown_architecture_is_refused_without_its_escape_sequences(bend: Bend) -> None:
    message = refusal(bend({"general.architecture": "zo\x1b[31mrro"}))
    assert "unknown model architecture: 'zo?[31mrro'): use a newer llama-cpp-python" in message


@pytest.mark.parametrize("model", [None, "zorro"])
def test_a_missing_or_unknown_tokenizer_is_refused(bend: Bend, model: str | None) -> None:
    assert "has no vocabulary that llama.cpp can use" in refusal(bend({"tokenizer.ggml.model": model}))


def test_a_model_that_declares_no_vocabulary_is_refused(bend: Bend) -> None:
    assert "has no vocabulary: convert it again with its tokenizer" in refusal(bend({"tokenizer.ggml.model": "no_vocab"}))


def test_a_vocabulary_without_weights_is_refused(bend: Bend) -> None:
    assert "holds a vocabulary only and no weights" in refusal(bend(tensors=False))


def test_a_model_that_is_no_decoder_is_refused(bend: Bend) -> None:
    assert "is no decoder (architecture llama)" in refusal(bend({"llama.attention.causal": False}))


def test_a_shape_that_does_not_fit_is_refused(bend: Bend) -> None:
    assert "cannot be loaded (" in refusal(bend({"llama.attention.head_count_kv": 4}))


def test_weights_that_are_no_numbers_are_refused(bend: Bend) -> None:
    assert "invalid data" in refusal(bend(weights={"output.weight": float("nan")}))


def test_weights_that_overflow_are_refused(bend: Bend) -> None:
    assert "gives logits that are no numbers" in refusal(bend(weights={"blk.0.ffn_down.weight": 3e38}))


@pytest.mark.parametrize(
    ("keys", "stage", "assertion"),
    [
        ({"llama.block_count": 1000}, "load", "n_layer_all <= LLAMA_MAX_LAYERS"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "decode", "eps >= 0.0f"),
    ],
)
def test_an_assertion_of_llama_cpp_is_quoted(bend: Bend, keys: dict[str, Any], stage: str, assertion: str) -> None:
    message = refusal(bend(keys))
    assert f"crashes llama.cpp during {stage} (SIGABRT: GGML_ASSERT(" in message
    assert assertion in message


def test_a_model_that_takes_too_long_is_refused(good: Path) -> None:
    assert "was not vetted within 0.01 s: allow more time" in refusal(good, timeout_s=0.01)


def test_a_killed_child_points_to_memory(good: Path, stand_in: Callable[[str], None]) -> None:
    stand_in("kill -KILL $$")
    assert "was killed during start (SIGKILL): probably too little memory" in refusal(good)


def test_a_child_that_says_nothing_is_reported_with_its_last_words(good: Path, stand_in: Callable[[str], None]) -> None:
    stand_in("echo first >&2; echo 'ImportError: no llama_cpp' >&2; exit 3")
    assert "could not be vetted (exit code 3): ImportError: no llama_cpp" in refusal(good)


def test_what_passed_is_not_vetted_again(good: Path, stand_in: Callable[[str], None]) -> None:
    facts = vet(good)
    stand_in("exit 3")
    assert vet(good) == facts


@pytest.mark.parametrize("change", ["content", "time", "path", "layers"])
def test_what_changed_is_vetted_again(good: Path, stand_in: Callable[[str], None], change: str) -> None:
    # given
    vet(good)
    stand_in("exit 3")
    path, options = good, {}
    # when
    match change:
        case "content":
            good.write_bytes(good.read_bytes() + b"more")
        case "time":
            os.utime(good, ns=(0, 0))
        case "path":
            path = good.rename(good.with_name("moved.gguf"))
        case "layers":
            options = {"n_gpu_layers": 1}
    # then
    assert "exit code 3" in refusal(path, **options)


def test_a_refusal_is_not_cached(good: Path, cache: Path) -> None:
    content = good.read_bytes()
    good.write_bytes(content[:3000])
    refusal(good)
    assert not list(cache.rglob("*.json"))


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]"])
def test_a_damaged_cache_entry_is_replaced(good: Path, cache: Path, content: bytes) -> None:
    facts = vet(good)
    (entry,) = cache.rglob("*.json")
    entry.write_bytes(content)
    assert vet(good) == facts
    assert entry.read_bytes() != content


def test_a_cache_that_cannot_be_written_is_no_error(good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert vet(good).architecture == "llama"


@pytest.mark.shared
@pytest.mark.skipif(not STORIES.exists(), reason="the real model is not beside the checkout")
def test_a_real_model_passes() -> None:
    facts = vet(STORIES)
    assert (facts.n_vocab, facts.n_layer, facts.ftype, facts.n_params) == (512, 5, 0, 292_800)
    assert "tokenizer.chat_template" not in facts.metadata
