"""llama.cpp through llama-cpp-python's low-level structs: open a model and its contexts, and hand Rust what it needs.

The `Llama` class is not used: it evaluates one sequence at a time, and its finalisers free what Rust still holds. Importing `llama_cpp`
installs a Python log callback, which takes the GIL on whatever native thread logs and so can deadlock; this module replaces it with the
core's at once, so use llama_cpp through here.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from matrix_py import _core
from matrix_py.errors import ConfigError, ModelError
from matrix_py.types import KvType


class _Library:
    """llama_cpp's functions. Only an engine needs them, and importing them takes as long as all the rest: it is done at the first use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_loaded(), name)


@cache
def _loaded() -> Any:
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # read when the library is loaded
    import llama_cpp.llama_cpp as library

    library.llama_log_set(ctypes.cast(_core.log_callback_address(), library.llama_log_callback), ctypes.c_void_p(0))
    return library


_llama = _Library()

LLAMA_CPP_VERSION = version("llama-cpp-python")
_FLASH_ATTENTION_OFF = 0
_FLASH_ATTENTION_ON = 1
_FLASH_ATTENTION_AUTO = -1
# ggml_type, with how many values stand in a block and what it takes.
_TYPE_F16 = 1
_TYPES = {KvType.F16: (_TYPE_F16, 1, 2), KvType.Q8_0: (8, 32, 34)}
# llama.cpp pads a stream's context to this many tokens.
_CONTEXT_STEP = 256


@dataclass(frozen=True, slots=True)
class ContextShape:
    """Sizes of a context.

    Attributes:
        slots: sequences that may be in KV at the same time, 1 to 256.
        slot_context: tokens a sequence.
        batch: tokens a call to llama.cpp may hold.
        threads: CPU threads.
        flash_attention: None to let llama.cpp decide; the deterministic mode needs it off.
        cells: tokens of one KV that all sequences share; None for a stream of `slot_context` tokens for each.
        kv_type: how keys are held.
        count_sub_batches: let `_core.sub_batches()` count what llama.cpp makes of the calls (tests, benchmarks).
    """

    slots: int
    slot_context: int
    batch: int
    threads: int
    flash_attention: bool | None
    cells: int | None = None
    kv_type: KvType = KvType.F16
    count_sub_batches: bool = False


class LlamaModel:
    """An open model. Close its engines and contexts first."""

    def __init__(self, path: Path, *, gpu_layers: int = 0, vocab_only: bool = False, lora: Path | None = None) -> None:
        """Load a vetted GGUF.

        Args:
            path: the file.
            gpu_layers: layers to put on a GPU; -1 for all.
            vocab_only: leave the weights out; such a model only tokenises.
            lora: an adapter for all its contexts, vetted with it.

        Raises:
            ModelError: llama.cpp cannot load it or the adapter, or its vocabulary cannot be used.
        """
        _llama.llama_backend_init()
        parameters = _llama.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers if gpu_layers >= 0 else 0x7FFFFFFF
        parameters.vocab_only = vocab_only
        self.path = path
        self._model: Any = _llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            raise ModelError(f"model {path} cannot be loaded: {_last_log()}")
        try:
            # Freed with the model.
            self.adapter: Any = None if lora is None else _llama.llama_adapter_lora_init(self._model, os.fsencode(lora))
            if lora is not None and not self.adapter:
                raise ModelError(f"adapter {lora} cannot be loaded: {_last_log()}")
            self.vocab: Any = _llama.llama_model_get_vocab(self._model)
            self.tokenizer = _tokenizer(self.vocab)
        except BaseException:
            _llama.llama_model_free(self._model)
            raise

    def context(self, shape: ContextShape) -> "LlamaContext":
        """Open a context.

        Raises:
            ConfigError: the model's keys cannot be held in that type.
            ModelError: there is not enough memory, or llama.cpp refuses the sizes.
        """
        _, block, _ = _TYPES[shape.kv_type]
        if self._key_size() % block != 0:
            # llama.cpp would abort without flash attention.
            raise ConfigError(
                f"--kv-type is {shape.kv_type}, but a key of {self.path.name} has {self._key_size()} numbers, no multiple of {block}: "
                f"give --kv-type {KvType.F16}"
            )
        return LlamaContext(self, self._model, shape)

    def kv_bytes_per_token(self, kv_type: KvType = KvType.F16) -> int:
        """Return the size of one token's keys and values, over all layers; an estimate for models with unusual layers."""
        width = self._key_size() * _llama.llama_model_n_head_kv(self._model)
        _, block, size = _TYPES[kv_type]
        return int(_llama.llama_model_n_layer(self._model) * width * (2 * block + size) // block)

    def _key_size(self) -> int:
        """Numbers in a key of one head."""
        architecture, size = self._metadata("general.architecture"), None
        if architecture is not None:
            size = self._metadata(f"{architecture}.attention.key_length")
        return int(size) if size else int(_llama.llama_model_n_embd(self._model) // max(_llama.llama_model_n_head(self._model), 1))

    def _metadata(self, key: str) -> str | None:
        text = ctypes.create_string_buffer(256)
        found = _llama.llama_model_meta_val_str(self._model, key.encode(), text, len(text))
        return text.value.decode("utf-8", errors="replace") if found >= 0 else None

    def ends_turn(self, token: int) -> bool:
        """Return whether the model ends what it says with a token."""
        return bool(_llama.llama_vocab_is_eog(self.vocab, token))

    @property
    def turn_end(self) -> int:
        """The token that ends a turn, or else a text, by the vocabulary's own account; -1 if it has none such."""
        turn = int(_llama.llama_vocab_eot(self.vocab))
        return turn if turn >= 0 else int(_llama.llama_vocab_eos(self.vocab))

    def close(self) -> None:
        """Free the model. Closing twice is fine."""
        model, self._model = self._model, None
        if model:
            # A tokenizer that somebody still holds must not read a vocabulary that is gone.
            self.tokenizer.close()
            _llama.llama_model_free(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class LlamaContext:
    """An open context with one KV stream a sequence, or one that all share."""

    def __init__(self, model: LlamaModel, pointer: Any, shape: ContextShape) -> None:
        """Use `LlamaModel.context`."""
        self.shape = shape
        self.slot_context = -(-shape.slot_context // _CONTEXT_STEP) * _CONTEXT_STEP
        parameters = _llama.llama_context_default_params()
        parameters.n_ctx = shape.cells or self.slot_context * shape.slots
        parameters.n_ubatch = shape.batch
        # llama.cpp wants room for an output of every sequence, and aborts without.
        parameters.n_batch = max(shape.batch, shape.slots)
        parameters.n_seq_max = shape.slots
        parameters.n_threads = parameters.n_threads_batch = shape.threads
        parameters.flash_attn_type = {None: _FLASH_ATTENTION_AUTO, False: _FLASH_ATTENTION_OFF, True: _FLASH_ATTENTION_ON}[
            shape.flash_attention
        ]
        parameters.type_k, parameters.type_v = _TYPES[shape.kv_type][0], _TYPE_F16
        parameters.kv_unified = shape.cells is not None
        # Prefix reuse needs every position; a sliding window would have dropped some.
        parameters.swa_full = True
        parameters.no_perf = True
        if shape.count_sub_batches:
            get_name = ctypes.cast(_llama._lib.ggml_get_name, ctypes.c_void_p).value
            callback = _core.sub_batch_callback_address(get_name or 0)
            parameters.cb_eval = ctypes.cast(callback, _llama.ggml_backend_sched_eval_callback)
        self._context: Any = _llama.llama_init_from_model(pointer, parameters)
        if not self._context:
            size = model.kv_bytes_per_token(shape.kv_type) * self.kv_tokens / 2**20
            raise ModelError(
                f"{shape.slots} sequences of {self.slot_context} tokens ({size:.0f} MiB of KV) cannot be opened: {_last_log()}: "
                "lower --parallel or --ctx"
            )
        if model.adapter:
            adapters = (_llama.llama_adapter_lora_p_ctypes * 1)(model.adapter)
            if _llama.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0)):
                self.close()
                raise ModelError(f"the adapter cannot be used: {_last_log()}")

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV holds, over all sequences."""
        return self.shape.cells or self.shape.slots * self.slot_context

    @property
    def address(self) -> int:
        """Address of the `llama_context`. Whoever uses it must be done before `close`."""
        return int(ctypes.cast(self._context, ctypes.c_void_p).value or 0)

    def close(self) -> None:
        """Free the context. Closing twice is fine."""
        context, self._context = self._context, None
        if context:
            _llama.llama_free(context)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def system_info() -> str:
    """Return llama.cpp's description of the machine and of how it was built, in one line."""
    info: bytes = _llama.llama_print_system_info()
    return info.decode("utf-8", errors="replace").strip()


def supports_gpu() -> bool:
    """Return whether this llama.cpp was built with a GPU backend that finds a device."""
    return bool(_llama.llama_supports_gpu_offload())


def _tokenizer(vocab: Any) -> _core.Tokenizer:
    batch = _llama.llama_batch
    layout = {"size of llama_batch": ctypes.sizeof(batch)}
    layout |= {f"offset of llama_batch.{name}": getattr(batch, name).offset for name, *_ in batch._fields_}
    addresses = {name: ctypes.cast(getattr(_llama._lib, name), ctypes.c_void_p).value or 0 for name in _core.LLAMA_SYMBOLS}
    return _core.Tokenizer(addresses=addresses, layout=layout, vocab=ctypes.cast(vocab, ctypes.c_void_p).value or 0)


def _last_log() -> str:
    lines = _core.take_llama_log()
    return lines[-1] if lines else "llama.cpp gives no reason"
