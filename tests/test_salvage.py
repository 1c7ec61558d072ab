"""Salvage: every whole transaction before the damage, every row that can be read and holds together, and a log that resumes to its root."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from damage import ROWS, Written, write
from logs import INSTRUCTIONS, drive, make_log, make_record, plain_sql, scripted
from msgspec.structs import replace as with_

from matrix_py.cli import main
from matrix_py.errors import LogLockedError, StoreError
from matrix_py.replay import replay
from matrix_py.simulate import RunSummary
from matrix_py.store import FORMAT, Log
from matrix_py.store.salvage import salvage
from matrix_py.store.wal import HEADER, check_wal, read_wal
from matrix_py.testing import ScriptedModel

BLOCK = 256 * 1024


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("written"), num_scenes=16, length=20)


def copied(written: Written, folder: Path, wal: bytes) -> Path:
    path = Path(shutil.copy(written.path, folder / "run.duckdb"))
    path.with_name("run.duckdb.wal").write_bytes(wal)
    return path


def rows(path: Path, *tables: str) -> Counter[tuple[str, str]]:
    return Counter(row for row in plain_sql(path, ROWS, read_only=True) if not tables or row[0] in tables)


def resumed(path: Path, model: ScriptedModel | None = None) -> RunSummary:
    with Log.open(path, read_only=False) as log:
        return drive(log, model or scripted(20))


def entries(content: bytes) -> list[tuple[int, int]]:
    """Where entries of a write-ahead log begin and end."""
    found, at = [], len(HEADER)
    while at < len(content):
        end = at + 16 + struct.unpack_from("<Q", content, at)[0]
        found.append((at, end))
        at = end
    return found


class TestWriteAheadLog:
    @pytest.mark.parametrize("field", ["size", "checksum", "payload"])
    def test_every_transaction_before_the_damaged_entry_is_recovered(self, written: Written, tmp_path: Path, field: str) -> None:
        content = written.wal.read_bytes()
        places = entries(content)
        assert places[-1][1] == len(content) == written.ends[-1]
        for at, end in places[:: max(1, len(places) // 3)]:
            flipped = bytearray(content)
            flipped[{"size": at + 1, "checksum": at + 9, "payload": (at + 16 + end) // 2}[field]] ^= 4
            run = copied(written, tmp_path, flipped)

            found = salvage(run, tmp_path / "new.duckdb", overwrite=True)

            before = sum(each <= at for each in written.ends)
            for table in ("texts", "scenes", "completions", "events"):
                expected = Counter({row: count for row, count in written.prefixes[before].items() if row[0] == table})
                assert rows(tmp_path / "new.duckdb", table) == expected
            [line] = found.wal
            assert f": {before} transactions recovered" in line
            assert line.endswith(f"in which {len(written.ends) - before - (end in written.ends and field != 'size')} transactions ended")
            assert run.with_name("run.duckdb.wal").read_bytes() == flipped

    def test_a_damaged_header_costs_nothing(self, written: Written, tmp_path: Path) -> None:
        content = written.wal.read_bytes()
        for at in (0, 5):
            run = copied(written, tmp_path, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

            assert salvage(run, tmp_path / "new.duckdb", overwrite=True).wal == []

            assert resumed(tmp_path / "new.duckdb").root == written.root

    def test_what_duckdb_would_pass_over_is_refused_when_it_is_opened(
        self, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = bytearray(written.wal.read_bytes())
        content[len(HEADER) + 6] ^= 1  # a size that reaches far beyond the end
        run = copied(written, tmp_path, content)
        assert rows(run) == written.prefixes[0], "DuckDB opens it without a word, and without all that was in the write-ahead log"

        for command in (["sql", str(run), "FROM run"], ["replay", str(run)], ["resume", str(run)]):
            assert main(command) == 2
            assert re.fullmatch(r"error: log .* is damaged at byte 8: .*matrix log salvage .*\n", capsys.readouterr().err)

    def test_a_write_ahead_log_that_was_cut_opens_as_before(self, written: Written, tmp_path: Path) -> None:
        content = written.wal.read_bytes()
        for at in (3, 20, written.ends[0] + 9, len(content) - 1):
            run = copied(written, tmp_path, content[:at])

            check_wal(run)

            assert replay(run).identical
            assert salvage(run, tmp_path / "new.duckdb", overwrite=True).intact
            assert rows(tmp_path / "new.duckdb", "completions", "events") == rows(run, "completions", "events")

    def test_entries_are_told_apart_as_duckdb_writes_them(self, written: Written) -> None:
        found = read_wal(written.wal)

        assert found.stop == found.size
        assert (found.num_after, found.header_damaged, found.damage) == (0, False, None)
        assert len(found.ends) > 5


def test_a_killed_and_damaged_run_is_resumed_to_the_root_of_an_undisturbed_one(tmp_path: Path) -> None:
    # Given what an undisturbed run comes to
    with make_log(tmp_path / "undisturbed.duckdb", INSTRUCTIONS) as log:
        root = drive(log, scripted(20)).root
    # And a run that is killed while it writes
    code = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from logs import INSTRUCTIONS, drive, make_log, scripted
model = scripted(20)
model._at_once = 1
collect = model.collect
model.collect = lambda timeout_s: (time.sleep(0.1), collect(timeout_s))[1]
with make_log(Path(sys.argv[1]), INSTRUCTIONS) as log:
    drive(log, model)
"""
    run, new = tmp_path / "run.duckdb", tmp_path / "new.duckdb"
    wal = tmp_path / "run.duckdb.wal"
    with subprocess.Popen([sys.executable, "-c", code, str(run), str(Path(__file__).parent)]) as child:
        while not (wal.is_file() and len(read_wal(wal).ends) > 6):
            assert child.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        with pytest.raises(LogLockedError, match="held by another process"):
            salvage(run, new)
        os.kill(child.pid, signal.SIGKILL)
    content = bytearray(wal.read_bytes())
    content[read_wal(wal).ends[4] + 30] ^= 8
    wal.write_bytes(content)
    assert main(["replay", str(run)]) == 2

    found = salvage(run, new)

    assert replay(new).identical
    assert 0 < found.kept["completions"] < 18
    model = scripted(20)
    assert resumed(new, model).root == root
    assert len(model.turns) == 18 - found.kept["completions"]
    assert replay(new).identical
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.duckdb", "run.duckdb", "run.duckdb.wal", "undisturbed.duckdb"]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_damaged_block_costs_what_is_in_it_and_the_rest_resumes(tmp_path: Path, deterministic: bool) -> None:
    path, run, new = tmp_path / "whole.duckdb", tmp_path / "run.duckdb", tmp_path / "new.duckdb"
    record = make_record()
    record = with_(record, config=with_(record.config, deterministic=deterministic))
    with make_log(path, [f"Question {number}?" for number in range(80)], record=record) as log:
        root = drive(log, scripted(20)).root
    content = path.read_bytes()
    whole = rows(path, "texts", "completions", "events")
    lossy = 0
    for at in range(BLOCK // 2, len(content), BLOCK):
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        run.write_bytes(flipped)
        try:
            found = salvage(run, new, overwrite=True)
        except StoreError as error:
            assert "cannot be salvaged" in str(error)
            assert not new.exists() or lossy
            continue
        finally:
            assert run.read_bytes() == flipped
        assert replay(new, recorded=True).identical
        assert rows(new, "texts", "completions", "events") <= whole
        if found.intact or found.lost["scenes"] != 0:
            continue
        lossy += 1
        # Another answer than the first, where that is allowed: it must not meet what followed from the first.
        summary = resumed(new, scripted(20 if deterministic else 19))
        assert summary.num_finished == 80
        if deterministic:
            assert summary.root == root
        assert replay(new, recorded=True).identical
    assert lossy


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, bytes]:
    with make_log(tmp_path / "run.duckdb", INSTRUCTIONS) as log:
        root = drive(log, scripted()).root
    assert root is not None
    return tmp_path / "run.duckdb", root


TEXT_OF_CRITIQUE = "(SELECT text FROM completions WHERE path = 'critique' AND scene = (SELECT scene FROM scenes WHERE position = 2))"


def test_a_text_that_is_not_its_hash_goes_with_what_follows_from_it(finished: tuple[Path, bytes], tmp_path: Path) -> None:
    run, root = finished
    plain_sql(run, f"UPDATE texts SET text = text || '!' WHERE hash = {TEXT_OF_CRITIQUE}")

    found = salvage(run, tmp_path / "new.duckdb")

    # The scene's events up to the critique; its revision is asked again only where the critique could be another.
    assert (found.lost["texts"], found.lost["completions"], found.lost["events"]) == (1, 1, 5)
    assert (found.num_finished, found.root, found.intact) == (5, None, False)
    model = scripted()
    assert resumed(tmp_path / "new.duckdb", model).root == root
    assert [turn.path for turn in model.turns] == ["critique"]


def test_rows_that_are_there_twice_are_kept_once(finished: tuple[Path, bytes], tmp_path: Path) -> None:
    # As where a write-ahead log is replayed on a file that holds it already
    run, root = finished
    plain_sql(run, *(f"INSERT INTO {table} FROM {table} LIMIT 5" for table in ("texts", "scenes", "completions", "events")))

    salvage(run, tmp_path / "new.duckdb")

    assert replay(tmp_path / "new.duckdb").identical
    with Log.open(tmp_path / "new.duckdb", read_only=True) as log:
        assert log.recorded_root() == root


def test_a_scene_without_its_instruction_is_left_out_and_told(finished: tuple[Path, bytes], tmp_path: Path) -> None:
    run, _ = finished
    plain_sql(run, "DELETE FROM texts WHERE hash = (SELECT instruction FROM scenes WHERE position = 2)")

    found = salvage(run, tmp_path / "new.duckdb")

    assert (found.kept["scenes"], found.lost["scenes"]) == (5, 1)
    assert any("simulate their instructions again" in note for note in found.notes)
    assert replay(tmp_path / "new.duckdb").identical


@pytest.mark.parametrize("statement", ["DELETE FROM run", "DELETE FROM scenes"])
def test_without_run_or_scenes_it_is_refused_and_nothing_is_left(finished: tuple[Path, bytes], tmp_path: Path, statement: str) -> None:
    run, _ = finished
    plain_sql(run, statement)

    with pytest.raises(StoreError, match="cannot be salvaged"):
        salvage(run, tmp_path / "new.duckdb")

    assert [path.name for path in tmp_path.iterdir()] == ["run.duckdb"]


def test_an_undamaged_log_is_copied_and_said_to_be_whole(
    finished: tuple[Path, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, root = finished
    new = tmp_path / "new.duckdb"
    before = run.read_bytes()

    assert main(["log", "salvage", str(run), "--out", str(new)]) == 0

    out = capsys.readouterr().out
    assert "scenes: 6 recovered, 0 lost\ncompletions: 18 recovered, 0 lost\nevents: 48 recovered, 0 lost\n" in out
    assert f"{new}: nothing to salvage: the log is not damaged, and this is a copy\nroot {root.hex()}\n" in out
    assert rows(new) == rows(run)
    assert run.read_bytes() == before


def test_a_log_of_an_older_format_becomes_one_of_todays(tmp_path: Path) -> None:
    old = Path(__file__).parent / "golden" / "format-1.duckdb"
    before = replay(old)

    assert salvage(old, tmp_path / "new.duckdb").intact

    assert replay(tmp_path / "new.duckdb").root == before.root
    with Log.open(tmp_path / "new.duckdb", read_only=True) as log:
        assert log.format == FORMAT


def test_what_cannot_be_done_is_one_line(finished: tuple[Path, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = finished
    text = tmp_path / "text"
    text.write_text("dear diary " * 1000)
    for arguments, message in (
        ([tmp_path / "none", "--out", tmp_path / "new"], "does not exist"),
        ([run, "--out", run, "--overwrite"], "is the damaged log itself"),
        ([run, "--out", text], "exists"),
        ([text, "--out", tmp_path / "new"], "cannot be salvaged"),
        ([run, "--out", tmp_path / "nowhere" / "new"], "make it first"),
    ):
        assert main(["log", "salvage", *map(str, arguments)]) == 2
        assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.duckdb", "text"]


def test_a_damaged_log_says_what_to_do_next(written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(written.wal.read_bytes())
    content[written.ends[2] + 40] ^= 1
    run, new = copied(written, tmp_path, content), tmp_path / "new.duckdb"

    assert main(["log", "salvage", str(run), "--out", str(new)]) == 0

    shown = capsys.readouterr()
    assert shown.out.startswith("write-ahead log: 3 transactions recovered; lost from byte ")
    assert f"{new}: what could be recovered\n" in shown.out
    assert f"matrix resume {new}" in shown.err


def test_a_process_killed_during_a_checkpoint_leaves_a_second_write_ahead_log_which_is_read_too(tmp_path: Path) -> None:
    # Given a process that checkpoints a log again and again while it writes, killed between the two
    make_log(tmp_path / "run.duckdb", INSTRUCTIONS).close()
    code = """
import sys, threading
import duckdb
connection = duckdb.connect(sys.argv[1])
def write():
    cursor = connection.cursor()
    number = 0
    while True:
        number += 1
        cursor.execute("INSERT INTO commits SELECT ?, now()::TIMESTAMP, i, i FROM range(2000) r(i)", [number])
threading.Thread(target=write, daemon=True).start()
while True:
    connection.execute("CHECKPOINT")
"""
    run, new = tmp_path / "run.duckdb", tmp_path / "new.duckdb"
    second = tmp_path / "run.duckdb.wal.checkpoint"
    with subprocess.Popen([sys.executable, "-c", code, str(run)]) as child:
        deadline = time.monotonic() + 60
        while not (second.is_file() and second.stat().st_size > 100 and child.poll() is None):
            assert time.monotonic() < deadline
        os.kill(child.pid, signal.SIGKILL)
    if not second.is_file():
        pytest.skip("the checkpoint ended before the process did")
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    found = salvage(run, new)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path != new} == left
    # As DuckDB itself recovers it.
    assert plain_sql(new, "SELECT count(*) FROM commits") == plain_sql(run, "SELECT count(*) FROM commits")
    assert found.intact
