"""The adapter's README: what it is, what it was made of and by, and how it is used. No path of the machine is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matrix_py.dataset import Dataset
from matrix_py.store import TuningStep
from matrix_py.tune.base import Base
from matrix_py.tune.drafting import draft
from matrix_py.tune.job import Job
from matrix_py.tune.messages import Finished, Started
from matrix_py.tune.options import ASSUMPTIONS, option, stated
from matrix_py.tune.rows import EncodedRows

CARD = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the card is about."""

    job: Job
    dataset: Dataset
    rows: EncodedRows
    base: Base
    notes: Sequence[str]
    steps: Sequence[TuningStep]
    started: Started
    finished: Finished


def write_card(folder: Path, card: Card, *, adapter: str, merged: str | None) -> None:
    """Write the card; `adapter` and `merged` are hashes, hex.

    Raises:
        StoreError: it cannot be written.
    """
    with draft(folder / CARD) as file:
        file.write_text("\n".join(_lines(card, folder.name, adapter, merged)) + "\n", "utf-8")


def _lines(card: Card, name: str, adapter: str, merged: str | None) -> list[str]:
    job, base, rows, finished = card.job, card.base, card.rows, card.finished
    model = Path(base.spec).name
    hashes = {"base": base.hash, "dataset": job.dataset, "adapter_model.safetensors": adapter}
    hashes |= {} if merged is None else {"merged.gguf": merged}
    settings = {option(key): value for key, value in stated(job.options).items() if value is not None}
    settings |= {"--target-modules": ",".join(job.options.targets)}
    return [
        "---",
        "library_name: peft",
        "tags: [lora, matrix]",
        "---",
        f"# {name}",
        "",
        f"A LoRA adapter for {model} ({base.architecture.name}), trained on {len(rows.rows.train)} rows that were made of "
        f"{sum(run.num_finished for run in card.dataset.runs)} simulated scenes. Tuning `{job.tuning}`.",
        "",
        *(f"- {note[0].upper()}{note[1:]}." for note in card.notes),
        "",
        "## Use",
        "```sh",
        f"matrix simulate INPUT --model {model} --lora adapter.gguf --out run.duckdb",
        *([] if merged is None else ["matrix simulate INPUT --model merged.gguf --out run.duckdb     # deterministic"]),
        "```",
        "`adapter_model.safetensors` with `adapter_config.json` is the same for PEFT.",
        "",
        "## Hashes (BLAKE3)",
        "| | |",
        "|---|---|",
        *(f"| {what} | `{value}` |" for what, value in hashes.items()),
        "",
        "## Runs",
        "| run | root | scenes finished |",
        "|---|---|---|",
        *(
            f"| `{run.record.run_id}` | {f'`{run.root.hex()}`' if run.root else 'not finished'} | {run.num_finished} of {run.num_scenes} |"
            for run in card.dataset.runs
        ),
        "",
        "## Rows",
        "| kind | candidates | kept | dropped |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {counts.candidates} | {counts.kept} | "
            f"{', '.join(f'{reason} {count}' for reason, count in sorted(counts.dropped.items())) or 'none'} |"
            for kind, counts in card.dataset.counts.items()
        ),
        "",
        f"Training: {len(rows.rows.train)} rows, {rows.num_tokens} tokens, {rows.num_learnt} of them learnt (completions and what ends "
        f"them). Held out: {len(rows.rows.held_out)} rows, of other instructions. Longer than `--max-tokens`: {rows.too_long}.",
        "",
        "## Training",
        f"Recipe `{job.options.recipe}`.",
        "",
        "| option | value |",
        "|---|---|",
        *(f"| `{key}` | {value} |" for key, value in settings.items() if key != "--recipe"),
        "",
        *[f"- Assumed: {each}." for each in ASSUMPTIONS[job.options.recipe]],
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in _results(card)),
        "",
        "![loss](loss.png)",
        "",
        f"Each step: `metrics.jsonl`. Versions: {', '.join(f'{key} {value}' for key, value in finished.versions.items())}.",
    ]


def _results(card: Card) -> list[tuple[str, str]]:
    started, finished = card.started, card.finished
    learnt = [step.loss for step in card.steps if step.loss is not None]
    held_out = [step.held_out_loss for step in card.steps if step.held_out_loss is not None]
    results = [
        ("steps", str(finished.step)),
        ("training loss, first and last step", f"{learnt[0]:.4f}, {learnt[-1]:.4f}" if learnt else "none"),
        ("held-out loss, before and after", f"{held_out[0]:.4f}, {held_out[-1]:.4f}" if held_out else "not measured"),
        ("parameters trained", f"{started.trainable} of {started.parameters + started.trainable}"),
        ("device", started.device),
        ("time", f"{finished.seconds:.0f} s, {finished.tokens_per_second:.0f} tokens/s without padding"),
        ("peak memory", f"{finished.peak_bytes / 2**30:.2f} GiB"),
    ]
    return results
