"""Record the golden runs again, on purpose: `python replays/make.py [FOLDER]`. README.md says when.

Scripts answer in the place of a model; pump, scenes, prompts, event log and store are the real ones. Everything that a log says is fixed,
so that the same code records the same root hash on any machine.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from matrix_py import _core
from matrix_py.models.chat import ChatTemplate
from matrix_py.models.chat import load as load_template
from matrix_py.prompts import load_files, load_settings
from matrix_py.scene import find_scene
from matrix_py.simulate import recorded_prompts, run
from matrix_py.store import FORMAT, Log, SceneLister
from matrix_py.testing import ScriptedModel, TooLong
from matrix_py.types import Execution, Limits, RunConfig, RunRecord

ROOTS = "roots.json"

_Answer = Callable[[_core.Turn], str | TooLong]

# (instruction, given response): one is asked twice, one comes with its response, the last finds no room for its critique.
_CRITIQUE_REVISE = (
    ("How do I repair a puncture in a bicycle tyre?", None),
    ("Which trees grow well beside a street?", "Limes and maples do."),
    ("How do I repair a puncture in a bicycle tyre?", None),
    ("Wie schreibt man „Straße“ in Großbuchstaben? 🌳", None),
    ("What should I cook for six guests on a small budget?", None),
)


def _critique_revise(turn: _core.Turn) -> str | TooLong:
    prompt = "".join(text for text, _ in turn.segments)
    if turn.path == "critique" and "six guests" in prompt:
        return TooLong()
    return {
        "respond": " Take your time, and ask somebody who knows.\n",
        "critique": " Nobody is harmed <|im_end|> by this; it says little, though.",
        "revise": "Ask somebody who knows, und nimm dir Zeit.",
    }[turn.path]


RUNS: dict[str, tuple[str, tuple[tuple[str, str | None], ...], _Answer]] = {
    "critique-revise-scripted": ("critique-revise", _CRITIQUE_REVISE, _critique_revise)
}


def make(name: str, folder: Path) -> str:
    """Record one golden run into `folder`, and return its root hash in hex."""
    scene, rows, answer = RUNS[name]

    def scenes(lister: SceneLister) -> None:
        for row, (instruction, response) in enumerate(rows):
            lister.add(label="golden", row=row, instruction=instruction, response=response, meta="{}")

    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "run.duckdb"
        with Log.create(path, _record(name, scene), scenes, overwrite=False) as log:
            config = log.record.config
            summary = run(log, recorded_prompts(config), find_scene(scene), ScriptedModel(answer), window=2)
        _shrink(path, folder / f"{name}.duckdb")
    assert summary.root is not None, summary.counts.errors
    return summary.root.hex()


def _record(name: str, scene: str) -> RunRecord:
    template: ChatTemplate = load_template({}, override="chatml", bos_token="", eos_token="")
    config = RunConfig(
        format=FORMAT,
        scene=scene,
        limits=Limits(),
        seed=11,
        model=_core.blake3(b"a script").hex(),
        template=template.source,
        bos_token="",
        eos_token="",
        context=2048,
        deterministic=True,
        system="You are a helpful assistant.",
        prompts=load_files(None, scene),
        settings=load_settings(None, None, scene),
    )
    execution = Execution(
        model_path="a script",
        model_description="a script",
        llama_cpp="none",
        device="none",
        gpu_layers=0,
        kv="none",
        parallel=1,
        threads=1,
        batch=32,
        prefix_reuse=False,
        self_test="none",
        inputs=[],
        dropped={},
        prompts_dir="",
        config_file="",
        versions={},
    )
    return RunRecord(run_id=name, config=config, execution=execution)


def _shrink(log: Path, out: Path) -> None:
    """Copy a log into blocks of 16 KiB: DuckDB's own are of 256 KiB, each column's data begins a new one, and git keeps every version."""
    out.unlink(missing_ok=True)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(f"ATTACH '{log}' AS log (READ_ONLY)")
        connection.execute(f"ATTACH '{out}' AS small (BLOCK_SIZE 16384, STORAGE_VERSION 'v1.2.0')")
        connection.execute("COPY FROM DATABASE log TO small")


def main(folder: Path) -> None:
    """Record all golden runs and their roots into `folder`."""
    roots = {name: make(name, folder) for name in RUNS}
    (folder / ROOTS).write_text(json.dumps(roots, indent=2) + "\n", "utf-8")
    for name, root in roots.items():
        print(f"{name}: {root}, {(folder / f'{name}.duckdb').stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
