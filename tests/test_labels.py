"""Labels beside the log: what detectors find and how well; that labelling is whole, repeatable and of no consequence for a run."""

import gc
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from logs import drive, make_log, plain_sql
from social import Script
from story import social_record, tell

from matrix_py.cli import main
from matrix_py.errors import ConfigError, StoreError
from matrix_py.intervals import wilson
from matrix_py.labels import DETECTORS, Detector, Subject, label_run, read_labels
from matrix_py.labels.detector import every_text, fold
from matrix_py.prompts import load_files, load_settings
from matrix_py.replay import replay
from matrix_py.simulate import resume
from matrix_py.store import Log, TurnText
from matrix_py.store import labels as tables

HERE = Path(__file__).parent
DOCS = (HERE.parent / "docs" / "labels.md").read_text("utf-8")
PROMPTS = load_files(None, "matrix")
SETTINGS = load_settings(None, None, "matrix")
FORMS = ("profile", "plan", "ego", "feasible", "critique")
# Precision and recall on the held-out half that a detector has to reach: levels that it did reach, less one text of it.
LEAST = {"refusal": (0.95, 0.85), "assistant": (0.93, 0.93), "leak": (0.93, 0.86), "repetition": (0.93, 0.93), "language": (0.87, 0.93)}


@cache
def sample() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in (HERE / "labels" / "sample.jsonl").read_text("utf-8").splitlines())


def subject(row: dict[str, Any]) -> Subject:
    kind = row["kind"]
    return Subject(
        text=row["text"],
        kind=kind,
        in_world=SETTINGS[kind].system == "writer",
        instruction=row["instruction"],
        response=row.get("response", ""),
        roles=tuple(row.get("roles", ())),
        prompt=PROMPTS.get(f"{kind}.txt", ""),
        is_form=kind in FORMS,
        earlier={fold(text) for text in row.get("earlier", ())},
    )


def figures(detector: Detector, split: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Precision and recall, each as so many of so many."""
    rows = [row for row in sample() if (row["detector"], row["split"]) == (detector.name, split)]
    found = [row for row in rows if detector.find(subject(row))]
    right = sum(row["label"] is not None for row in found)
    return (right, len(found)), (right, sum(row["label"] is not None for row in rows))


@pytest.fixture
def story(tmp_path: Path) -> Path:
    tell(tmp_path / "run.duckdb")
    return tmp_path / "run.duckdb"


def rows(path: Path) -> list[tuple[Any, ...]]:
    return plain_sql(path, "SELECT scene, path, attempt, label, detector, version FROM label ORDER BY ALL", read_only=True)


def finds(name: str, word: str, version: int = 1, found: Callable[[Subject], bool] = lambda subject: True) -> Detector:
    return Detector(name, version, every_text, lambda subject: word if found(subject) else None)


class TestDetectors:
    def test_the_sample_is_large_and_halved(self) -> None:
        assert len(sample()) >= 150
        for detector in DETECTORS:
            for split in ("development", "held_out"):
                mine = [row["label"] for row in sample() if (row["detector"], row["split"]) == (detector.name, split)]
                assert min(sum(label is None for label in mine), sum(label is not None for label in mine)) >= 15

    @pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
    def test_precision_and_recall_on_texts_that_it_was_not_tuned_to(self, detector: Detector) -> None:
        precision, recall = figures(detector, "held_out")

        assert precision[0] / precision[1] >= LEAST[detector.name][0]
        assert recall[0] / recall[1] >= LEAST[detector.name][1]

    @pytest.mark.parametrize("split", ["development", "held_out"])
    @pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
    def test_the_documented_figures_are_those_measured(self, detector: Detector, split: str) -> None:
        cells = []
        for count, of in figures(detector, split):
            low, high = wilson(count, of)
            cells.append(f"{count} of {of} ({low:.2f} to {high:.2f})")

        assert f"| `{detector.name}` | {split.replace('_', '-')} | {' | '.join(cells)} |" in DOCS

    def test_the_documented_versions_are_those_of_the_code(self) -> None:
        documented = re.findall(r"^\| `(\w+)` \| (\d+) \|", DOCS, re.MULTILINE)

        assert documented == [(detector.name, str(detector.version)) for detector in DETECTORS]

    @pytest.mark.parametrize("row", [row for row in sample() if row["label"]], ids=lambda row: row["text"][:30])
    def test_what_is_found_has_the_right_name(self, row: dict[str, Any]) -> None:
        [detector] = [detector for detector in DETECTORS if detector.name == row["detector"]]

        assert detector.find(subject(row)) in (None, row["label"])

    @pytest.mark.parametrize(
        "piece", [", and ", "but ", "ich kann ", "i cannot really ", "the cashier ", "и в ", "in the scene ", "Anna Weber "]
    )
    def test_long_texts_take_no_more_than_linear_time(self, piece: str) -> None:
        text = piece * (50_000 // len(piece))
        for detector in DETECTORS:
            # A pattern that tried this in quadratic time would run for minutes.
            detector.find(Subject(text, "revise", False, "Help me.", "No.", ("cashier", "Anna Weber")))


class TestRun:
    def test_a_run_is_labelled_at_its_end(self, story: Path) -> None:
        found = {(path, attempt, label) for _, path, attempt, label, detector, _ in rows(story) if detector == "refusal"}

        flawed = plain_sql(story, "SELECT path, attempt, flaw FROM flaw WHERE flaw = 'refusal'", read_only=True)
        assert found == set(flawed)
        assert len(found) == 7

    def test_labelling_again_changes_nothing_but_the_time(self, story: Path) -> None:
        before = rows(story)
        counted = "SELECT detector, version, num_turns FROM detectors ORDER BY ALL"
        detectors = plain_sql(story, counted, read_only=True)

        with Log.open(story, read_only=False) as log:
            first, second = label_run(log), label_run(log)

        assert rows(story) == before != []
        assert plain_sql(story, counted, read_only=True) == detectors
        assert [each.kinds for each in first.detectors] == [each.kinds for each in second.detectors]

    def test_a_raised_version_replaces_what_the_older_one_found(self, story: Path) -> None:
        with Log.open(story, read_only=False) as log:
            label_run(log, [finds("mine", "old")])
            others = [row for row in rows_of(log) if row[4] != "mine"]

            label_run(log, [finds("mine", "new", version=2, found=lambda subject: subject.kind == "act")])

            assert {(row[3], row[5]) for row in rows_of(log) if row[4] == "mine"} == {("new", 2)}
            assert [row for row in rows_of(log) if row[4] != "mine"] == others
            assert log.query("SELECT version, count(*) FROM detectors WHERE detector = 'mine' GROUP BY ALL")[1] == [(2, 1)]

    def test_only_what_is_stale_is_looked_at_again(self, story: Path) -> None:
        seen: list[str] = []

        def look(name: str) -> Callable[[Subject], bool]:
            return lambda subject: bool(seen.append(name))

        one, two = (finds(name, name, found=look(name)) for name in ("one", "two"))
        with Log.open(story, read_only=False) as log:
            label_run(log, [one, two])
            seen.clear()

            label_run(log, [one, replace(two, version=2)], stale_only=True)

        assert set(seen) == {"two"}

    def test_labels_change_neither_root_nor_replay(self, story: Path) -> None:
        with Log.open(story, read_only=False) as log:
            root = log.root()
            label_run(log, [finds("mine", "word")])
            assert log.root() == root

        found = replay(story)
        assert found.identical
        assert found.root == root

    def test_a_log_of_format_1_is_brought_up_to_date_and_labelled(self, tmp_path: Path) -> None:
        path = Path(shutil.copy(HERE / "golden" / "format-1.duckdb", tmp_path / "run.duckdb"))

        with Log.open(path, read_only=False) as log:
            found = label_run(log)

        assert [each.detector for each in found.detectors] == [detector.name for detector in DETECTORS]
        assert sum(each.num_turns for each in found.detectors) > 0
        assert replay(path).identical

    def test_a_page_of_scenes_is_in_memory_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with make_log(tmp_path / "run.duckdb", [f"Question {number}?" for number in range(7)]) as log:
            drive(log, Script())
            label_run(log, [finds("mine", "word")])
            expected = rows_of(log)
            monkeypatch.setattr(tables, "PAGE", 2)
            most = 0

            def count(subject: Subject) -> bool:
                nonlocal most
                most = max(most, sum(type(each) is TurnText for each in gc.get_objects()))
                return True

            label_run(log, [finds("mine", "word", found=count)])

            turns = log.num_completions() // 7
            assert turns <= most <= 2 * turns
            assert rows_of(log) == expected

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_what_stops_it_leaves_the_labels_as_they_were(self, story: Path, error: type[BaseException]) -> None:
        before = rows(story)

        def stop(subject: Subject) -> str | None:
            if subject.kind == "revise":
                raise error
            return "word"

        with Log.open(story, read_only=False) as log:
            with pytest.raises(error):
                label_run(log, [*DETECTORS, Detector("mine", 1, every_text, stop)])
            assert rows_of(log) == before
            assert {each.detector for each in read_labels(log).detectors} == {detector.name for detector in DETECTORS}

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no")])
    def test_a_run_whose_labelling_fails_is_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        # By its name, `matrix_py.simulate` is the function.
        monkeypatch.setattr(sys.modules["matrix_py.simulate"], "label_run", fail)
        path = tmp_path / "run.duckdb"
        with make_log(path, ["Why?"]) as log:
            summary = drive(log, Script())
        assert summary.root is not None
        assert (summary.labels, summary.health) == (None, None)
        assert summary.interrupted == (error is KeyboardInterrupt)
        assert replay(path).identical
        assert rows(path) == []

        monkeypatch.undo()
        assert resume(path).labels is not None

    def test_rates_are_by_kind(self, story: Path) -> None:
        with Log.open(story, read_only=True) as log:
            found = {each.detector: each for each in read_labels(log).detectors}

        refusals = {kind.kind: (kind.labels, kind.num_turns) for kind in found["refusal"].kinds if kind.labels}
        # Two scenes, in each of which the visitor refuses four times, and the guard three times.
        assert refusals == {"act": ({"refusal": 8}, 12), "react": ({"refusal": 6}, 16)}
        assert {kind.kind for kind in found["leak"].kinds} == {"revise"}
        assert not {"respond", "revise", "recipients"} & {kind.kind for kind in found["assistant"].kinds}
        assert all(each.num_turns == sum(kind.num_turns for kind in each.kinds) for each in found.values())

    def test_a_second_attempt_of_a_turn_repeats_nothing_and_another_turn_does(self, tmp_path: Path) -> None:
        says = {"step/1/react/owner": "calls the police", "step/2/react/owner": "Calls the police."}
        notice = {"step/1/act": "owner", "step/2/act": "owner"}
        with make_log(tmp_path / "run.duckdb", ["Why?"], record=social_record(steps=2)) as log:
            drive(log, Script(says, notice=notice))
            found = log.query("SELECT path, label FROM label WHERE detector = 'repetition'")[1]

        assert len(found) == 1
        assert found[0][0].endswith("react/owner")
        assert found[0][1] == "repeat"

    def test_two_detectors_of_one_name_are_refused(self, story: Path) -> None:
        with Log.open(story, read_only=False) as log, pytest.raises(ConfigError, match="'mine' is there twice"):
            label_run(log, [finds("mine", "a"), finds("mine", "b")])

    def test_a_log_that_is_open_for_reading_only_is_refused(self, story: Path) -> None:
        with Log.open(story, read_only=True) as log, pytest.raises(StoreError, match=r"run\.duckdb"):
            label_run(log)


def rows_of(log: Log) -> list[tuple[Any, ...]]:
    return log.query("SELECT scene, path, attempt, label, detector, version FROM label ORDER BY ALL")[1]


def test_the_example_of_a_detector_runs(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(story.parent)
    [example] = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)

    exec(example, {})

    assert {row[4] for row in rows(story)} <= {"shouting", *(detector.name for detector in DETECTORS)}
    assert plain_sql(story, "SELECT count(*) FROM detectors WHERE detector = 'shouting'", read_only=True) == [(1,)]


class TestCommand:
    def test_it_prints_rates_and_health(self, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["label", str(story)]) == 0

        shown = capsys.readouterr()
        assert re.search(r"^refusal +1 +react +refusal +\d+ +\d+ +[\d.]+%", shown.out, re.MULTILINE)
        assert "infeasible acts 2 of " in shown.out
        assert "budgets hit: " in shown.out
        assert shown.err == ""

    def test_as_json_it_is_one_document_for_all_logs(self, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = shutil.copy(story, tmp_path / "other.duckdb")

        assert main(["label", str(story), str(other), "--format", "json"]) == 0

        [first, second] = json.loads(capsys.readouterr().out)
        assert [detector["detector"] for detector in first["detectors"]] == [detector.name for detector in DETECTORS]
        assert first["health"] == second["health"]
        assert set(first["health"]) == {"infeasible", "unnoticed", "repeated", "length"}

    def test_a_summary_ends_with_rates_and_health(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from matrix_py.terminal import print_summary

        with make_log(tmp_path / "run.duckdb", ["Why?"], record=social_record()) as log:
            print_summary(drive(log, Script({"respond": "I'm sorry, but I can't assist with that."})))

        last = capsys.readouterr().out.splitlines()[-3:]
        assert last[0].startswith("labels: refusal 1 of ")
        assert "respond 1" in last[0]
        assert last[1].startswith("health: infeasible acts 0 of 5 (0.0%), acts that nobody noticed 5 of 5 (100.0%)")
        assert last[2] == "budgets hit: none"
