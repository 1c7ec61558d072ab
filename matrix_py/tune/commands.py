"""The command `matrix tune`. Like the others, it only parses and prints."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from matrix_py.dataset.commands import Benign, Exclude, HeldOut, Helpful, HelpfulText, MaxRows, Mix, Near, dataset_options
from matrix_py.errors import ConfigError
from matrix_py.experiments import EXIT_INTERRUPTED
from matrix_py.options import ChatTemplate, Output, OutputFormat, Quiet
from matrix_py.tune.options import ALL_LINEAR, Recipe, parse_targets, recipe_options


def tune(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Logs, of whose finished scenes the rows are made.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder to make, for the adapter and all about it.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="A GGUF (path, or hf:owner/repo/file.gguf), a Hugging Face folder, or owner/repo. [default: the model of the runs]",
        ),
    ] = None,
    recipe: Annotated[
        Recipe,
        typer.Option(
            "--recipe",
            help="default: rank 16 on all linear layers, rows packed, rate 2e-4. published: as the paper states (rank 8, alpha 16, dropout "
            "0.05, rate 2e-5, 1,024 tokens, not packed), and q_proj and v_proj, which it does not state.",
        ),
    ] = Recipe.DEFAULT,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write merged.gguf, too: base and adapter in one Q8_0 file, which runs deterministically.")
    ] = False,
    gguf: Annotated[
        Path | None,
        typer.Option("--gguf", metavar="GGUF", help="What to merge into where the base is no GGUF. [default: the model of the runs]"),
    ] = None,
    mix: Mix = "1:1:1",
    helpful: HelpfulText = Helpful.RESPONSE,
    benign: Benign = None,
    exclude: Exclude = None,
    max_rows: MaxRows = None,
    held_out: HeldOut = 0.05,
    near: Near = 0.2,
    rank: Annotated[int | None, typer.Option("--rank", help="Of the adapter (LoRA r). [default: 16; published: 8]")] = None,
    alpha: Annotated[
        int | None, typer.Option("--alpha", help="The adapter counts alpha / rank times. [default: 32; published: 16]")
    ] = None,
    dropout: Annotated[float | None, typer.Option("--dropout", help="Of the adapter's inputs. [default: 0; published: 0.05]")] = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            "--target-modules",
            metavar="NAMES",
            help=f"Layers that get an adapter, behind commas, or {ALL_LINEAR}. [default: {ALL_LINEAR}; published: q_proj,v_proj]",
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Highest learning rate. [default: 2e-4; published: 2e-5]")] = None,
    warmup: Annotated[float | None, typer.Option("--warmup", help="Share of the steps in which the rate goes up. [default: 0.03]")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="How often each row is seen. [default: 3]")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Sequences that a device computes at once. [default: 1]")] = None,
    accumulation: Annotated[int | None, typer.Option("--accumulation", help="Batches a step. [default: 4; published: 8]")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", help="Tokens of a sequence; longer rows are left out. [default: 2048; published: 1024]"),
    ] = None,
    packing: Annotated[
        bool | None, typer.Option("--packing/--no-packing", help="Several rows in a sequence. [default: yes; published: no]")
    ] = None,
    qlora: Annotated[bool, typer.Option("--qlora", help="Hold the base in 4 bits: needs a CUDA GPU and bitsandbytes.")] = False,
    bf16: Annotated[bool | None, typer.Option("--bf16/--no-bf16", help="Compute in bfloat16. [default: on a GPU]")] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory for more time. [default: on a GPU]"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of rows, their order, the adapter's first weights, dropout.")] = 0,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads. [default: all]")] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="GPUs, each with a process, through accelerate. [default: 1]")
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option("--checkpoint-every", metavar="STEPS", help="Steps between checkpoints. [default: a tenth of all, at least 10]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the tuning that was stopped in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many rows, tokens and steps it is, and about how much memory.")
    ] = False,
    chat_template: ChatTemplate = None,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """Train an adapter (LoRA) on what scenes came to, in a process of its own, and write it for `simulate --lora` and for PEFT."""
    from matrix_py.terminal import json_text, line, notice
    from matrix_py.tune.progress import TuneProgress
    from matrix_py.tune.report import forecast_document, forecast_lines, summary_document, summary_lines
    from matrix_py.tune.tuning import TuneRequest, forecast
    from matrix_py.tune.tuning import tune as run

    if out is None and not dry_run:
        raise ConfigError("--out is missing: give the folder to make, such as --out tuned")
    options = recipe_options(
        recipe,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=None if target_modules is None else parse_targets(target_modules),
        rate=lr,
        warmup=warmup,
        epochs=epochs,
        batch=batch,
        accumulation=accumulation,
        max_tokens=max_tokens,
        packing=packing,
        qlora=qlora,
        bf16=bf16,
        checkpointing=gradient_checkpointing,
        seed=seed,
        threads=threads,
        processes=processes,
        checkpoint_every=checkpoint_every,
    )
    request = TuneRequest(
        runs=tuple(runs),
        out=out or Path(),
        base=base,
        dataset=dataset_options(
            mix=mix, helpful=helpful, benign=benign, exclude=exclude, max_rows=max_rows, held_out=held_out, seed=seed, near=near
        ),
        options=options,
        chat_template=chat_template,
        merge=merge,
        gguf=gguf,
        resume=resume,
    )
    as_json = output is OutputFormat.JSON
    with TuneProgress(quiet=quiet) as progress:
        found = forecast(request, reporter=progress) if dry_run else None
        summary = None if dry_run else run(request, reporter=progress)
    if found is not None:
        if as_json:
            sys.stdout.write(json_text(forecast_document(found)) + "\n")
        for text in [] if as_json else forecast_lines(found, options):
            line(text)
    if summary is None:
        return
    if as_json:
        sys.stdout.write(json_text(summary_document(summary)) + "\n")
    for text in [] if as_json else summary_lines(summary):
        line(text)
    if summary.stopped:
        notice(f"stopped behind step {summary.finished.step}: go on with the same command and --resume")
        raise typer.Exit(EXIT_INTERRUPTED)
