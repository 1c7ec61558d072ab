"""`matrix check-model`: what is asked, what is counted, what is said of a model, and that later runs record it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from matrix_py import _core
from matrix_py.check import PAIRS, Check, Share, _ask, _probes, _Tally, check_model, kept_check, planted_scenes
from matrix_py.cli import main
from matrix_py.engine import EngineOptions
from matrix_py.errors import ConfigError
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.testing import FormFailed, ScriptedModel, TooLong
from matrix_py.testing.random_gguf import write_random_gguf

PROMPTS = Prompts(load_files(None, "matrix"), load_settings(None, None, "matrix"), system="", template=ChatTemplate.plain())
REFUSAL = "I'm sorry, but I can't help with that request."


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def knows(turn: _core.Turn) -> str | FormFailed | TooLong:
    """A model that judges every planted act as it is to be judged, and fills every form."""
    prompt = "".join(text for text, _ in turn.segments)
    [scene] = [each for each in planted_scenes() if each.instruction in prompt] or [planted_scenes()[0]]
    attempted = next((act for act in _acts(scene) if f"\n{act}\n" in prompt), "")
    match turn.kind:
        case "feasible":
            return f"So it is.\nVerdict: {'no' if attempted in scene.infeasible else 'yes'}"
        case "critique":
            return "2: somebody is hurt" if attempted in scene.harmful else "none"
        case "recipients":
            return next((role for act, role in scene.noticed if act == attempted), "nobody")
        case "ego":
            return "lodger"
        case "roles":
            return "neighbour\nlandlady"
        case "profile":
            return "Age: 40\nTraits: calm\nStatus: at home"
        case "plan":
            return "1. waits\n2. goes home\n3. sleeps"
    return "Somebody waits."


def _acts(scene: object) -> list[str]:
    lists = [getattr(scene, name) for name in ("feasible", "infeasible", "secret", "harmless", "harmful")]
    return [act for each in lists for act in each] + [act for act, _ in scene.noticed]  # type: ignore[attr-defined]


def tally_of(answer: object) -> _Tally:
    tally = _Tally()
    for number, scene in enumerate(planted_scenes(), 1):
        _ask(ScriptedModel(answer), PROMPTS, scene, number, tally)  # type: ignore[arg-type]
    return tally


def test_planted_scenes_are_sound() -> None:
    for scene in planted_scenes():
        names = [role.partition(".")[0] for role in scene.roles]
        for act in _acts(scene):
            assert act.partition(": ")[0] in names, act
        for act, role in scene.noticed:
            assert role in names and not act.startswith(f"{role}: ")
    acts = [act for scene in planted_scenes() for act in _acts(scene)]
    assert len(set(acts)) == len(acts) >= 60


def test_a_model_that_knows_has_true_rates_of_one_and_false_rates_of_none() -> None:
    tally = tally_of(knows)
    for right, wrong, _ in PAIRS:
        assert len(tally.planted[right]) == len(tally.planted[wrong]) == 12
        assert all(tally.planted[right]) and not any(tally.planted[wrong])
    assert all(all(found) for forms_of in (tally.masked, tally.unmasked) for found in forms_of.values())
    assert (tally.too_long, sum(len(found) for found in tally.flaws.values())) == (0, len(tally.flaws))


def test_forms_are_counted_with_and_without_the_mask() -> None:
    def answer(turn: _core.Turn) -> str | FormFailed | TooLong:
        return knows(turn) if turn.sampling.form is not None else "Well, let me think."

    tally = tally_of(answer)
    assert all(all(found) for found in tally.masked.values())
    # A short name and a single line of a list are names, too.
    assert not any(any(found) for kind, found in tally.unmasked.items() if kind not in ("ego", "roles"))
    assert set(tally.masked) == {"ego", "roles", "profile", "plan", "feasible", "critique", "recipients"}


def test_refusals_are_counted_by_kind_also_inside_forms() -> None:
    def answer(turn: _core.Turn) -> str | FormFailed | TooLong:
        if turn.kind == "critique" and turn.sampling.form is not None:
            return f"3: {REFUSAL}"
        return REFUSAL if turn.kind in ("react", "respond") else knows(turn)

    tally = tally_of(answer)
    assert tally.flaws["react"]["refusal"] == 6 and tally.flaws["critique"]["refusal"] == 24
    # What the assistant itself says may be a refusal.
    assert "refusal" not in tally.flaws["respond"] and "refusal" not in tally.flaws["future"]


def test_prompts_that_do_not_fit_are_counted_and_judge_nothing() -> None:
    tally = tally_of(lambda turn: TooLong())
    assert tally.too_long == tally.turns == 6 * len(list(_probes(planted_scenes()[0])))
    assert not tally.planted and not tally.masked


def test_a_model_without_sense_is_told_so_in_words_and_the_result_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_random_gguf(tmp_path / "random.gguf", n_ctx=512, chat_template=None)

    assert main(["check-model", str(model), "--seconds", "1", "--quiet"]) == 0

    shown = capsys.readouterr().out
    assert "cannot play" in shown
    assert "prompts do not fit its context of 512 tokens" in shown
    assert "has no chat template" in shown
    kept = kept_check(_core.hash_file(str(model)).hex())
    assert kept is not None and kept.verdict == "cannot play"


def test_a_check_is_part_of_the_record_of_later_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = write_random_gguf(tmp_path / "random.gguf", n_ctx=4096), tmp_path / "in.jsonl"
    inputs.write_text('{"instruction": "Why?"}\n', "utf-8")

    def recorded() -> Check | None:
        out = tmp_path / "run.duckdb"
        arguments = ["simulate", str(inputs), "--model", str(model), "--scene", "vanilla", "--out", str(out), "--overwrite", "--quiet"]
        assert main(arguments) == 0
        capsys.readouterr()
        assert main(["sql", str(out), "SELECT execution -> 'model_check' AS found FROM run", "--format", "json"]) == 0
        [row] = json.loads(capsys.readouterr().out)
        found = row["found"]
        return msgspec.convert(json.loads(found) if isinstance(found, str) else found, Check | None)

    assert recorded() is None
    found = check_model(str(model), EngineOptions(deterministic=False, context=2048, threads=1), seconds=0.1)
    assert recorded() == found
    assert found.model == _core.hash_file(str(model)).hex()


def test_as_json_it_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_random_gguf(tmp_path / "random.gguf", n_ctx=4096)
    assert main(["check-model", str(model), "--seconds", "0.1", "--format", "json", "--quiet", "--threads", "1"]) == 0
    found = msgspec.convert(json.loads(capsys.readouterr().out), Check)
    assert found.turns >= 34 and found.masked["feasible"].of == 4


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--seconds", "nan"], ["--parallel", "0"]])
def test_bad_options_are_refused_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-model", "x.gguf", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    assert main(["check-model", str(broken)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_kept_check_that_is_damaged_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "matrix" / "checked"
    folder.mkdir(parents=True)
    (folder / "abc.json").write_text("{", "utf-8")
    assert kept_check("abc") is None
    with pytest.raises(ConfigError):
        check_model("x.gguf", seconds=-1)


def test_shares() -> None:
    assert Share(1, 4).rate == 0.25
    assert Share(0, 0).rate != Share(0, 0).rate
