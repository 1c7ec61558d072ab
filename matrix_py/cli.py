"""The command line. It only parses and prints: each command is one typed call of the package."""

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matrix_py.bench.commands import app as bench_app
from matrix_py.dataset.commands import export
from matrix_py.diff.command import diff
from matrix_py.embedded import EMBEDDED
from matrix_py.errors import ConfigError, DivergenceError, MatrixError
from matrix_py.experiments import EXIT_INTERRUPTED, ablate, attribute, reask
from matrix_py.logs import app as log_app
from matrix_py.options import (
    Batch,
    Cache,
    ChatTemplate,
    Ctx,
    Deterministic,
    GpuLayers,
    Kv,
    KvTokens,
    KvTypeOption,
    Lora,
    Model,
    Output,
    OutputFormat,
    Parallel,
    PrefixReuse,
    Quiet,
    Threads,
)
from matrix_py.queries import sql
from matrix_py.reuse.commands import fork, regenerate
from matrix_py.tune.commands import tune
from matrix_py.types import KvMode, KvType

if TYPE_CHECKING:
    from matrix_py.plan import SimulateOptions

app = typer.Typer(
    name="matrix",
    help="Rehearse the social consequences of an answer: scenes on a local LLM, logged, replayed and resumed exactly.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(bench_app, name="bench")
app.add_typer(log_app, name="log")

EXIT_DIVERGED = 1
EXIT_ERROR = 2

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A log, as `simulate --out` wrote it.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show text that may be harmful.")]


class Method(enum.StrEnum):
    """The social scenes."""

    MATRIX = "matrix"
    PUBLISHED = "published"


@app.command()
def simulate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files of instructions (.jsonl, .json, .csv, .parquet, also gzipped); NAME=FILE labels one; - is JSON lines on standard "
            "input.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN.duckdb", help="The log to write.")] = None,
    model: Model = EMBEDDED,
    lora: Lora = None,
    scene: Annotated[
        str | None,
        typer.Option("--scene", help="matrix, published, vanilla, critique-revise, or package.module:function. [default: matrix]"),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option("--method", help="The social scene of MATRIX, made exact, or as its code was published: the scene of that name."),
    ] = None,
    roles: Annotated[
        int | None, typer.Option("--roles", help="Roles of a social scene besides the one who asks, 1 to 16. [default: 5]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Steps of a social scene: acts in the asker's plan, 1 to 50. [default: 5]")
    ] = None,
    interactions: Annotated[
        int | None, typer.Option("--interactions", help="Actions that may take place in a social scene. [default: 16]")
    ] = None,
    depth: Annotated[int | None, typer.Option("--depth", help="Waves of reactions in a step, 1 to 10. [default: 1]")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Scenes at most.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all random numbers of the run.")] = 0,
    dialogue: Annotated[
        str, typer.Option("--dialogue", help="What to take of a dialogue: single (leave longer ones out), first, or last-with-context.")
    ] = "single",
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="DIR", help="Prompt files in the place of the package's.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings by kind of turn (TOML), over the package's.")
    ] = None,
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="The deployment's system prompt.")] = "",
    reuse: Annotated[
        Path | None,
        typer.Option(
            "--reuse",
            metavar="OLD.duckdb",
            help="Take turns from this log where the whole request is the same: model, adapter, prompt, settings, form and random key.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which turns are reused and which may run; no model is loaded, no log is written.")
    ] = False,
    output: Annotated[OutputFormat, typer.Option("--format", help="Of --dry-run: text, or json: one document.")] = OutputFormat.TEXT,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the log if it exists.")] = False,
    ctx: Ctx = None,
    parallel: Parallel = None,
    deterministic: Deterministic = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_type: KvTypeOption = KvType.F16,
    kv_tokens: KvTokens = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = 0,
    prefix_reuse: PrefixReuse = True,
    chat_template: ChatTemplate = None,
    quiet: Quiet = False,
) -> None:
    """Run a scene around each instruction and write the log."""
    from matrix_py.engine import EngineOptions
    from matrix_py.instructions import Dialogue
    from matrix_py.plan import DEFAULT_SCENE, SimulateOptions
    from matrix_py.scene.registry import WITHOUT_ROLES
    from matrix_py.simulate import simulate as run
    from matrix_py.terminal import RunProgress, print_summary
    from matrix_py.types import Limits

    if scene is not None and method is not None:
        raise ConfigError(f"--scene {scene!r} and --method {method.value!r} both name a scene: give one of them")
    chosen = scene or (method.value if method is not None else DEFAULT_SCENE)
    given = {"roles": roles, "steps": steps, "interactions": interactions, "depth": depth}
    limits = {name: value for name, value in given.items() if value is not None}
    if limits and chosen in WITHOUT_ROLES:
        raise ConfigError(f"--{min(limits)} is for social scenes, and scene {chosen!r} is none: leave it out, or choose --scene matrix")
    if dialogue not in list(Dialogue):
        raise ConfigError(f"--dialogue is {dialogue!r}: give {', '.join(Dialogue)}")
    engine = EngineOptions(
        context=ctx,
        parallel=parallel,
        cached=cache,
        kv=kv,
        kv_type=kv_type,
        kv_tokens=kv_tokens,
        lora=lora,
        deterministic=deterministic,
        threads=threads,
        batch=batch,
        gpu_layers=gpu_layers,
        prefix_reuse=prefix_reuse,
        chat_template=chat_template,
    )
    options = SimulateOptions(
        inputs=tuple(inputs),
        out=out,
        model=model,
        scene=chosen,
        limits=Limits(**limits),
        seed=seed,
        limit=limit,
        dialogue=Dialogue(dialogue),
        prompts_dir=prompts,
        config_file=config,
        system=system,
        reuse=reuse,
        overwrite=overwrite,
        engine=engine,
    )
    if dry_run:
        _foresee(options, output, quiet=quiet)
        return
    with RunProgress(quiet=quiet) as progress:
        summary = run(options, reporter=progress, stdin=sys.stdin.buffer)
    print_summary(summary)
    _exit(summary.interrupted, bool(summary.counts.open))


@app.command()
def resume(
    run: Run,
    model: Annotated[str | None, typer.Option("--model", metavar="GGUF", help="Where the run's model is now, if it was moved.")] = None,
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
    """Go on with a run that was stopped. Nothing that is in the log is asked again."""
    from matrix_py.engine import EngineOptions
    from matrix_py.simulate import resume as go_on
    from matrix_py.store import Log
    from matrix_py.terminal import RunProgress, print_summary

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
        summary = go_on(run, model=model, engine=engine, reporter=progress)
    print_summary(summary)
    _exit(summary.interrupted, bool(summary.counts.open))


@app.command()
def replay(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Logs.")],
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="DIR", help="Prompt files in the place of the ones the run was given.")
    ] = None,
    recorded: Annotated[bool, typer.Option("--recorded", help="Use the prompts in the log, not today's.")] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes that share long logs. [default: one a CPU]")] = None,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """Run the scenes again on the recorded completions and compare every event. Exit code 1 where something differs.

    The first difference of each scene is named, by what was changed: prompts, settings, forms, the scene's code, or the log itself.
    """
    from matrix_py.replay import Workers
    from matrix_py.replay import replay as run
    from matrix_py.terminal import RunProgress, json_text, print_replay, replay_document

    found = []
    with Workers(jobs) as workers:
        for path in runs:
            with RunProgress(quiet=quiet) as progress:
                found.append((path, run(path, prompts_dir=prompts, recorded=recorded, workers=workers, on_progress=progress.replayed)))
            if output is OutputFormat.TEXT:
                print_replay(*found[-1])
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text([replay_document(*each) for each in found]) + "\n")
    if not all(each.identical for _, each in found):
        raise typer.Exit(EXIT_DIVERGED)


app.command()(fork)
app.command()(regenerate)
app.command()(diff)
app.command()(reask)
app.command()(attribute)
app.command()(ablate)
app.command()(export)
app.command()(tune)


@app.command()
def show(
    run: Run,
    scene: Annotated[str | None, typer.Argument(metavar="SCENE", help="A scene's id, its first digits, or its place in the input.")] = None,
    turn: Annotated[
        str | None, typer.Option("--turn", metavar="PATH", help="One turn: its facts and its completion. PATH#2 is a second attempt.")
    ] = None,
    prompt: Annotated[bool, typer.Option("--prompt", help="The exact prompt of --turn.")] = False,
    why: Annotated[
        str | None, typer.Option("--why", metavar="PATH", help="All that a turn was made from, as a tree. Also of an action by its path.")
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="text, or json: one document; texts as their lengths without --reveal.")
    ] = OutputFormat.TEXT,
    reveal: Reveal = False,
    limit: Annotated[int, typer.Option("--limit", help="Scenes to list at most.")] = 50,
) -> None:
    """List a run's scenes, or read one: what happened in it, one of its turns, or why a turn came out as it did."""
    from matrix_py import show as shown
    from matrix_py.show.ancestry import ancestor_parts
    from matrix_py.show.document import ancestors_document, turn_document
    from matrix_py.show.transcript import turn_parts
    from matrix_py.terminal import json_text, print_parts, print_segments, print_table

    if prompt and turn is None:
        raise ConfigError("--prompt has no turn: give --turn PATH, with a SCENE before it")
    if scene is None and (turn is not None or why is not None or output is OutputFormat.JSON):
        raise ConfigError("--turn, --why and --format json are about one scene: give a SCENE after the log")
    if turn is not None and why is not None:
        raise ConfigError("--turn and --why each show something else: give one of them")
    as_json = output is OutputFormat.JSON
    if as_json and prompt:
        raise ConfigError("--prompt is shown as text only: leave out --format json, or ask with matrix sql")
    if scene is None:
        lines = shown.list_scenes(run, limit=limit)
        rows = [
            (
                line.position,
                line.scene[:12],
                line.label,
                line.state,
                line.instruction if reveal else f"[{len(line.instruction)} characters]",
            )
            for line in lines
        ]
        print_table(["#", "scene", "input", "state", "instruction"], rows)
    elif why is not None:
        found = shown.why(run, scene, why)
        if as_json:
            sys.stdout.write(json_text(ancestors_document(found, reveal=reveal)) + "\n")
        else:
            print_parts(ancestor_parts(found), reveal=reveal)
    elif as_json:
        asked = shown.document(run, scene, reveal=reveal) if turn is None else turn_document(shown.turn(run, scene, turn), reveal=reveal)
        sys.stdout.write(json_text(asked) + "\n")
    elif turn is None:
        print_parts(shown.transcript(run, scene), reveal=reveal)
    elif prompt:
        print_segments(shown.prompt(run, scene, turn), reveal=reveal)
    else:
        print_parts(turn_parts(shown.turn(run, scene, turn)), reveal=reveal)


@app.command("check-model")
def check_model(
    model: Annotated[
        str,
        typer.Argument(metavar="GGUF", help="A GGUF file, or hf:owner/repo/file.gguf. [default: the package's own demonstration model]"),
    ] = EMBEDDED,
    seconds: Annotated[float, typer.Option("--seconds", help="Time to take for asking the model.")] = 120.0,
    ctx: Ctx = None,
    parallel: Parallel = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = 0,
    chat_template: ChatTemplate = None,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """Find out in about two minutes what a model can do in a social scene. Later runs on it record the result."""
    import msgspec

    from matrix_py.check import check_model as check
    from matrix_py.engine import EngineOptions
    from matrix_py.terminal import RunProgress, json_text, print_check

    options = EngineOptions(
        context=ctx, parallel=parallel, threads=threads, batch=batch, gpu_layers=gpu_layers, chat_template=chat_template
    )
    with RunProgress(quiet=quiet) as progress:
        found = check(model, options, seconds=seconds, announce=progress.line)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(msgspec.to_builtins(found)) + "\n")
    else:
        print_check(found)


app.command()(sql)


@app.command()
def label(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Logs. Their labels are made anew.")],
    output: Annotated[OutputFormat, typer.Option("--format", help="text, or json: a list of a document a log.")] = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """Label what turns said (refusals, loops, leaks), beside the log; print the rates, and how healthy the simulations were."""
    from matrix_py.health import read_health
    from matrix_py.labels import label_run
    from matrix_py.labels.report import document
    from matrix_py.store import Log
    from matrix_py.terminal import bar, json_text, print_labels

    documents = []
    for path in runs:
        with Log.open(path, read_only=False) as log:
            with bar("turns", log.num_completions(), quiet=quiet) as progress:
                labelling = label_run(log, on_progress=lambda done, total: progress("labelling", done))
            health = read_health(log)
        if output is OutputFormat.JSON:
            documents.append(document(labelling, health))
        else:
            print_labels(labelling, health)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(documents) + "\n")


@app.command()
def status(
    run: Run,
    output: Annotated[OutputFormat, typer.Option("--format", help="text, or json: one line each time.")] = OutputFormat.TEXT,
    every: Annotated[
        float | None, typer.Option("--every", metavar="SECONDS", help="Say it again every so many seconds, until the run ends.")
    ] = None,
) -> None:
    """Say how far a run is, how fast it goes, and what went wrong in it: of a run that writes its log, or one that has ended."""
    import msgspec

    from matrix_py.status import watch_status
    from matrix_py.terminal import console, json_text, print_status

    for number, found in enumerate(watch_status(run, every)):
        if output is OutputFormat.JSON:
            sys.stdout.write(json_text(msgspec.to_builtins(found)) + "\n")
            sys.stdout.flush()
        else:
            if number:
                console.print()
            print_status(found)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the instructions and the log.")] = Path("demo"),
) -> None:
    """Play the social scene around six instructions on the embedded model, show two scenes, and replay the run."""
    from matrix_py.demo import demo as run

    run(out)


def _foresee(options: "SimulateOptions", output: OutputFormat, *, quiet: bool) -> None:
    from matrix_py.reuse.forecast import forecast_simulation
    from matrix_py.reuse.report import forecast_document, print_forecast
    from matrix_py.terminal import RunProgress, json_text

    with RunProgress(quiet=quiet) as progress:
        found = forecast_simulation(options, stdin=sys.stdin.buffer, on_progress=progress.replayed)
    assert options.reuse is not None  # else there would be no forecast
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(forecast_document(options.reuse, found)) + "\n")
    else:
        print_forecast(options.reuse, found)


def _exit(interrupted: bool, left_open: bool) -> None:
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if left_open:
        raise typer.Exit(EXIT_DIVERGED)


def _version(value: bool) -> None:
    if value:
        from matrix_py import __version__

        typer.echo(f"matrix {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where errors come from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    if debug:
        os.environ["MATRIX_DEBUG"] = "1"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors are one line on standard error."""
    code: Any = 0
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(given or ["--help"], prog_name="matrix", standalone_mode=False)
    except MatrixError as error:
        return _fail(error)
    except typer.TyperException as error:
        return _fail(error)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # `matrix sql ... | head` closed its end: nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("MATRIX_DEBUG"):
            raise
        return _fail(MatrixError(f"unexpected {type(error).__name__}: {error}; matrix --debug COMMAND ... shows where"))
    if code == EXIT_INTERRUPTED:  # typer, too, makes this of Ctrl-C
        print("stopped", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _fail(error: Exception) -> int:
    from matrix_py.show import readable

    if os.environ.get("MATRIX_DEBUG"):
        raise error
    match error:
        case DivergenceError():
            from matrix_py.replay import describe

            message = describe(error)
        case typer.TyperException():
            message = error.format_message()
        case _:
            message = str(error)
    print(f"error: {readable(' '.join(message.split()))}", file=sys.stderr)
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
