"""Many runs in one process: no deadlock, no leak."""

import subprocess
import sys
from pathlib import Path

import pytest

from matrix_py import EngineOptions, SimulateOptions, replay, simulate
from matrix_py.testing.random_gguf import write_random_gguf

STATUS = Path("/proc/self/status")


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


@pytest.mark.skipif(not STATUS.is_file(), reason="memory and threads are read from Linux's /proc")
@pytest.mark.parametrize("num_runs", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_runs_in_one_process_leave_nothing_behind(tmp_path: Path, num_runs: int) -> None:
    model = write_random_gguf(tmp_path / "model.gguf", n_layer=1, n_embd=32, n_head=2, n_head_kv=1, n_ff=64)
    inputs = tmp_path / "in.jsonl"
    inputs.write_text('{"instruction": "What is a fork?"}\n{"instruction": "What is a spoon?"}\n')
    settings = tmp_path / "settings.toml"
    settings.write_text("[respond]\nmax_tokens = 4\n")

    def once(number: int) -> None:
        options = SimulateOptions(
            inputs=(str(inputs),),
            out=tmp_path / "run.duckdb",
            model=str(model),
            scene="vanilla",
            seed=number,
            config_file=settings,
            overwrite=True,
            engine=EngineOptions(parallel=2, context=256, deterministic=False, threads=1),
        )
        summary = simulate(options)
        assert (summary.num_finished, summary.counts.live_turns) == (2, 2)
        assert (summary.engine_stats["running"], summary.engine_stats["waiting"]) == (0, 0)

    # Until then, what is kept on purpose grows: caches, and the allocator's own stock.
    settled = num_runs // 5 + 10
    for number in range(settled):
        once(number)
    before = (_status("VmRSS"), _status("Threads"), len(list(Path("/proc/self/fd").iterdir())))
    for number in range(settled, num_runs):
        once(number)
    after = (_status("VmRSS"), _status("Threads"), len(list(Path("/proc/self/fd").iterdir())))
    most_kib = 4096 + 128 * (num_runs - settled)
    assert after[0] - before[0] < most_kib, f"resident memory grew by {after[0] - before[0]} KiB over {num_runs - settled} runs"
    assert after[1:] == before[1:]
    assert replay(tmp_path / "run.duckdb").identical


def test_import_ends_by_itself_and_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", "import matrix_py"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
