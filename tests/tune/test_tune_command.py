"""`matrix tune`: from a log to a folder that the engine and PEFT load, and one line for what cannot be tuned."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from logs import make_log, plain_sql

from matrix_py import _core
from matrix_py.cli import main
from matrix_py.testing.random_gguf import write_random_gguf
from matrix_py.tune import worker
from matrix_py.tune.job import Job, Rows, Tokens, write_job
from matrix_py.tune.options import LINEAR, Recipe, recipe_options

Refusal = Callable[..., str]
# The scenes of the tiny model's run have no turns of their own, and nobody says which instructions are benign.
ALIGNED = ("--mix", "1:0:0")
SMALL = (*ALIGNED, "--rank", "2", "--epochs", "1", "--threads", "1", "--held-out", "0.3")


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Run a command that is refused, and return its one line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert re.fullmatch(r"error: [^\n]+\n", shown.err), shown.err
        return shown.err

    return run


def test_a_log_becomes_a_folder_that_says_what_it_is(log_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned"
    assert main(["tune", str(log_file), "--dry-run", "--format", "json", "-q", *SMALL]) == 0
    foreseen = json.loads(capsys.readouterr().out)
    assert not out.exists()

    assert main(["tune", str(log_file), "--out", str(out), "--merge", "--format", "json", "-q", *SMALL]) == 0
    found = json.loads(capsys.readouterr().out)

    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter.gguf",
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.png",
        "merged.gguf",
        "metrics.jsonl",
    ]
    assert found["dataset"] == foreseen["dataset"]
    assert found["tokens"] == foreseen["tokens"]
    assert found["steps"][-1]["step"] == foreseen["steps"]
    assert found["adapter"] == _core.hash_file(out / "adapter_model.safetensors").hex()
    assert found["merged"] == _core.hash_file(out / "merged.gguf").hex()
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    for fact in (found["dataset"], found["adapter"], found["merged"], "tiny.gguf"):
        assert fact in card
    assert str(tmp_path) not in card
    # The log knows what was tuned on it, and how that went.
    [(dataset, adapter, merged, finished)] = plain_sql(
        log_file, "SELECT lower(hex(dataset)), adapter, merged, finished_at IS NOT NULL FROM tunings", read_only=True
    )
    assert (dataset, adapter, merged, finished) == (found["dataset"], found["adapter"], found["merged"], True)
    steps = plain_sql(log_file, "SELECT step, loss FROM tuning_steps ORDER BY step", read_only=True)
    assert steps == [(step["step"], step["loss"]) for step in found["steps"]]


def test_recipes_say_what_they_are() -> None:
    default, published = recipe_options(Recipe.DEFAULT), recipe_options(Recipe.PUBLISHED)
    assert (default.rank, default.targets, default.packing) == (16, LINEAR, True)
    stated = (published.rank, published.alpha, published.dropout, published.rate, published.warmup, published.epochs)
    assert stated == (8, 16, 0.05, 2e-5, 0.03, 3.0)
    assert (published.batch, published.accumulation, published.max_tokens, published.packing) == (1, 8, 1024, False)
    assert published.targets == ("q_proj", "v_proj")
    assert recipe_options(Recipe.PUBLISHED, rank=4, packing=None).rank == 4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--rank", "0"), "--rank is 0"),
        (("--lr", "0"), "--lr is 0.0"),
        (("--dropout", "1"), "--dropout is 1.0"),
        (("--epochs", "-1"), "--epochs is -1.0"),
        (("--target-modules", "q_proj,lm_head"), "--target-modules names 'lm_head'"),
        (("--target-modules", ","), "--target-modules names 'nothing'"),
        (("--max-tokens", "20"), "no row fits into --max-tokens 20"),
        (("--gguf", "other.gguf"), "--gguf other.gguf is for --merge"),
        (("--resume",), "holds no unfinished tuning"),
        (("--mix", "1:1"), "--mix is '1:1'"),
        (("--base", "nowhere/at/all"), "base 'nowhere/at/all' does not exist"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    given: tuple[str, ...], says: str, log_file: Path, tmp_path: Path, refusal: Refusal
) -> None:
    out = tmp_path / "tuned"
    assert says in refusal("tune", log_file, "--out", out, "-q", *ALIGNED, *given)
    assert not out.exists()
    assert plain_sql(log_file, "SELECT count(*) FROM tunings", read_only=True) == [(0,)]


def test_a_log_without_finished_scenes_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    with make_log(tmp_path / "run.duckdb", ["How do trees grow?"]):
        pass
    line = refusal("tune", tmp_path / "run.duckdb", "--out", tmp_path / "tuned", "--base", "embedded", "-q")
    assert "row" in line or "scene" in line


def test_an_architecture_that_cannot_be_tuned_is_refused(log_file: Path, tmp_path: Path, refusal: Refusal) -> None:
    unknown: Any = "smollm3"
    other = write_random_gguf(tmp_path / "other.gguf", architecture=unknown)
    assert "'smollm3', which cannot be tuned" in refusal("tune", log_file, "--base", other, "--out", tmp_path / "tuned", "-q", *ALIGNED)


def test_a_folder_in_use_is_left_alone(log_file: Path, tmp_path: Path, refusal: Refusal) -> None:
    out = tmp_path / "tuned"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert f"--out {out} is in use" in refusal("tune", log_file, "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_tuning_that_was_stopped_is_gone_on_with_as_it_was_begun(
    log_file: Path, tmp_path: Path, tiny_model: Path, refusal: Refusal
) -> None:
    out = tmp_path / "tuned"
    job = Job(
        tuning="t",
        base=str(tiny_model),
        base_hash=_core.hash_file(tiny_model).hex(),
        chat_template=None,
        dataset="00",
        options=recipe_options(Recipe.DEFAULT, rank=4),
    )
    write_job(out / "unfinished", job, Rows([Tokens([1, 2, 3], 1)], []))
    (out / "unfinished" / "checkpoint-7").mkdir()
    (out / "unfinished" / "partial").mkdir()  # a checkpoint that never was whole

    stopped = refusal("tune", log_file, "--out", out, "-q")
    assert "was stopped behind step 7: go on with --resume" in stopped
    other = refusal("tune", log_file, "--out", out, "-q", *ALIGNED, "--resume", "--rank", "8")
    assert "was begun with" in other
    assert (out / "unfinished" / "checkpoint-7").is_dir()


def test_where_a_library_is_missing_a_line_says_how_to_get_it(
    log_file: Path, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LIBRARIES", ("a_library_that_nobody_has",))
    line = refusal("tune", log_file, "--out", tmp_path / "tuned", "-q")
    assert "a_library_that_nobody_has is not installed: pip install 'matrix-py[train]'" in line
    assert not (tmp_path / "tuned").exists()


def test_a_base_that_was_moved_has_to_be_named(log_file: Path, tmp_path: Path, tiny_model: Path, refusal: Refusal) -> None:
    with_other = shutil.copy(log_file, tmp_path / "other.duckdb")
    plain_sql(Path(with_other), "UPDATE run SET execution = replace(execution::VARCHAR, 'tiny.gguf', 'gone.gguf')")
    assert "--base is missing" in refusal("tune", with_other, "--out", tmp_path / "tuned", "-q", *ALIGNED)
