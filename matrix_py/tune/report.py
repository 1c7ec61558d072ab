"""What is printed of a tuning: what it would be, and how it ended."""

from typing import Any

from matrix_py.tune.options import TuneOptions
from matrix_py.tune.tuning import ADAPTER_GGUF, MERGED_GGUF, Forecast, TuneSummary

_GIB = 2**30


def forecast_lines(found: Forecast, options: TuneOptions) -> list[str]:
    """Return what a tuning would be, a line each."""
    rows, memory = found.rows, found.memory
    packed = f", packed into {found.sequences} sequences" if options.packing else ""
    lines = [f"base: {found.base}", *found.notes]
    lines += [
        f"{kind}: {counts.kept} of {counts.candidates} candidates kept"
        + "".join(f", {reason} {count}" for reason, count in sorted(counts.dropped.items()))
        for kind, counts in found.dataset.counts.items()
    ]
    return [
        *lines,
        f"dataset {found.dataset.hash.hex()}",
        f"{len(rows.rows.train)} rows to learn from, {len(rows.rows.held_out)} held out{packed}; {rows.num_tokens} tokens, "
        f"{rows.num_learnt} of them learnt; the longest row has {rows.longest}",
        f"{found.steps} steps, {memory.trainable} parameters trained beside {memory.parameters}",
        f"memory: about {memory.gpu_bytes / _GIB:.1f} GiB on a GPU, {memory.cpu_bytes / _GIB:.1f} GiB on a CPU",
    ]


def forecast_document(found: Forecast) -> dict[str, Any]:
    """Return what a tuning would be, for JSON."""
    rows, memory = found.rows, found.memory
    return {
        "base": found.base,
        "notes": list(found.notes),
        "dataset": found.dataset.hash.hex(),
        "rows": len(rows.rows.train),
        "held_out": len(rows.rows.held_out),
        "too_long": rows.too_long,
        "longest": rows.longest,
        "tokens": rows.num_tokens,
        "learnt": rows.num_learnt,
        "sequences": found.sequences,
        "steps": found.steps,
        "parameters": memory.parameters,
        "trainable": memory.trainable,
        "gpu_bytes": memory.gpu_bytes,
        "cpu_bytes": memory.cpu_bytes,
    }


def summary_lines(summary: TuneSummary) -> list[str]:
    """Return how a tuning ended, a line each; nothing where it was stopped."""
    if summary.stopped:
        return []
    learnt = [step.loss for step in summary.steps if step.loss is not None]
    held_out = [step.held_out_loss for step in summary.steps if step.held_out_loss is not None]
    finished = summary.finished
    files = ADAPTER_GGUF if summary.merged is None else f"{ADAPTER_GGUF}, {MERGED_GGUF}"
    return [
        f"dataset {summary.dataset.hex()}",
        (f"loss {learnt[0]:.4f} to {learnt[-1]:.4f}" if learnt else "no step")
        + (f", held out {held_out[0]:.4f} to {held_out[-1]:.4f}" if held_out else ""),
        f"{summary.out}: {files}; {finished.step} steps, {finished.num_tokens} tokens in {finished.seconds:.1f} s "
        f"({summary.finished.tokens_per_second:.0f} tokens/s), peak memory {finished.peak_bytes / _GIB:.2f} GiB",
    ]


def summary_document(summary: TuneSummary) -> dict[str, Any]:
    """Return how a tuning ended, for JSON."""
    finished = summary.finished
    return {
        "out": str(summary.out),
        "stopped": summary.stopped,
        "dataset": summary.dataset.hex(),
        "adapter": summary.adapter,
        "merged": summary.merged,
        "steps": [step._asdict() for step in summary.steps],
        "tokens": finished.num_tokens,
        "seconds": finished.seconds,
        "tokens_per_second": summary.finished.tokens_per_second,
        "peak_bytes": finished.peak_bytes,
        "too_long": summary.rows.too_long,
    }
