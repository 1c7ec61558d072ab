"""The commands that ask what a change does: `reask`, `attribute` and `ablate`. Like the others, they only parse and print."""

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matrix_py.errors import ConfigError
from matrix_py.options import Batch, Cache, Kv, KvTokens, Lora, Output, OutputFormat, Parallel, PrefixReuse, Quiet, Threads
from matrix_py.types import KvMode

if TYPE_CHECKING:
    from matrix_py.engine import EngineOptions

EXIT_INTERRUPTED = 130

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A log. It is only read.")]
GpuLayers = Annotated[int | None, typer.Option("--gpu-layers", help="Layers to put on a GPU. [default: as the run]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Scenes at most, the first of the run.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show text that may be harmful.")]
Moved = Annotated[str | None, typer.Option("--model", metavar="GGUF", help="Where the run's model is now, if it was moved.")]


class By(enum.StrEnum):
    """What `attribute` drops at a time."""

    CRITIQUE = "critique"
    ROLE = "role"


def reask(
    run: Run,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="The kind of turn to ask anew, such as feasible or critique.")],
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="DIR", help="Prompt files in the place of those that the run was made with.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings by kind of turn (TOML), over those of the run.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="GGUF", help="Another model; or where the run's is now, if it was moved.")
    ] = None,
    lora: Lora = None,
    limit: Limit = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A table of all pairs of answers with their texts: .parquet or .json.")
    ] = None,
    overwrite: Overwrite = False,
    examples: Annotated[int, typer.Option("--examples", help="Turns with another answer to show.")] = 5,
    parallel: Parallel = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_tokens: KvTokens = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = None,
    prefix_reuse: PrefixReuse = True,
    output: Output = OutputFormat.TEXT,
    reveal: Reveal = False,
    quiet: Quiet = False,
) -> None:
    """Put a changed prompt, settings or model to all recorded contexts of one kind of turn, and compare the answers.

    No scene goes on with them: what differs is what the change does to this kind of turn, and nothing that would come of it.
    """
    from matrix_py.reask import ReaskOptions
    from matrix_py.reask import reask as ask
    from matrix_py.reask.report import confusion_columns, confusion_rows, document, example_lines, heading_lines, result_lines
    from matrix_py.terminal import counting, json_text, line, notice, print_table

    engine = _engine(
        run,
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
    options = ReaskOptions(
        kind=kind,
        prompts_dir=prompts,
        config_file=config,
        model=model,
        limit=limit,
        out=out,
        overwrite=overwrite,
        examples=examples,
        engine=engine,
    )
    with counting("turns", quiet=quiet) as progress:
        found = ask(run, options, announce=(lambda text: None) if quiet else notice, on_progress=progress)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(document(found, reveal=reveal)) + "\n")
        return
    for text in heading_lines(found):
        line(text)
    if found.comparison.choices:
        print_table(confusion_columns(found.comparison), confusion_rows(found.comparison))
    for text in result_lines(found.comparison):
        line(text)
    for pair in found.examples:
        for text in example_lines(pair, reveal=reveal):
            line(text)
    if found.examples and not reveal:
        notice("--reveal shows the texts")


def attribute(
    run: Run,
    scene: Annotated[
        list[str] | None,
        typer.Option("--scene", metavar="SCENE", help="A scene's id, its first digits, or its place in the input; repeatable."),
    ] = None,
    by: Annotated[
        By, typer.Option("--by", help="critique: drop one at a time; role: all critiques of a role's actions at a time.")
    ] = By.CRITIQUE,
    limit: Limit = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A table of all that was dropped, with the answers: .parquet or .json.")
    ] = None,
    overwrite: Overwrite = False,
    examples: Annotated[int, typer.Option("--examples", help="Scenes to show in full.")] = 10,
    model: Moved = None,
    parallel: Parallel = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_tokens: KvTokens = None,
    lora: Lora = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = None,
    prefix_reuse: PrefixReuse = True,
    output: Output = OutputFormat.TEXT,
    reveal: Reveal = False,
    quiet: Quiet = False,
) -> None:
    """Drop each critique of a scene in turn, and say which one moved the answer.

    Acts, verdicts and reactions come from the log; only what critiques enter runs live: their condensations, the consequence, the revision.
    """
    from matrix_py.attribution import AttributeOptions
    from matrix_py.attribution import attribute as drop
    from matrix_py.attribution.report import GROUP_COLUMNS, document, group_rows, heading_lines, scene_lines, summary_lines
    from matrix_py.terminal import counting, json_text, line, notice, print_table

    engine = _engine(
        run,
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
    options = AttributeOptions(
        by=by.value, scenes=tuple(scene or ()), limit=limit, model=model, out=out, overwrite=overwrite, engine=engine
    )
    with counting("scenes", quiet=quiet) as progress:
        found = drop(run, options, examples=examples, announce=(lambda text: None) if quiet else notice, on_progress=progress)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(document(found, reveal=reveal)) + "\n")
        return
    for text in heading_lines(found):
        line(text)
    print_table(GROUP_COLUMNS, group_rows(found.summary))
    for text in summary_lines(found.summary):
        line(text)
    for each in found.examples:
        for text in scene_lines(each, reveal=reveal):
            line(text)


def ablate(
    run: Run,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the logs, one a limit, and the table over them.")],
    interactions: Annotated[
        str, typer.Option("--interactions", metavar="N,N,...", help="Cut scenes after so many actions; the run's limit at most.")
    ] = "",
    roles: Annotated[
        str, typer.Option("--roles", metavar="N,N,...", help="Simulate scenes anew with so many roles, the first of the ranked.")
    ] = "",
    limit: Limit = None,
    overwrite: Overwrite = False,
    model: Moved = None,
    parallel: Parallel = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_tokens: KvTokens = None,
    lora: Lora = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = None,
    prefix_reuse: PrefixReuse = True,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """See the scenes of a run under smaller limits: one log a limit, and a table over all of them.

    What smaller limits leave as it was comes from the log: of --interactions, only what follows the cut runs live.
    """
    from matrix_py.ablation import AblateOptions
    from matrix_py.ablation import ablate as see
    from matrix_py.ablation.report import document, lines, tables
    from matrix_py.terminal import RunProgress, json_text, line, print_table

    options = AblateOptions(
        out=out,
        interactions=_numbers("--interactions", interactions),
        roles=_numbers("--roles", roles),
        limit=limit,
        model=model,
        overwrite=overwrite,
        engine=_engine(
            run,
            parallel=parallel,
            cached=cache,
            kv=kv,
            kv_tokens=kv_tokens,
            lora=lora,
            threads=threads,
            batch=batch,
            gpu_layers=gpu_layers,
            prefix_reuse=prefix_reuse,
        ),
    )
    with RunProgress(quiet=quiet) as progress:
        found = see(run, options, reporter=progress)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(document(found)) + "\n")
    else:
        for columns, rows in tables(found):
            print_table(columns, rows)
        for text in lines(found):
            line(text)
    if found.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def _engine(run: Path, *, gpu_layers: int | None, **options: Any) -> "EngineOptions":
    """Return how to open the model: with as many layers on a GPU as the run, where that is not said."""
    from matrix_py.engine import EngineOptions
    from matrix_py.store import Log

    if gpu_layers is None:
        with Log.open(run, read_only=True) as log:
            gpu_layers = log.record.execution.gpu_layers
    return EngineOptions(gpu_layers=gpu_layers, **options)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ConfigError(f"{name} is {text!r}: give whole numbers with commas between them, such as 1,4,8")
    return tuple(int(part) for part in parts)
