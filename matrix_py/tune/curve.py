"""The curve of a training: what was measured, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matrix_py.store import TuningStep
from matrix_py.tune.drafting import draft
from matrix_py.tune.messages import AnyMessage, HeldOut, Step


def curve(measured: Sequence[AnyMessage]) -> list[TuningStep]:
    """Return what was measured by step; step 0 is the base, before anything was learnt."""
    held_out = {each.step: each.loss for each in measured if isinstance(each, HeldOut)}
    start = [TuningStep(0, epoch=0.0, held_out_loss=held_out[0])] if 0 in held_out else []
    return start + [
        TuningStep(
            each.step,
            epoch=each.epoch,
            loss=each.loss,
            held_out_loss=held_out.get(each.step),
            learning_rate=each.learning_rate,
            grad_norm=each.grad_norm,
            num_tokens=each.num_tokens,
            seconds=each.seconds,
        )
        for each in measured
        if isinstance(each, Step)
    ]


def draw(steps: Sequence[TuningStep], path: Path, *, num_train: int, num_held_out: int, title: str) -> None:
    """Write the curve as a PNG.

    Raises:
        StoreError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot, which looks for a screen and keeps every figure.
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    learnt = [(step.step, step.loss) for step in steps if step.loss is not None]
    axes.plot(*zip(*learnt, strict=True), linewidth=1, label=f"training rows (n = {num_train})")
    held_out = [(step.step, step.held_out_loss) for step in steps if step.held_out_loss is not None]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), marker="o", label=f"held-out rows (n = {num_held_out})")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss (nats a token of completions)")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    with draft(path) as file:
        # Without the version of what drew it: the same curve is the same file.
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
