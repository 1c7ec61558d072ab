"""A log that was written half to its file and half to its write-ahead log, ways to damage it, and a process that reads what came of it."""

import json
import random
import resource
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from logs import drive, make_log, plain_sql, scripted

from matrix_py.cli import main
from matrix_py.store import Log
from matrix_py.store.draft import TABLES
from matrix_py.store.wal import HEADER, read_wal

# A row of each row of the log: its table, and a hash of all its values.
ROWS = " UNION ALL ".join(f"SELECT '{table}' AS name, md5(to_json(t)::VARCHAR) AS digest FROM {table} t" for table in TABLES)
Digests = Counter[tuple[str, str]]
SECONDS = 60


@dataclass(frozen=True)
class Written:
    """A log whose writer was stopped, as `kill -9` stops one, and where it was finished."""

    path: Path
    root: bytes

    @property
    def wal(self) -> Path:
        return self.path.with_name(f"{self.path.name}.wal")

    @cached_property
    def ends(self) -> tuple[int, ...]:
        return read_wal(self.wal).ends

    @cached_property
    def prefixes(self) -> list[Digests]:
        """The rows after so many whole transactions of the write-ahead log."""
        found = []
        content = self.wal.read_bytes()
        for number, end in enumerate((0, *self.ends)):
            path = self.path.with_name(f"prefix-{number}.duckdb")
            shutil.copyfile(self.path, path)
            path.with_name(f"{path.name}.wal").write_bytes(content[:end])
            found.append(Counter(plain_sql(path, ROWS, read_only=True)))
        return found


def write(folder: Path, *, num_scenes: int = 24, length: int = 3) -> Written:
    """Play scenes, the first half of them into the file, and copy it with the write-ahead log while the writer has it open."""
    path = folder / "whole.duckdb"
    rows = [f"Question {number}?" for number in range(num_scenes)]
    first = scripted(length)
    answer = first._answer
    asked = Counter[str]()

    def failing(turn):  # the engine is gone half way
        asked["turns"] += 1
        return answer(turn) if asked["turns"] <= num_scenes * 3 // 2 else RuntimeError("engine gone")

    first._answer = failing
    with make_log(path, rows) as log:
        drive(log, first)
    slow = scripted(length)
    slow._at_once = 1
    collect = slow.collect
    slow.collect = lambda timeout_s: (time.sleep(0.02), collect(timeout_s))[1]
    copy = folder / "run.duckdb"
    with Log.open(path, read_only=False) as log:
        root = drive(log, slow).root
        shutil.copyfile(path, copy)
        shutil.copyfile(f"{path}.wal", f"{copy}.wal")
    assert root is not None
    return Written(copy, root)


@dataclass(frozen=True)
class Damage:
    """What was done to a copy of a log.

    Attributes:
        kind: the part, and whether it was cut or bytes of it were changed.
        at: offsets.
    """

    kind: str
    at: tuple[int, ...]


def damage(written: Written, path: Path, chance: random.Random) -> Damage:
    """Copy a log to `path`, with one damage."""
    contents = {"file": bytearray(written.path.read_bytes()), "wal": bytearray(written.wal.read_bytes())}
    part, how = chance.choices([("wal", "flipped"), ("wal", "cut"), ("file", "flipped"), ("file", "cut")], [5, 2, 4, 2])[0]
    content = contents[part]
    if how == "cut":
        at = (chance.randrange(len(content)),)
        del content[at[0] :]
    else:
        # Mostly a byte; and what carries no data more often than it takes up room.
        first = chance.randrange(64) if chance.random() < 0.05 else None
        if part == "wal" and chance.random() < 0.4:
            first = chance.choice((len(HEADER), *written.ends[:-1])) + chance.randrange(16)
        if part == "wal" and chance.random() < 0.1:
            first = chance.choice(written.ends) - 1 - chance.randrange(21)
        at = tuple(
            sorted(
                {
                    chance.randrange(len(content)) if first is None else first,
                    *(chance.sample(range(len(content)), chance.choice([0, 0, 0, 2]))),
                }
            )
        )
        for place in at:
            content[place] ^= chance.randrange(1, 256)
    path.write_bytes(contents["file"])
    path.with_name(f"{path.name}.wal").write_bytes(contents["wal"])
    return Damage(f"{part} {how}", at)


class Commands:
    """A process that runs commands one after another: DuckDB may end it, hang, or want all the memory."""

    def __init__(self) -> None:
        self.num_crashes = 0
        self._start()

    def _start(self) -> None:
        code = "import sys; sys.path.insert(0, sys.argv[1]); import damage; damage.serve()"
        command = [sys.executable, "-c", code, str(Path(__file__).parent)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error; the exit code is negative where the process ended or hung."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        answer = self._process.stdout.readline() if ready else ""
        if answer:
            code, out, err = json.loads(answer)
            return code, out, err
        self.num_crashes += 1
        self._process.kill()
        code = self._process.wait()
        self.close()
        self._start()
        return -abs(code), "", "hung" if not ready else f"ended with {code}"

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve() -> None:
    """Run the commands that come in."""
    import contextlib
    import io

    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers, sys.stdout = sys.stdout, io.StringIO()
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(json.loads(line))
        answers.write(json.dumps([code, out.getvalue(), err.getvalue()]) + "\n")
        answers.flush()
