"""The commands `fork` and `regenerate`. Like the others, they only parse and print."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from matrix_py.errors import ConfigError
from matrix_py.options import (
    Batch,
    Cache,
    ChatTemplate,
    Ctx,
    Deterministic,
    GpuLayers,
    Kv,
    KvTokens,
    Lora,
    Output,
    OutputFormat,
    Parallel,
    PrefixReuse,
    Quiet,
    Threads,
)
from matrix_py.types import Edit, KvMode

EXIT_DRIFTED = 1
EXIT_INTERRUPTED = 130
_SETTABLE = ("text", "verdict", "profile")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A log, as `simulate --out` wrote it. It is only read.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the log if it exists.")]
Moved = Annotated[str | None, typer.Option("--model", metavar="GGUF", help="Where the run's model is now, if it was moved.")]


def fork(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", metavar="NEW.duckdb", help="The log to write, of the chosen scenes.")] = None,
    scene: Annotated[
        list[str] | None,
        typer.Option("--scene", metavar="ID", help="A scene: its id, its first digits, or its place in the input. May be given again."),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            "--where", metavar="SQL", help="The scenes for which this is so, in columns of the view `scene`: kept AND label = 'x'"
        ),
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="TURN",
            help="Path of the turn that --set or --drop-critique is about, or of its action; the turn from which on another model, adapter "
            "or seed answers.",
        ),
    ] = "",
    change: Annotated[
        str | None,
        typer.Option(
            "--set",
            metavar="WHAT=VALUE",
            help="What the turn says instead: text=TEXT; verdict=yes or no; profile='Traits: patient; Status: retired', which replaces the "
            "lines of these names.",
        ),
    ] = None,
    remove_role: Annotated[
        str,
        typer.Option("--remove-role", metavar="NAME|RANK", help="A role that the cast is made without; by rank, of each scene its own."),
    ] = "",
    drop_critique: Annotated[bool, typer.Option("--drop-critique", help="The action of --at does no harm.")] = False,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="DIR", help="Prompt files, and settings.toml, in the place of those of the run.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings by kind of turn (TOML), over those of the run.")
    ] = None,
    roles: Annotated[int | None, typer.Option("--roles", help="Roles besides the one who asks. [default: as in RUN]")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Acts in the asker's plan. [default: as in RUN]")] = None,
    interactions: Annotated[int | None, typer.Option("--interactions", help="Actions that may take place. [default: as in RUN]")] = None,
    depth: Annotated[int | None, typer.Option("--depth", help="Waves of reactions in a step. [default: as in RUN]")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all random numbers. [default: as in RUN]")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="GGUF", help="Another model: a GGUF file, or hf:owner/repo/file.gguf."),
    ] = None,
    lora: Lora = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which turns are reused and which may run, without a model.")] = False,
    output: Annotated[OutputFormat, typer.Option("--format", help="Of --dry-run: text, or json: one document.")] = OutputFormat.TEXT,
    overwrite: Overwrite = False,
    ctx: Ctx = None,
    parallel: Parallel = None,
    deterministic: Deterministic = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_tokens: KvTokens = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = 0,
    prefix_reuse: PrefixReuse = True,
    chat_template: ChatTemplate = None,
    quiet: Quiet = False,
) -> None:
    """Run scenes of a log again with one thing changed. What the change does not touch is taken from the log; the rest runs live."""
    from matrix_py.engine import EngineOptions
    from matrix_py.reuse.fork import ForkOptions
    from matrix_py.reuse.fork import fork as run_fork
    from matrix_py.reuse.report import forecast_document, print_forecast
    from matrix_py.terminal import RunProgress, json_text, print_summary

    if out is None and not dry_run:
        raise ConfigError("--out is missing: give the log to write, such as --out fork.duckdb, or --dry-run")
    given = {"roles": roles, "steps": steps, "interactions": interactions, "depth": depth}
    options = ForkOptions(
        run,
        out,
        scenes=tuple(scene or ()),
        where=where,
        edits=_edits(at, change, drop_critique=drop_critique),
        remove_role=remove_role,
        at=at,
        prompts_dir=prompts,
        config_file=config,
        limits={name: value for name, value in given.items() if value is not None},
        seed=seed,
        model=model,
        overwrite=overwrite,
        engine=EngineOptions(
            context=ctx,
            parallel=parallel,
            cached=cache,
            kv=kv,
            kv_tokens=kv_tokens,
            lora=lora,
            deterministic=deterministic,
            threads=threads,
            batch=batch,
            gpu_layers=gpu_layers,
            prefix_reuse=prefix_reuse,
            chat_template=chat_template,
        ),
    )
    with RunProgress(quiet=quiet) as foreseen, RunProgress(quiet=quiet) as progress:
        found = run_fork(options, dry_run=dry_run, reporter=progress, on_progress=foreseen.replayed)
    if found.summary is None:
        if output is OutputFormat.JSON:
            sys.stdout.write(json_text(forecast_document(run, found.forecast)) + "\n")
        else:
            print_forecast(run, found.forecast)
        return
    print_summary(found.summary)
    if found.summary.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if found.summary.counts.open:
        raise typer.Exit(1)


def regenerate(
    run: Run,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="NEW.duckdb", help="Keep the second run in this log. [default: it is thrown away]")
    ] = None,
    model: Moved = None,
    output: Output = OutputFormat.TEXT,
    overwrite: Overwrite = False,
    parallel: Parallel = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_tokens: KvTokens = None,
    lora: Lora = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: Annotated[int | None, typer.Option("--gpu-layers", help="Layers to put on a GPU. [default: as before]")] = None,
    prefix_reuse: PrefixReuse = True,
    quiet: Quiet = False,
) -> None:
    """Run a log live again under the same seed, and say turn by turn what came out otherwise. Exit code 1 where something did."""
    from matrix_py.engine import EngineOptions
    from matrix_py.reuse.regenerate import regenerate as run_again
    from matrix_py.reuse.report import print_regeneration, regeneration_document
    from matrix_py.store import Log
    from matrix_py.terminal import RunProgress, json_text

    if gpu_layers is None:
        with Log.open(run, read_only=True) as log:
            gpu_layers = log.record.execution.gpu_layers
    engine = EngineOptions(
        parallel=parallel,
        cached=cache,
        kv=kv,
        kv_tokens=kv_tokens,
        lora=lora,
        threads=threads,
        batch=batch,
        gpu_layers=gpu_layers,
        prefix_reuse=prefix_reuse,
    )
    with RunProgress(quiet=quiet) as progress:
        found = run_again(run, out, model=model, engine=engine, overwrite=overwrite, reporter=progress)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(regeneration_document(run, found)) + "\n")
    else:
        print_regeneration(run, found)
    if found.summary.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not found.identical:
        raise typer.Exit(EXIT_DRIFTED)


def _edits(at: str, change: str | None, *, drop_critique: bool) -> tuple[Edit, ...]:
    if change is not None and drop_critique:
        raise ConfigError("--set and --drop-critique both change a turn: give one of them")
    if drop_critique:
        if not at:
            raise ConfigError("--drop-critique has no action: give its path with --at, as matrix show prints it")
        return (Edit(at=at, do="drop_critique"),)
    if change is None:
        return ()
    what, equals, value = change.partition("=")
    if not equals or what not in _SETTABLE:
        raise ConfigError(f"--set is {change!r}: give text=..., verdict=yes, verdict=no or profile=...")
    if not at:
        raise ConfigError("--set has no turn: give its path with --at, as matrix show prints it")
    return (Edit(at=at, do=what, value=value),)  # type: ignore[arg-type]  # one of _SETTABLE
