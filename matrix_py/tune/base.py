"""The model that is tuned: a GGUF, or a Hugging Face model by folder or name."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from matrix_py import _core
from matrix_py.embedded import EMBEDDED
from matrix_py.errors import ModelError
from matrix_py.models import chat, hub
from matrix_py.models.llama import LlamaModel
from matrix_py.models.vet import vet
from matrix_py.tune.architecture import Architecture, Layout, architecture_of, architecture_of_type
from matrix_py.tune.encoding import Encoder, GgufEncoder, HubEncoder

if TYPE_CHECKING:
    from matrix_py.models.chat import ChatTemplate

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
# Of a repository: configuration, tokenizer and weights, but not the same weights in other formats.
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# llama_ftype of F32, F16 and BF16.
_EXACT = {0, 1, 32}


class Base(Protocol):
    """A model to be tuned. Close it after use.

    Attributes:
        spec: what the user named it by.
        hash: BLAKE3 of what it is, hex: of a GGUF as in a run's configuration (`RunConfig.model`).
        architecture: its architecture.
        encoder: rows to its tokens.
        template: its chat template.
        context: tokens that it was trained on.
        note: what whoever uses the adapter should know, or empty.
    """

    spec: str
    hash: str
    architecture: Architecture
    encoder: Encoder
    template: ChatTemplate
    context: int
    note: str

    def layout(self) -> Layout:
        """Return where its weights lie in a GGUF.

        Raises:
            ModelError: its metadata do not say.
        """

    def load(self, dtype: Any, *, quantized: bool = False) -> Any:
        """Return the model as transformers has it, on the CPU, or on the GPU if quantised.

        Args:
            dtype: the weights' `torch.dtype`; if quantised, what they are computed in.
            quantized: hold the matrices in 4 bits (NF4), for QLoRA.

        Returns:
            A `transformers.PreTrainedModel`.

        Raises:
            ConfigError: it cannot be quantised here.
            ModelError: its weights cannot be read.
        """

    def close(self) -> None:
        """Free it; closing twice is fine."""

    def __enter__(self) -> Self:
        """Return it."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it."""


def open_base(spec: str, *, chat_template: str | None = None) -> Base:
    """Open a model to be tuned: all but its weights.

    Args:
        spec: a GGUF (a path, `embedded`, or `hf:owner/repo/file.gguf`), a folder with a Hugging Face model, or one's name on a hub
            (`owner/repo`, `owner/repo@revision`). Downloads honour HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE.
        chat_template: see `matrix_py.models.chat.load`.

    Raises:
        ModelError: there is no such model, it is damaged, or its architecture cannot be tuned.
        TemplateError: the chat template cannot be used.
    """
    path = Path(spec)
    if spec == EMBEDDED or spec.startswith(hub.HUB_PREFIX) or spec.endswith(".gguf") or path.is_file():
        return GgufBase(spec, hub.resolve(spec), chat_template=chat_template)
    if path.is_dir():
        return FolderBase(spec, path, chat_template=chat_template)
    if _REPOSITORY.fullmatch(spec) and not spec.startswith("."):
        return FolderBase(spec, hub.resolve_repository(spec, _PATTERNS), chat_template=chat_template)
    msg = f"base {spec!r} does not exist: give a GGUF, a folder with a Hugging Face model, or one's name on a hub (owner/repo)"
    raise ModelError(msg)


class _Closing:
    """What `with` needs."""

    def close(self) -> None:
        """Free nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class GgufBase(_Closing):
    """A GGUF, tuned as it is: its weights dequantised."""

    def __init__(self, spec: str, path: Path, *, chat_template: str | None = None) -> None:
        """Open the vocabulary of a GGUF; see `open_base`."""
        facts = vet(path)
        self.spec, self.path = spec, path
        self.architecture = architecture_of(facts.architecture, str(path))
        self.hash = _core.hash_file(path).hex()
        self.context = facts.n_ctx_train
        self.template = chat.load(facts.metadata, override=chat_template, bos_token=facts.bos_token or "", eos_token=facts.eos_token or "")
        self.note = (
            ""
            if facts.ftype in _EXACT
            else (
                f"the base is {path.name} ({facts.description}), dequantised, and not the model that it was quantised from: "
                "the adapter makes up for what was lost, and belongs to this file"
            )
        )
        self._model = LlamaModel(path, vocab_only=True)
        try:
            self.encoder: Encoder = GgufEncoder(self._model, self.template)
        except BaseException:
            self._model.close()
            raise

    def layout(self) -> Layout:
        """Return where its weights lie; see `Base.layout`."""
        from matrix_py.tune.gguf_file import GgufFile

        return GgufFile(self.path).layout

    def load(self, dtype: Any, *, quantized: bool = False) -> Any:
        """Return the model with the weights of the GGUF, dequantised; see `Base.load`."""
        from matrix_py.tune.gguf_file import GgufFile
        from matrix_py.tune.loading import load_gguf

        model = load_gguf(GgufFile(self.path), dtype, quantized=quantized)
        model.config._name_or_path = self.spec  # what PEFT writes down as the adapter's base
        return model

    def close(self) -> None:
        """Free the vocabulary."""
        self._model.close()


class FolderBase(_Closing):
    """A Hugging Face model in a folder."""

    def __init__(self, spec: str, folder: Path, *, chat_template: str | None = None) -> None:
        """Open the tokenizer of a model; see `open_base`."""
        self.spec, self.folder = spec, folder
        self._config = config = _read_json(folder / "config.json", folder)
        self.architecture = architecture_of_type(str(config.get("model_type", "")), str(spec))
        self._weights = sorted(folder.glob("*.safetensors"))
        if not self._weights:
            msg = f"model {str(folder)!r} has no weights (*.safetensors): take one in this format"
            raise ModelError(msg)
        parts = [folder / "config.json", *self._weights]
        self.hash = _core.blake3(b"".join(part.name.encode() + b"\0" + _core.hash_file(part) for part in parts)).hex()
        self.context = int(config.get("max_position_embeddings", 0))
        self.note = ""
        tokenizer = self._tokenizer()
        template = tokenizer.chat_template
        source = template.get("default", "") if isinstance(template, dict) else template or ""
        tokens = {"bos_token": str(tokenizer.bos_token or ""), "eos_token": str(tokenizer.eos_token or "")}
        self.template = chat.load({chat.METADATA_KEY: source}, override=chat_template, **tokens)
        self.encoder: Encoder = HubEncoder(tokenizer, self.template, ends=_ends(config, folder, tokenizer))

    def layout(self) -> Layout:
        """Return where its weights lie; see `Base.layout`."""
        try:
            heads = int(self._config["num_attention_heads"])
            kv_heads = int(self._config.get("num_key_value_heads") or heads)
            return Layout(self.architecture, n_layer=int(self._config["num_hidden_layers"]), n_head=heads, n_head_kv=kv_heads)
        except (KeyError, ValueError, TypeError) as error:
            msg = f"model {str(self.folder)!r} has a config.json without sizes ({hub.printable(error)}): download it again"
            raise ModelError(msg) from error

    def load(self, dtype: Any, *, quantized: bool = False) -> Any:
        """Return the model; see `Base.load`."""
        from matrix_py.tune.loading import load_folder

        return load_folder(self.folder, dtype, quantized=quantized)

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, use_fast=True)
        except Exception as error:  # whatever its libraries raise, there is no tokenizer
            msg = f"model {str(self.folder)!r} has no tokenizer that can be used ({hub.printable(error)}): download it again"
            raise ModelError(msg) from error


def _ends(config: dict[str, Any], folder: Path, tokenizer: Any) -> list[int]:
    """Return the tokens that end what the model says, as its files name them."""
    generation = folder / "generation_config.json"
    sources = [config, _read_json(generation, folder) if generation.is_file() else {}]
    ends: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for source in sources:
        named = source.get("eos_token_id")
        ends += named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys(ends))


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        msg = f"folder {str(folder)!r} holds no Hugging Face model ({path.name}: {hub.printable(error)}): name one that does"
        raise ModelError(msg) from error
