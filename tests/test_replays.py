"""The golden runs in replays/ replay with today's scene code, prompts and settings. replays/README.md says what to do if not."""

import importlib.util
import json
import os
import shutil
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from logs import plain_sql

from matrix_py.replay import describe, replay

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

    assert len(content) < 200 * 1024
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


def test_the_golden_run_holds_what_the_readme_says_it_pins() -> None:
    log = FOLDER / "critique-revise-scripted.duckdb"

    read = partial(plain_sql, log, read_only=True)
    ends = read("SELECT state, count(*) FROM scene GROUP BY state ORDER BY state")
    given = read("SELECT count(*) FROM events WHERE kind = 'ResponseGiven' AND payload ->> 'given' = 'true'")

    assert ends == [("completed", 4), ("failed", 1)]
    assert given == [(1,)]
    assert read("SELECT max(occurrence) FROM scenes") == [(1,)]
    assert read("SELECT format FROM run") == [(1,)]
