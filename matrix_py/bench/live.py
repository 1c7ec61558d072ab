"""How much a run slows down while somebody reads its log: the same scenes, alternately alone and asked for their status by a process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

import matrix_py
from matrix_py.demo import INSTRUCTIONS
from matrix_py.errors import ConfigError, StoreError
from matrix_py.plan import SimulateOptions
from matrix_py.pump import Counts
from matrix_py.simulate import Reporter, RunSummary, simulate


@dataclass(slots=True)
class LiveTiming:
    """What the same scenes took, alone and while they were read.

    Attributes:
        every_s: how often they were asked for their status.
        turns: of one run.
        alone_s: seconds of each run that nobody read.
        read_s: seconds of each that was read.
        answers: that the reader got while its run was under way, in all of its runs.
        max_delay_s: longest time from a completion to its commit, of runs that were read.
    """

    every_s: float
    turns: int = 0
    alone_s: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    answers: int = 0
    max_delay_s: float = 0.0

    @property
    def ratio(self) -> float:
        """Speed of the runs that were read, as a part of that of the others; by medians."""
        return statistics.median(self.alone_s) / statistics.median(self.read_s)

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return asdict(self) | {"ratio": self.ratio}


def bench_live(
    options: SimulateOptions, *, every_s: float, runs: int, reporter: Reporter, announce: Callable[[str], None] = lambda line: None
) -> LiveTiming:
    """Simulate the same scenes so many times alone and so many times read, alternately, into logs that are thrown away.

    Args:
        options: what to simulate; without inputs, the demo's instructions. `out` is not used.
        every_s: how often the reader asks.
        runs: how often of each.
        reporter: told how each run goes.
        announce: told in a line what each run took.

    Raises:
        MatrixError: as `simulate`; or a scene was left open, or the reader got no answer.
    """
    if not every_s > 0:
        raise ConfigError(f"--every is {every_s:g}: give seconds, more than 0")
    timing = LiveTiming(every_s)
    with tempfile.TemporaryDirectory(prefix="matrix-bench-") as folder:
        if not options.inputs:
            inputs = Path(folder) / "instructions.jsonl"
            inputs.write_bytes(b"".join(msgspec.json.encode({"instruction": text}) + b"\n" for text in INSTRUCTIONS))
            options = replace(options, inputs=(str(inputs),))
        for number in range(2 * runs):
            # Two runs of one kind stand side by side, so that neither kind is always the first.
            read = number % 4 in {1, 2}
            out = Path(folder) / f"{number}.duckdb"
            told = _Reading(reporter, out, every_s) if read else reporter
            try:
                summary = simulate(replace(options, out=out), reporter=told)
            finally:
                answers = told.end() if isinstance(told, _Reading) else 0
            _add(timing, summary, read=read, answers=answers)
            announce(f"run {number + 1} of {2 * runs}, {f'read ({answers} answers)' if read else 'alone'}: {summary.wall_s:.2f} s")
    return timing


def _add(timing: LiveTiming, summary: RunSummary, *, read: bool, answers: int) -> None:
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.root is None:
        raise StoreError(f"{summary.num_scenes - summary.num_finished} scenes were left open: {'; '.join(summary.counts.errors)}")
    timing.turns = summary.counts.turns
    (timing.read_s if read else timing.alone_s).append(summary.wall_s)
    if read:
        timing.max_delay_s = max(timing.max_delay_s, summary.max_delay_s)
        timing.answers += answers
        if not answers:
            raise StoreError(f"the run of {summary.wall_s:.1f} s was over before it was read once: give more scenes, or a smaller --every")


class _Reading:
    """A reporter that has another process read the run from when it is under way."""

    def __init__(self, reporter: Reporter, log: Path, every_s: float) -> None:
        self._reporter = reporter
        self._command = [sys.executable, "-m", "matrix_py.cli", "status", str(log), "--format", "json", "--every", str(every_s)]
        self._reader: subprocess.Popen[bytes] | None = None

    def line(self, text: str) -> None:
        self._reporter.line(text)

    def progress(self, counts: Counts, num_open: int, num_scenes: int) -> None:
        if self._reader is None:
            environment = os.environ | {"PYTHONPATH": str(Path(matrix_py.__file__).parents[1])}
            self._reader = subprocess.Popen(self._command, stdout=subprocess.PIPE, env=environment)
        self._reporter.progress(counts, num_open, num_scenes)

    def end(self) -> int:
        """Wait for the reader, which ends with the run, and return how often it was answered while that was under way."""
        if self._reader is None:
            return 0
        out, _ = self._reader.communicate()
        return sum(msgspec.json.decode(line)["state"] == "running" for line in out.splitlines())
