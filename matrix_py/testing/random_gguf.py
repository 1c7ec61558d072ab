"""Small GGUF files with random weights and a vocabulary of their own, of the Llama architecture or another that can be tuned.

They load, tokenise and generate like any model, in a file under 1 MB: tests and demonstrations need no download.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matrix_py.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float32]

Quantization = Literal["q8_0", "f32", "f16"]
Vocabulary = Literal["spm", "bpe"]
Architecture = Literal["llama", "qwen2", "qwen3", "gemma2", "gemma3"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Most frequent first: a word's place stands in for its frequency when merges are learnt.
_WORDS = """
the of and to a in that it is was for you he with on as be at they have this from one had by word but not what all
were we when your can said there use an each which she do how their if will up other about out many then them these
so some her would make like him into time has look two more write go see number no way could people my than first
water been call who oil its now find long down day did get come made may part over new sound take only little work
know place year live me back give most very after thing our just name good sentence man think say great where help
through much before line right too mean old any same tell boy follow came want show also around form three small set
put end does another well large must big even such because turn here why ask went men read need land different home
us move try kind hand picture again change off play spell air away animal house point page letter mother answer
found study still learn should world high every near add food between own below country plant last school father
keep tree never start city earth eye light thought head under story saw left few while along might close something
seem next hard open example begin life always those both paper together got group often run important until children
side feet car mile night walk white sea began grow took river four carry state once book hear stop without second
later miss idea enough eat face watch far really almost let above girl sometimes mountain cut young talk soon list
song being leave family doctor friend teacher neighbour company people feel worry trust agree harm safe lawyer
police public local report question reason plan decide speak listen respond advice problem concern community member
officer reply notice warn
"""
_NUM_MERGES = 420

_BLOCK = 32  # weights in a Q8_0 block; row lengths must be multiples of it
_ASCII = [chr(code) for code in range(0x21, 0x7F)]
_CONTROLS = ["<|im_start|>", "<|im_end|>"]
# Tokens that every other block of a Gemma sees back, or all but every sixth.
_WINDOW = 16
# Rarity of a token that is no text: some two standard deviations off its logit. Output stays mostly readable, yet
# broken UTF-8 still comes up now and then at temperature 0.7, as do tokens that end a turn: callers are to meet both.
_RARE = 1.5


@dataclass(slots=True)
class _Vocab:
    """What the tokenizer section of the file holds; the four lists run in parallel, by token id."""

    model: str
    tokens: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    rarity: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)

    def add(self, text: str, type_: int, *, score: float = 0.0, rarity: float = 0.0) -> int:
        self.tokens.append(text.encode("utf-8"))
        self.scores.append(score)
        self.types.append(type_)
        self.rarity.append(rarity)
        return len(self.tokens) - 1


def write_random_gguf(
    path: Path,
    *,
    architecture: Architecture = "llama",
    seed: int = 0,
    n_layer: int = 2,
    n_embd: int = 64,
    n_head: int = 4,
    n_head_kv: int = 2,
    head_size: int | None = None,
    n_ff: int = 128,
    n_ctx: int = 2048,
    quantization: Quantization = "q8_0",
    vocab: Vocabulary = "spm",
    byte_tokens: bool = True,
    chat_template: str | None = CHATML,
    scale: float = 1.3,
    rotary_scales: bool = False,
) -> Path:
    """Write a random-weight GGUF; the same arguments give the same bytes.

    Args:
        path: the file to write; an existing file is replaced.
        architecture: what llama.cpp is to make of it. Only a Llama's text is varied and readable (see `_RARE`).
        seed: seed of the weights. The vocabulary does not depend on it.
        n_layer: number of blocks.
        n_embd: width of the residual stream; a multiple of 32 and of `n_head`, with an even head size.
        n_head: attention heads.
        n_head_kv: key and value heads; divides `n_head`.
        head_size: numbers in a head, if not `n_embd / n_head`; an even multiple of 32, for an architecture other than Qwen 2.
        n_ff: width of the feed-forward layer, a multiple of 32.
        n_ctx: context length in tokens that the file announces.
        quantization: type of the 2-D weights; norms are always F32.
        vocab: `spm` (SentencePiece style) or `bpe` (byte-level, GPT-2 style).
        byte_tokens: with False the vocabulary covers printable ASCII only, as some broken conversions do.
        chat_template: jinja source to store, or None for a file without one.
        scale: standard deviation of a logit; smaller gives flatter distributions.
        rotary_scales: let some pairs of a head turn slower, by a tensor, as Llama 3.1 does.

    Returns:
        `path`.

    Raises:
        ConfigError: the `gguf` package is not installed, or the shape cannot be built.
    """
    try:
        import gguf
        import numpy as np
    except ImportError as error:
        msg = "writing a GGUF needs the package gguf: pip install 'matrix-py[gguf]'"
        raise ConfigError(msg) from error
    _check_shape(n_embd, n_head, n_head_kv, n_ff)
    entries = _spm(byte_tokens) if vocab == "spm" else _bpe(byte_tokens)
    dtype, file_type = {
        "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
        "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
        "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    }[quantization]

    head = head_size or n_embd // n_head
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"matrix random {vocab} {seed}")
    writer.add_file_type(file_type)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head)
    if head_size is not None:
        writer.add_key_length(head)
        writer.add_value_length(head)
    if architecture.startswith("gemma"):
        writer.add_sliding_window(_WINDOW)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    writer.add_vocab_size(len(entries.tokens))
    _add_tokenizer(writer, entries, chat_template)
    if rotary_scales:
        writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, head // 2, dtype=np.float32))
    sizes = _Sizes(len(entries.tokens), n_layer, n_embd, n_q=head * n_head, n_kv=head * n_head_kv, head=head, n_ff=n_ff)
    for name, tensor in _weights(architecture, entries, seed, sizes, scale=scale):
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, gguf.quants.quantize(tensor, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_random_lora(path: Path, *, seed: int = 0, n_layer: int = 2, n_embd: int = 64, rank: int = 4, alpha: float = 8.0) -> Path:
    """Write a random LoRA adapter of the query weights, for a model of `write_random_gguf` of that shape.

    Args:
        path: the file to write; an existing file is replaced.
        seed: seed of the weights.
        n_layer: number of blocks of the model.
        n_embd: width of the model's residual stream.
        rank: rank of the adapter's matrices.
        alpha: their product is scaled by `alpha / rank`.

    Returns:
        `path`.

    Raises:
        ConfigError: the `gguf` package is not installed.
    """
    try:
        import gguf
        import numpy as np
    except ImportError as error:
        msg = "writing a GGUF needs the package gguf: pip install 'matrix-py[gguf]'"
        raise ConfigError(msg) from error
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for layer in range(n_layer):
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", rng.standard_normal((rank, n_embd), dtype=np.float32) * np.float32(n_embd**-0.5))
        writer.add_tensor(f"{name}.lora_b", rng.standard_normal((n_embd, rank), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _check_shape(n_embd: int, n_head: int, n_head_kv: int, n_ff: int) -> None:
    head_ok = n_head > 0 and n_embd % (2 * n_head) == 0 and n_head_kv > 0 and n_head % n_head_kv == 0
    if not head_ok or n_embd % _BLOCK or n_ff % _BLOCK or min(n_embd, n_ff) <= 0:
        msg = (
            f"no model of n_embd={n_embd}, n_head={n_head}, n_head_kv={n_head_kv}, n_ff={n_ff}: take n_embd and n_ff "
            f"as multiples of {_BLOCK}, n_embd as a multiple of 2 * n_head, n_head as a multiple of n_head_kv"
        )
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Tokens, blocks, and widths: of the residual stream, queries, keys, a head, the feed-forward layer."""

    n_vocab: int
    n_layer: int
    n_embd: int
    n_q: int
    n_kv: int
    head: int
    n_ff: int


def _weights(architecture: Architecture, entries: _Vocab, seed: int, sizes: _Sizes, *, scale: float) -> Iterator[tuple[str, Matrix]]:
    """Yield the tensors in file order, scaled for logits whose standard deviation is `scale`."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, std: float) -> Matrix:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(std)

    def writes_back(rows: int, columns: int) -> Matrix:
        # Every block leaves channel 0 of the residual stream alone: it carries the rarity of tokens to the output.
        weights = matrix(rows, columns, columns**-0.5)
        weights[0] = 0
        return weights

    def norm(size: int) -> Matrix:
        # Those of the other architectures differ from number to number, so that tests see what becomes of them.
        ones = np.ones(size, dtype=np.float32)
        return ones if architecture == "llama" else ones + rng.standard_normal(size, dtype=np.float32) * np.float32(0.2)

    n_embd, gemma = sizes.n_embd, architecture.startswith("gemma")
    # A Gemma multiplies what it reads by the root of the width, and writes by the same matrix.
    unit = n_embd**-0.5 if gemma else 1.0
    embedding = matrix(sizes.n_vocab, n_embd, unit)
    embedding[:, 0] = 4.0 * unit
    yield "token_embd.weight", embedding
    for layer in range(sizes.n_layer):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", norm(n_embd)
        for name, rows in (("attn_q", sizes.n_q), ("attn_k", sizes.n_kv), ("attn_v", sizes.n_kv)):
            yield f"{prefix}{name}.weight", matrix(rows, n_embd, n_embd**-0.5)
            if architecture == "qwen2":
                yield f"{prefix}{name}.bias", rng.standard_normal(rows, dtype=np.float32) * np.float32(0.3)
        if architecture in {"qwen3", "gemma3"}:
            yield prefix + "attn_q_norm.weight", norm(sizes.head)
            yield prefix + "attn_k_norm.weight", norm(sizes.head)
        yield prefix + "attn_output.weight", writes_back(n_embd, sizes.n_q)
        if gemma:
            yield prefix + "post_attention_norm.weight", norm(n_embd)
        yield prefix + "ffn_norm.weight", norm(n_embd)
        yield prefix + "ffn_gate.weight", matrix(sizes.n_ff, n_embd, n_embd**-0.5)
        yield prefix + "ffn_up.weight", matrix(sizes.n_ff, n_embd, n_embd**-0.5)
        yield prefix + "ffn_down.weight", writes_back(n_embd, sizes.n_ff)
        if gemma:
            yield prefix + "post_ffw_norm.weight", norm(n_embd)
    yield "output_norm.weight", norm(n_embd)
    if gemma:
        return  # its output is its embedding
    output = matrix(sizes.n_vocab, n_embd, scale * n_embd**-0.5)
    output[:, 0] = np.array(entries.rarity, dtype=np.float32) * np.float32(-scale / 2)
    yield "output.weight", output


def _spm(byte_tokens: bool) -> _Vocab:
    """Pieces with scores: a merge learnt earlier scores higher, and the tokeniser joins the highest score first."""
    from gguf import TokenType

    vocab = _Vocab("llama")
    vocab.add("<unk>", TokenType.UNKNOWN, rarity=_RARE)
    vocab.add("<s>", TokenType.CONTROL, rarity=_RARE)
    vocab.add("</s>", TokenType.CONTROL)
    for byte in range(256) if byte_tokens else ():
        vocab.add(f"<0x{byte:02X}>", TokenType.BYTE, rarity=0.0 if byte == ord("\n") else _RARE)
    pieces = [left + right for left, right in _learn_merges("▁")]
    for rank, piece in enumerate([*dict.fromkeys(pieces), "▁", *_ASCII]):
        vocab.add(piece, TokenType.NORMAL, score=-float(rank))
    for control in _CONTROLS:
        vocab.add(control, TokenType.CONTROL, rarity=_RARE if control == "<|im_start|>" else 0.0)
    return vocab


def _bpe(byte_tokens: bool) -> _Vocab:
    from gguf import TokenType

    vocab = _Vocab("gpt2")
    alphabet = _byte_alphabet()
    readable = {*_ASCII, alphabet[ord(" ")], alphabet[ord("\n")]}
    for letter in alphabet:
        if byte_tokens or letter in readable:
            vocab.add(letter, TokenType.NORMAL, rarity=0.0 if letter in readable else _RARE)
    merges = _learn_merges(alphabet[ord(" ")])
    for piece in dict.fromkeys(left + right for left, right in merges):
        vocab.add(piece, TokenType.NORMAL)
    vocab.merges = [f"{left} {right}" for left, right in merges]
    for control in ["<|endoftext|>", *_CONTROLS]:
        vocab.add(control, TokenType.CONTROL, rarity=_RARE if control == "<|im_start|>" else 0.0)
    return vocab


def _add_tokenizer(writer: Any, vocab: _Vocab, chat_template: str | None) -> None:
    """Write the tokenizer section; `writer` is a `gguf.GGUFWriter`."""
    ids = {token: token_id for token_id, token in enumerate(vocab.tokens)}
    writer.add_tokenizer_model(vocab.model)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    if vocab.model == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(vocab.merges)
        writer.add_bos_token_id(ids[b"<|endoftext|>"])
        writer.add_eos_token_id(ids[b"<|endoftext|>"])
        writer.add_add_bos_token(False)
    else:
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(vocab.scores)
        writer.add_unk_token_id(ids[b"<unk>"])
        writer.add_bos_token_id(ids[b"<s>"])
        writer.add_eos_token_id(ids[b"</s>"])
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(True)
    writer.add_add_eos_token(False)
    writer.add_eot_token_id(ids[b"<|im_end|>"])
    if chat_template is not None:
        writer.add_chat_template(chat_template)


@cache
def _learn_merges(space: str) -> tuple[tuple[str, str], ...]:
    """Byte-pair merges of `_WORDS` (Sennrich et al. 2016), each word after a `space` and weighted by its rank."""
    ranked = list(dict.fromkeys(_WORDS.split()))
    words = [([space, *word], len(ranked) - rank) for rank, word in enumerate(ranked)]
    merges: list[tuple[str, str]] = []
    while len(merges) < _NUM_MERGES:
        counts: Counter[tuple[str, str]] = Counter()
        for symbols, weight in words:
            for pair in pairwise(symbols):
                counts[pair] += weight
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))  # the pair breaks ties: one vocabulary everywhere
        merges.append(best)
        for symbols, _ in words:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
                at += 1
    return tuple(merges)


def _byte_alphabet() -> list[str]:
    """The printable stand-in of each byte, by byte value, as GPT-2 defines it (`bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
