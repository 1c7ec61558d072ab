"""What `matrix bench` prints: a line for each thing measured."""

from collections.abc import Sequence
from statistics import median

from rich.text import Text

from matrix_py.bench.live import LiveTiming
from matrix_py.bench.scenes import SceneTiming
from matrix_py.bench.scheduler import Schedule
from matrix_py.bench.turns import Comparison
from matrix_py.terminal import console


def print_comparison(found: Comparison) -> None:
    """Print what a benchmark measured: a line for each engine, and the ratio."""
    for timing in (found.engine, found.bound, found.server):
        if timing is None:
            continue
        spread = (
            f" [{min(timing.seconds):.2f} to {max(timing.seconds):.2f} s in {len(timing.seconds)} runs]" if len(timing.seconds) > 1 else ""
        )
        outside = (
            ""
            if timing.outside_share is None
            else f", {timing.prefill_s:.1f} s in calls with prompts, {timing.decode_s:.1f} s in those without, "
            f"{timing.outside_share:.1%} of the time outside the model"
        )
        console.print(
            Text(
                f"{timing.name}: {timing.turns_per_s:.3f} turns/s, {timing.generated / timing.median_s:.1f} tokens/s generated, "
                f"{timing.prefilled} of {timing.prompt_tokens} prompt tokens computed ({found.distinct} are distinct){outside}{spread}"
            ),
            soft_wrap=True,
        )
    if found.bound is not None:
        console.print(f"bound by a form: {found.bound.turns_per_s / found.engine.turns_per_s:.3f} of the speed")
    if found.ratio is not None:
        console.print(f"ratio: {found.ratio:.2f}")


def print_scene_timing(found: SceneTiming) -> None:
    """Print what whole scenes took, in a line."""
    seconds = found.median_s
    spread = f" [{min(found.seconds):.2f} to {max(found.seconds):.2f} s in {len(found.seconds)} runs]" if len(found.seconds) > 1 else ""
    same = f", root {found.roots[0]}" if len(found.roots) == 1 else f", {len(found.roots)} different roots"
    console.print(
        Text(
            f"{found.scenes / seconds:.3f} scenes/s, {found.turns / seconds:.2f} turns/s, "
            f"{found.generated / seconds:.1f} tokens/s generated, "
            f"{found.prefilled} of {found.prompt_tokens} prompt tokens computed, {found.outside_share:.1%} of the time outside the model, "
            f"log {found.log_bytes / found.scenes / 1024:.0f} KiB a scene, committed within {found.max_delay_s * 1000:.0f} ms{same}{spread}"
        ),
        soft_wrap=True,
    )


def print_live(found: LiveTiming) -> None:
    """Print how fast runs were alone and read, in a line."""
    kinds = [("alone", found.alone_s), (f"read every {found.every_s:g} s", found.read_s)]
    speeds = [f"{name} {found.turns / median(seconds):.2f} turns/s [{min(seconds):.1f} to {max(seconds):.1f} s]" for name, seconds in kinds]
    console.print(
        Text(
            f"{', '.join(speeds)}, ratio {found.ratio:.3f}; {found.answers} answers, "
            f"committed within {found.max_delay_s * 1000:.0f} ms meanwhile"
        ),
        soft_wrap=True,
    )


def print_schedules(found: Sequence[Schedule]) -> None:
    """Print how each policy fills the machine, a line each."""
    for schedule in found:
        figures = schedule.figures
        console.print(
            Text(
                f"{schedule.policy:<13} {figures['efficiency']:.1%} of the best possible speed: {figures['seconds']:,.0f} s instead of "
                f"{max(figures['work'], figures['critical_path']):,.0f} s, {figures['turns']:,.0f} turns in {figures['steps']:,.0f} steps "
                f"and {figures['calls']:,.0f} calls, {figures['prefilled_tokens'] / figures['distinct_tokens']:.3f} times the distinct "
                f"prompt tokens computed, {figures['copies']:,.0f} streams copied"
            ),
            soft_wrap=True,
        )
