"""The golden runs in replays/ replay with today's scene code, prompts and settings. replays/README.md says what to do if not."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from matrix_py.replay import describe, replay
from matrix_py.store import Log

FOLDER = Path(__file__).parents[1] / "replays"
RUNS = sorted(FOLDER.glob("*.duckdb"), key=lambda path: path.name)
ROOTS: dict[str, str] = json.loads((FOLDER / "roots.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The script replays/make.py, as a module."""
    spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_golden_run_has_a_recipe_a_root_and_a_line_in_the_readme(make: ModuleType) -> None:
    names = [path.stem for path in RUNS]

    assert names
    assert names == sorted(ROOTS) == sorted(make.RUNS)
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert all(f"| `{name}` |" in readme for name in names)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_golden_run_replays_with_todays_code_prompts_and_settings(path: Path) -> None:
    found = replay(path)

    assert [*map(describe, found.divergences), *found.problems, *found.notes] == []
    assert found.num_finished == found.num_scenes > 0
    assert found.root is not None
    assert found.root.hex() == ROOTS[path.stem]


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_recording_again_gives_the_same_root(make: ModuleType, name: str, tmp_path: Path) -> None:
    # So the script's live run and the replay of its log are the same run, and a log recorded on purpose differs on purpose only.
    assert make.make(name, tmp_path) == ROOTS[name]
    assert replay(tmp_path / f"{name}.duckdb").identical


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_golden_run_is_small_and_holds_no_path(path: Path) -> None:
    content = path.read_bytes()

    assert len(content) < 256 * 1024
    for trace in (Path.home(), Path.cwd(), Path(os.environ.get("TMPDIR", "/tmp"))):
        assert trace == Path("/") or str(trace).encode() not in content


def test_an_edited_prompt_breaks_the_golden_run(tmp_path: Path) -> None:
    # Given a folder with one of the package's prompts changed, as an edit of the package would change it
    (tmp_path / "revise.txt").write_text("--- user\nImprove: {response}\n")
    log = shutil.copy(FOLDER / "critique-revise-scripted.duckdb", tmp_path / "run.duckdb")

    found = replay(Path(log), prompts_dir=tmp_path)

    # The scene that fails before its revision is the one that does not differ.
    assert {error.seq for error in found.divergences} == {4, 5}
    assert len(found.divergences) == found.num_scenes - 1
    assert found.notes == ["prompt files that are not as recorded: revise.txt"]


# What the README says that the runs pin, so that recording one again cannot lose it.
PINNED: dict[str, dict[str, list[tuple[object, ...]]]] = {
    "critique-revise-scripted": {
        "SELECT state, count(*) FROM scene GROUP BY state ORDER BY state": [("completed", 4), ("failed", 1)],
        "SELECT count(*) FROM events WHERE kind = 'ResponseGiven' AND payload ->> 'given' = 'true'": [(1,)],
        "SELECT max(occurrence) FROM scenes": [(1,)],
        "SELECT format FROM run": [(2,)],
    },
    "matrix-infeasible-acts-reach-only-the-consequence": {
        "SELECT origin, recipients FROM action WHERE NOT feasible ORDER BY ordinal": [("reaction", None), ("plan", None)],
        "SELECT recipients FROM action WHERE ordinal = 1": [(["owner", "the cashier"],)],
        "SELECT severity FROM action WHERE severity IS NOT NULL": [(2,)],
        "SELECT count(*) FROM read WHERE path = 'consequence' AND reads_path = 'step/2/act/feasible'": [(1,)],
        "SELECT count(*) FROM read WHERE path LIKE 'step/3/%' AND reads_path = 'step/2/act/feasible'": [(0,)],
    },
    "matrix-waves-answer-what-was-noticed": {
        "SELECT role, causes FROM action WHERE depth = 2": [("the cashier", ["step/1/react/owner", "step/1/react/customer"])],
        "SELECT causes FROM action WHERE action = 'step/2/act'": [(["step/1/react/owner", "step/1/react/the cashier/2"],)],
        "SELECT count(*) FROM read WHERE path = 'step/1/react/customer' AND reads_path = 'step/1/react/owner'": [(0,)],
    },
    "matrix-condenses-and-stops-at-its-limits": {
        "SELECT end_reason, interactions FROM scene": [("interactions", 10)],
        "SELECT count(*) FROM action WHERE feasible AND NOT took_place": [(2,)],
        "SELECT payload ->> 'turn', payload ->> 'entries' FROM events WHERE payload ->> 'kind' = 'MemoryCondensed' ORDER BY seq": [
            ("step/1/condense/memory", "4"),
            ("step/2/condense/memory", "5"),
        ],
        "SELECT payload ->> 'critiques' FROM events WHERE payload ->> 'kind' = 'CritiquesCondensed'": [("10",)],
    },
    "matrix-keeps-a-response-without-harm": {
        "SELECT end_reason, kept, revision FROM scene ORDER BY position": [("plan", True, None), ("no_progress", True, None)],
    },
    "matrix-flawed-replies": {
        "SELECT DISTINCT flaw FROM flaw ORDER BY flaw": [
            *(("assistant",), ("empty",), ("label",), ("language",), ("loop",), ("refusal",), ("run_on",), ("thinking",)),
        ],
        "SELECT DISTINCT policy FROM flaw ORDER BY policy": [("cut",), ("failed",), ("fell_back",), ("kept",), ("retried",)],
        "SELECT state FROM scene ORDER BY position": [("completed",), ("failed",)],
        "SELECT count(*) FROM turn WHERE outcome = 'form_failed'": [(3,)],
    },
    "published-condenses-as-it-goes": {
        "SELECT payload ->> 'turn' FROM events WHERE payload ->> 'kind' = 'CritiquesCondensed' ORDER BY seq": [
            ("step/3/react/customer/condense/critiques",),
            ("end/condense/critiques",),
        ],
        "SELECT count(*) FROM turn WHERE path LIKE 'step/2/%'": [(2,)],
        "SELECT count(*) FROM turn WHERE outcome = 'form_failed'": [(0,)],
        "SELECT DISTINCT severity FROM action WHERE severity IS NOT NULL": [(0,)],
    },
}


def test_every_golden_run_says_what_it_pins() -> None:
    assert sorted(PINNED) == sorted(ROOTS)


@pytest.mark.parametrize(("name", "statement"), [(name, each) for name, statements in PINNED.items() for each in statements])
def test_a_golden_run_holds_what_the_readme_says_it_pins(name: str, statement: str) -> None:
    with Log.open(FOLDER / f"{name}.duckdb", read_only=True) as log:
        _, rows = log.query(statement)

    assert rows == PINNED[name][statement]
