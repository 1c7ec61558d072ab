"""Regenerating: a run live again, and what came out otherwise, turn by turn."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from logs import ENGINE, drive, make_log, make_record, plain_sql

from matrix_py import _core
from matrix_py.cli import main
from matrix_py.models.llama import LlamaModel
from matrix_py.replay import replay
from matrix_py.reuse.fork import ForkOptions, fork
from matrix_py.reuse.regenerate import compare, first_other_token, regenerate
from matrix_py.simulate import RunSummary
from matrix_py.store import Log
from matrix_py.testing import FormFailed, ScriptedModel, TooLong
from matrix_py.types import Edit


def test_where_a_run_is_deterministic_all_is_identical_however_it_is_run(finished: RunSummary, tmp_path: Path) -> None:
    found = regenerate(finished.path, tmp_path / "again.duckdb", engine=replace(ENGINE, parallel=2, prefix_reuse=False))

    assert finished.root is not None
    assert found.identical
    assert found.roots == (finished.root.hex(), finished.root.hex())
    assert {kind: drift.identical for kind, drift in found.kinds.items()} == {"critique": 6, "respond": 6, "revise": 6}
    assert (found.num_scenes, found.num_identical, found.examples) == (6, 6, [])
    assert found.other_facts["parallel"] == (4, 2)
    assert found.other_facts["prefix_reuse"] == (True, False)
    assert found.summary.counts.live_turns == 18
    with Log.open(tmp_path / "again.duckdb", read_only=True) as log:
        assert log.record.execution.parent is None
    assert replay(tmp_path / "again.duckdb").identical


def test_drift_is_counted_where_it_begins_and_what_follows_from_it_apart(
    finished: RunSummary, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a log in which one scene's critique ends with other words than the model gave
    path = Path(shutil.copy(finished.path, tmp_path / "run.duckdb"))
    scene, text = plain_sql(
        path, "SELECT c.scene, t.text FROM completions c JOIN texts t ON t.hash = c.text WHERE kind = 'critique' ORDER BY c.scene LIMIT 1"
    )[0]
    other = text + " and more"
    plain_sql(path, "INSERT INTO texts VALUES (?, ?)", parameters=[_core.blake3(other.encode()), other])
    plain_sql(
        path,
        "UPDATE completions SET text = ? WHERE scene = ? AND kind = 'critique'",
        parameters=[_core.blake3(other.encode()), scene],
    )
    # and whose revision answers another request
    plain_sql(path, "UPDATE completions SET request = ? WHERE scene = ? AND kind = 'revise'", parameters=[bytes(32), scene])

    assert main(["regenerate", str(path), "--threads", "1", "--quiet", "--format", "json"]) == 1

    found = json.loads(capsys.readouterr().out)
    with LlamaModel(tiny_model) as model:
        token = first_other_token(model.tokenizer, other, text)
    assert found["identical"] is False
    assert (found["scenes"], found["identical_scenes"]) == (6, 5)
    critique, revise = found["kinds"]["critique"], found["kinds"]["revise"]
    assert (critique["identical"], critique["other_text"], critique["first_token"]) == (5, 1, token)
    assert (revise["identical"], revise["inherited"]) == (5, 1)
    assert [(example["scene"], example["turn"], example["token"]) for example in found["examples"]] == [(scene.hex(), "critique", token)]
    assert found["facts"]["threads"] == {"then": 1, "now": 1}
    assert not [*tmp_path.glob("*regenerated*")]


def test_other_outcomes_and_turns_that_come_and_go_are_told_apart(tmp_path: Path, tiny_model: Path) -> None:
    record = make_record("matrix")

    def played(path: Path, says: dict[str, object]) -> RunSummary:
        def answer(turn: _core.Turn) -> object:
            return says.get(f"{turn.path}#{turn.attempt}", "visitor" if turn.kind == "ego" else "Well.")

        with make_log(path, ["Why?"], record=record) as log:
            return drive(log, ScriptedModel(answer))  # type: ignore[arg-type]

    first = played(tmp_path / "1.duckdb", {"cast/ego#1": FormFailed("Wel"), "cast/future#1": TooLong()})
    second = played(tmp_path / "2.duckdb", {"cast/ego#1": "visitor", "cast/future#1": TooLong(), "situation": "Well."})
    assert first.root != second.root

    with (
        LlamaModel(tiny_model) as model,
        Log.open(tmp_path / "1.duckdb", read_only=True) as one,
        Log.open(tmp_path / "2.duckdb", read_only=True) as two,
    ):
        found = compare(one, two, model.tokenizer, second)
        back = compare(two, one, model.tokenizer, first)

    ego, future = found.kinds["ego"], found.kinds["future"]
    assert (ego.other_outcome, ego.other_text, ego.identical) == (1, 0, 0)
    assert future.identical == 1
    assert found.examples[0].turn == "cast/ego"
    assert found.examples[0].token is None
    # The second attempt is asked only where the first failed.
    assert (ego.gone, ego.new) == (1, 0)
    assert (back.kinds["ego"].gone, back.kinds["ego"].new) == (0, 1)


def test_the_first_token_that_differs_is_counted_from_the_beginning_of_the_text(tiny_model: Path) -> None:
    with LlamaModel(tiny_model) as model:
        tokens = {text: model.tokenizer.encode([(text, False)]) for text in ("a b c", "a b d", "x")}
        bare = {text: [token for token in each if not model.tokenizer.is_special(token)] for text, each in tokens.items()}

        assert first_other_token(model.tokenizer, "a b c", "a b c") == len(bare["a b c"])
        assert first_other_token(model.tokenizer, "a b c", "x") == 0
        token = first_other_token(model.tokenizer, "a b c", "a b d")
        assert bare["a b c"][:token] == bare["a b d"][:token]
        assert bare["a b c"][token] != bare["a b d"][token]
        assert token > 0


def test_what_a_fork_was_given_is_given_again(finished: RunSummary, tmp_path: Path) -> None:
    options = ForkOptions(
        finished.path, tmp_path / "fork.duckdb", edits=(Edit(at="critique", do="text", value="Too short."),), engine=ENGINE
    )
    fork(options)

    found = regenerate(tmp_path / "fork.duckdb", engine=ENGINE)

    assert found.identical
    assert found.summary.counts.edited == {"critique": 6}
    assert found.summary.counts.reused == {}
