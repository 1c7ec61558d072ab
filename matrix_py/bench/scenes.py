"""Scenes a second, the whole way: prompts, engine, events, log."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

from matrix_py.bench.recorded import AtOnce, Recording
from matrix_py.demo import INSTRUCTIONS
from matrix_py.errors import StoreError
from matrix_py.plan import SimulateOptions
from matrix_py.scene import find_scene
from matrix_py.simulate import Reporter, RunSummary, recorded_prompts, run, simulate
from matrix_py.store import Log, SceneLister

# Scenes open at a time, where nothing has to be waited for.
_WINDOW = 32


@dataclass(slots=True)
class SceneTiming:
    """What runs of the same scenes took.

    Attributes:
        scenes: of one run.
        turns: of one run.
        generated: tokens of one run.
        prompt_tokens: of all prompts of one run.
        prefilled: of these, computed in the last run.
        seconds: of each run, without opening the model.
        outside_share: of the last run's time, not in llama.cpp.
        log_bytes: size of the last run's log.
        max_delay_s: longest time from a completion to its commit, in any run.
        roots: root hashes of the runs, each once: one where the same was said in all.
    """

    scenes: int
    turns: int
    generated: int
    prompt_tokens: int
    prefilled: int = 0
    seconds: list[float] = field(default_factory=list)
    outside_share: float = 0.0
    log_bytes: int = 0
    max_delay_s: float = 0.0
    roots: list[str] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Median of the runs."""
        return statistics.median(self.seconds)

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        rates = {"median_s": self.median_s, "scenes_per_s": self.scenes / self.median_s, "turns_per_s": self.turns / self.median_s}
        return asdict(self) | rates


def bench_scenes(
    options: SimulateOptions, *, runs: int = 1, reporter: Reporter, announce: Callable[[str], None] = lambda line: None
) -> SceneTiming:
    """Simulate the same scenes so many times, each into a log that is thrown away.

    Args:
        options: what to simulate; without inputs, the demo's instructions. `out` is not used.
        runs: how often.
        reporter: told how each run goes.
        announce: told in a line what each run took.

    Raises:
        MatrixError: as `simulate`; or a scene was left open.
    """
    with tempfile.TemporaryDirectory(prefix="matrix-bench-") as folder:
        if not options.inputs:
            inputs = Path(folder) / "instructions.jsonl"
            inputs.write_bytes(b"".join(msgspec.json.encode({"instruction": text}) + b"\n" for text in INSTRUCTIONS))
            options = replace(options, inputs=(str(inputs),))
        timing: SceneTiming | None = None
        for number in range(runs):
            summary = simulate(replace(options, out=Path(folder) / f"{number}.duckdb"), reporter=reporter)
            if timing is None:
                prompt_tokens = sum(kind.prompt_tokens for kind in summary.counts.live.values())
                timing = SceneTiming(summary.num_scenes, summary.counts.turns, summary.engine_stats["generated_tokens"], prompt_tokens)
            _add(timing, summary)
            announce(f"run {number + 1} of {runs}: {summary.wall_s:.2f} s")
    assert timing is not None, "there is one run at least"
    return timing


def bench_recorded(
    run_path: Path, *, runs: int = 1, reporter: Reporter, announce: Callable[[str], None] = lambda line: None
) -> SceneTiming:
    """Play a finished run again, into logs that are thrown away, with its own completions as answers: what it takes is not the model's.

    Args:
        run_path: the run's log.
        runs: how often.
        reporter: told how each run goes.
        announce: told in a line what each run took.

    Raises:
        StoreError: the log cannot be read.
        ConfigError: the run is not finished.
    """
    recording = Recording(run_path)
    record, scenes = recording.record, recording.scenes.values()
    prompts, function = recorded_prompts(record.config), find_scene(record.config.scene)

    def list_scenes(lister: SceneLister) -> None:
        for row, scene in enumerate(scenes):
            lister.add(label="bench", row=row, instruction=scene.instruction, response=scene.response, meta="{}")

    timing = SceneTiming(len(scenes), 0, 0, 0, outside_share=1.0)
    with tempfile.TemporaryDirectory(prefix="matrix-bench-") as folder:
        for number in range(runs):
            path = Path(folder) / f"{number}.duckdb"
            with Log.create(path, record, list_scenes, overwrite=False) as log:
                summary = run(log, prompts, function, AtOnce(recording), window=_WINDOW, reporter=reporter)
            timing.turns = summary.counts.turns
            _add(timing, summary)
            announce(f"run {number + 1} of {runs}: {summary.wall_s:.2f} s")
    return timing


def _add(timing: SceneTiming, summary: RunSummary) -> None:
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.root is None:
        raise StoreError(f"{summary.num_scenes - summary.num_finished} scenes were left open: {'; '.join(summary.counts.errors)}")
    stats = summary.engine_stats
    timing.seconds.append(summary.wall_s)
    timing.prefilled = stats.get("prefilled_tokens", 0)
    timing.outside_share = 1 - (stats.get("prefill_us", 0) + stats.get("decode_us", 0)) / 1e6 / summary.wall_s
    timing.log_bytes = summary.path.stat().st_size
    timing.max_delay_s = max(timing.max_delay_s, summary.max_delay_s)
    timing.roots = sorted({*timing.roots, summary.root.hex()})
