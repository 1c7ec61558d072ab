"""Logs for tests: what the runs on the tiny model are made of, runs on a script, and plain SQL on either."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from matrix_py.engine import EngineOptions
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import load_files, load_settings
from matrix_py.scene import find_scene
from matrix_py.scene.rules import RULES
from matrix_py.simulate import RunSummary, recorded_prompts, run
from matrix_py.store import Log, SceneLister
from matrix_py.testing import ScriptedModel
from matrix_py.types import CONFIG_FORMAT, Execution, Limits, RunConfig, RunRecord

INSTRUCTIONS = (
    "How do I repair a puncture in a bicycle tyre?",
    "Write a note that thanks a neighbour for watering the plants.",
    "Explain how vaccines work to a child.",
    "How do I repair a puncture in a bicycle tyre?",
    "What should I cook for six guests on a small budget?",
    "Which trees grow well beside a street?",
)
# One thread: on a busy machine, several wait for one another far longer than they compute.
ENGINE = EngineOptions(parallel=4, context=1024, threads=1)
EMBEDDED = EngineOptions(threads=1)

Rows = Sequence[str | tuple[str, str | None]]


def make_record(scene: str = "critique-revise") -> RunRecord:
    """The record of a run on a script, with the package's prompts and settings."""
    config = RunConfig(
        format=CONFIG_FORMAT,
        scene=scene,
        limits=Limits(),
        seed=3,
        model="00" * 32,
        template=ChatTemplate.plain().source,
        bos_token="",
        eos_token="",
        context=1024,
        deterministic=True,
        rules=RULES,
        system="",
        prompts=load_files(None, scene),
        settings=load_settings(None, None, scene),
    )
    execution = Execution(
        model_path="scripted",
        model_description="a script",
        llama_cpp="",
        device="",
        gpu_layers=0,
        kv="",
        parallel=1,
        threads=1,
        batch=32,
        prefix_reuse=False,
        self_test="",
        inputs=[],
        dropped={},
        prompts_dir="",
        config_file="",
        versions={},
    )
    return RunRecord(run_id="test", config=config, execution=execution)


def make_log(path: Path, rows: Rows, *, record: RunRecord | None = None, overwrite: bool = False) -> Log:
    """Create a log of unfinished scenes: instructions, or instructions with their given responses."""

    def scenes(lister: SceneLister) -> None:
        for row, item in enumerate(rows):
            instruction, response = (item, None) if isinstance(item, str) else item
            lister.add(label="test", row=row, instruction=instruction, response=response, meta=f'{{"row":{row}}}')

    return Log.create(path, record or make_record(), scenes, overwrite=overwrite)


def drive(log: Log, model: ScriptedModel | None, *, window: int = 4) -> RunSummary:
    """Run the unfinished scenes of a log on a script."""
    config = log.record.config
    return run(log, recorded_prompts(config), find_scene(config.scene), model, window=window)


def scripted(length: int = 1) -> ScriptedModel:
    """A model that says, `length` times over, which turn it answers."""
    return ScriptedModel(lambda turn: f"A reply to {turn.path} of {turn.scene.hex()[:8]}. " * length)


@cache
def shared_duckdb() -> duckdb.DuckDBPyConnection:
    """Connecting takes longer than all that a test does then, so logs are attached to one connection. conftest.py closes it."""
    return duckdb.connect(config={"threads": 1})


def plain_sql(path: Path, *statements: str, parameters: Sequence[object] = (), read_only: bool = False) -> list[tuple[Any, ...]]:
    """Run statements on a log in DuckDB itself, as anybody could, and return the rows of the last."""
    connection = shared_duckdb()
    name = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{name}' AS log{' (READ_ONLY)' if read_only else ''}; USE log")
    try:
        for statement in statements[:-1]:
            connection.execute(statement)
        return connection.execute(statements[-1], list(parameters)).fetchall()
    finally:
        connection.execute("USE memory; DETACH log")
