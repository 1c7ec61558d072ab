"""One root hash: whatever the parallelism, threads, batch and prefix reuse, and across a kill and a resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from matrix_py import EngineOptions, Log, SimulateOptions, replay, resume, simulate
from matrix_py.testing.random_gguf import write_random_gguf

SETTINGS = "".join(
    f"[{kind}]\nmax_tokens = {tokens}\ntemperature = 0.7\n" for kind, tokens in (("respond", 48), ("critique", 24), ("revise", 40))
)
# About 700 tokens with the small vocabulary of the random model.
LONG = "Tell me more about the seven people who wait at the blue door of the bakery, and about what they say. " * 22


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("determinism")
    write_random_gguf(folder / "model.gguf", n_embd=256, n_layer=4, n_ff=512)
    texts = [f"{i}: {LONG if i % 2 else 'What is a fork?'}" for i in range(8)]
    (folder / "in.jsonl").write_bytes(b"".join(msgspec.json.encode({"instruction": text}) + b"\n" for text in texts))
    (folder / "settings.toml").write_text(SETTINGS)
    return folder


def options(work: Path, name: str, **engine) -> SimulateOptions:
    return SimulateOptions(
        inputs=(str(work / "in.jsonl"),),
        out=work / f"{name}.duckdb",
        model=str(work / "model.gguf"),
        scene="critique-revise",
        seed=7,
        config_file=work / "settings.toml",
        engine=EngineOptions(context=2048, deterministic=True, **engine),
    )


@pytest.fixture(scope="module")
def root(work: Path) -> bytes:
    summary = simulate(options(work, "reference", parallel=1))
    _, rows = _query(work / "reference.duckdb", "SELECT count(*) FILTER (prompt_tokens >= 700), count(*) FROM turn")
    assert rows[0][0] >= rows[0][1] / 2, f"{rows[0][0]} of {rows[0][1]} prompts have 700 tokens or more"
    assert summary.root is not None
    return summary.root


def _query(path: Path, statement: str) -> tuple[list[str], list[tuple]]:
    with Log.open(path, read_only=True) as log:
        return log.query(statement)


@pytest.mark.parametrize(
    "engine",
    [
        {"parallel": 3, "threads": 1},
        {"parallel": 16, "threads": 2},
        {"parallel": 16, "batch": 64},
        {"parallel": 3, "batch": 64, "threads": 1, "prefix_reuse": False},
        {"parallel": 16, "prefix_reuse": False},
    ],
    ids=lambda engine: " ".join(f"{key}={value}" for key, value in engine.items()),
)
def test_the_root_is_the_same_however_the_run_is_executed(work: Path, root: bytes, engine: dict) -> None:
    summary = simulate(options(work, "_".join(f"{key}{value}" for key, value in engine.items()), **engine))
    assert summary.root == root
    assert replay(summary.path).identical


def test_after_kill_9_resume_asks_nothing_twice_and_ends_in_the_same_root(work: Path, root: bytes) -> None:
    path = work / "killed.duckdb"
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_determinism as t; "
        "from matrix_py import simulate; "
        "simulate(t.options(Path(sys.argv[2]), 'killed', parallel=3))"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(work)]
    child = subprocess.Popen(command)
    # The log appears when the run begins; then the write-ahead log grows with each commit.
    wal = path.with_name("killed.duckdb.wal")
    deadline = time.monotonic() + 120
    while not (wal.is_file() and wal.stat().st_size > 12_000):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    statement = "SELECT scene, path, attempt, text, recorded_at FROM completions ORDER BY ALL"
    _, before = _query(path, statement)
    # Three turns a scene, and those that were asked again.
    _, [(total,)] = _query(work / "reference.duckdb", "SELECT count(*) FROM completions")
    assert total >= 24
    assert 0 < len(before) < total, f"killed with {len(before)} of {total} turns in the log"
    assert replay(path).identical
    summary = resume(path, engine=EngineOptions(parallel=16))
    _, after = _query(path, statement)
    assert summary.counts.live_turns == total - len(before)
    assert set(before) <= set(after)
    assert len(after) == total
    assert summary.root == root
    assert replay(path).identical


def test_an_inserted_row_and_a_shuffle_change_no_other_scene(work: Path, root: bytes) -> None:
    lines = (work / "in.jsonl").read_bytes().splitlines()
    shuffled = work / "shuffled.jsonl"
    shuffled.write_bytes(b"\n".join([lines[5], b'{"instruction": "Something else"}', lines[0], lines[3]]) + b"\n")
    chosen = options(work, "shuffled", parallel=4)
    simulate(SimulateOptions(**{name: getattr(chosen, name) for name in chosen.__slots__} | {"inputs": (str(shuffled),)}))
    ends = "SELECT scene, hash FROM events WHERE kind = 'SceneFinished' ORDER BY ALL"
    _, reference = _query(work / "reference.duckdb", ends)
    _, other = _query(work / "shuffled.duckdb", ends)
    assert len(other) == 4
    assert len(set(other) & set(reference)) == 3
