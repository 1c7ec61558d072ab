"""How well the scheduler fills a machine: whole runs without a model, beside simpler schedules and the best possible one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from matrix_py import _core

POLICIES = ("oldest-scene", "fifo", "lock-step")


@dataclass(frozen=True, slots=True)
class Load:
    """Social scenes, and what there is for them.

    Attributes:
        scenes: number of scenes.
        roles: roles of a scene besides the one who acts.
        steps: acts of a scene.
        parallel: turns in flight.
        cached: KV streams beside theirs, which keep beginnings of prompts.
        window: scenes open at a time.
        batch: tokens a call may hold.
        seed: of the lengths of completions.
    """

    scenes: int = 1000
    roles: int = 5
    steps: int = 5
    parallel: int = 64
    cached: int = 192
    window: int = 128
    batch: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a policy came to; see `_core.simulate_schedule` for the figures."""

    policy: str
    figures: dict[str, float]


def bench_scheduler(load: Load, *, on_progress: Callable[[str, int], None] = lambda policy, ended: None) -> list[Schedule]:
    """Run a load under each policy.

    Args:
        load: the load.
        on_progress: told the policy under way and how many of its scenes have ended.

    Raises:
        ConfigError: the load cannot be run.
    """

    def run(policy: str) -> Schedule:
        return Schedule(
            policy, _core.simulate_schedule(policy=policy, **asdict(load), on_progress=lambda ended: on_progress(policy, ended))
        )

    return [run(policy) for policy in POLICIES]
