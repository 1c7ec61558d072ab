"""The command line: one line for what is wrong, nothing half-written, and untrusted text that stays text."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from logs import INSTRUCTIONS, drive, make_log, plain_sql
from rich.console import Console

import matrix_py
from matrix_py.cli import main
from matrix_py.errors import StoreError
from matrix_py.models.llama import supports_gpu
from matrix_py.replay import replay
from matrix_py.scene.registry import SCENES
from matrix_py.simulate import RunSummary
from matrix_py.store import Log
from matrix_py.testing import ScriptedModel
from matrix_py.testing.random_gguf import write_random_gguf

COMMANDS = [
    "simulate",
    "resume",
    "replay",
    "fork",
    "regenerate",
    "diff",
    "reask",
    "attribute",
    "ablate",
    "export",
    "tune",
    "show",
    "sql",
    "label",
    "status",
    "demo",
    "bench",
    "log",
]
HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eright to left [bold]not bold[/bold] :smile: \x9b2J\ttab\rend."

Refusal = Callable[..., str]


def start(*arguments: object) -> "subprocess.Popen[str]":
    """Run a command in a process of its own, whatever the folder."""
    search = os.pathsep.join([str(Path(matrix_py.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from matrix_py.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": search},
    )


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Run a command that is refused, and return its one line."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert re.fullmatch(r"error: [^\n]+\n", shown.err), shown.err
        return shown.err

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder of models that cannot be used."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "truncated.gguf").write_bytes(tiny_model.read_bytes()[:-20_000])
    write_random_gguf(folder / "bytes.gguf", byte_tokens=False)
    write_random_gguf(folder / "f32.gguf", quantization="f32")
    write_random_gguf(folder / "other.gguf", seed=1)
    (folder / "text.gguf").write_text("dear diary")
    (folder / "empty.gguf").touch()
    return folder


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, models: Path, finished: RunSummary, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with inputs, models and an empty folder `out`."""
    (tmp_path / "in.jsonl").write_text('{"instruction": "Why?"}\n')
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "columns.csv").write_text("title,text\na,b\n")
    (tmp_path / "broken.jsonl").write_text('{"instruction": "Why?"}\n{"instruction": "How?"}\n{"instruction": \n')
    (tmp_path / "tiny.gguf").symlink_to(tiny_model)
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    (tmp_path / "bad.toml").write_text("[respond]\nmax_tokens = 'many'\n")
    (tmp_path / "broken.toml").write_text("[respond\n")
    (tmp_path / "diary").write_text("dear diary " * 1000)
    plain_sql(tmp_path / "plain.duckdb", "CREATE TABLE t (x INTEGER)")
    shutil.copy(finished.path, tmp_path / "run.duckdb")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[Path, int]:
    """All that is in a folder, with when files were last written."""
    return {path: 0 if path.is_dir() else path.lstat().st_mtime_ns for path in folder.rglob("*")}


SIMULATE = {"input": "in.jsonl", "--out": "out/run.duckdb", "--model": "tiny.gguf", "--threads": "1"}
# What is given otherwise than in SIMULATE, and what the one line names.
BAD_RUNS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "missing input": ({"input": "none.jsonl"}, ("none.jsonl", "no such file")),
    "empty input": ({"input": "empty.jsonl"}, ("empty.jsonl", "is empty")),
    "input without instructions": ({"input": "columns.csv"}, ("columns.csv", "no instruction column", "'title', 'text'")),
    "broken JSON": ({"input": "broken.jsonl"}, ("broken.jsonl", "line 3")),
    "input of an unknown kind": ({"input": "diary"}, ("diary", ".jsonl")),
    "missing model": ({"--model": "none.gguf"}, ("none.gguf", "does not exist")),
    "model is no GGUF": ({"--model": "text.gguf"}, ("text.gguf", "no GGUF")),
    "model is empty": ({"--model": "empty.gguf"}, ("empty.gguf", "empty")),
    "model is a folder": ({"--model": "out"}, ("out", "is a folder")),
    "model is truncated": ({"--model": "truncated.gguf"}, ("truncated.gguf", "truncated")),
    "model without byte tokens": ({"--model": "bytes.gguf"}, ("bytes.gguf", "byte tokens")),
    "model name on a hub": ({"--model": "hf:nothing"}, ("hf:nothing", "hf:OWNER/REPO")),
    "deterministic with an F32 model": (
        {"--model": "f32.gguf", "--deterministic": ""},
        ("--deterministic is not possible with f32.gguf", "Q8_0"),
    ),
    "parallel 0": ({"--parallel": "0"}, ("--parallel is 0", "1 to 256")),
    "parallel 1000": ({"--parallel": "1000"}, ("--parallel is 1000", "256")),
    "no number": ({"--parallel": "many"}, ("--parallel", "integer")),
    "no decimal": ({"--seed": "1.5"}, ("--seed", "integer")),
    "no roles": ({"--roles": "0"}, ("--roles is 0", "1 to 16")),
    "17 roles": ({"--roles": "17"}, ("--roles is 17", "1 to 16")),
    "51 steps": ({"--steps": "51"}, ("--steps is 51", "1 to 50")),
    "no interactions": ({"--interactions": "0"}, ("--interactions is 0", "1 to 1000")),
    "waves without end": ({"--depth": "11"}, ("--depth is 11", "1 to 10")),
    "two names of a scene": ({"--scene": "vanilla", "--method": "matrix"}, ("--scene 'vanilla'", "--method 'matrix'", "one of them")),
    "unknown method": ({"--method": "frobnicate"}, ("--method", "frobnicate")),
    "limit 0": ({"--limit": "0"}, ("--limit is 0", "at least 1")),
    "seed below 0": ({"--seed": "-1"}, ("--seed is -1",)),
    "context of 8": ({"--ctx": "8"}, ("--ctx is 8", "at least")),
    "context beyond the model's": ({"--ctx": "100000"}, ("--ctx is 100000", "2048")),
    "no threads": ({"--threads": "0"}, ("--threads is 0", "at least 1")),
    "batch of 1": ({"--batch": "1"}, ("--batch is 1", "at least")),
    "minus two layers": ({"--gpu-layers": "-2"}, ("--gpu-layers is -2", "-1 for all")),
    "unknown option": ({"--frobnicate": "1"}, ("--frobnicate",)),
    "unknown scene": ({"--scene": "frobnicate"}, ("frobnicate", ", ".join(sorted(SCENES)))),
    "scene that cannot be imported": ({"--scene": "no.such:scene"}, ("no.such:scene", "cannot be imported")),
    "scene that is no async function": ({"--scene": "json:dumps"}, ("json:dumps", "async def dumps")),
    "bad dialogue": ({"--dialogue": "whole"}, ("--dialogue is 'whole'", "single, first, last-with-context")),
    "missing prompt folder": ({"--prompts": "none"}, ("prompt folder none", "does not exist")),
    "missing settings": ({"--config": "none.toml"}, ("none.toml", "cannot be read")),
    "settings of a wrong type": ({"--config": "bad.toml"}, ("[respond]", "max_tokens")),
    "settings that do not parse": ({"--config": "broken.toml"}, ("broken.toml", "not valid TOML")),
    "missing chat template": ({"--chat-template": "none.jinja"}, ("none.jinja", "chatml")),
    "output exists": ({"--out": "run.duckdb"}, ("run.duckdb exists", "--overwrite")),
    "output is a folder": ({"--out": "out"}, ("out is a folder", "out/run.duckdb")),
    "output in a folder that is not there": ({"--out": "none/run.duckdb"}, ("folder none", "does not exist")),
    "output under a file": ({"--out": "diary/run.duckdb"}, ("folder diary", "does not exist")),
    "output with a name that is too long": ({"--out": "a" * 300}, ("name too long",)),
    "output with a name too long for its draft": ({"--out": "a" * 246}, ("name too long",)),
}
if Path("/proc/self").is_dir():
    # Nobody can make files here, not even root.
    BAD_RUNS["output that cannot be written"] = ({"--out": "/proc/run.duckdb"}, ("folder /proc cannot be written",))
if not supports_gpu():
    BAD_RUNS["layers on no GPU"] = ({"--gpu-layers": "4"}, ("--gpu-layers is 4", "without a GPU"))


@pytest.mark.parametrize(("changes", "parts"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_a_run_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    place: Path, refusal: Refusal, changes: dict[str, str], parts: tuple[str, ...]
) -> None:
    before = files(place)
    options = SIMULATE | changes

    line = refusal("simulate", options.pop("input"), *(part for option in options.items() for part in option if part))

    assert [part for part in parts if part not in line] == [], line
    assert files(place) == before


# The logs are in the folder `place`.
BAD_READS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **{
        f"{name} of {what}": ((name, file, *rest), (file, reason))
        for name, rest in {
            "replay": (),
            "resume": (),
            "regenerate": (),
            "fork": ("--seed=5", "--dry-run"),
            "show": (),
            "label": (),
            "sql": ("SELECT 1",),
        }.items()
        for what, file, reason in (
            ("no file", "none.duckdb", "does not exist"),
            ("no DuckDB file", "diary", "log diary: "),
            ("no log", "plain.duckdb", "no matrix log"),
            ("a folder", "out", "does not exist"),
        )
    },
    "bad SQL": (("sql", "run.duckdb", "SELEC 1"), ("SQL on run.duckdb", "syntax error")),
    "SQL that would write": (("sql", "run.duckdb", "DROP TABLE events"), ("SQL on run.duckdb", "read-only")),
    "SQL with a column twice": (("sql", "run.duckdb", "SELECT 1 AS a, 2 AS a", "--format=json"), ("column 'a'", "AS")),
    "unknown format": (("sql", "run.duckdb", "SELECT 1", "--format=xml"), ("--format", "xml")),
    "scene that is not there": (("show", "run.duckdb", "99"), ("no scene", "'99'")),
    "scene of no id": (("show", "run.duckdb", "²"), ("no scene", "'²'")),
    "scene of many": (("show", "run.duckdb", ""), ("more than one scene", "''")),
    "turn that is not there": (
        ("show", "run.duckdb", "0", "--turn=reply", "--prompt"),
        ("no turn 'reply'", "respond, critique, revise"),
    ),
    "attempt that is not there": (("show", "run.duckdb", "0", "--turn=revise#2", "--prompt"), ("no turn 'revise#2'",)),
    "attempt of no number": (("show", "run.duckdb", "0", "--turn=revise#²", "--prompt"), ("no turn 'revise#²'",)),
    "prompt without turn": (("show", "run.duckdb", "0", "--prompt"), ("--prompt", "give --turn PATH")),
    "prompt without scene": (("show", "run.duckdb", "--prompt", "--turn=revise"), ("--turn", "give a SCENE")),
    "causes without scene": (("show", "run.duckdb", "--why=revise"), ("--why", "give a SCENE")),
    "document without scene": (("show", "run.duckdb", "--format=json"), ("--format json", "give a SCENE")),
    "turn and causes": (("show", "run.duckdb", "0", "--turn=revise", "--why=revise"), ("--turn", "--why", "give one of them")),
    "prompt as document": (("show", "run.duckdb", "0", "--turn=revise", "--prompt", "--format=json"), ("--prompt", "leave out --format")),
    "scene in no format": (("show", "run.duckdb", "0", "--format=xml"), ("--format", "xml")),
    "causes of nothing": (("show", "run.duckdb", "0", "--why=reply"), ("no turn and no action 'reply'", "respond, critique, revise")),
    "list of less than nothing": (("show", "run.duckdb", "--limit=-1"), ("--limit is -1", "at least 1")),
    "model that is another one": (("resume", "open.duckdb", "--model=other.gguf", "--quiet", "--threads=1"), ("other.gguf", "not the one")),
    "unknown command": (("frobnicate",), ("frobnicate",)),
    "missing argument": (("simulate",), ("Missing argument", "INPUT")),
    "missing output": (("simulate", "in.jsonl"), ("--out is missing",)),
}


@pytest.mark.parametrize("folder", ["diary/demo", *(["/proc"] if Path("/proc/self").is_dir() else [])])
def test_a_demo_that_cannot_be_written_ends_in_one_line(place: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", folder]) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(rf"This demo .+\nerror: folder {folder} cannot be written .+--out\n", shown.err)


@pytest.mark.parametrize(("arguments", "parts"), BAD_READS.values(), ids=BAD_READS)
def test_what_cannot_be_read_is_refused_in_one_line(
    place: Path, refusal: Refusal, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    if "open.duckdb" in arguments:
        make_log(place / "open.duckdb", ["Why?"]).close()

    line = refusal(*arguments)

    assert [part for part in parts if part not in line] == [], line


def test_standard_input_that_breaks_leaves_nothing(place: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    # Unlike a file, it cannot be read before the log is begun.
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"instruction": "Why?"}\nnonsense\n')))

    line = refusal("simulate", "-", "--out=out/run.duckdb", "--model=tiny.gguf", "--threads=1", "--quiet", "--no-deterministic")

    assert "standard input, line 2" in line
    assert list((place / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("simulate", "none.jsonl", "--out", "out/run.duckdb", "--model", "tiny.gguf"), "none.jsonl"),
        (("simulate", "in.jsonl", "--out", "out/run.duckdb", "--model", "tiny.gguf", "--parallel", "x"), "--parallel"),
        (("replay", "diary"), "diary"),
    ],
)
def test_a_process_that_is_refused_ends_with_2_and_one_line(place: Path, arguments: tuple[str, ...], part: str) -> None:
    with start(*arguments) as process:
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert part in err
    assert list((place / "out").iterdir()) == []


def test_errors_print_no_live_escape_sequence(refusal: Refusal) -> None:
    line = refusal("replay", "run\x1b[31m\x9b2J\n.duckdb")

    assert r"run\x1b[31m\x9b2J .duckdb" in line


def test_long_errors_keep_their_remedy(refusal: Refusal, tmp_path: Path) -> None:
    path = tmp_path / ("a" * 200) / ("b" * 200) / "run.duckdb"

    assert f"log {path} does not exist: give the file that" in refusal("replay", path)


def test_debug_raises_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATRIX_DEBUG", "")  # --debug sets it; this takes it back

    with pytest.raises(StoreError):
        main(["--debug", "replay", "none.duckdb"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0

    shown = capsys.readouterr()
    assert shown.out.strip().startswith(f"Usage: matrix {name}")
    assert shown.err == ""


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0

    shown = capsys.readouterr()
    assert re.findall(r"^  ([a-z]+) ", shown.out, re.MULTILINE) == COMMANDS
    assert shown.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"matrix {matrix_py.__version__}\n"


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, ScriptedModel]:
    """A log in which the instruction and all completions hold escape sequences and markup; and the script that was asked."""
    model = ScriptedModel(lambda turn: f"{turn.path}: {HOSTILE}")
    path = tmp_path / "hostile.duckdb"
    with make_log(path, [f"What is {HOSTILE}", "Why?"]) as log:
        drive(log, model)
    return path, model


class TestShow:
    def test_the_list_hides_instructions_unless_revealed(
        self, hostile: tuple[Path, ScriptedModel], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, _ = hostile
        length = len(f"What is {HOSTILE}")

        assert main(["show", str(path)]) == 0
        hidden = capsys.readouterr().out
        assert main(["show", str(path), "--reveal"]) == 0
        revealed = capsys.readouterr().out

        assert hidden.splitlines()[0].split() == ["#", "scene", "input", "state", "instruction"]
        assert f"[{length} characters]" in hidden
        assert "completed" in hidden
        assert "red" not in hidden
        assert r"\x1b[31mred\x1b[0m" in revealed.replace("\n", "")
        assert "[bold]" in revealed

    def test_limit_lists_the_first_scenes(self, log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["show", str(log_file), "--limit", "2"]) == 0

        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["#", "0", "1"]

    @pytest.mark.parametrize("terminal", [False, True])
    def test_a_scene_is_hidden_unless_revealed_and_never_live(
        self,
        hostile: tuple[Path, ScriptedModel],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        terminal: bool,
    ) -> None:
        path, _ = hostile
        if terminal:
            monkeypatch.setattr("matrix_py.terminal.console", Console(highlight=False, force_terminal=True, color_system="256"))

        assert main(["show", str(path), "0"]) == 0
        hidden = capsys.readouterr().out
        assert main(["show", str(path), "0", "--reveal"]) == 0
        revealed = capsys.readouterr().out

        for text in (hidden, revealed):
            assert ("\x1b" in text) == terminal  # the headings' own bold, and nothing else
            assert not re.search("\x1b(?!\\[[0-9;]*m)|\x1b\\[31m|\x07|\x9b|\u202e|\r", text)
        assert "not bold" not in hidden
        assert f"[{len(HOSTILE) + len('respond: ')} characters hidden; --reveal shows them]" in hidden
        for turn in ("respond", "critique", "revise"):
            assert turn + r": \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eright to left [bold]not bold[/bold] :smile: \x9b2J" in revealed

    def test_a_scene_goes_by_place_id_and_first_digits(self, log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        [(scene,)] = plain_sql(log_file, "SELECT scene FROM scene WHERE position = 3", read_only=True)
        shown = []
        for name in ("3", scene, scene[:12], scene[:20].upper()):
            assert main(["show", str(log_file), name]) == 0
            shown.append(capsys.readouterr().out)

        assert shown[0].startswith(f"scene {scene} (questions, row 3), completed\n")
        assert shown == [shown[0]] * 4

    def test_prompt_prints_exactly_what_the_model_was_asked(
        self, hostile: tuple[Path, ScriptedModel], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, model = hostile
        [turn] = [turn for turn in model.turns if turn.path == "revise" and "What is" in "".join(t for t, _ in turn.segments)]

        assert main(["show", str(path), "0", "--turn", "revise", "--prompt", "--reveal"]) == 0
        revealed = capsys.readouterr().out
        assert main(["show", str(path), "0", "--turn", "revise#1", "--prompt"]) == 0
        hidden = capsys.readouterr().out

        def escaped(text: str) -> str:
            return re.sub("[\x1b\x07\x9b\u202e\r]", lambda found: found[0].encode("unicode_escape").decode(), text)

        assert revealed == "".join(escaped(text) for text, _ in turn.segments) + "\n"
        assert "\ttab" in revealed
        assert hidden == "".join(text if trusted else f"[{len(text)} characters hidden]" for text, trusted in turn.segments) + "\n"

    def test_text_that_people_write_shows_as_they_wrote_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        # Indentation, tabs, a no-break space, a family emoji with its joiners, a long line, dots at its end, an empty line
        said = "  def f():\n\treturn\xa0👨\u200d👩\u200d👧 …\n\n" + "long " * 60 + "line..."
        with make_log(tmp_path / "run.duckdb", ["Why?"]) as log:
            drive(log, ScriptedModel(lambda turn: f"It is\n{said}"))

        assert main(["show", str(tmp_path / "run.duckdb"), "0", "--reveal"]) == 0

        assert "".join(f"  {line}\n" for line in said.split("\n")).expandtabs() in capsys.readouterr().out.expandtabs()


class TestSql:
    def test_table(self, log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["sql", str(log_file), "SELECT kind, count(*) AS turns FROM turn GROUP BY kind ORDER BY kind"]) == 0

        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines == [["kind", "turns"], ["critique", "6"], ["respond", "6"], ["revise", "6"]]

    def test_csv(self, hostile: tuple[Path, ScriptedModel], capsys: pytest.CaptureFixture[str]) -> None:
        path, _ = hostile
        statement = 'SELECT position AS "p\x1b[31m", instruction || chr(10) || \'and "more", \' AS text, NULL AS none FROM scene ORDER BY 1'

        assert main(["sql", str(path), statement, "--format", "csv"]) == 0

        out = capsys.readouterr().out
        rows = list(csv.reader(io.StringIO(out)))
        assert rows[0] == [r"p\x1b[31m", "text", "none"]
        assert rows[2] == ["1", 'Why?\nand "more", ', ""]
        assert rows[1][1].startswith(r"What is \x1b[31mred")
        assert "\x1b" not in out

    def test_json_is_exact_and_safe_to_print(self, hostile: tuple[Path, ScriptedModel], capsys: pytest.CaptureFixture[str]) -> None:
        path, _ = hostile
        statement = """
            SELECT instruction AS text, ':smile: [bold]' AS markup, repeat('wide ', 500) AS wide, scene[1:0] || 'é🌳' AS other,
                unhex('00ff') AS digest, 170141183460469231731687303715884105727::HUGEINT AS big, 'nan'::DOUBLE AS nan,
                1.5 AS decimal, TIMESTAMP '2026-01-02 03:04:05' AS at, [unhex('ab'), NULL] AS list, {'a': DATE '2026-01-02'} AS struct,
                true AS yes, NULL AS none
            FROM scene ORDER BY position
        """

        assert main(["sql", str(path), statement, "--format", "json"]) == 0

        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert all(char.isprintable() or char == "\n" for char in out)
        first, second = json.loads(out)
        assert second["text"] == "Why?"
        assert first == {
            "text": f"What is {HOSTILE}",
            "markup": ":smile: [bold]",
            "wide": "wide " * 500,
            "other": "é🌳",
            "digest": "00ff",
            "big": 2**127 - 1,
            "nan": None,
            "decimal": "1.5",
            "at": "2026-01-02T03:04:05",
            "list": ["ab", None],
            "struct": {"a": "2026-01-02"},
            "yes": True,
            "none": None,
        }

    def test_no_rows(self, log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for output, expected in (("json", "[]\n"), ("csv", "kind\n")):
            assert main(["sql", str(log_file), "SELECT kind FROM turn WHERE false", "--format", output]) == 0
            assert capsys.readouterr().out == expected

    @pytest.mark.parametrize("output", ["table", "csv", "json"])
    def test_a_reader_that_goes_away_is_no_error(self, log_file: Path, output: str) -> None:
        with start("sql", log_file, "SELECT repeat('wide ', 20) AS w FROM range(5000)", "--format", output) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()

            assert process.stderr.read() == ""


def test_the_demo_makes_simulates_shows_replays_forks_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a" / "demo"

    assert main(["demo", "--out", str(folder)]) == 0

    shown = capsys.readouterr()
    found = re.search(r"^replay: identical, 6 scenes, \d+ turns, root ([0-9a-f]{64})$", shown.out, re.MULTILINE)
    assert found
    assert f"root {found[1]}\n" in shown.out
    # Two scenes as transcripts; which of them are the liveliest depends on the machine's arithmetic.
    assert len(set(re.findall(r"^instruction\n  (\S.*)", shown.out, re.MULTILINE))) == 2
    assert len(re.findall(r"^step 1\n  1 ", shown.out, re.MULTILINE)) == 2
    assert "not finished" not in shown.err
    # What it proposes to try next works.
    proposed = re.findall(r"^  matrix (.+)$", shown.out, re.MULTILINE)
    assert len(proposed) == 5
    # The fork has one role less.
    assert re.search(r"^1 turns edited: roles 1$", shown.out, re.MULTILINE)
    assert "B is a fork of A; turns that were edited: cast/roles (remove role), cast/public (remove role)\n" in shown.out
    assert re.search(r"^roles removed +1\.00$", shown.out, re.MULTILINE)
    assert "roles added" in shown.out.split("none: ")[1]
    assert replay(folder / "fork.duckdb").identical
    for line in proposed:
        arguments = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', line)]
        assert main(arguments) == 0
        assert capsys.readouterr().out


def test_without_a_model_the_embedded_one_runs(input_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.duckdb"
    assert main(["simulate", str(input_file), "--out", str(out), "--scene", "vanilla", "--limit", "1", "--ctx", "512", "-q"]) == 0
    with Log.open(out, read_only=True) as log:
        assert (log.record.execution.model_path, log.record.config.deterministic) == ("embedded", True)


def test_resuming_a_finished_run_says_so_and_changes_nothing(
    log_file: Path, finished: RunSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(log_file)]) == 0

    assert finished.root is not None
    shown = capsys.readouterr()
    assert shown.err == "every scene is finished: there is nothing to resume\n"
    assert f"root {finished.root.hex()}\n" in shown.out
    assert replay(log_file).root == finished.root


def test_resuming_a_log_that_was_tampered_with_is_refused_without_showing_its_text(
    tmp_path: Path, tiny_model: Path, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "in.jsonl"
    inputs.write_text('{"instruction": "Why?"}\n')
    log = tmp_path / "run.duckdb"
    simulate = ["simulate", str(inputs), "--out", str(log), "--model", str(tiny_model), "--threads", "1", "--no-deterministic"]
    assert main([*simulate, "--scene", "vanilla", "--ctx", "64"]) == 0
    # Given a run that was killed before its last event, and somebody who changed its response
    plain_sql(
        log,
        "DELETE FROM events WHERE kind = 'SceneFinished'",
        "UPDATE run SET root = NULL",
        'UPDATE events SET payload = replace(payload, \'"text":"\', \'"text":"some secret words \') WHERE seq = 2',
    )
    capsys.readouterr()

    line = refusal("resume", log, "--threads=1", "--quiet")

    assert re.search(r"scene [0-9a-f]{64} seq 2: ResponseGiven: expected text \[.*\], actual text \[.*\]", line)
    assert "secret" not in line


class TestInterrupt:
    @pytest.fixture
    def inputs(self, tmp_path: Path) -> Path:
        path = tmp_path / "many.jsonl"
        path.write_text("".join(json.dumps({"instruction": f"{text} ({n})"}) + "\n" for n in range(3) for text in INSTRUCTIONS))
        return path

    @staticmethod
    def simulate(inputs: Path, out: Path, model: Path, settings: Path, *, parallel: int) -> list[str]:
        return [
            *("simulate", str(inputs), "--out", str(out), "--model", str(model), "--config", str(settings)),
            *("--scene=critique-revise", "--ctx=1024", f"--parallel={parallel}", "--threads=1"),
        ]

    def test_ctrl_c_leaves_a_whole_log_and_resume_ends_as_if_undisturbed(
        self, tmp_path: Path, inputs: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = tmp_path / "settings.toml"
        settings.write_text("".join(f"[{kind}]\nmax_tokens = 40\n" for kind in ("respond", "critique", "revise")))
        undisturbed, path = tmp_path / "undisturbed.duckdb", tmp_path / "run.duckdb"
        assert main(self.simulate(inputs, undisturbed, tiny_model, settings, parallel=6)) == 0
        root = re.findall("root ([0-9a-f]{64})", capsys.readouterr().out)
        # Three turns a scene, and those that were asked again.
        [(expected,)] = plain_sql(undisturbed, "SELECT count(*) FROM completions")
        assert expected >= 54

        # When Ctrl-C comes after the first completions are in the file
        process = start(*self.simulate(inputs, path, tiny_model, settings, parallel=2))
        wal = path.with_name("run.duckdb.wal")
        while process.poll() is None and (not wal.exists() or wal.stat().st_size < 5_000):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

        assert process.returncode == 130, (out, err)
        assert "Traceback" not in err
        assert f"not finished: go on with: matrix resume {path}" in err
        assert not wal.exists()
        found = replay(path)
        assert found.identical
        assert found.num_finished < found.num_scenes == 18
        assert 0 < found.num_turns < expected
        assert main(["resume", str(path), "--threads=1", "--parallel=4"]) == 0
        assert re.findall("root ([0-9a-f]{64})", capsys.readouterr().out) == root
        assert replay(path).identical
        [(num_turns, num_requests)] = plain_sql(path, "SELECT count(*), count(DISTINCT request) FROM completions")
        assert (num_turns, num_requests) == (expected, expected)

    def test_ctrl_c_before_the_log_is_made_leaves_nothing(self, tmp_path: Path, inputs: Path, tiny_model: Path) -> None:
        (tmp_path / "out").mkdir()
        settings = tmp_path / "settings.toml"
        settings.touch()
        with start(*self.simulate(inputs, tmp_path / "out" / "run.duckdb", tiny_model, settings, parallel=2)) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("testing whether")

            process.send_signal(signal.SIGINT)

            # On a busy machine, the model is open before the signal is there.
            assert process.stderr.read().splitlines()[-1] == "stopped"
        assert process.returncode == 130
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("scene", ["vanilla", "critique-revise"])
@pytest.mark.parametrize("option", ["--roles", "--steps", "--interactions", "--depth"])
def test_limits_of_social_scenes_are_refused_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scene: str, option: str
) -> None:
    inputs = tmp_path / "in.jsonl"
    inputs.write_text('{"instruction": "Why?"}\n', "utf-8")

    assert main(["simulate", str(inputs), "--scene", scene, option, "2", "--out", str(tmp_path / "run.duckdb"), "--model", "x.gguf"]) == 2

    assert capsys.readouterr().err.startswith(f"error: {option} is for social scenes, and scene '{scene}' is none")
    assert not (tmp_path / "run.duckdb").exists()
