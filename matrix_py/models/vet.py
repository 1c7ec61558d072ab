"""Vetting an unknown GGUF in a child process, because a bad one makes llama.cpp abort the process that loads it."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from matrix_py.cache import cache_entry, keep
from matrix_py.errors import ModelError
from matrix_py.models.hub import check_gguf, printable, split_parts

# Part of the cache key: raise it when the checks or the facts change.
_VET_VERSION = 2
_STAGE_MARK = "matrix-vet: "
_REMEDY = "convert it again with its byte tokens, or use another model"


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF says about itself, as llama.cpp reads it."""

    architecture: str  # `general.architecture`, such as `llama`
    name: str  # `general.name`, or empty
    n_vocab: int  # tokens
    n_ctx_train: int  # tokens
    n_embd: int  # width of the residual stream
    n_layer: int  # blocks
    n_params: int  # weights
    size_bytes: int  # all tensors together
    ftype: int  # llama.cpp's `llama_ftype`; 7 is Q8_0
    description: str  # such as `llama 1B Q8_0`
    n_swa: int  # width of the sliding attention window in tokens; 0 without one
    recurrent: bool  # its state cannot be cut back to a prefix (Mamba, RWKV)
    hybrid: bool  # some of its blocks are recurrent
    encoder: bool  # such a model is refused: False in facts that were vetted
    bos_token: str | None  # the token that begins a text
    bos_id: int | None
    eos_token: str | None  # the token that ends a text
    eos_id: int | None
    add_bos: bool  # prompts are to begin with the BOS token
    metadata: dict[str, str]  # every key of the file whose value is no array, as llama.cpp prints it


class _Verdict(msgspec.Struct, frozen=True):
    """The one line that the child prints."""

    facts: ModelFacts | None = None
    problem: str | None = None


def vet(path: Path, *, timeout_s: float = 600, n_gpu_layers: int = 0, lora: Path | None = None) -> ModelFacts:
    """Load a GGUF in a child process, tokenise every byte, decode a few tokens, and return what the model is.

    A file that passed is not vetted again while its path, size and modification time, those of the adapter, the version of
    llama-cpp-python and `n_gpu_layers` stay the same.

    Args:
        path: the GGUF; of a split model its first part.
        timeout_s: seconds that the child may take.
        n_gpu_layers: layers to put on a GPU; -1 for all.
        lora: an adapter (GGUF) to decode with.

    Raises:
        ModelError: the file is no GGUF, is damaged, cannot be loaded, crashes llama.cpp, has no vocabulary or one
            without byte tokens, gives no usable logits, is no decoder, or takes too long; or the adapter is not for it.
    """
    check_gguf(path)
    if lora is not None:
        check_gguf(lora)
    entry = _cache_entry(path, n_gpu_layers, lora)
    facts = _read_cache(entry)
    if facts is None:
        if lora is not None:
            vet(path, timeout_s=timeout_s, n_gpu_layers=n_gpu_layers)  # what is wrong with the model is not the adapter's fault
        facts = _run_child(path, timeout_s, n_gpu_layers, lora)
        keep(entry, msgspec.json.encode(facts))
    return facts


def _run_child(path: Path, timeout_s: float, n_gpu_layers: int, lora: Path | None) -> ModelFacts:
    # A new interpreter, never a fork: the parent may hold threads or a GPU. GGML_NO_BACKTRACE: no debugger at an abort.
    # -P: a file of the folder that somebody works in must not pass for a module of Python's; so the package is named instead.
    command = [sys.executable, "-P", "-m", "matrix_py.models.vet", str(path.absolute()), str(n_gpu_layers)]
    if lora is not None:
        command.append(str(lora.absolute()))
    package = str(Path(__file__).parents[2])
    search = os.pathsep.join(entry for entry in (package, os.environ.get("PYTHONPATH")) if entry)
    env = os.environ | {"GGML_NO_BACKTRACE": "1", "PYTHONPATH": search}
    try:
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise _refusal(path, f"was not vetted within {timeout_s:g} s: allow more time, or use a smaller model") from None
    log = done.stderr.decode("utf-8", errors="replace")
    if lora is not None and (done.returncode < 0 or b'"facts":null' in done.stdout):
        reasons = re.findall(r"GGML_ASSERT.*|GGML_ABORT.*", log) or _error_lines(log) or ["no message from llama.cpp"]
        raise ModelError(
            f"adapter {str(lora)!r} does not work with model {path.name}: {printable(reasons[-1])}; give one that was trained on that model"
        )
    if done.returncode < 0:
        raise _refusal(path, _death(-done.returncode, log))
    try:
        verdict = msgspec.json.decode(done.stdout, type=_Verdict)
    except msgspec.DecodeError:
        last = printable((log.strip().splitlines() or ["no message"])[-1])
        raise _refusal(path, f"could not be vetted (exit code {done.returncode}): {last}") from None
    if verdict.problem is not None:
        raise _refusal(path, verdict.problem)
    if verdict.facts is None:
        raise _refusal(path, _load_failure(path, log))
    return verdict.facts


def _refusal(path: Path, cause: str) -> ModelError:
    return ModelError(f"model {str(path)!r} {cause}")


def _death(number: int, log: str) -> str:
    """Say what a child that died by a signal died of."""
    name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    stage = log.rpartition(_STAGE_MARK)[2].partition("\n")[0] if _STAGE_MARK in log else "start"
    reasons = re.findall(r"GGML_ASSERT.*|GGML_ABORT.*|what\(\):.*|fatal error.*", log) or _error_lines(log)
    reason = f": {printable(reasons[-1])}" if reasons else ""
    if number == signal.SIGABRT and stage == "tokenise":
        return f"has no byte tokens: characters outside its vocabulary would crash llama.cpp ({name}{reason}); {_REMEDY}"
    if number == signal.SIGKILL:
        return f"was killed during {stage} ({name}): probably too little memory; use a smaller model"
    return f"crashes llama.cpp during {stage} ({name}{reason}): use another model, or a newer llama-cpp-python"


def _load_failure(path: Path, log: str) -> str:
    """Say why llama.cpp returned no model or no context."""
    detail = printable((_error_lines(log) or ["no message from llama.cpp"])[-1])
    if "unknown model architecture" in detail:
        return f"cannot be loaded ({detail}): use a newer llama-cpp-python, or another model"
    if "error loading model vocabulary" in detail:
        return f"has no vocabulary that llama.cpp can use ({detail}): convert it again with its tokenizer"
    if "gguf_init" in detail or "file bounds" in detail:
        return f"is truncated or damaged ({detail}): download it again"
    with path.open("rb") as file:  # magic (4 bytes), version (4), number of tensors (8)
        num_tensors = int.from_bytes(file.read(16)[8:], "little")
    if num_tensors == 0:
        return "holds a vocabulary only and no weights: use the full model"
    return f"cannot be loaded ({detail}): download it again, or use another model"


def _error_lines(log: str) -> list[str]:
    """Return the lines of llama.cpp's log that name a cause; its last words only say that something failed."""
    lines = re.findall(r"^.*(?:error|fail|invalid|gguf_init).*$", log, re.IGNORECASE | re.MULTILINE)
    return [re.sub(r"^.*error loading model: ", "", line) for line in lines if "failed to load model" not in line]


def _cache_entry(path: Path, n_gpu_layers: int, lora: Path | None) -> Path | None:
    """Return where the facts of this very file are kept, or None where there is no home for them."""
    path = path.absolute()
    try:
        stats = [path.with_name(name).stat() for name in split_parts(path.name)] + ([lora.stat()] if lora else [])
        key = (
            _VET_VERSION,
            os.fsencode(path),
            os.fsencode(lora.absolute()) if lora else b"",
            [(s.st_size, s.st_mtime_ns) for s in stats],
            version("llama-cpp-python"),
            n_gpu_layers,
        )
    except (OSError, PackageNotFoundError):
        return None
    return cache_entry("vetted", hashlib.sha256(msgspec.json.encode(key)).hexdigest())


def _read_cache(entry: Path | None) -> ModelFacts | None:
    try:
        return None if entry is None else msgspec.json.decode(entry.read_bytes(), type=ModelFacts)
    except (OSError, msgspec.DecodeError):
        return None


# From here on: the child. Only these functions touch llama_cpp.


def _main(path: str, n_gpu_layers: int, lora: str | None = None) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    report = os.dup(1)
    os.dup2(2, 1)  # whatever prints to stdout in llama.cpp now goes to the log
    verdict = _examine(path, n_gpu_layers, lora)
    with os.fdopen(report, "wb") as pipe:
        pipe.write(msgspec.json.encode(verdict) + b"\n")
    os._exit(0)  # nothing is freed: a GPU backend that crashes on its way out is no fault of the file


def _examine(path: str, n_gpu_layers: int, lora: str | None) -> _Verdict:
    import llama_cpp as ll

    _stage("load")
    # llama.cpp's own logger, not llama_cpp's: its lines then come in order with the text of a failed assertion.
    ll.llama_log_set(ll.llama_log_callback(), None)
    ll.llama_backend_init()
    params = ll.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    params.check_tensors = True
    model = ll.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return _Verdict()
    vocab = ll.llama_model_get_vocab(model)
    facts = _facts(ll, model, vocab)
    if facts.encoder:
        return _Verdict(problem=f"is no decoder (architecture {printable(facts.architecture)}): use a model that writes text")
    if ll.llama_vocab_type(vocab) == ll.LLAMA_VOCAB_TYPE_NONE:
        return _Verdict(problem="has no vocabulary: convert it again with its tokenizer")

    _stage("tokenise")
    lost = list(_lost_characters(ll, vocab))
    if lost:
        which = f"U+{ord(lost[0]):04X}"
        return _Verdict(problem=f"has no byte tokens: characters outside its vocabulary, such as {which}, are lost; {_REMEDY}")

    _stage("decode")
    context_params = ll.llama_context_default_params()
    context_params.n_ctx, context_params.n_batch, context_params.n_ubatch = 256, 64, 64
    context_params.n_threads = context_params.n_threads_batch = min(4, os.cpu_count() or 1)
    context = ll.llama_init_from_model(model, context_params)
    if not context:
        return _Verdict()
    if lora is not None:
        adapter = ll.llama_adapter_lora_init(model, os.fsencode(lora))
        if not adapter:
            return _Verdict()
        ll.llama_set_adapters_lora(context, (ll.llama_adapter_lora_p_ctypes * 1)(adapter), 1, (ctypes.c_float * 1)(1.0))
    problem = _decode_problem(ll, context, vocab)
    return _Verdict(problem=problem) if problem else _Verdict(facts)


def _stage(name: str) -> None:
    """Tell the parent, in the log, how far the child came."""
    os.write(2, f"\n{_STAGE_MARK}{name}\n".encode())


def _facts(ll: Any, model: Any, vocab: Any) -> ModelFacts:
    metadata = {
        _text(partial(ll.llama_model_meta_key_by_index, model, at)): _text(partial(ll.llama_model_meta_val_str_by_index, model, at))
        for at in range(ll.llama_model_meta_count(model))
    }
    architecture = metadata.get("general.architecture", "")
    bidirectional = metadata.get(f"{architecture}.attention.causal") == "false"  # BERT and its like; diffusion models
    bos_id, eos_id = (token if token >= 0 else None for token in (ll.llama_vocab_bos(vocab), ll.llama_vocab_eos(vocab)))
    bos, eos = (None if token is None else ll.llama_vocab_get_text(vocab, token).decode("utf-8", "replace") for token in (bos_id, eos_id))
    return ModelFacts(
        architecture=architecture,
        name=metadata.get("general.name", ""),
        n_vocab=ll.llama_vocab_n_tokens(vocab),
        n_ctx_train=ll.llama_model_n_ctx_train(model),
        n_embd=ll.llama_model_n_embd(model),
        n_layer=ll.llama_model_n_layer(model),
        n_params=ll.llama_model_n_params(model),
        size_bytes=ll.llama_model_size(model),
        ftype=ll.llama_model_ftype(model),
        description=_text(partial(ll.llama_model_desc, model)),
        n_swa=ll.llama_model_n_swa(model),
        recurrent=ll.llama_model_is_recurrent(model),
        hybrid=ll.llama_model_is_hybrid(model),
        encoder=ll.llama_model_has_encoder(model) or not ll.llama_model_has_decoder(model) or bidirectional,
        bos_token=bos,
        bos_id=bos_id,
        eos_token=eos,
        eos_id=eos_id,
        add_bos=ll.llama_vocab_get_add_bos(vocab),
        metadata=metadata,
    )


def _lost_characters(ll: Any, vocab: Any) -> Iterator[str]:
    """Tokenise all 256 bytes, which SentencePiece without byte tokens does not survive; yield what does not come back.

    Control characters may be lost: byte-level vocabularies such as Falcon's leave some out and drop them without harm.
    """
    for byte in range(256):
        _tokenise(ll, vocab, bytes([byte]))
    for char in map(chr, range(256)):
        text = char.encode("utf-8")
        pieces = [_piece(ll, vocab, token) for token in _tokenise(ll, vocab, text)]
        # SentencePiece puts a space before every text.
        if b"".join(pieces) not in {text, b" " + text} and (char in "\t\n" or unicodedata.category(char) != "Cc"):
            yield char


def _decode_problem(ll: Any, context: Any, vocab: Any) -> str | None:
    """Decode a prompt of two tokens and one token more; say what is wrong with the outcome."""
    tokens = (_tokenise(ll, vocab, b"One two", add_special=True) * 2)[:2]
    for _ in range(2):
        code = ll.llama_decode(context, ll.llama_batch_get_one((ll.llama_token * len(tokens))(*tokens), len(tokens)))
        if code:
            return f"cannot decode (llama_decode returned {code}): use another model, or a newer llama-cpp-python"
        pointer = ll.llama_get_logits_ith(context, -1)
        if not pointer:
            return "gives no logits: use a model that writes text"
        logits = pointer[: ll.llama_vocab_n_tokens(vocab)]
        if any(map(math.isnan, logits)) or not math.isfinite(max(logits)):
            return "gives logits that are no numbers: its weights are damaged; download it again, or use another model"
        tokens = [logits.index(max(logits))]
    return None


def _tokenise(ll: Any, vocab: Any, text: bytes, *, add_special: bool = False) -> list[int]:
    tokens = (ll.llama_token * 64)()
    count = ll.llama_tokenize(vocab, text, len(text), tokens, len(tokens), add_special, False)
    return list(tokens[: max(count, 0)])


def _piece(ll: Any, vocab: Any, token: int) -> bytes:
    return _bytes(lambda buffer, size: ll.llama_token_to_piece(vocab, token, buffer, size, 0, False))


def _bytes(call: Callable[[Any, int], int], size: int = 256) -> bytes:
    """Return what a C function writes into a buffer. It returns the length; where that is too long, maybe negated."""
    buffer = ctypes.create_string_buffer(size)
    needed = call(buffer, size)
    return _bytes(call, abs(needed) + 1) if abs(needed) >= size else buffer.raw[: max(needed, 0)]


def _text(call: Callable[[Any, int], int]) -> str:
    return _bytes(call).decode("utf-8", errors="replace")


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
