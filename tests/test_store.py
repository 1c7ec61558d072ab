"""The log: what is refused, what is written when, and that it opens anywhere afterwards."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from logs import INSTRUCTIONS, drive, make_log, make_record, plain_sql, scripted

from matrix_py import _core
from matrix_py.cli import main
from matrix_py.errors import FormatError, InputError, LogLockedError, StoreError
from matrix_py.events import ResponseGiven, ResponseRevised
from matrix_py.replay import replay
from matrix_py.scene import Scene
from matrix_py.store import Log, SceneLister, strays

TABLES = [
    "commits",
    "completions",
    "dataset_rows",
    "datasets",
    "detectors",
    "events",
    "labels",
    "run",
    "scenes",
    "sessions",
    "texts",
    "tuning_steps",
    "tunings",
]


@contextmanager
def refused(kind: type[Exception], *parts: str) -> Iterator[None]:
    """Expect an error of one line that holds these parts."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestCreating:
    def test_a_new_log_holds_its_record_and_scenes_and_nothing_else(self, tmp_path: Path) -> None:
        record = make_record()

        with make_log(tmp_path / "run.duckdb", INSTRUCTIONS, record=record) as log:
            assert (log.num_scenes(), log.num_finished(), log.num_completions()) == (6, 0, 0)
            assert (log.root(), log.recorded_root(), strays(log)) == (None, None, [])

        assert names(tmp_path) == ["run.duckdb"]
        with Log.open(tmp_path / "run.duckdb", read_only=True) as log:
            assert log.record == record
            assert [scene.instruction for scene in log.scenes()] == list(INSTRUCTIONS)

    def test_an_existing_file_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        path.write_bytes(b"dear diary")

        with refused(StoreError, str(path), "exists", "--overwrite"):
            make_log(path, ["Why?"])

        assert path.read_bytes() == b"dear diary"
        assert names(tmp_path) == ["run.duckdb"]

    @pytest.mark.parametrize("before", ["log", "other file", "damaged log"])
    def test_overwrite_replaces_what_is_there(self, tmp_path: Path, before: str) -> None:
        path = tmp_path / "run.duckdb"
        if before != "other file":
            make_log(path, INSTRUCTIONS).close()
        if before != "log":
            content = bytearray(path.read_bytes() if path.exists() else b"dear diary")
            content[len(content) // 4 :] = bytes(len(content) - len(content) // 4)
            path.write_bytes(content)
        path.with_name("run.duckdb.wal").write_bytes(b"")  # as a killed process leaves one

        with make_log(path, ["Why?"], overwrite=True) as log:
            assert [scene.instruction for scene in log.scenes()] == ["Why?"]

        assert names(tmp_path) == ["run.duckdb"]

    @pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
    def test_input_that_fails_half_way_leaves_no_draft_and_the_old_log(self, tmp_path: Path, error: type[BaseException]) -> None:
        path = tmp_path / "run.duckdb"
        make_log(path, INSTRUCTIONS).close()
        before = path.read_bytes()

        def scenes(lister: SceneLister) -> None:
            for row in range(1500):  # more than are kept back
                lister.add(label="x", row=row, instruction=f"Question {row}?", response=None, meta="{}")
            raise error("line 3 is broken")

        with pytest.raises(error):
            Log.create(path, make_record(), scenes, overwrite=True)

        assert names(tmp_path) == ["run.duckdb"]
        assert path.read_bytes() == before

    def test_a_draft_that_a_killed_process_left_is_replaced(self, tmp_path: Path) -> None:
        for name in (".run.duckdb.new", ".run.duckdb.input", ".run.duckdb.new.wal", ".run.duckdb.input.wal"):
            (tmp_path / name).write_bytes(b"half a file")

        make_log(tmp_path / "run.duckdb", ["Why?"]).close()

        assert names(tmp_path) == ["run.duckdb"]

    def test_output_that_cannot_be_written_is_refused_in_words(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with refused(StoreError, "is a folder", str(tmp_path / "run.duckdb")):
            make_log(tmp_path, ["Why?"])
        with refused(StoreError, str(tmp_path / "none"), "does not exist", "make it first"):
            make_log(tmp_path / "none" / "run.duckdb", ["Why?"])
        with refused(StoreError, str(tmp_path / "file"), "does not exist"):
            make_log(tmp_path / "file" / "run.duckdb", ["Why?"])
        with refused(StoreError, "name too long"):
            make_log(tmp_path / ("a" * 300), ["Why?"])
        assert names(tmp_path) == ["file"]

    def test_5000_rows_are_listed_in_seconds_and_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        start = time.monotonic()

        with make_log(path, [f"Question {number}?" for number in range(5000)]) as log:
            assert log.num_scenes() == 5000
            assert [scene.instruction for scene in log.scenes()] == [f"Question {number}?" for number in range(5000)]

        assert time.monotonic() - start < 20
        [(meta,)] = plain_sql(path, "SELECT meta ->> 'row' FROM scenes WHERE position = 4321")
        assert meta == "4321"

    def test_created_at_is_utc_whatever_the_time_zone(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from logs import make_log; "
            "make_log(Path(sys.argv[1]), ['Why?']).close()"
        )
        path = tmp_path / "run.duckdb"

        subprocess.run([sys.executable, "-c", code, str(path), str(Path(__file__).parent)], check=True, env={"TZ": "Asia/Tokyo"})

        [(age,)] = plain_sql(path, "SELECT epoch(now()) - epoch(created_at) FROM run")
        assert 0 <= age < 600


class TestIdentity:
    def test_equal_instructions_get_occurrences_and_ids_of_their_own(self, tmp_path: Path) -> None:
        rows = ["Why?", ("Why?", "Because."), "Why?", "How?", "Why?", ("Why?", "Because."), ("Why?", "")]

        with make_log(tmp_path / "run.duckdb", rows) as log:
            scenes = list(log.scenes())

        assert [scene.occurrence for scene in scenes] == [0, 0, 1, 0, 2, 1, 0]
        assert len({scene.scene for scene in scenes}) == len(rows)
        for scene in scenes:
            expected = _core.scene_id("critique-revise", scene.instruction, scene.response, scene.occurrence)
            assert scene.scene == expected

    def test_ids_do_not_depend_on_order_or_on_what_else_is_there(self, tmp_path: Path) -> None:
        def ids(name: str, rows: list[str]) -> set[tuple[str, bytes]]:
            with make_log(tmp_path / name, rows) as log:
                return {(scene.instruction, scene.scene) for scene in log.scenes()}

        rows = [*INSTRUCTIONS, "Why?", "Why?"]
        everything = ids("all", rows)

        assert ids("shuffled", rows[::-1]) == everything
        assert ids("limited", rows[:3]) == {item for item in everything if item[0] in rows[:3]} - {
            item for item in everything if item[1] == _core.scene_id("critique-revise", rows[3], None, 1)
        }
        assert ids("inserted", ["Something new?", *rows]) > everything

    def test_what_the_scene_sees_is_what_the_input_said(self, tmp_path: Path) -> None:
        text = 'Zeile 1\n"Zeile 2"\t\x1b[31m{{ x }} 🌳 \u2028 <|im_end|>'

        with make_log(tmp_path / "it's a run.duckdb", [(text, text * 2), (text, "")]) as log:
            scenes = [(scene.instruction, scene.response) for scene in log.scenes()]

        assert scenes == [(text, text * 2), (text, "")]


class TestOpening:
    def test_what_is_no_log_is_refused_in_words(self, tmp_path: Path) -> None:
        plain, text, empty = tmp_path / "plain.duckdb", tmp_path / "text", tmp_path / "empty"
        plain_sql(plain, "CREATE TABLE t (x INTEGER)")
        text.write_text("dear diary " * 1000)
        empty.touch()
        with refused(FormatError, str(plain), "no matrix log"):
            Log.open(plain, read_only=True)
        with refused(StoreError, str(text)):
            Log.open(text, read_only=True)
        with refused(StoreError, str(empty)):
            Log.open(empty, read_only=True)
        with refused(StoreError, str(tmp_path / "none"), "does not exist"):
            Log.open(tmp_path / "none", read_only=True)
        with refused(StoreError, str(tmp_path), "does not exist"):
            Log.open(tmp_path, read_only=True)
        with refused(StoreError, "name too long"):
            Log.open(tmp_path / ("a" * 300), read_only=True)

    def test_a_table_named_run_makes_no_log(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.duckdb"
        plain_sql(path, "CREATE TABLE run (speed INTEGER)")

        with refused(FormatError, str(path), "no matrix log"):
            Log.open(path, read_only=True)

    def test_a_newer_format_is_refused_with_both_numbers(self, log_file: Path) -> None:
        plain_sql(log_file, "UPDATE run SET format = 5")

        with refused(FormatError, str(log_file), "format 5", "1 to 4"):
            Log.open(log_file, read_only=True)

    def test_a_record_that_does_not_parse_is_refused(self, log_file: Path) -> None:
        plain_sql(log_file, "UPDATE run SET config = '[]'")

        with refused(FormatError, str(log_file), "cannot be read"):
            Log.open(log_file, read_only=True)

    def test_a_log_without_its_run_is_refused(self, log_file: Path) -> None:
        plain_sql(log_file, "DELETE FROM run")

        with refused(FormatError, str(log_file), "holds no run"):
            Log.open(log_file, read_only=True)

    def test_a_log_that_another_process_holds_is_refused_with_its_number(self, log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", code, str(log_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"open\n"

            for read_only in (True, False):
                with refused(LogLockedError, str(log_file), f"process {holder.pid} ", "wait"):
                    Log.open(log_file, read_only=read_only)
            with refused(LogLockedError, f"process {holder.pid} "):
                make_log(log_file, ["Why?"], overwrite=True)
            assert main(["replay", str(log_file)]) == 2
            assert f"process {holder.pid} " in capsys.readouterr().err

            holder.communicate()
        assert replay(log_file).identical


class TestWriting:
    def test_what_is_buffered_is_in_the_file_when_the_writer_is_closed(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, ["Why?"]) as log:
            event_log = _core.EventLog()
            writer = log.writer(event_log)
            texts = [f"Text {number}" for number in range(100)]
            for text in texts:
                event_log.text(text)

            writer.close()

            assert event_log.pending == 0
            assert writer.commits >= 1
            assert 0 < writer.max_delay_s < 10
        stored = plain_sql(path, "SELECT hash, text FROM texts WHERE starts_with(text, 'Text ')")
        assert sorted(stored) == sorted((_core.blake3(text.encode()), text) for text in texts)

    def test_what_is_buffered_is_committed_while_the_run_goes_on(self, tmp_path: Path) -> None:
        with make_log(tmp_path / "run.duckdb", ["Why?"]) as log:
            event_log = _core.EventLog()
            writer = log.writer(event_log)
            event_log.text("Something new.")

            deadline = time.monotonic() + 10
            while not log.query("SELECT * FROM texts WHERE text = 'Something new.'")[1]:
                assert time.monotonic() < deadline
                time.sleep(0.01)

            writer.close()

    def test_a_text_is_stored_once_whoever_records_it_again(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, ["Why?"]) as log:
            for _ in range(3):  # three processes, one after the other
                event_log = _core.EventLog()
                event_log.text("Why?")
                event_log.text("Said before.")
                log.writer(event_log).close()

        assert plain_sql(path, "SELECT text, count(*) FROM texts GROUP BY text ORDER BY text") == [
            ("Said before.", 1),
            ("Why?", 1),
        ]

    def test_a_text_is_stored_once_although_the_event_log_forgets(self, tmp_path: Path) -> None:
        # Given more texts than an event log remembers, the first of them again at the end, all in one commit
        path = tmp_path / "run.duckdb"
        event_log = _core.EventLog(max_known_texts=7_000)
        for number in range(7_001):
            event_log.text(f"{number}")
        event_log.text("0")
        assert event_log.pending == 7_002

        with make_log(path, ["Why?"]) as log:
            log.writer(event_log).close()

        assert plain_sql(path, "SELECT count(*), count(DISTINCT hash) FROM texts") == [(7_002, 7_002)]

    @pytest.mark.parametrize("max_known_texts", [100, 30, 8, 1])
    def test_a_text_is_stored_once_in_any_session_however_little_is_remembered(self, tmp_path: Path, max_known_texts: int) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, ["Why?"]) as log:
            for session in range(3):
                # Given what the file holds by now, which may be more than is remembered
                event_log = _core.EventLog(max_known_texts=max_known_texts)
                writer = log.writer(event_log)
                assert event_log.knows_all_texts == (max_known_texts > 20 * session)

                # When texts of before and new ones are said, and said again in a later commit
                for _ in range(2):
                    for number in range(20 * (session + 1)):
                        event_log.text(f"{number}")
                    while event_log.pending:
                        time.sleep(0.01)
                writer.close()

        assert plain_sql(path, "SELECT count(*), count(DISTINCT text) FROM texts") == [(61, 61)]

    def test_the_run_waits_where_the_writer_is_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matrix_py.store.writer.MAX_PENDING_ROWS", 10)
        with make_log(tmp_path / "run.duckdb", ["Why?"]) as log:
            event_log = _core.EventLog()
            writer = log.writer(event_log)
            for number in range(20_000):
                event_log.text(f"{number}")

            writer.keep_up()

            assert event_log.pending <= 10
            writer.close()

    def test_a_failed_writer_is_raised_where_the_run_waits(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, ["Why?"]) as log:
            event_log = _core.EventLog()
            writer = log.writer(event_log)
            log.query("DROP TABLE texts")  # the next commit cannot succeed
            event_log.text("Something new.")

            deadline = time.monotonic() + 10
            with refused(StoreError, str(path), "cannot be written", "resume"):
                while time.monotonic() < deadline:
                    writer.keep_up()
                    time.sleep(0.01)
            with refused(StoreError, str(path), "cannot be written"):
                writer.close()
        assert "matrix-writer" not in {thread.name for thread in threading.enumerate()}

    def test_a_full_disk_ends_the_run_in_one_line_and_resume_finishes_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        # Given what an undisturbed run comes to
        rows = [f"Question {number}?" for number in range(40)]
        with make_log(tmp_path / "undisturbed.duckdb", rows) as log:
            root = drive(log, scripted(20)).root
        assert root is not None
        # And a process that may not write files longer than 64 KiB once the log is made
        code = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from logs import drive, make_log, scripted
from matrix_py.errors import StoreError
try:
    with make_log(Path(sys.argv[1]), [f"Question {number}?" for number in range(40)]) as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))
        model = scripted(20)
        model._at_once = 1
        collect = model.collect
        model.collect = lambda timeout_s: (__import__("time").sleep(0.01), collect(timeout_s))[1]
        drive(log, model)
except StoreError as error:
    print(error)
    sys.exit(3)
"""
        path = tmp_path / "run.duckdb"

        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(Path(__file__).parent)],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (done.returncode, done.stderr) == (3, "")
        assert done.stdout.count("\n") == 1
        assert f"log {path} cannot be written: " in done.stdout
        assert "File too large" in done.stdout
        found = replay(path)
        assert found.identical
        assert 0 < found.num_turns < 120
        assert found.num_finished < 40
        # When there is room again
        model = scripted(20)
        with Log.open(path, read_only=False) as log:
            summary = drive(log, model)
        assert summary.root == root
        assert len(model.turns) == 120 - found.num_turns
        assert main(["replay", str(path)]) == 0
        assert root.hex() in capsys.readouterr().out


class TestReading:
    def test_who_reads_all_of_a_log_has_little_of_it_in_memory(self, tmp_path: Path) -> None:
        make_log(tmp_path / "run.duckdb", INSTRUCTIONS).close()
        # Given a question that takes more
        counting = "SELECT count(DISTINCT md5(range::VARCHAR)) FROM range(3000000)"
        limit = "SELECT current_setting('memory_limit')"
        with Log.open(tmp_path / "run.duckdb", read_only=True) as log:
            before = log.query(limit)[1]
            with log.bounded():
                [[bound]] = log.query(limit)[1]
                [[number]] = log.query(counting)[1]
            after = log.query(limit)[1]

        assert (bound, number) == ("122.0 MiB", 3_000_000)
        assert after == before

    def test_the_file_opens_in_plain_duckdb_with_its_tables_and_views(self, finished_file: Path) -> None:
        tables = plain_sql(finished_file, "SELECT table_name FROM duckdb_tables() ORDER BY table_name")
        views = plain_sql(finished_file, "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY view_name")
        with duckdb.connect(str(finished_file), read_only=True) as connection:
            tags = connection.execute("SELECT tags FROM duckdb_databases() WHERE NOT internal").fetchone()

        assert [name for (name,) in tables] == TABLES
        assert [name for (name,) in views] == [
            "action",
            "critique",
            "event",
            "flaw",
            "label",
            "lineage",
            "read",
            "request",
            "role",
            "scene",
            "turn",
        ]
        # Of a storage version that DuckDB 1.2 reads.
        assert tags is not None
        assert "v1.2" in str(tags[0])

    def test_the_views_say_what_was_asked_answered_and_became_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, ["Why?", ("How?", "Thus.")]) as log:
            drive(log, scripted())
            why, how = (scene.scene.hex() for scene in log.scenes())

        scenes = plain_sql(path, "SELECT scene, position, label, row, instruction, response, state, meta FROM scene ORDER BY position")
        assert scenes == [
            (why, 0, "test", 0, "Why?", f"A reply to respond of {why[:8]}.", "completed", '{"row":0}'),
            (how, 1, "test", 1, "How?", "Thus.", "completed", '{"row":1}'),
        ]
        assert plain_sql(path, "SELECT revision, reason FROM scene WHERE position = 1") == [(f"A reply to revise of {how[:8]}.", None)]
        turns = plain_sql(path, f"SELECT path, attempt, kind, outcome, text FROM turn WHERE scene = '{how}' ORDER BY path")
        assert turns == [(turn, 1, turn, "text", f"A reply to {turn} of {how[:8]}. ") for turn in ("critique", "revise")]
        events = plain_sql(path, f"SELECT seq, kind, payload ->> 'kind' FROM event WHERE scene = '{how}' ORDER BY seq")
        assert [seq for seq, _, _ in events] == list(range(7))
        assert all(kind == own for _, kind, own in events)
        assert events[-1][1] == "SceneFinished"

    def test_open_scenes_are_listed_as_open(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        make_log(path, ["Why?"]).close()

        assert plain_sql(path, "SELECT state, response, revision, reason FROM scene") == [("open", None, None, None)]

    def test_a_scene_that_revises_twice_shows_its_last_revision(self, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with make_log(path, ["Why?", "How?"], record=make_record(f"{__name__}:revising_twice")) as log:
            drive(log, scripted())

        assert plain_sql(path, "SELECT response, revision FROM scene") == [("Said.", "Said a third time.")] * 2

    def test_meta_travels_along_unchanged(self, tmp_path: Path) -> None:
        meta = {"topic": "plants 🌱", "n": 1.5, "nested": {"a": [1, None, "\u2028"]}, "big": 2**62}

        def scenes(lister: SceneLister) -> None:
            lister.add(label="x", row=7, instruction="Why?", response=None, meta=json.dumps(meta))

        path = tmp_path / "run.duckdb"
        Log.create(path, make_record(), scenes, overwrite=False).close()

        [(stored, row)] = plain_sql(path, "SELECT meta, row FROM scene")
        assert (json.loads(stored), row) == (meta, 7)

    def test_unfinished_scenes_only_are_read_for_a_resume(self, tmp_path: Path) -> None:
        model = scripted()
        answer = model._answer
        model._answer = lambda turn: RuntimeError("gone") if b"How?" in _prompt(turn) else answer(turn)
        with make_log(tmp_path / "run.duckdb", ["Why?", "How?", "When?"]) as log:
            drive(log, model)

            assert [scene.instruction for scene in log.scenes(unfinished_only=True)] == ["How?"]
            assert [len(scene.completions) for scene in log.scenes()] == [3, 0, 3]
            assert (log.num_finished(), log.root()) == (2, None)


def _prompt(turn: _core.Turn) -> bytes:
    return "".join(text for text, _ in turn.segments).encode()


async def revising_twice(scene: Scene) -> None:
    scene.emit(ResponseGiven(given=False, text="Said."))
    scene.emit(ResponseRevised(text="Said again."))
    scene.emit(ResponseRevised(text="Said a third time."))


@pytest.fixture
def finished_file(tmp_path: Path) -> Path:
    with make_log(tmp_path / "finished.duckdb", INSTRUCTIONS) as log:
        drive(log, scripted())
    return tmp_path / "finished.duckdb"
