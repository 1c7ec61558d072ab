"""A log as Parquet files and back: the same rows of the same types; what is missing or changed is refused."""

import re
from pathlib import Path

import pytest
from logs import INSTRUCTIONS, drive, make_log, plain_sql, scripted

from matrix_py.cli import main
from matrix_py.errors import FormatError, StoreError
from matrix_py.replay import replay
from matrix_py.store import FORMAT, Log
from matrix_py.store.draft import TABLES
from matrix_py.store.parquet import MANIFEST, export_log, import_log

SHAPE = "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
GOLDEN = Path(__file__).parent / "golden" / "format-1.duckdb"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A log with a scene that is open, a label, and texts of every kind."""
    model = scripted()
    answer = model._answer
    model._answer = lambda turn: (
        RuntimeError("gone") if turn.path == "revise" and any("vaccines" in text for text, _ in turn.segments) else answer(turn)
    )
    path = tmp_path / "run.duckdb"
    with make_log(path, [*INSTRUCTIONS, ('Zeile 1\n"2"\t\x1b[31m{{ x }} 🌳 \u2028', "")]) as log:
        drive(log, model)
        assert log.num_finished() == 6
    plain_sql(path, "INSERT INTO labels SELECT scene, path, attempt, 'x', 'y', 1 FROM completions LIMIT 1")
    return path


def test_there_and_back_is_the_same(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, new = tmp_path / "export", tmp_path / "new.duckdb"
    before = run.read_bytes()

    assert main(["log", "export", str(run), "--out", str(folder)]) == 0
    assert main(["log", "import", str(folder), "--out", str(new)]) == 0

    assert re.fullmatch(r"(.*: 13 tables, \d+ rows\n){2}", capsys.readouterr().out)
    assert run.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == sorted([MANIFEST, *(f"{table}.parquet" for table in TABLES)])
    assert plain_sql(new, SHAPE) == plain_sql(run, SHAPE)
    for table in TABLES:
        assert plain_sql(new, f"FROM {table}") == plain_sql(run, f"FROM {table}")
    found, expected = replay(new), replay(run)
    assert found.identical
    assert (found.root, found.num_turns) == (expected.root, expected.num_turns)
    # And it goes on as the log would have.
    with Log.open(new, read_only=False) as one, Log.open(run, read_only=False) as other:
        assert drive(one, scripted()).root == drive(other, scripted()).root is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "new.duckdb", "run.duckdb"]


def test_files_are_compressed_with_zstd_and_read_by_anybody(run: Path, tmp_path: Path) -> None:
    export_log(run, tmp_path / "export")

    [(codecs,)] = plain_sql(run, f"SELECT list(DISTINCT compression) FROM parquet_metadata('{tmp_path}/export/events.parquet')")
    assert codecs == ["ZSTD"]
    assert plain_sql(run, f"SELECT count(*) FROM '{tmp_path}/export/scenes.parquet'") == [(7,)]


def test_an_older_format_is_exported_as_it_is_and_imported_as_todays(tmp_path: Path) -> None:
    manifest = export_log(GOLDEN, tmp_path / "export")
    import_log(tmp_path / "export", tmp_path / "new.duckdb")

    assert (manifest.format, sorted(manifest.tables)) == (1, ["completions", "events", "run", "scenes", "texts"])
    found = replay(tmp_path / "new.duckdb")
    assert found.identical
    assert found.root == replay(GOLDEN).root
    with Log.open(tmp_path / "new.duckdb", read_only=False) as log:
        assert log.format == FORMAT


@pytest.mark.parametrize("table", ["run", "texts", "events"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_file_that_is_missing_or_damaged_is_refused(run: Path, tmp_path: Path, table: str, damage: str) -> None:
    folder = tmp_path / "export"
    export_log(run, folder)
    file = folder / f"{table}.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content if damage == "changed" else content[:-20])

    with pytest.raises(StoreError, match=rf"{table}.parquet (is missing|was changed or damaged).*: export the log again"):
        import_log(folder, tmp_path / "new.duckdb")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "run.duckdb"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b'{"format": 99, "tables": {}}', "format 99"),
        (b'{"format": 2, "tables": {}}', "lists no such tables"),
        (b'{"format": 2, "tables": {"../x": {"rows": 1, "blake3": ""}}}', "lists no such tables"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        import_log(tmp_path, tmp_path / "new.duckdb")


def test_what_cannot_be_done_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for arguments, message in (
        (["export", run, "--out", folder], "exists"),
        (["export", run, "--out", tmp_path / "nowhere" / "export"], "make it first"),
        (["export", tmp_path / "none", "--out", tmp_path / "export"], "does not exist"),
        (["import", folder, "--out", tmp_path / "new.duckdb"], "is no export"),
        (["import", tmp_path / "none", "--out", tmp_path / "new.duckdb"], "is no folder"),
    ):
        assert main(["log", *map(str, arguments)]) == 2
        assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)
    export_log(run, tmp_path / "export")
    assert main(["log", "import", str(tmp_path / "export"), "--out", str(run)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "folder", "run.duckdb"]
