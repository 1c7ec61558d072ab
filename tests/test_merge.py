"""Merging: scenes in the order given, each once; what differs is named; the merged log replays and resumes as any other."""

import re
from pathlib import Path

import pytest
from logs import drive, make_log, make_record, plain_sql, scripted
from msgspec.structs import replace as with_

from matrix_py.cli import main
from matrix_py.errors import StoreError
from matrix_py.replay import replay
from matrix_py.store import Log, strays
from matrix_py.store.merge import merge
from matrix_py.testing import ScriptedModel
from matrix_py.types import RunRecord


def played(path: Path, questions: str, model: ScriptedModel | None = None, record: RunRecord | None = None) -> Path:
    with make_log(path, [f"{letter}?" for letter in questions], record=record) as log:
        drive(log, model or scripted())
    return path


def half_played(path: Path, questions: str) -> Path:
    """A log whose engine failed in each scene's last turn."""
    model = scripted()
    answer = model._answer
    model._answer = lambda turn: RuntimeError("engine gone") if turn.path == "revise" else answer(turn)
    return played(path, questions, model)


def instructions(path: Path) -> str:
    rows = plain_sql(
        path, "SELECT t.text, s.position FROM scenes s JOIN texts t ON t.hash = s.instruction ORDER BY position", read_only=True
    )
    assert [position for _, position in rows] == list(range(len(rows)))
    return "".join(text[0] for text, _ in rows)


def test_logs_become_one_with_the_root_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = (played(tmp_path / f"{part}.duckdb", part) for part in ("ABC", "DE", "F"))
    undisturbed = played(tmp_path / "all.duckdb", "DEABCF")
    before = [path.read_bytes() for path in (one, two, three)]
    out = tmp_path / "merged.duckdb"

    assert main(["log", "merge", str(two), str(one), str(three), "--out", str(out)]) == 0

    found, expected = replay(out), replay(undisturbed)
    assert found.identical
    assert found.root == expected.root
    assert found.root is not None
    assert capsys.readouterr().out == f"{out}: 6 scenes (6 finished) of 3 logs\nroot {found.root.hex()}\n"
    assert instructions(out) == "DEABCF"
    assert [path.read_bytes() for path in (one, two, three)] == before
    # And the tables beside the run
    assert plain_sql(out, "SELECT list(session ORDER BY session) FROM sessions") == [([0, 1, 2],)]
    assert plain_sql(out, "SELECT count(*) FROM commits ANTI JOIN sessions USING (session)") == [(0,)]
    with Log.open(out, read_only=True) as log:
        assert log.recorded_root() == found.root
        assert log.record.execution.merged_from == [f"{path} (test)" for path in (two, one, three)]
        assert log.record.run_id != "test"
        assert strays(log) == []


def test_a_scene_that_both_hold_is_taken_where_it_is_finished(tmp_path: Path) -> None:
    open_, done = half_played(tmp_path / "open.duckdb", "ABC"), played(tmp_path / "done.duckdb", "CBD")
    out = tmp_path / "merged.duckdb"

    found = merge([open_, done], out)

    assert (found.num_scenes, found.num_finished, found.num_shared, found.root) == (4, 3, 2, None)
    assert instructions(out) == "ABCD"
    assert replay(out).identical
    # The one that is open goes on where it was.
    model = scripted()
    with Log.open(out, read_only=False) as log:
        root = drive(log, model).root
    assert [turn.path for turn in model.turns] == ["revise"]
    assert root == replay(played(tmp_path / "all.duckdb", "ABCD")).root
    assert plain_sql(out, "SELECT max(session) FROM sessions") == [(2,)]


def test_a_scene_finished_the_same_in_both_is_there_once(tmp_path: Path) -> None:
    one, two = played(tmp_path / "one.duckdb", "AB"), played(tmp_path / "two.duckdb", "BA")

    found = merge([one, two], tmp_path / "merged.duckdb")

    assert (found.num_scenes, found.num_shared) == (2, 2)
    assert found.root == replay(one).root
    assert replay(tmp_path / "merged.duckdb").identical


def test_a_scene_that_came_out_otherwise_is_named(tmp_path: Path) -> None:
    one, two = played(tmp_path / "one.duckdb", "AB"), played(tmp_path / "two.duckdb", "CB", scripted(2))
    [(scene,)] = plain_sql(one, "SELECT lower(hex(scene)) FROM scenes WHERE position = 1")

    with pytest.raises(StoreError, match=rf"scene {scene[:12]} is finished in {one} and in {two}, with different events"):
        merge([one, two], tmp_path / "merged.duckdb")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.duckdb", "two.duckdb"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, r"seed of their configuration \(3 and 4\)"),
        ({"system": "Be kind. " * 20}, "system of their configuration:"),
        ({"prompts": {}}, "prompts.critique.txt of their configuration"),
    ],
)
def test_another_configuration_is_refused_by_its_first_field(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    record = make_record()
    one = played(tmp_path / "one.duckdb", "A")
    two = tmp_path / "two.duckdb"
    make_log(two, ["B?"], record=with_(record, config=with_(record.config, **changes))).close()

    with pytest.raises(StoreError, match=named):
        merge([one, two], tmp_path / "merged.duckdb")


def test_labels_are_kept_of_detectors_that_looked_at_all_logs_in_one_version(tmp_path: Path) -> None:
    one, two = played(tmp_path / "one.duckdb", "AB"), played(tmp_path / "two.duckdb", "BC")
    for path, version in ((one, 1), (two, 2)):
        plain_sql(path, "DELETE FROM detectors", "DELETE FROM labels")  # those of the run's end
        for detector, number in (("refusal", 3), ("loop", version)):
            plain_sql(path, f"INSERT INTO detectors SELECT '{detector}', {number}, now()::TIMESTAMP, count(*) FROM completions")
            plain_sql(path, f"INSERT INTO labels SELECT scene, path, attempt, 'x', '{detector}', {number} FROM completions")

    found = merge([one, two], tmp_path / "merged.duckdb")

    assert found.notes == ["labels of loop are left out: not every log has them in the same version; label again"]
    # Three turns a scene, each scene once.
    merged = "SELECT detector, version, num_turns FROM detectors", "SELECT detector, count(*), count(DISTINCT scene) FROM labels GROUP BY 1"
    assert [plain_sql(tmp_path / "merged.duckdb", statement) for statement in merged] == [[("refusal", 3, 9)], [("refusal", 9, 3)]]


def test_what_cannot_be_merged_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = played(tmp_path / "one.duckdb", "A"), played(tmp_path / "two.duckdb", "B")
    damaged = played(tmp_path / "damaged.duckdb", "C")
    plain_sql(damaged, "DELETE FROM texts WHERE hash IN (SELECT text FROM completions)")
    before = sorted(path.name for path in tmp_path.iterdir())
    for runs, out, message in (
        ([one], "new", "two or more"),
        ([one, one], "new", "given twice"),
        ([one, tmp_path / "none"], "new", "does not exist"),
        ([one, two], "two.duckdb", "one of the logs to merge"),
        ([one, two], "damaged.duckdb", "exists"),
        ([one, damaged], "new", "is damaged .*matrix log salvage"),
    ):
        assert main(["log", "merge", *map(str, runs), "--out", str(tmp_path / out)]) == 2
        assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
