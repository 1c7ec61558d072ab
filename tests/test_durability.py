"""Nothing that is paid for is lost: runs that are killed again and again, and runs whose disk is full."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from logs import plain_sql

from matrix_py.replay import replay
from matrix_py.store import Log, check

# The command line, with a note of every turn that the engine is asked.
NOTING = """
import json, sys
from matrix_py.cli import main
from matrix_py.engine import Engine
submit = Engine.submit
def noting(self, turns):
    with open(sys.argv[1], "a") as notes:
        notes.writelines(json.dumps([turn.scene.hex(), turn.path, turn.attempt]) + "\\n" for turn in turns)
    submit(self, turns)
Engine.submit = noting
sys.exit(main(sys.argv[2:]))
"""

Key = tuple[str, str, int]


def command(notes: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", NOTING, str(notes), *arguments]


def simulate(folder: Path, out: Path, scenes: int, *more: str) -> list[str]:
    """`matrix simulate` on the embedded model."""
    inputs = folder / "in.jsonl"
    inputs.write_text(
        "".join(json.dumps({"instruction": f"How do I mend a puncture in {number} tyres?"}) + "\n" for number in range(scenes))
    )
    return ["simulate", str(inputs), "--out", str(out), "--ctx", "1024", "--deterministic", "--threads", "1", "-q", *more]


def asked(notes: Path) -> list[Key]:
    return [(scene, path, attempt) for scene, path, attempt in map(json.loads, notes.read_text().splitlines())]


def stored(path: Path) -> set[Key]:
    """The turns whose completions are in the file, as whoever opens it next finds them."""
    rows = plain_sql(path, "SELECT lower(hex(scene)), path, attempt FROM completions", read_only=True)
    return {(scene, turn, attempt) for scene, turn, attempt in rows}


def kill_and_resume(folder: Path, *, scenes: int, kills: int, most_s: float, limits: tuple[str, ...]) -> None:
    """Kill one run at random moments, so many times; then let it finish, and compare it with one that nobody disturbed."""
    calm, path = folder / "calm.duckdb", folder / "run.duckdb"
    subprocess.run(command(folder / "calm.txt", *simulate(folder, calm, scenes, *limits)), check=True)
    dice, done, killed = random.Random(7), set[Key](), 0
    first = simulate(folder, path, scenes, *limits)
    while killed < kills:
        notes = folder / f"asked-{killed}.txt"
        notes.touch()
        arguments = ["resume", str(path), "--threads", "1", "-q", "--parallel", str(dice.choice([1, 3, 8]))] if path.exists() else first
        with subprocess.Popen(command(notes, *arguments), stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while not notes.stat().st_size and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)  # it loads the model
            try:
                process.wait(timeout=dice.uniform(0, most_s))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
        assert not done & set(asked(notes)), "what was in the file was asked again"
        if not path.exists():
            continue
        now = stored(path)
        assert done <= now, "what was in the file is not there any more"
        done = now
        if process.returncode == 0:
            break  # faster than the kills
    notes = folder / "last.txt"
    notes.touch()
    subprocess.run(command(notes, "resume", str(path), "-q", "--threads", "1"), check=True)
    assert not done & set(asked(notes))
    with Log.open(calm, read_only=True) as one, Log.open(path, read_only=True) as other:
        assert one.recorded_root() == other.recorded_root() is not None
        assert check(other).findings == []
        sessions = other.query("SELECT count(*) FROM sessions")[1][0][0]
    print(f"killed {killed} times, {sessions} sessions, {len(stored(path))} turns")
    # The run may be over before the last of them.
    assert killed >= max(kills // 3, 1)
    assert replay(path).identical


def test_a_run_that_is_killed_asks_nothing_twice_and_ends_as_if_undisturbed(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, scenes=3, kills=3, most_s=2.0, limits=("--roles", "2", "--steps", "2"))


@pytest.mark.slow
def test_thirty_kills_over_forty_scenes(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, scenes=40, kills=30, most_s=6.0, limits=())


def test_a_full_disk_ends_a_run_in_one_line_and_resume_finishes_it(tmp_path: Path) -> None:
    path, notes = tmp_path / "run.duckdb", tmp_path / "asked.txt"
    notes.touch()

    def small_disk() -> None:
        # No file may grow beyond this: a write fails as it does on a full disk. (A new log has some 330 KiB.)
        resource.setrlimit(resource.RLIMIT_FSIZE, (450 * 1024, 450 * 1024))

    limits = ("--roles", "2", "--steps", "2")
    full = subprocess.run(
        command(notes, *simulate(tmp_path, path, 12, *limits)), preexec_fn=small_disk, capture_output=True, text=True, check=False
    )

    assert full.returncode == 2, full.stderr
    [line] = full.stderr.splitlines()
    assert line.startswith(f"error: log {path} cannot be written: ")
    assert "what was committed is safe" in line
    with Log.open(path, read_only=True) as log:
        assert log.num_completions() > 0
        assert log.num_finished() < 12
        assert check(log).findings == []
    kept = stored(path)
    notes.write_text("")
    subprocess.run(command(notes, "resume", str(path), "-q", "--threads", "1"), check=True)
    assert not kept & set(asked(notes))
    assert replay(path).identical
    with Log.open(path, read_only=True) as log:
        assert log.num_finished() == 12


@pytest.mark.skipif(os.environ.get("MATRIX_SMALL_DISK") is None, reason="needs MATRIX_SMALL_DISK, a folder on a disk of a few MB")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    folder = Path(os.environ["MATRIX_SMALL_DISK"])
    path, notes = folder / "run.duckdb", tmp_path / "asked.txt"
    filler = folder / "filler"
    notes.touch()
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    filler.write_bytes(bytes(max(free - 700 * 1024, 0)))

    full = subprocess.run(
        command(notes, *simulate(tmp_path, path, 12, "--roles", "2", "--steps", "2")), capture_output=True, text=True, check=False
    )

    assert full.returncode == 2, full.stderr
    assert len(full.stderr.splitlines()) == 1
    assert "what was committed is safe" in full.stderr
    kept = stored(path)
    assert kept
    filler.unlink()
    notes.write_text("")
    subprocess.run(command(notes, "resume", str(path), "-q", "--threads", "1"), check=True)
    assert not kept & set(asked(notes))
    assert replay(path).identical
