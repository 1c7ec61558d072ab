"""The commands of `matrix bench`. Like the others, they only parse and print."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from matrix_py.embedded import EMBEDDED
from matrix_py.errors import ConfigError
from matrix_py.options import (
    Batch,
    Cache,
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
from matrix_py.types import KvMode, KvType

app = typer.Typer(no_args_is_help=True, help="Measure the engine: on work of a given shape, and beside llama.cpp's own server.")


@app.command("turns")
def bench_turns(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="GGUF",
            help="A GGUF file, or hf:owner/repo/file.gguf. [default: with --from, the run's, else the package's own]",
        ),
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="The turns of a finished run, in the place of random ones: prompts, order and lengths."),
    ] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Scenes, which share a preamble.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of a scene, one after the other.")] = 4,
    roles: Annotated[int, typer.Option("--roles", min=1, help="Turns of a round, which may run together.")] = 5,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens to generate for each turn.")] = 32,
    preamble: Annotated[int, typer.Option("--preamble", min=0, help="Tokens that all prompts begin with.")] = 200,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each engine, alternating; the median counts.")] = 1,
    forms: Annotated[bool, typer.Option("--forms", help="Once more with each turn bound by a form, as long as without.")] = False,
    server: Annotated[Path | None, typer.Option("--server", metavar="PATH", help="A llama-server to compare with.")] = None,
    server_options: Annotated[
        list[str] | None,
        typer.Option(
            "--server-options",
            metavar="TEXT",
            help="Its options, such as '-np 8 -no-kvu -fa on'; of several, the best are used. [default: twelve that should be tried]",
        ),
    ] = None,
    deterministic: Deterministic = None,
    parallel: Parallel = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_type: KvTypeOption = KvType.F16,
    kv_tokens: KvTokens = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = 0,
    prefix_reuse: PrefixReuse = True,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """Turns a second: on scenes of random tokens that share prefixes as real ones do, or on those of a run.

    Only the shape of the work counts, so any weights will do.
    """
    from matrix_py.bench.recorded import RecordedWork, Recording, longest_turn, recorded_model
    from matrix_py.bench.report import print_comparison
    from matrix_py.bench.turns import bench_turns as bench
    from matrix_py.bench.workload import Shape, ShapedWork, Work
    from matrix_py.engine import Engine, EngineOptions
    from matrix_py.terminal import RunProgress, json_text

    shape = Shape(scenes=scenes, rounds=rounds, roles=roles, tokens=tokens, preamble=preamble)
    if model is None:
        model = EMBEDDED if recorded is None else recorded_model(recorded)

    def prepare(engine: Engine) -> Work:
        if recorded is None:
            return ShapedWork(shape, len(engine.tokenizer))
        return RecordedWork(Recording(recorded), engine.tokenizer, window=2 * engine.parallel)

    options = EngineOptions(
        context=shape.longest if recorded is None else longest_turn(recorded),
        parallel=parallel,
        cached=cache,
        kv=kv,
        kv_type=kv_type,
        kv_tokens=kv_tokens,
        deterministic=deterministic,
        threads=threads,
        batch=batch,
        gpu_layers=gpu_layers,
        prefix_reuse=prefix_reuse,
    )
    with RunProgress(quiet=quiet) as progress:
        found = bench(
            model, prepare, options, runs=runs, forms=forms, server=server, server_options=server_options or (), announce=progress.line
        )
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(found.document()) + "\n")
    else:
        print_comparison(found)


@app.command("scenes")
def bench_scenes(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[INPUT...]", help="As for simulate. [default: the demo's]")] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Play a finished run again, its completions being the answers: all but the model."),
    ] = None,
    model: Model = EMBEDDED,
    lora: Lora = None,
    scene: Annotated[str, typer.Option("--scene", help="As for simulate.")] = "matrix",
    limit: Annotated[int | None, typer.Option("--limit", help="Scenes at most.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")] = 0,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of the same scenes; the median counts.")] = 1,
    ctx: Ctx = None,
    deterministic: Deterministic = None,
    parallel: Parallel = None,
    cache: Cache = None,
    kv: Kv = KvMode.AUTO,
    kv_type: KvTypeOption = KvType.F16,
    kv_tokens: KvTokens = None,
    threads: Threads = None,
    batch: Batch = 512,
    gpu_layers: GpuLayers = 0,
    prefix_reuse: PrefixReuse = True,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """Scenes a second, the whole way from instructions to the log, which is thrown away."""
    from matrix_py.bench.report import print_scene_timing
    from matrix_py.bench.scenes import bench_recorded
    from matrix_py.bench.scenes import bench_scenes as bench
    from matrix_py.engine import EngineOptions
    from matrix_py.plan import SimulateOptions
    from matrix_py.terminal import RunProgress, json_text

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
    )
    options = SimulateOptions(tuple(inputs or ()), Path(), model, scene=scene, seed=seed, limit=limit, engine=engine)
    with RunProgress(quiet=quiet) as progress:
        if recorded is not None and inputs:
            raise ConfigError(f"--from {recorded} and inputs were given: the scenes are the run's, so leave out the inputs")
        if recorded is not None:
            found = bench_recorded(recorded, runs=runs, reporter=progress, announce=progress.line)
        else:
            found = bench(options, runs=runs, reporter=progress, announce=progress.line)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(found.document()) + "\n")
    else:
        print_scene_timing(found)


@app.command("live")
def bench_live(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[INPUT...]", help="As for simulate. [default: the demo's]")] = None,
    model: Model = EMBEDDED,
    scene: Annotated[str, typer.Option("--scene", help="As for simulate.")] = "matrix",
    limit: Annotated[int | None, typer.Option("--limit", help="Scenes at most.")] = None,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="How often the run is asked for its status.")] = 1.0,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each kind, alternating; the medians count.")] = 1,
    ctx: Ctx = None,
    parallel: Parallel = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """How much a run slows down while another process reads its log."""
    from matrix_py.bench.live import bench_live as bench
    from matrix_py.bench.report import print_live
    from matrix_py.engine import EngineOptions
    from matrix_py.plan import SimulateOptions
    from matrix_py.terminal import RunProgress, json_text

    engine = EngineOptions(context=ctx, parallel=parallel, threads=threads, gpu_layers=gpu_layers)
    options = SimulateOptions(tuple(inputs or ()), Path(), model, scene=scene, limit=limit, engine=engine)
    with RunProgress(quiet=quiet) as progress:
        found = bench(options, every_s=every, runs=runs, reporter=progress, announce=progress.line)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(found.document()) + "\n")
    else:
        print_live(found)


@app.command("scheduler")
def bench_scheduler(
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Social scenes.")] = 1000,
    roles: Annotated[int, typer.Option("--roles", min=0, help="Roles of a scene besides the one who acts.")] = 5,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Acts of a scene.")] = 5,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=256, help="Turns in flight.")] = 64,
    cache: Annotated[int, typer.Option("--cache", min=0, max=255, help="KV streams beside theirs, for beginnings of prompts.")] = 192,
    window: Annotated[int | None, typer.Option("--window", min=1, help="Scenes open at a time. [default: twice --parallel]")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the lengths of completions.")] = 0,
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """How much of the best possible speed the scheduler reaches, without a model: a step costs what it was measured to cost."""
    from matrix_py.bench.report import print_schedules
    from matrix_py.bench.scheduler import Load
    from matrix_py.bench.scheduler import bench_scheduler as bench
    from matrix_py.terminal import bar, json_text

    load = Load(scenes=scenes, roles=roles, steps=steps, parallel=parallel, cached=cache, window=window or 2 * parallel, seed=seed)
    with bar("scenes", scenes, quiet=quiet) as update:
        found = bench(load, on_progress=update)
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text({"load": asdict(load), "schedules": [asdict(schedule) for schedule in found]}) + "\n")
    else:
        print_schedules(found)
