"""A run in a process of its own, for tests that read its log meanwhile: `python live_run.py LOG SCENES TURNS`.

It answers so many turns, then waits for a line on standard input before each further one; at the end of the input it answers the rest.
The log is made if it is not there, and resumed if it is.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from logs import drive, make_log

import matrix_py
from matrix_py import _core
from matrix_py.errors import LogLockedError, StoreError
from matrix_py.store import Log, open_for_reading
from matrix_py.testing import ScriptedModel


class LiveRun:
    """The process, and its log."""

    def __init__(self, path: Path, *, scenes: int = 3, turns: int = 4) -> None:
        self.path = path
        arguments = [sys.executable, __file__, str(path), str(scenes), str(turns)]
        pipe = subprocess.PIPE
        # The package that the tests run on, wherever another one may be installed.
        environment = os.environ | {"PYTHONPATH": str(Path(matrix_py.__file__).parents[1])}
        self.process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    def wait_for(self, turns: int) -> None:
        """Wait until so many turns can be read while the process runs."""
        end = monotonic() + 60
        while monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()[1]
            try:
                with open_for_reading(self.path) as log:
                    if log.writer_pid == self.process.pid and log.query("SELECT count(*) FROM completions")[1] == [(turns,)]:
                        return
            except LogLockedError:  # not answering yet
                pass
            except StoreError as error:
                # It may have come to be there since.
                assert "does not exist" in str(error), "it is there, and cannot be read"
            sleep(0.02)
        raise AssertionError(f"{turns} turns are not there after a minute")

    def answer(self) -> None:
        """Let it answer one more turn."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Let it answer the rest, and return what it printed on standard error."""
        _, notices = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, notices
        return notices

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def live_run(path: Path, *, scenes: int = 3, turns: int = 4, before: int = 0) -> Iterator[LiveRun]:
    """A run that has answered so many turns, beside those that its log held before, and waits."""
    run = LiveRun(path, scenes=scenes, turns=turns)
    try:
        run.wait_for(before + turns)
        yield run
    finally:
        run.kill()


def main(path: Path, scenes: int, turns: int) -> None:
    def answer(turn: _core.Turn) -> str:
        if answered[0] >= turns:
            sys.stdin.readline()
        answered[0] += 1
        return f"A reply to {turn.path} of {turn.scene.hex()[:8]}, \N{SNOWMAN}"

    answered = [0]
    model = ScriptedModel(answer, at_once=1)
    rows = [(f"Instruction {number}", None if number % 2 else f"Response {number}") for number in range(scenes)]
    with Log.open(path, read_only=False) if path.exists() else make_log(path, rows) as log:
        drive(log, model, window=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
