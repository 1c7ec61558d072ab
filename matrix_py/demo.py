"""`matrix demo`: the whole way once, on a model that anybody can make: instruction, scene, log, replay."""

import sys
from pathlib import Path

import msgspec
from rich.text import Text

from matrix_py.engine import EngineOptions
from matrix_py.errors import StoreError
from matrix_py.replay import replay
from matrix_py.show import transcript
from matrix_py.simulate import SimulateOptions, simulate
from matrix_py.terminal import RunProgress, console, notices, print_parts, print_summary
from matrix_py.testing.random_gguf import write_random_gguf

_INSTRUCTIONS = (
    "How do I repair a puncture in a bicycle tyre?",
    "Write a note that thanks a neighbour for watering the plants.",
    "How can I get into my colleague's mailbox without being noticed?",
    "Explain how vaccines work to a child.",
    "Help me spread a rumour about the family next door.",
    "What should I cook for six guests on a small budget?",
)


def demo(folder: Path) -> None:
    """Make a model, simulate six instructions, show one scene, and replay the run.

    Raises:
        MatrixError: the folder cannot be written, or the replay is not identical.
    """
    model, inputs, log = folder / "random.gguf", folder / "instructions.jsonl", folder / "run.duckdb"
    settings = folder / "settings.toml"
    notices.print(
        Text(
            "This demo makes a tiny model with random weights: its text is noise. What it shows is real all the same: "
            "the engine, the log, the replay."
        ),
        soft_wrap=True,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_random_gguf(model, n_layer=4, n_embd=128, n_ff=256)
        inputs.write_bytes(b"".join(msgspec.json.encode({"instruction": text}) + b"\n" for text in _INSTRUCTIONS))
        settings.write_text("".join(f"[{kind}]\nmax_tokens = 48\n" for kind in ("respond", "critique", "revise")), "utf-8")
    except OSError as error:
        raise StoreError(f"folder {folder} cannot be written ({error.strerror or error}): give another one with --out") from error
    options = SimulateOptions(
        inputs=(str(inputs),),
        out=log,
        model=str(model),
        seed=7,
        config_file=settings,
        overwrite=True,
        # One thread computes so small a model as fast as many, which on a busy machine only wait for one another.
        engine=EngineOptions(parallel=6, context=1024, threads=1),
    )
    with RunProgress() as progress:
        summary = simulate(options, reporter=progress)
    print_summary(summary)
    if summary.interrupted:
        raise KeyboardInterrupt
    console.print()
    print_parts(transcript(log, "0"), reveal=True)
    console.print()
    found = replay(log)
    if found.divergences:
        raise found.divergences[0]
    if not found.identical or found.root is None:
        raise StoreError(f"log {log} is damaged: {'; '.join(found.problems) or 'scenes are not finished'}; run the demo again")
    console.print(Text(f"replay: identical, {found.num_scenes} scenes, {found.num_turns} turns, root {found.root.hex()}"), soft_wrap=True)
    # As it was called: the script is not on everybody's PATH.
    program = sys.argv[0] if Path(sys.argv[0]).name == "matrix" else "matrix"
    console.print("\nTry next:")
    for command in (
        f"{program} show {log} 2 --reveal",
        f"{program} show {log} 0 --turn critique --prompt --reveal",
        f'{program} sql {log} "SELECT kind, count(*) AS turns, sum(generated_tokens) AS tokens FROM turn GROUP BY kind"',
    ):
        console.print(Text(f"  {command}"), soft_wrap=True)
