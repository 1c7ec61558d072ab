"""Random load for minutes: no turn is lost or starved, no memory leaks, and KV is what it should be whenever the engine is idle."""

import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from matrix_py import _core
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import EngineError
from matrix_py.types import KvMode

SECONDS = float(os.environ.get("MATRIX_LOAD_SECONDS", "600"))
ISOLATED = EngineOptions(context=512, parallel=6, cached=5, threads=1, batch=96, deterministic=True, preempt_every=37)
# Too few tokens for the turns of this load together: some have to wait again.
SHARED = replace(ISOLATED, kv=KvMode.SHARED, kv_tokens=1200, deterministic=None)
FORM = 'start: NAME (", " NAME){1,3}\nNAME: /[A-Z][a-z]{2,7}/'
WORDS = [
    "the",
    "baker",
    "waits",
    "and",
    "seven",
    "people",
    "write",
    "about",
    "a",
    "blue",
    "door",
    "while",
    "nobody",
    "asks",
    "who",
    "has",
    "a",
    "key",
]


def some_turn(rng: random.Random, number: int) -> _core.Turn:
    scene = _core.scene_id("load", f"scene {number // 7}", None, 0)
    head = " ".join(WORDS[(number // 7 + i) % len(WORDS)] for i in range(rng.choice([2, 40, 70])))
    own = " ".join(rng.choice(WORDS) for _ in range(rng.choice([1, 10, 60])))
    sampling = _core.Sampling(
        rng.choice([1, 8, 40, 120]), temperature=rng.choice([0.0, 0.8]), form=FORM if rng.random() < 0.3 else None, stop=["door"]
    )
    return _core.Turn(
        seed=1,
        scene=scene,
        path=f"turn/{number}",
        attempt=1,
        kind="load",
        segments=[(f"<s>{head}", True), (own, False)],
        sampling=sampling,
        rank=number // 7,
    )


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("options", [ISOLATED, SHARED], ids=["isolated", "shared"])
def test_minutes_of_random_load(tiny_model: Path, options: EngineOptions) -> None:
    rng = random.Random(5)
    asked, in_flight, cancelled = 0, {}, set()
    answered = failed = idle = 0
    settled_mib = None
    end = time.monotonic() + SECONDS / 2

    def settle(turn: _core.Turn, result: _core.Completion | Exception) -> bool:
        """Whether it failed, which only the cancelled may."""
        assert in_flight.pop(turn.path, None) is not None, f"{turn.path} was answered twice"
        if not isinstance(result, Exception):
            return False
        assert isinstance(result, EngineError) and "was cancelled" in str(result), result
        assert turn.scene in cancelled
        return True

    with Engine(str(tiny_model), options) as engine:
        while time.monotonic() < end:
            for _ in range(rng.choice([0, 1, 5, 30]) if len(in_flight) < 60 else 0):
                turn = some_turn(rng, asked)
                engine.submit([turn])
                in_flight[turn.path] = time.monotonic()
                asked += 1
            if rng.random() < 0.02 and asked:
                scene = _core.scene_id("load", f"scene {(asked - 1) // 7}", None, 0)
                engine.cancel(scene)
                cancelled.add(scene)
            for turn, result in engine.collect(0.01):
                failed += settle(turn, result)
                answered += 1
            if in_flight:
                # However many others come: the oldest go first.
                assert time.monotonic() - min(in_flight.values()) < 60, f"starved: {min(in_flight, key=in_flight.__getitem__)}"
            if rng.random() < 0.01:
                while in_flight:
                    got = engine.collect(30.0)
                    assert got, f"silence: {engine.stats()}"
                    for turn, result in got:
                        failed += settle(turn, result)
                        answered += 1
                # Idle: the engine now holds KV against what should be in it, and fails whatever comes next if they differ.
                idle += 1
                stats = engine.stats()
                assert (stats["running"], stats["waiting"]) == (0, 0)
                assert (stats["turns"], stats["failed_turns"]) == (answered, failed)
                if settled_mib is None and time.monotonic() > end - 0.4 * SECONDS:
                    settled_mib = resident_mib()
        stats = engine.stats()
    assert idle > 3 and answered > 100 and stats["preemptions"] > 0, (idle, stats)
    assert settled_mib is not None
    assert resident_mib() - settled_mib < 8, f"{settled_mib:.0f} MiB have become {resident_mib():.0f}"
