"""Reading a log while a run writes it: the answers, what is refused, and that readers never disturb the run."""

import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from live_run import LiveRun, live_run
from logs import drive, make_log

from matrix_py import _core, show
from matrix_py.cli import main
from matrix_py.errors import ConfigError, LogLockedError, StoreError
from matrix_py.replay import replay
from matrix_py.scene import find_scene
from matrix_py.simulate import recorded_prompts, run
from matrix_py.store import Log, frames, live, meeting, open_for_reading
from matrix_py.store.frames import Request
from matrix_py.testing import ScriptedModel

TABLES = [
    "run",
    "texts",
    "scenes",
    "completions",
    "events",
    "sessions",
    "commits",
    "labels",
    "detectors",
    "datasets",
    "dataset_rows",
    "tunings",
    "tuning_steps",
    "scene",
    "turn",
    "event",
    "request",
    "read",
    "flaw",
    "role",
    "action",
    "label",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    """A run that waits in the middle of its second scene. Nothing in this module lets it go on."""
    with live_run(tmp_path_factory.mktemp("running") / "run.duckdb", turns=4) as run:
        yield run


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in the place of the one for sockets."""
    with tempfile.TemporaryDirectory(prefix="mx") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder) / "matrix"


def gaze(path: Path, statement: str, *, max_rows: int = frames.MAX_ROWS) -> socket.socket:
    """Ask, and never read the answer."""
    connection = meeting.connect(path, timeout_s=5)
    assert connection is not None
    request = Request(log=str(path), statement=statement, parameters=[], max_rows=max_rows, timeout_s=frames.MAX_TIMEOUT_S)
    frames.send_message(connection, b"Q", request)
    return connection


class TestAnswers:
    def test_the_command_line_reads_a_run_of_another_process(self, running: LiveRun, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["sql", str(running.path), "SELECT count(*) AS turns, sum(attempt) AS attempts FROM turn", "--format", "json"]) == 0
        assert msgspec.json.decode(capsys.readouterr().out) == [{"turns": 4, "attempts": 4}]
        assert main(["show", str(running.path)]) == 0
        assert capsys.readouterr().out.count(" open ") >= 2
        assert main(["show", str(running.path), "1", "--reveal"]) == 0
        assert "Instruction 1" in capsys.readouterr().out

    def test_all_of_show_reads_it(self, running: LiveRun) -> None:
        [line, *_] = [line for line in show.list_scenes(running.path, limit=5) if line.position == 1]
        assert show.transcript(running.path, line.scene)
        assert show.turn(running.path, line.scene, "respond").text.endswith(", \N{SNOWMAN}")
        assert any("Instruction 1" in text for text, _ in show.prompt(running.path, line.scene, "respond"))
        assert show.why(running.path, "1", "respond")

    def test_it_says_who_writes_and_what_the_run_is(self, running: LiveRun) -> None:
        with open_for_reading(running.path) as log:
            assert log.writer_pid == running.process.pid
            assert log.record.run_id == "test"
            assert log.path == running.path

    @pytest.mark.parametrize(
        "statement",
        [
            "FROM scenes",
            "TABLE scenes",
            "VALUES (1, 'a')",
            "DESCRIBE completions",
            "SUMMARIZE events",
            "SHOW TABLES",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE SELECT count(*) FROM turn",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4) FROM n",
            "SELECT unnest([1, 2]), random() >= 0",
            "SELECT * FROM main.scene, range(2) WHERE position = 0",
            "SELECT count(*) FROM information_schema.tables",
            "SELECT function_name FROM duckdb_functions() WHERE function_name = 'sum' LIMIT 1;",
        ],
    )
    def test_any_select_is_answered(self, running: LiveRun, statement: str) -> None:
        with open_for_reading(running.path) as log:
            columns, rows = log.query(statement)
        assert columns
        assert rows

    def test_columns_keep_their_names_and_parameters_their_types(self, running: LiveRun) -> None:
        with open_for_reading(running.path) as log:
            columns, [row] = log.query("SELECT 1 AS a, 2 AS a, $1 AS b, $2 AS c, $3 AS d, $4 AS e", ["\N{SNOWMAN}", b"\0\xff", 2.5, None])
        assert columns == ["a", "a", "b", "c", "d", "e"]
        assert row == (1, 2, "\N{SNOWMAN}", b"\0\xff", 2.5, None)

    def test_readers_at_once_get_the_same(self, running: LiveRun) -> None:
        found = []

        def read() -> None:
            for _ in range(3):
                with open_for_reading(running.path) as log:
                    found.append(log.query("SELECT path, text FROM turn ORDER BY recorded_at"))

        threads = [threading.Thread(target=read) for _ in range(2 * live.MAX_READERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6 * live.MAX_READERS
        assert all(each == found[0] for each in found)


EVERY_TYPE = """
    SELECT 1::HUGEINT AS a, 2::UHUGEINT AS b, '{"x": [1, null]}'::JSON AS c, 'a'::BLOB AS d, [1, NULL] AS e, {'a': 1, 'b': 'x'} AS f,
        MAP {'k': 1} AS g, TIME '12:00:00' AS h, TIMESTAMP '2020-01-01 10:00:00.123456' AS i, INTERVAL 3 MONTHS AS j,
        1.50::DECIMAL(10, 2) AS k, 'a'::ENUM ('a', 'b') AS l, '101'::BIT AS m, NULL AS n, [1, 2]::INT[2] AS o, 1::UTINYINT AS p,
        1.5::REAL AS q, 'nan'::DOUBLE::VARCHAR AS r, DATE '2020-01-01' AS s, ['a'::BLOB] AS t, [true] AS u,
        18446744073709551615::UBIGINT AS v,
        '00000000-0000-0000-0000-000000000001'::UUID AS w, sum(i) AS x, [[{'a': [NULL]}]] AS y FROM range(3) r(i)
"""


def test_a_live_answer_is_the_one_that_the_file_gives(tmp_path: Path) -> None:
    """The run is killed, so that the file is as it was when the run was asked."""
    statements = [*(f"FROM {name}" for name in TABLES), EVERY_TYPE]
    with live_run(tmp_path / "run.duckdb", scenes=4, turns=7) as run:
        with open_for_reading(run.path) as log:
            asked = [log.query(statement) for statement in statements]
            assert log.writer_pid == run.process.pid
        run.kill()
        with Log.open(run.path, read_only=True) as file:
            read = [file.query(statement) for statement in statements]

    assert asked == read
    for (_, live_rows), (_, file_rows) in zip(asked, read, strict=True):
        assert [[type(value) for value in row] for row in live_rows] == [[type(value) for value in row] for row in file_rows]
    lengths = {statement: len(rows) for statement, (_, rows) in zip(statements, asked, strict=True)}
    assert lengths["FROM completions"] == 7
    assert lengths["FROM events"] >= 7


class TestRefusals:
    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO texts VALUES ('a'::BLOB, 'x')",
            "DELETE FROM events",
            "UPDATE run SET root = NULL",
            "CREATE TABLE x AS SELECT 1",
            "CREATE TEMP TABLE x AS SELECT 1",
            "DROP VIEW turn",
            "COPY texts TO 'texts.csv'",
            "EXPORT DATABASE 'folder'",
            "ATTACH 'other.duckdb'",
            "DETACH run",
            "INSTALL httpfs",
            "LOAD httpfs",
            "PRAGMA threads = 4",
            "PRAGMA version",
            "CALL checkpoint()",
            "CHECKPOINT",
            "FORCE CHECKPOINT",
            "VACUUM",
            "SET threads = 4",
            "RESET threads",
            "USE memory",
            "BEGIN",
            "COMMIT",
            "PREPARE x AS SELECT 1",
            "EXPLAIN DELETE FROM events",
            "EXPLAIN ANALYZE DELETE FROM events",
            "EXPLAIN (FORMAT json) COPY texts TO 'texts.csv'",
            "SELECT 1; SELECT 2",
            "SELECT 1; DELETE FROM events",
            "",
            "-- nothing",
            "FROM checkpoint()",
            "FROM force_checkpoint()",
            "SELECT 1 WHERE EXISTS (FROM checkpoint())",
            "WITH x AS (FROM system.main.force_checkpoint()) FROM x",
            "FROM query('SELECT 1')",
            "FROM query_table(['texts'])",
            "FROM json_execute_serialized_sql('{}')",
            "FROM enable_logging()",
            "FROM truncate_duckdb_logs()",
            "SELECT write_log('x')",
            "SELECT WRITE_LOG('x')",
            "SELECT count(*) FILTER (write_log('x') IS NULL) FROM texts",
            "SELECT list_transform([1], lambda x: write_log('x'))",
            "SELECT sleep_ms(1)",
            "SELECT setseed(0.5)",
            "SELECT nextval('x')",
            "SELECT setval('x', 2)",
            "FROM read_csv('/dev/stdin')",
            "FROM read_text('run.duckdb')",
            "FROM glob('*')",
            "FROM 'texts.csv'",
            "FROM 'folder/texts'",
            "FROM folder.texts.csv",
            "FROM duckdb_secrets()",
        ],
    )
    def test_what_could_change_something_is_not_run(self, running: LiveRun, statement: str) -> None:
        with open_for_reading(running.path) as log:
            before = log.query("FROM run UNION ALL FROM run"), log.query("SHOW TABLES"), log.query("SELECT count(*) FROM events")
            with pytest.raises(StoreError, match=r"(is not answered while a run writes the log|not one): .*") as caught:
                log.query(statement)
            assert "\n" not in str(caught.value)
            assert before == (log.query("FROM run UNION ALL FROM run"), log.query("SHOW TABLES"), log.query("SELECT count(*) FROM events"))

    def test_writing_is_refused_by_duckdb_as_well(self, running: LiveRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(live.StatementCheck, "one", lambda self, cursor, text: text)
        refused: list[str] = []

        def answer(turn: _core.Turn) -> str:
            if not refused:
                with open_for_reading(tmp_path / "run.duckdb") as log, pytest.raises(StoreError, match="read-only") as caught:
                    log.query("INSERT INTO texts VALUES ('a'::BLOB, 'x')")
                refused.append(str(caught.value))
            return turn.path

        with make_log(tmp_path / "run.duckdb", ["One?"]) as log:
            assert drive(log, ScriptedModel(answer)).num_finished == 1
        assert refused

    def test_an_error_of_sql_is_duckdbs_in_one_line(self, running: LiveRun, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["sql", str(running.path), "SELECT nothing FROM turn"]) == 2
        error = capsys.readouterr().err
        assert "nothing" in error
        assert "Binder Error" in error
        assert error.count("\n") == 1
        assert main(["sql", str(running.path), "SELECT CAST(path AS INT) FROM turn"]) == 2
        assert "Conversion Error" in capsys.readouterr().err

    def test_more_rows_than_allowed_are_an_error(self, running: LiveRun, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["sql", str(running.path), "FROM range(100001)"]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert "--max-rows" in error
        assert "100000" in error
        assert main(["sql", str(running.path), "FROM range(5)", "--max-rows", "4"]) == 2
        assert main(["sql", str(running.path), "FROM range(5)", "--max-rows", "5", "--format", "csv"]) == 0
        assert main(["sql", str(running.path), "SELECT count(*) FROM range(100001)"]) == 0

    def test_a_query_that_takes_too_long_is_ended(self, running: LiveRun, capsys: pytest.CaptureFixture[str]) -> None:
        endless = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000000) b"
        assert main(["sql", str(running.path), endless, "--timeout", "0.3"]) == 2
        assert "no answer within 0.3 s" in capsys.readouterr().err
        rows = "SELECT a.range FROM range(100000000) a, range(100000000) b WHERE a.range + b.range < 0"
        assert main(["sql", str(running.path), rows, "--timeout", "0.3"]) == 2
        assert "--timeout" in capsys.readouterr().err
        assert main(["sql", str(running.path), "SELECT 1"]) == 0

    def test_limits_out_of_range_are_refused_of_any_log(self, log_file: Path) -> None:
        for limits in (
            {"max_rows": 0},
            {"max_rows": frames.MAX_ROWS + 1},
            {"timeout_s": 0.0},
            {"timeout_s": 61.0},
            {"timeout_s": float("nan")},
        ):
            with pytest.raises(ConfigError, match="give"):
                open_for_reading(log_file, **limits)  # type: ignore[arg-type]

    def test_a_parameter_of_another_kind_is_refused(self, running: LiveRun) -> None:
        with open_for_reading(running.path) as log:
            for value in (object(), 1 << 70, "\ud800"):
                with pytest.raises(StoreError, match="parameter"):
                    log.query("SELECT $1", [value])

    def test_bytes_that_are_no_request_end_only_their_connection(self, running: LiveRun) -> None:
        for sent in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">cI", b"Q", 1 << 31), struct.pack(">cI", b"Q", 3) + b"\xc1\xc1\xc1"):
            connection = meeting.connect(running.path, timeout_s=5)
            assert connection is not None
            with connection:
                connection.settimeout(20)
                connection.sendall(sent)
                tag, content = frames.receive(connection)
                assert (tag, msgspec.msgpack.decode(content)["kind"]) == (b"E", "refused")
        with open_for_reading(running.path) as log:
            assert log.query("SELECT 1")[1] == [(1,)]


class TestSockets:
    def test_socket_and_folder_are_the_users_alone(self, sockets: Path, tmp_path: Path) -> None:
        modes = []

        def answer(turn: _core.Turn) -> str:
            [path] = sockets.iterdir()
            modes.append([(stat.S_IMODE(each.stat().st_mode), each.stat().st_uid) for each in (path, sockets)])
            assert stat.S_ISSOCK(path.stat().st_mode)
            return turn.path

        with make_log(tmp_path / "run.duckdb", ["One?"]) as log:
            drive(log, ScriptedModel(answer))
        assert modes[0] == [(0o600, os.getuid()), (0o700, os.getuid())]
        assert list(sockets.iterdir()) == []

    @pytest.mark.parametrize("how", ["writable", "a link", "a file"])
    def test_in_a_folder_of_others_nobody_listens_and_the_run_goes_on(self, sockets: Path, tmp_path: Path, how: str) -> None:
        match how:
            case "writable":
                sockets.mkdir()
                sockets.chmod(0o777)
            case "a link":
                (tmp_path / "elsewhere").mkdir()
                sockets.symlink_to(tmp_path / "elsewhere")
            case _:
                sockets.touch()
        path, notices = tmp_path / "run.duckdb", Notices()

        def answer(turn: _core.Turn) -> str:
            with pytest.raises(LogLockedError):
                open_for_reading(path)
            return turn.path

        with make_log(path, ["One?"]) as log:
            config = log.record.config
            model = ScriptedModel(answer)
            assert run(log, recorded_prompts(config), find_scene(config.scene), model, window=1, reporter=notices).num_finished == 1
        [notice] = notices.lines
        assert str(sockets) in notice
        assert "nobody else can read it" in notice

    def test_a_socket_that_would_have_too_long_a_name_is_not_made(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        folder = tmp_path / ("long" * 25)
        folder.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        with pytest.raises(StoreError, match="more than 103 bytes: set XDG_RUNTIME_DIR"):
            meeting.listen(tmp_path / "run.duckdb")

    def test_another_user_is_not_answered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live.meeting, "is_ours", lambda connection: connection.getsockname() == "")
        answers = []

        def answer(turn: _core.Turn) -> str:
            if not answers:
                connection = meeting.connect(tmp_path / "run.duckdb", timeout_s=20)
                assert connection is not None
                with connection, pytest.raises(frames.CutOffError):
                    frames.receive(connection)
                answers.append("none")
            return turn.path

        with make_log(tmp_path / "run.duckdb", ["One?"]) as log:
            assert drive(log, ScriptedModel(answer)).num_finished == 1
        assert answers

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux tells who is at the other end")
    def test_who_is_at_the_other_end_is_asked_of_the_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one, other = socket.socketpair()
        with one, other:
            assert meeting.is_ours(one)
            monkeypatch.setattr(os, "getuid", lambda: 4321)
            assert not meeting.is_ours(one)


class TestDisturbances:
    def test_readers_that_hang_hold_up_neither_the_run_nor_its_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, hanging = tmp_path / "run.duckdb", []

        def answer(turn: _core.Turn) -> str:
            if not hanging:
                silent = meeting.connect(path, timeout_s=5)
                assert silent is not None
                hanging.append(silent)
                # Far more than a socket's buffers hold, and never read; work without an end; and one that is gone at once.
                hanging.append(gaze(path, "SELECT repeat('x', 10000) FROM range(100000)"))
                hanging.append(gaze(path, "SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000000) b"))
                gaze(path, "FROM turn").close()
            return turn.path

        with make_log(path, ["One?", "Two?"]) as log:
            summary = drive(log, ScriptedModel(answer, at_once=1))
            assert summary.num_finished == 2
            assert summary.root is not None
        for connection in hanging:
            connection.close()
        assert not path.with_name("run.duckdb.wal").exists()
        assert replay(path).identical
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("matrix-")]

    def test_with_too_many_readers_one_more_is_told(self, tmp_path: Path) -> None:
        path, told = tmp_path / "run.duckdb", []

        def answer(turn: _core.Turn) -> str:
            if not told:
                endless = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000000) b"
                hanging = [gaze(path, endless) for _ in range(live.MAX_READERS)]
                with pytest.raises(StoreError, match="as many readers as it can have") as caught:
                    open_for_reading(path, timeout_s=0.2)
                told.append(str(caught.value))
                for connection in hanging:
                    connection.close()
                # Nobody waits for those any more: there is room again.
                with open_for_reading(path) as log:
                    assert log.query("SELECT 1")[1] == [(1,)]
            return turn.path

        with make_log(path, ["One?"]) as log:
            assert drive(log, ScriptedModel(answer)).num_finished == 1
        assert told

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="memory is read from Linux's /proc")
    def test_a_query_that_needs_too_much_memory_is_ended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live, "MAX_GROWTH_MIB", 64)
        path, told = tmp_path / "run.duckdb", []

        def answer(turn: _core.Turn) -> str:
            if not told:
                with open_for_reading(path, timeout_s=60) as log, pytest.raises(StoreError, match="more than 64 MiB") as caught:
                    log.query("SELECT list(range::VARCHAR || repeat('x', 40)) FROM range(100000000)")
                told.append(str(caught.value))
            return turn.path

        with make_log(path, ["One?"]) as log:
            assert drive(log, ScriptedModel(answer)).num_finished == 1
        assert told

    def test_a_reader_goes_on_with_the_file_when_the_run_ends(self, tmp_path: Path) -> None:
        with live_run(tmp_path / "run.duckdb", turns=2) as run, open_for_reading(run.path) as log:
            assert log.writer_pid == run.process.pid
            assert run.finish() == ""
            assert log.query("SELECT count(*) FROM scene WHERE state = 'completed'")[1] == [(3,)]
            assert log.writer_pid is None
            assert log.query("SELECT count(*) FROM range(200000)")[1] == [(200000,)]

    def test_a_run_that_was_killed_is_read_from_its_file_and_its_socket_replaced(self, sockets: Path, tmp_path: Path) -> None:
        path = tmp_path / "run.duckdb"
        with live_run(path, turns=2) as first:
            first.kill()
        [left] = sockets.iterdir()
        with open_for_reading(path) as log:
            assert log.writer_pid is None
            assert log.query("SELECT count(*) FROM completions")[1] == [(2,)]

        with live_run(path, turns=1, before=2) as second:
            with open_for_reading(path) as log:
                assert log.writer_pid == second.process.pid
            assert list(sockets.iterdir()) == [left]
            second.finish()
        assert list(sockets.iterdir()) == []
        assert replay(path).identical

    def test_a_log_that_another_program_holds_gives_the_error_of_old(self, log_file: Path, sockets: Path) -> None:
        meeting.listen(log_file)[0].close()  # left from a killed run
        with Log.open(log_file, read_only=False), pytest.raises(LogLockedError, match="close it first"):
            open_for_reading(log_file)
        with open_for_reading(log_file) as log:
            assert log.writer_pid is None

    def test_who_wants_to_write_waits_for_who_just_reads(self, log_file: Path) -> None:
        code = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); sys.stdin.read()"
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code, str(log_file)], stdin=pipe, stdout=pipe) as holder:
            assert holder.stdout is not None
            assert holder.stdin is not None
            assert holder.stdout.readline() == b"open\n"
            with pytest.raises(LogLockedError, match=f"process {holder.pid} "):
                Log.open(log_file, read_only=False)
            threading.Timer(0.2, holder.stdin.close).start()
            Log.open(log_file, read_only=False).close()

    def test_the_file_is_read_without_limits(self, log_file: Path) -> None:
        with open_for_reading(log_file, max_rows=1) as log:
            assert len(log.query("FROM range(10)")[1]) == 10


class TestArrowBytes:
    def test_a_stream_comes_back_batch_by_batch(self) -> None:
        event_log = _core.EventLog()
        texts = [event_log.text(f"text {number}") for number in range(5)]
        batches = event_log.drain()
        assert batches is not None

        encoder = _core.ipc_encode(batches[0])
        pieces = [next(encoder)]
        assert encoder.rows == 5
        pieces += encoder
        table = _core.ipc_decode(b"".join(pieces))

        assert len(table) == len(texts)
        again = _core.ipc_encode(table)
        assert b"".join(again) == b"".join(pieces)
        assert len(_core.ipc_decode(b"".join(_core.ipc_encode(table)))) == 5

    def test_bytes_that_are_not_whole_are_refused(self) -> None:
        for data in (b"", b"nonsense", b"\xff\xff\xff\xff\x10\0\0\0"):
            with pytest.raises(StoreError):
                _core.ipc_decode(data)

    def test_what_gives_no_stream_is_refused(self) -> None:
        with pytest.raises(AttributeError):
            _core.ipc_encode(object())


class Notices:
    """A reporter that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, counts: object, num_open: int, num_scenes: int) -> None:
        pass
