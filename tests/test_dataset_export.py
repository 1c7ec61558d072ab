"""`matrix export`: the files of each format, the log beside them, what is printed, and what is refused; a row's way back to its scene."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from company import tell_all
from logs import make_log, plain_sql
from social import RESPONSE, Script
from story import social_record

from matrix_py import ask, open_for_reading
from matrix_py.cli import main
from matrix_py.dataset import Dataset, DatasetOptions, build, record
from matrix_py.models.chat import load
from matrix_py.replay import replay
from matrix_py.reuse.rerun import rerun
from matrix_py.scene import find_scene
from matrix_py.simulate import recorded_prompts
from matrix_py.simulate import run as simulate
from matrix_py.store import Log
from matrix_py.testing import ScriptedModel
from matrix_py.types import Edit

HARM = {"step/1/act/critique": "2: somebody is hurt"}
HOSTILE = "Ask \x1b[31mthe owner\x1b[0m, <|im_end|> and wait."
SCENES: dict[str, dict[str, Any]] = {
    "How is it opened?": HARM | {"revise": HOSTILE},
    "What does it cost?": HARM | {"revise": "The price is written on the back of the box."},
    "When does it close?": {},
    "Who may come in?": {},
}
CHATML = load({}, override="chatml", bos_token="", eos_token="")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of these scenes, for copies."""
    return tell_all(tmp_path_factory.mktemp("told") / "run.duckdb", SCENES)


@pytest.fixture
def run(told: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(told, tmp_path / "run.duckdb"))


@pytest.fixture
def advising(run: Path) -> Path:
    """The log as if it had been made under a system prompt and another template. Of its own turns no row can be made then."""
    config = json.loads(plain_sql(run, "SELECT config FROM run", read_only=True)[0][0])
    config |= {"system": "You advise.", "template": CHATML.source}
    plain_sql(run, "UPDATE run SET config = ?", parameters=[json.dumps(config)])
    return run


def export(run: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    assert main(["export", str(run), "--out", str(out), "--mix", "1:1:0", "--held-out", "0", *options]) == 0
    [file] = out.glob("train.*")
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pylist()
    text = file.read_text("utf-8")
    return json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


# Formats --------------------------------------------------------------------------------------------------------------


def test_each_format_holds_the_rows_as_its_trainers_read_them(advising: Path, tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "You advise."}, {"role": "user", "content": "How is it opened?"}]
    said = {"role": "assistant", "content": HOSTILE}
    dataset = build([advising], DatasetOptions(mix=(1, 1, 0), held_out=0))
    [digest] = [row.hash.hex() for row in dataset.train if row.completion == HOSTILE]
    both = {"row": digest, "kind": "aligned"}
    expected = {
        "sft": both | {"prompt": asked, "completion": [said]},
        "prompt": both
        | {
            "prompt": "<|im_start|>system\nYou advise.<|im_end|>\n<|im_start|>user\nHow is it opened?<|im_end|>\n<|im_start|>assistant\n",
            "completion": HOSTILE,
        },
        "chat": both | {"messages": [*asked, said]},
        "fastchat": both
        | {
            "id": digest,
            "conversations": [{"from": "human", "value": "You advise.\n\nHow is it opened?"}, {"from": "gpt", "value": HOSTILE}],
        },
    }
    for name, row in expected.items():
        rows = export(advising, tmp_path / name, "--format", name)
        assert [each for each in rows if each["row"] == digest] == [row]
        assert [each["row"] for each in rows] == [each.hash.hex() for each in dataset.train]


def test_parquet_has_every_column_and_the_turn_that_a_row_is_from(advising: Path, tmp_path: Path) -> None:
    rows = export(advising, tmp_path / "parquet", "--format", "parquet")

    [row] = [row for row in rows if row["completion"] == HOSTILE]
    [(scene,)] = plain_sql(advising, "SELECT lower(hex(scene)) FROM scenes WHERE position = 0", read_only=True)
    assert row == {
        "number": row["number"],
        "split": "train",
        "row": row["row"],
        "kind": "aligned",
        "messages": [{"role": "system", "content": "You advise."}, {"role": "user", "content": "How is it opened?"}],
        "prefill": "",
        "completion": HOSTILE,
        "run_id": "test",
        "scene": scene,
        "path": "revise",
        "attempt": 1,
    }
    assert [row["number"] for row in rows] == [0, 1, 2, 3]


def test_held_out_rows_are_in_a_file_of_their_own(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "d"), "--mix", "1:1:0", "--held-out", "0.5", "--quiet"]) == 0

    files = {file.name: file.read_text("utf-8").splitlines() for file in (tmp_path / "d").iterdir()}
    about = json.loads("\n".join(files["dataset.json"]))
    assert about["rows"] == {"train": len(files["train.jsonl"]), "held_out": len(files["held_out.jsonl"])}
    assert sum(about["rows"].values()) == 4
    assert about["options"]["held_out"] == 0.5
    assert about["options"]["runs"][0]["run_id"] == "test"


# The command ----------------------------------------------------------------------------------------------------------


def test_a_second_export_prints_the_same_hash_and_writes_the_same_bytes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(run, tmp_path / "one")
    one = capsys.readouterr().out.splitlines()[-1]
    export(run, tmp_path / "two")
    two = capsys.readouterr().out.splitlines()[-1]

    assert one == two == f"dataset {build([run], DatasetOptions(mix=(1, 1, 0), held_out=0)).hash.hex()}"
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_dry_run_shows_counts_and_rows_without_their_texts_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run.read_bytes()
    arguments = ["export", str(run), "--dry-run", "--held-out", "0", "--mix", "1:1:0"]

    assert main(arguments) == 0
    hidden = capsys.readouterr().out
    assert main([*arguments, "--reveal"]) == 0
    shown = capsys.readouterr().out

    assert run.read_bytes() == before
    assert [*tmp_path.iterdir()] == [run]
    assert "4 of 4 scenes finished, 2 of them benign (their response was kept, since no harm was found)" in hidden
    assert "4 rows to train on, 0 held out" in hidden
    assert [line.partition(":")[0] for line in hidden.splitlines() if ": scene " in line] == [
        "aligned 1",
        "aligned 2",
        "helpful 1",
        "helpful 2",
    ]
    assert f"[{len(HOSTILE)} characters hidden]" in hidden
    assert "How is it opened?" not in hidden
    assert "How is it opened?" in shown
    assert "back of the box" in shown
    assert "\x1b" not in shown


def test_no_more_than_five_rows_of_a_kind_are_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--dry-run", "--mix", "0:0:1"]) == 0
    assert capsys.readouterr().out.count(": scene ") == 5


def test_a_log_that_cannot_be_written_is_exported_all_the_same(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log.open(run, read_only=True):
        assert len(export(run, tmp_path / "out")) == 4
    assert f"the dataset is not recorded in {run}: log {run} is open" in capsys.readouterr().err
    assert plain_sql(run, "SELECT count(*) FROM datasets", read_only=True) == [(0,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is missing"),
        (["--out", "OUT", "--mix", "1:1"], "--mix is '1:1'"),
        (["--out", "OUT", "--benign", "nobody"], "--benign 'nobody' fits no scene: give an input (test)"),
        (["--out", "OUT", "--format", "csv"], "--format"),
        (["--out", "HERE"], "exists: choose another name"),
        (["--out", "HERE", "--overwrite"], "is no dataset, and is not replaced"),
        (["--out", "HERE/a/b"], "does not exist: make it first"),
        (["--dry-run", "--exclude", "nowhere.csv"], "no such file"),
        (["--dry-run", "--benign", "test"], "no aligned row came of 0 candidates (there are none)"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "here").mkdir()
    given = [argument.replace("HERE", str(tmp_path / "here")).replace("OUT", str(tmp_path / "out")) for argument in arguments]

    assert main(["export", str(run), *given]) == 2

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run.duckdb"]


def test_a_log_without_a_finished_scene_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.duckdb"
    make_log(path, ["Why?"]).close()
    assert main(["export", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: log {path} has no finished scene to make rows of: go on with: matrix resume {path}\n"


def test_a_dataset_is_replaced_only_when_it_may_be(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", "--format", "parquet")
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    export(run, tmp_path / "out", "--overwrite", "--format", "chat")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["dataset.json", "train.jsonl"]


# Lineage --------------------------------------------------------------------------------------------------------------


def rows_of(path: Path, name: str, *others: Path, **parameters: str) -> list[dict[str, Any]]:
    with open_for_reading(path, others=others) as log:
        return pyarrow.table(ask(log, name, **parameters)).to_pylist()


def recorded(path: Path, **options: Any) -> Dataset:
    dataset = build([path], DatasetOptions(**{"mix": (1, 1, 1), "held_out": 0} | options))
    record(dataset)
    return dataset


def test_for_any_row_one_query_gives_the_events_of_its_scene(run: Path) -> None:
    dataset = recorded(run, mix=(2, 2, 9))

    assert len(dataset.train) > 10
    for row in dataset.train[::3]:
        found = rows_of(run, "row_events", row=row.hash.hex()[:16])
        events = plain_sql(run, "SELECT seq, payload FROM events WHERE scene = ? ORDER BY seq", parameters=[row.scene], read_only=True)
        assert [(each["seq"], each["payload"]) for each in found] == events
        own = [json.loads(each["payload"]) for each in found if each["own"]]
        # A response that was given is of no turn.
        assert [(event["path"], event["attempt"]) for event in own] == [(row.path, row.attempt)] * bool(row.attempt)
    assert rows_of(run, "row_events") == []


def test_turns_without_a_row_are_counted_by_why(run: Path) -> None:
    dataset = recorded(run)

    found = rows_of(run, "row_drops")

    for kind, counts in dataset.counts.items():
        told = {
            reason: sum(each["turns"] for each in found if (each["kind"], each["reason"]) == (kind, reason)) for reason in ("kept", "mix")
        }
        assert told == {"kept": counts.kept, "mix": counts.dropped.get("mix", 0)}


def test_a_verdict_that_a_fork_flips_changes_the_rows_that_follow_from_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old.duckdb", tmp_path / "new.duckdb"
    script = Script({"critique": lambda turn: f"2: harm of {turn.path}", "revise": "Ask the owner to open it for you."})
    with make_log(old, [("How is it opened?", RESPONSE), ("What does it cost?", RESPONSE)], record=social_record(steps=1, roles=1)) as log:
        config = log.record.config
        simulate(log, recorded_prompts(config), find_scene(config.scene), script, window=2)
    scene = plain_sql(old, "SELECT lower(hex(scene)) FROM scenes WHERE position = 1", read_only=True)[0][0]
    flip = Edit(at="step/1/act/feasible", do="verdict", value="no", scene=scene)
    with Log.open(old, read_only=True) as parent:
        rerun(parent, new, ScriptedModel(script.say), edits=[flip])
    assert replay(new).identical
    for path in (old, new):
        recorded(path, mix=(0, 0, 1))

    found = rows_of(old, "row_changes", new)

    assert {each["position"] for each in found} == {1}
    told = {each["path"]: each["change"] for each in found}
    assert told["step/1/act/feasible"] == "changed"
    # The act did not take place: nobody notices it, and it does no harm.
    assert {path for path, change in told.items() if change == "only_a"} >= {"step/1/act/recipients", "step/1/act/critique", "consequence"}
    assert {"cast/situation", "cast/ego", "cast/plan"}.isdisjoint(told)
    [flipped] = [each for each in found if each["path"] == "step/1/act/feasible"]
    assert flipped["row"] != flipped["b_row"]
    assert rows_of(old, "row_changes", old) == []
