"""Logs of scripted runs, for tests: no model and no engine."""

from collections.abc import Sequence
from pathlib import Path

from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import load_files, load_settings
from matrix_py.scene import find_scene
from matrix_py.simulate import RunSummary, recorded_prompts, run
from matrix_py.store import FORMAT, Log, SceneLister
from matrix_py.testing import ScriptedModel
from matrix_py.types import Execution, RunConfig, RunRecord

_EXECUTION = Execution(
    model_path="scripted", model_description="a script", llama_cpp="", device="", gpu_layers=0, kv="", parallel=1, threads=1,
    batch=32, prefix_reuse=False, self_test="", inputs=[], dropped={}, prompts_dir="", config_file="", versions={},
)  # fmt: skip


Rows = Sequence[str | tuple[str, str | None]]


def make_record(scene: str = "critique-revise") -> RunRecord:
    """The record of a run on a script, with the package's prompts and settings."""
    template = ChatTemplate.plain().source
    config = RunConfig(
        format=FORMAT, scene=scene, seed=3, model="00" * 32, template=template, bos_token="", eos_token="", context=1024,
        deterministic=True, system="", prompts=load_files(None), settings=load_settings(None, None),
    )  # fmt: skip
    return RunRecord(run_id="test", config=config, execution=_EXECUTION)


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
