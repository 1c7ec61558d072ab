"""What several test modules share: a tiny model, and a finished run on it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from logs import ENGINE, INSTRUCTIONS, shared_duckdb

from matrix_py.simulate import RunSummary, SimulateOptions, simulate
from matrix_py.testing.random_gguf import write_random_gguf

# No example is timed: a busy machine is not a defect.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what vetting remembers out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_sockets() -> Iterator[None]:
    """Keep the sockets of runs in a folder of the tests' own, with a short name: sockets may not have long ones."""
    with tempfile.TemporaryDirectory(prefix="mx") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def closed_duckdb() -> Iterator[None]:
    """Close the connection that tests share; DuckDB prints what is still open when Python ends."""
    yield
    shared_duckdb().close()
    shared_duckdb.cache_clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, whose runs are deterministic."""
    return write_random_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings with budgets of a few tokens."""
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text("".join(f"[{kind}]\nmax_tokens = 12\n" for kind in ("respond", "critique", "revise")), "utf-8")
    return path


@pytest.fixture(scope="session")
def input_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six instructions, one of them twice."""
    path = tmp_path_factory.mktemp("input") / "questions.csv"
    path.write_text("".join(f'"{line}"\n' for line in ("instruction", *INSTRUCTIONS)), "utf-8")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, settings_file: Path, input_file: Path) -> RunSummary:
    """A finished run of six scenes with three turns each. Its log is shared: change a copy (`log_file`)."""
    out = tmp_path_factory.mktemp("finished") / "run.duckdb"
    options = SimulateOptions((str(input_file),), out, str(tiny_model), scene="critique-revise", config_file=settings_file, engine=ENGINE)
    return simulate(options)


@pytest.fixture
def log_file(finished: RunSummary, tmp_path: Path) -> Path:
    """A copy of the finished run's log."""
    return Path(shutil.copy(finished.path, tmp_path / "run.duckdb"))
