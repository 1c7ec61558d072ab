"""Options that several commands share."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from matrix_py.types import KvMode, KvType


class OutputFormat(enum.StrEnum):
    """How a command prints what it found."""

    TEXT = "text"
    JSON = "json"


Model = Annotated[
    str,
    typer.Option(
        "--model", metavar="GGUF", help="A GGUF file, or hf:owner/repo/file.gguf. [default: the package's own small demonstration model]"
    ),
]
Parallel = Annotated[int | None, typer.Option("--parallel", help="Turns in flight, 1 to 256. [default: 16, or what fits]")]
Cache = Annotated[
    int | None,
    typer.Option("--cache", help="Prompts kept in KV for turns to come, beside those in flight. [default: as many, or what fits]"),
]
Kv = Annotated[
    KvMode,
    typer.Option(
        "--kv",
        help="isolated: a KV stream for each turn, for the same text in any company; shared: one for all; auto: isolated on a CPU, "
        "elsewhere as the self-test says.",
    ),
]
KvTypeOption = Annotated[
    KvType, typer.Option("--kv-type", help="How keys stand in KV: q8_0 takes less memory and is read faster, and changes what is said.")
]
KvTokens = Annotated[int | None, typer.Option("--kv-tokens", help="Tokens of a shared KV. [default: what all turns need, or what fits]")]
Lora = Annotated[
    Path | None,
    typer.Option(
        "--lora", metavar="GGUF", help="An adapter. It ends the promise of the same text in any company: for that, merge it into the model."
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads. [default: all]")]
Batch = Annotated[int, typer.Option("--batch", help="Tokens that one call to llama.cpp may hold (its n_ubatch).")]
GpuLayers = Annotated[int, typer.Option("--gpu-layers", help="Layers to put on a GPU; -1 for all.")]
PrefixReuse = Annotated[bool, typer.Option("--prefix-reuse/--no-prefix-reuse", help="Begin prompts with what is in KV already.")]
ChatTemplate = Annotated[
    str | None,
    typer.Option("--chat-template", metavar="FILE|NAME", help="In the place of the model's: a jinja file, or a name such as chatml."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notices.")]
Deterministic = Annotated[
    bool | None, typer.Option("--deterministic/--no-deterministic", help="Same text in any company. [default: where a self-test passes]")
]
Ctx = Annotated[int | None, typer.Option("--ctx", help="Tokens that a turn may hold. [default: the model's, at most 4096]")]
Output = Annotated[OutputFormat, typer.Option("--format", help="text, or json: one document.")]
