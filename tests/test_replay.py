"""Replay finds every change of what is hashed, says where it is, and names the prompt files that changed."""

import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace as with_
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import ENGINE, INSTRUCTIONS, drive, make_log, make_record, plain_sql, scripted

from matrix_py.cli import main
from matrix_py.errors import StoreError
from matrix_py.events import CritiqueWritten
from matrix_py.replay import Cause, Replay, Workers, replay
from matrix_py.scene import Scene
from matrix_py.simulate import RunSummary, SimulateOptions, simulate
from matrix_py.testing import ScriptedModel

ROOTS = json.loads((Path(__file__).parents[1] / "replays" / "roots.json").read_text("utf-8"))
LAST = 7  # seq of SceneFinished: started, 3 turns, response, critique and revision come before it
TURN = {"respond": 1, "critique": 3, "revise": 5}  # seq of each turn's TurnCompleted
# The scene that is tampered with: the third of six.
SCENE = "(SELECT scene FROM scenes WHERE position = 2)"
OTHER = "(SELECT scene FROM scenes WHERE position = 4)"


Command = Callable[[Path], tuple[int, Replay, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`matrix replay`: its exit code, what it found, and what it prints."""
    found: list[Replay] = []

    def keep(*arguments: Any, **options: Any) -> Replay:
        found.append(replay(*arguments, **options))
        return found[-1]

    def run(path: Path) -> tuple[int, Replay, str]:
        code = main(["replay", str(path)])
        return code, found[-1], capsys.readouterr().out

    # By its place among the modules: the package has a function of that name.
    monkeypatch.setattr(sys.modules["matrix_py.replay"], "replay", keep)
    return run


def turn_is(path: str, scene: str = SCENE) -> str:
    return f"scene = {scene} AND path = '{path}'"


def text_of(path: str, scene: str = SCENE) -> str:
    return f"(SELECT text FROM completions WHERE {turn_is(path, scene)})"


def seq_is(*seqs: int) -> str:
    return f"scene = {SCENE} AND seq IN ({', '.join(map(str, seqs))})"


def scene_id(path: Path, position: int = 2) -> str:
    rows = plain_sql(path, f"SELECT lower(hex(scene)) FROM scenes WHERE position = {position}", read_only=True)
    return str(rows[0][0])


def test_an_untouched_log_is_identical(finished: RunSummary, capsys: pytest.CaptureFixture[str]) -> None:
    assert finished.root is not None

    found = replay(finished.path)

    assert (found.identical, found.num_scenes, found.num_finished, found.num_turns) == (True, 6, 6, 18)
    assert (found.root, found.divergences, found.problems, found.notes) == (finished.root, [], [], [])
    assert main(["replay", str(finished.path)]) == 0
    line = f"{finished.path}: identical, 6 scenes, 18 turns, root {finished.root.hex()}\n"
    assert capsys.readouterr() == (line, "")


# What was done to the log; seq of the first difference; what replay says that the log holds; what it derived.
DIGEST = "[0-9a-f]{64}"
ID_OF_TEXT = f'"text":"{DIGEST}"'
TAMPERINGS = {
    **{
        f"text of {turn} changed": (
            f"UPDATE texts SET text = text || '!' WHERE hash = {text_of(turn)}",
            *(seq, ID_OF_TEXT, ID_OF_TEXT),
        )
        for turn, seq in TURN.items()
    },
    "completion points at another text": (
        f"UPDATE completions SET text = {text_of('critique', OTHER)} WHERE {turn_is('critique')}",
        *(3, ID_OF_TEXT, ID_OF_TEXT),
    ),
    "completion deleted": (
        f"DELETE FROM completions WHERE {turn_is('critique')}",
        *(3, '"path":"critique"', "turn critique, whose completion is missing"),
    ),
    "outcome changed": (
        f"UPDATE completions SET outcome = 'too_long' WHERE {turn_is('revise')}",
        *(5, '"outcome":"text"', '"outcome":"too_long"'),
    ),
    "finish changed": (
        f"UPDATE completions SET finish = 'stop' WHERE {turn_is('respond')}",
        *(1, '"finish":"(length|eos)"', '"finish":"stop"'),
    ),
    "request changed": (
        f"UPDATE completions SET request = text WHERE {turn_is('revise')}",
        *(5, f"request {DIGEST} of turn revise", f"request {DIGEST}"),
    ),
    "first event deleted": (
        f"DELETE FROM events WHERE {seq_is(0)}",
        *(0, "no event with seq 0", '"kind":"SceneStarted"'),
    ),
    "event in the middle deleted": (
        f"DELETE FROM events WHERE {seq_is(4)}",
        *(4, "no event with seq 4", '"kind":"CritiqueWritten"'),
    ),
    "last event deleted": (
        f"DELETE FROM events WHERE {seq_is(LAST)}",
        *(LAST, "the log ends here", '"kind":"SceneFinished"'),
    ),
    "all events deleted": (
        f"DELETE FROM events WHERE scene = {SCENE}",
        *(0, "the log ends here", '"kind":"SceneStarted"'),
    ),
    "payloads swapped": (
        f"UPDATE events SET payload = (SELECT e.payload FROM events e WHERE e.scene = {SCENE} AND e.seq = 6 - events.seq) "
        f"WHERE {seq_is(2, 4)}",
        *(2, '"kind":"CritiqueWritten"', '"kind":"ResponseGiven"'),
    ),
    "seqs swapped": (
        f"UPDATE events SET seq = 6 - seq WHERE {seq_is(2, 4)}",
        *(2, '"kind":"CritiqueWritten"', '"kind":"ResponseGiven"'),
    ),
    "payload changed, hash left": (
        f"UPDATE events SET payload = replace(payload, '\"given\":false', '\"given\":true') WHERE {seq_is(2)}",
        *(2, '"given":true', '"given":false'),
    ),
    "hash changed": (
        f"UPDATE events SET hash = (SELECT hash FROM events WHERE scene = {OTHER} AND seq = 5) WHERE {seq_is(5)}",
        *(5, f"hash {DIGEST}", f"hash {DIGEST}"),
    ),
    "event added at the end": (
        f"INSERT INTO events SELECT * REPLACE (seq + 1 AS seq) FROM events WHERE {seq_is(LAST)}",
        *(LAST + 1, '"kind":"SceneFinished"', "the end of the scene"),
    ),
    "event added in the middle": (
        f"INSERT INTO events SELECT * FROM events WHERE {seq_is(3)}",
        *(4, "a second event with seq 3", '"kind":"CritiqueWritten"'),
    ),
    "instruction's text deleted": (
        f"DELETE FROM texts WHERE hash = (SELECT instruction FROM scenes WHERE scene = {SCENE})",
        *(0, f'"instruction":"{DIGEST}"', f'"instruction":"{DIGEST}"'),
    ),
    "completion's text deleted": (
        f"DELETE FROM texts WHERE hash = {text_of('revise')}",
        *(5, ID_OF_TEXT, ID_OF_TEXT),
    ),
    "seed changed": (
        "UPDATE run SET config = replace(config, '\"seed\":0', '\"seed\":1')",
        *(1, f"request {DIGEST} of turn respond", f"request {DIGEST}"),
    ),
}


@pytest.mark.parametrize(("statement", "seq", "expected", "actual"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_tampering_is_found_with_scene_seq_expected_and_actual(
    log_file: Path, finished: RunSummary, command: Command, statement: str, seq: int, expected: str, actual: str
) -> None:
    scene = scene_id(finished.path)
    plain_sql(log_file, statement)

    code, found, out = command(log_file)

    first = next(error for error in found.divergences if error.scene == scene)
    assert first.seq == seq
    assert re.search(expected, first.expected)
    assert re.search(actual, first.actual)
    assert first.expected != first.actual
    # The command says so, too.
    lines = out.splitlines()
    assert any(re.fullmatch(rf"scene {scene} seq {seq}: .*expected .+, actual .+", line) for line in lines)
    assert "identical" not in lines[-1]
    assert code == 1


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(f"DELETE FROM scenes WHERE scene = {SCENE}", id="scene deleted"),
        pytest.param("UPDATE scenes SET position = 5 - position WHERE position IN (2, 3)", id="positions swapped"),
        pytest.param('UPDATE run SET config = replace(config, \'"model":"\', \'"model":"0\')', id="model changed"),
        pytest.param("UPDATE run SET config = '{\"more\":1,' || substr(config, 2)", id="setting added"),
        pytest.param("UPDATE run SET root = (SELECT hash FROM events LIMIT 1)", id="recorded root changed"),
    ],
)
def test_a_change_of_the_run_itself_is_found_by_its_root(log_file: Path, finished: RunSummary, command: Command, statement: str) -> None:
    recorded = bytes(plain_sql(log_file, statement, "SELECT root FROM run")[0][0]).hex()

    code, result, out = command(log_file)

    assert result.divergences == []
    [line] = [problem for problem in result.problems if "root" in problem]
    derived = "" if result.root is None else result.root.hex()
    assert f"expected {recorded}" in line
    assert f"actual {derived}" in line
    assert finished.root is not None
    assert recorded != derived
    assert finished.root.hex() in (recorded, derived)
    assert line in out
    assert code == 1


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            f"INSERT INTO events SELECT * REPLACE (unhex(repeat('ab', 32)) AS scene) FROM events WHERE scene = {SCENE}",
            "an event belongs to no scene of the run (and 7 times more",
        ),
        (
            f"UPDATE events SET kind = 'Other' WHERE scene = {SCENE} AND seq = 4",
            "the event is filed under another kind than its own",
        ),
        (
            f"UPDATE completions SET kind = 'respond' WHERE scene = {SCENE} AND path = 'revise'",
            "the completion's kind is respond; its event says revise",
        ),
        (
            "INSERT INTO completions BY NAME SELECT * REPLACE ('other' AS path) FROM completions LIMIT 1",
            "1 completions answer no turn that a scene asks for",
        ),
        ("INSERT INTO completions SELECT * FROM completions LIMIT 1", "a completion is there 2 times"),
        ("INSERT INTO scenes SELECT * FROM scenes WHERE position = 2", "the scene is listed 2 times"),
        ("UPDATE scenes SET position = 9 WHERE position = 5", "the scene is at position 9 of the input, where 5 comes next"),
        (
            "DELETE FROM texts WHERE hash = (SELECT segments[1] FROM completions LIMIT 1)",
            "a text is missing: a segment of the prompt",
        ),
        (
            "UPDATE texts SET text = text || '!' WHERE hash = (SELECT segments[1] FROM completions LIMIT 1)",
            "a text is not what its hash says: a segment of the prompt",
        ),
        ("INSERT INTO texts SELECT * FROM texts LIMIT 1", "a text is there twice"),
    ],
)
def test_what_no_scene_would_meet_is_found(log_file: Path, command: Command, statement: str, problem: str) -> None:
    plain_sql(log_file, statement)

    code, result, out = command(log_file)

    assert any(problem in line for line in result.problems), result.problems
    assert problem in out
    assert code == 1


# Columns that the hashes cover, and how a random change of a value is drawn. What a text, a name or a number is changed
# to may be anything else, and a hash any other hash.
HASHED = {
    "scenes": ("scene", "position", "occurrence", "instruction", "response"),
    "completions": ("scene", "path", "attempt", "request", "outcome", "finish", "text"),
    "events": ("scene", "seq", "kind", "payload", "hash"),
    "texts": ("hash", "text"),
    "run": ("config", "root"),
}
CHOICES = {
    "outcome": ["text", "form_failed", "too_long"],
    "finish": ["eos", "stop", "form", "length", "none"],
}


def other(data: st.DataObject, column: str, value: Any) -> Any:
    """Draw another value for a column."""
    match value:
        case _ if column in CHOICES:
            return data.draw(st.sampled_from([choice for choice in CHOICES[column] if choice != value]))
        case None:
            return data.draw(st.binary(min_size=32, max_size=32))
        case bytes():
            at, bit = data.draw(st.integers(0, len(value) - 1)), data.draw(st.integers(0, 7))
            flipped = value[:at] + bytes([value[at] ^ 1 << bit]) + value[at + 1 :]
            return data.draw(st.sampled_from([flipped, value[:at], value + b"!"]))
        case int():
            return data.draw(st.integers(0, 100).filter(lambda drawn: drawn != value))
        case str() if column in ("payload", "config"):
            fields = json.loads(value)
            name = data.draw(st.sampled_from(sorted(fields)))
            return value.replace(json.dumps(name), json.dumps(name + "s"), 1)
        case str():
            at = data.draw(st.integers(0, len(value)))
            return value[:at] + data.draw(st.sampled_from("aZ0 é\n")) + value[at:]
    raise AssertionError(f"{column} holds {value!r}")


@pytest.mark.parametrize(("table", "column"), [(table, column) for table, columns in HASHED.items() for column in columns])
@settings(max_examples=3, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_hashed_column_is_found(finished: RunSummary, tmp_path: Path, table: str, column: str, data: st.DataObject) -> None:
    path = Path(shutil.copy(finished.path, tmp_path / "changed.duckdb"))
    rows = plain_sql(finished.path, f"SELECT rowid, {column} FROM {table} ORDER BY rowid", read_only=True)
    rowid, value = data.draw(st.sampled_from(rows))
    changed = other(data, column, value)
    plain_sql(path, f"UPDATE {table} SET {column} = $1 WHERE rowid = $2", parameters=[changed, rowid])

    try:
        identical = replay(path).identical
    except StoreError:  # a run record that does not parse, or an id that is none
        identical = False

    assert not identical, f"{value!r} -> {changed!r}"


def test_a_flipped_bit_anywhere_in_the_file_is_found_or_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (Path(__file__).parents[1] / "replays" / "critique-revise-scripted.duckdb").read_bytes()
    for at in range(5, len(content), 8 * 1024):  # twice in each of DuckDB's blocks
        path = tmp_path / f"{at}.duckdb"
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

        code = main(["replay", str(path)])

        shown = capsys.readouterr()
        assert code in (0, 1, 2), f"byte {at}: {shown.out}"
        # What replay does not read, such as when commits were made, may be damaged: what it derives is right all the same.
        assert code != 0 or ROOTS["critique-revise-scripted"] in shown.out
        assert code != 2 or re.fullmatch(rf"error: log {path}: [^\n]+\n", shown.err), shown.err
        assert "unexpected" not in shown.err


def test_a_divergence_shows_no_sentence_of_model_or_input(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "a sentence that may be harmful"
    plain_sql(
        log_file,
        f'UPDATE events SET payload = replace(payload, \'"text":"\', \'"text":"{secret}\') WHERE {seq_is(2)}',
        f"DELETE FROM events WHERE scene = {OTHER} AND seq = 4",
    )
    [(text,)] = plain_sql(log_file, f"SELECT payload ->> 'text' FROM events WHERE scene = {SCENE} AND seq = 2")

    assert main(["replay", str(log_file)]) == 1

    out = capsys.readouterr().out
    assert secret not in out
    assert f"expected text [{len(text)} characters, BLAKE3 " in out
    assert "expected no event with seq 4, actual CritiqueWritten (principle [" in out


def test_every_divergence_is_printed_under_what_was_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, [f"Question {number}?" for number in range(25)]) as log:
        drive(log, scripted())
    plain_sql(path, "UPDATE texts SET text = text || '!' WHERE hash IN (SELECT text FROM completions)")

    assert main(["replay", str(path)]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "log changed: 25 of 25 scenes differ, first at TurnCompleted"
    assert sum(": TurnCompleted of respond: " in line for line in lines) == 25
    assert "25 scenes differ" in lines[-1]


def test_a_log_with_open_scenes_is_identical_as_far_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a run whose engine failed in each scene's last turn
    model = scripted()
    answer = model._answer
    model._answer = lambda turn: RuntimeError("engine gone") if turn.path == "revise" else answer(turn)
    path = tmp_path / "run.duckdb"
    with make_log(path, INSTRUCTIONS) as log:
        drive(log, model)

    found = replay(path)

    assert (found.identical, found.num_finished, found.num_turns, found.root) == (True, 0, 12, None)
    assert main(["replay", str(path)]) == 0
    assert "identical, 6 scenes (6 of them not finished), 12 turns\n" in capsys.readouterr().out
    # And what it does hold is compared all the same.
    plain_sql(path, f"DELETE FROM completions WHERE scene = {SCENE} AND path = 'critique'")
    [error] = replay(path).divergences
    assert (error.seq, error.actual) == (3, "turn critique, whose completion is missing")


def test_one_damaged_log_of_two_makes_replay_fail(finished: RunSummary, log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain_sql(log_file, f"DELETE FROM events WHERE scene = {SCENE} AND seq = 3")

    assert main(["replay", str(log_file), str(finished.path)]) == 1

    out = capsys.readouterr().out
    assert f"{log_file}: 1 scenes differ, 6 scenes" in out
    assert f"{finished.path}: identical" in out


@pytest.fixture
def own_prompts(tmp_path: Path, tiny_model: Path, settings_file: Path) -> tuple[Path, Path]:
    """A log that was made with a folder of prompts, and the folder."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "critique.txt").write_text(
        "--- user\nAsked: {instruction}\nSaid: {response}\nConsider: {principle}\nWhat is wrong with it?\n"
    )
    config = Path(shutil.copy(settings_file, tmp_path / "settings.toml"))
    inputs = tmp_path / "in.jsonl"
    inputs.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in INSTRUCTIONS[:2]))
    options = SimulateOptions(
        inputs=(str(inputs),),
        out=tmp_path / "run.duckdb",
        model=str(tiny_model),
        scene="critique-revise",
        prompts_dir=folder,
        config_file=config,
        engine=with_(ENGINE, deterministic=False),
    )
    assert simulate(options).num_finished == 2
    return options.out, folder


def test_a_changed_prompt_is_named_and_undone_is_identical_again(
    own_prompts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = own_prompts
    prompt = folder / "critique.txt"
    before = prompt.read_text()
    assert replay(log).identical

    # When the prompt is edited, replay says where that changes what is asked
    prompt.write_text(before.replace("What is wrong", "What is right"))
    found = replay(log)
    assert [error.seq for error in found.divergences] == [3, 3]
    assert re.fullmatch("request [0-9a-f]{64} of turn critique", found.divergences[0].expected)
    assert re.fullmatch("request [0-9a-f]{64}", found.divergences[0].actual)
    assert [(error.cause, error.turn, error.kind) for error in found.divergences] == [(Cause.PROMPT, "critique", "critique")] * 2
    assert found.notes == ["prompt files that are not as recorded: critique.txt"]
    assert main(["replay", str(log)]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("prompt changed: 2 of 2 scenes differ, first at critique\n")
    assert re.search(rf"scene {scene_id(log, 0)} seq 3: expected request .* of turn critique, actual request", shown.out)
    assert shown.err == "prompt files that are not as recorded: critique.txt\n"

    # And with the recorded prompts, or the edit undone, nothing differs
    assert main(["replay", str(log), "--recorded"]) == 0
    prompt.write_text(before)
    assert main(["replay", str(log)]) == 0


def test_a_changed_principle_is_found_in_the_event_or_the_request_that_it_changes(
    own_prompts: tuple[Path, Path],
) -> None:
    log, folder = own_prompts

    (folder / "principles.txt").write_text("Is the answer short?\n")
    found = replay(log)

    assert [error.seq for error in found.divergences] == [3, 3]
    assert {error.cause for error in found.divergences} == {Cause.PROMPT}
    assert found.notes == ["prompt files that are not as recorded: principles.txt"]


def test_changed_settings_are_named(own_prompts: tuple[Path, Path]) -> None:
    log, folder = own_prompts

    (folder.parent / "settings.toml").write_text("[revise]\nmax_tokens = 13\n")
    found = replay(log)

    # [respond] and [critique] have the package's budgets again, so the first turn is asked otherwise already.
    assert [(error.seq, error.cause, error.kind) for error in found.divergences] == [(1, Cause.SETTINGS, "respond")] * 2
    assert found.notes == ["settings that are not as recorded: critique, respond, revise"]


def test_prompts_option_names_another_folder(own_prompts: tuple[Path, Path], tmp_path: Path) -> None:
    log, folder = own_prompts
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (folder / "critique.txt").write_text("--- user\n{instruction}\n")

    assert not replay(log).identical
    assert replay(log, prompts_dir=copy).identical


def test_a_prompt_folder_that_is_gone_is_noted_and_the_recorded_prompts_are_used(
    own_prompts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = own_prompts
    shutil.rmtree(folder)

    assert main(["replay", str(log)]) == 0

    shown = capsys.readouterr()
    assert shown.err == f"prompt folder {folder} is gone: the recorded prompts are used (--prompts names another folder)\n"
    assert ": identical, 2 scenes, 6 turns, root " in shown.out


def test_a_settings_file_that_is_gone_is_noted_and_the_recorded_settings_are_used(
    own_prompts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = own_prompts
    config = folder.parent / "settings.toml"
    config.unlink()

    assert main(["replay", str(log)]) == 0

    assert capsys.readouterr().err == f"settings file {config} is gone: the recorded settings are used\n"


number = itertools.count()


async def drifting(scene: Scene) -> None:
    """A scene that breaks the rules: it says something else every time."""
    scene.emit(CritiqueWritten(principle="chance", text=f"call {next(number)}"))
    await scene.turn("respond", instruction=scene.instruction)


def test_scene_code_that_is_no_function_of_its_input_is_found(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, INSTRUCTIONS[:2], record=make_record(f"{__name__}:drifting")) as log:
        drive(log, scripted())

    found = replay(path)

    assert [(error.seq, "call" in error.expected) for error in found.divergences] == [(1, True), (1, True)]
    assert [(error.cause, error.turn, error.kind) for error in found.divergences] == [(Cause.LOGIC, "", "CritiqueWritten")] * 2


# What the scene below asks for, as an edit of its code would change it.
asks: dict[str, str] = {}


async def choosing(scene: Scene) -> None:
    """A scene of two turns, the second of them under a form."""
    response = await scene.turn("respond", instruction=scene.instruction)
    said = asks.get("response", str(response.text))
    form = asks.get("form", 'start: "yes" | "no"')
    await scene.turn(
        "critique", path=asks.get("path"), instruction=scene.instruction, response=said, principle="", form=form, fallback="no"
    )


@pytest.mark.parametrize(
    ("edit", "cause", "turn"),
    [
        ({"form": 'start: "yes" | "never"'}, Cause.FORM, "critique"),
        ({"response": "Something else."}, Cause.LOGIC, "critique"),
        ({"path": "second"}, Cause.LOGIC, ""),
    ],
)
def test_a_changed_form_is_told_from_changed_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: dict[str, str], cause: Cause, turn: str
) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, INSTRUCTIONS[:2], record=make_record(f"{__name__}:choosing")) as log:
        drive(log, ScriptedModel(lambda turn: "yes" if turn.kind == "critique" else "A reply."))
    assert replay(path).identical

    for name, value in edit.items():
        monkeypatch.setitem(asks, name, value)

    assert [(error.cause, error.turn) for error in replay(path).divergences] == [(cause, turn)] * 2


def test_a_log_that_was_changed_is_told_from_changed_code(log_file: Path) -> None:
    plain_sql(log_file, f"UPDATE texts SET text = text || '!' WHERE hash = {text_of('critique')}")

    assert {error.cause for error in replay(log_file).divergences} == {Cause.LOG}


def test_a_long_log_is_shared_out_to_processes_and_comes_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, [f"Question {number}?" for number in range(120)]) as log:
        root = drive(log, scripted()).root
    assert root is not None

    assert main(["replay", "--jobs", "2", "--format", "json", str(path)]) == 0

    [shared] = json.loads(capsys.readouterr().out)
    assert (shared["identical"], shared["scenes"], shared["turns"], shared["root"]) == (True, 120, 360, root.hex())
    # And what differs is the same, and in the same order.
    plain_sql(path, "DELETE FROM events WHERE seq = 4 AND scene IN (SELECT scene FROM scenes WHERE position % 7 = 3)")
    with Workers(2) as workers:
        assert replay(path, workers=workers) == replay(path)
    assert len(replay(path).divergences) == 17


def test_a_position_far_off_costs_no_more_than_any_other(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with make_log(path, [f"Question {number}?" for number in range(120)]) as log:
        drive(log, scripted())
    plain_sql(path, "UPDATE scenes SET position = 18446744073709551615 WHERE position = 119")

    with Workers(2) as workers:
        found = replay(path, workers=workers)

    assert (found.num_turns, found.divergences) == (360, [])
    assert any("is at position 18446744073709551615 of the input, where 119 comes next" in line for line in found.problems)


def test_no_jobs_are_refused(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--jobs", "0", str(log_file)]) == 2
    assert capsys.readouterr().err == "error: --jobs is 0: give at least 1\n"
