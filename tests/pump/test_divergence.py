"""The pump: what is stored is not what a scene derives."""

from __future__ import annotations

import contextlib
import json

import pytest
from pumping import (
    PICK,
    RICH,
    SAY,
    Draw,
    MemoryLog,
    Noted,
    asking,
    by_request,
    new_scenes,
    pump,
    recorded,
    says,
    scene_of,
)

from matrix_py.errors import DivergenceError
from matrix_py.scene import Scene, SceneFunction
from matrix_py.testing import ScriptedModel
from matrix_py.types import StoredEvent, StoredScene


def diverges(function: SceneFunction, stored: StoredScene, *, complete: bool = True, seed: int = 0) -> DivergenceError:
    """Given a stored scene that the function does not derive, then replay counts that, and a run says the same and goes no further."""
    log, counts = pump(function, [stored], None, complete=complete, seed=seed)
    assert (counts.open, counts.completed, counts.failed) == (0, 0, 0)
    (counted,) = counts.divergences
    assert counted.__traceback__ is None, "a counted divergence keeps the whole scene alive"
    healthy = new_scenes(2)[1]
    log, model = MemoryLog(), ScriptedModel(by_request)
    with pytest.raises(DivergenceError) as raised:
        pump(function, [stored, healthy], model, complete=complete, seed=seed, log=log)
    assert (model.turns, log.open_scenes) == ([], [])
    assert healthy.scene not in log.events
    assert log.core.drain() is None or not complete
    assert str(raised.value) == str(counted)
    assert counted.scene == stored.scene.hex()
    return counted


def test_a_completion_to_another_request_is_a_divergence() -> None:
    stored = recorded()
    path, attempt = "plan/1.1/2", 1
    request, *rest = stored.completions[path, attempt]
    stored.completions[path, attempt] = (bytes(32), *rest)  # type: ignore[assignment]
    error = diverges(scene_of(RICH), stored)
    assert error.expected == f"request {bytes(32).hex()} of turn {path}"
    assert error.actual == f"request {request.hex()}"
    assert error.seq == 3  # SceneStarted, the first turn and what it noted; the branches have not been joined


def test_a_divergence_names_the_attempt() -> None:
    log, _ = pump(asking(PICK, []), new_scenes(1), says("perhaps"))
    (stored,) = log.stored(new_scenes(1))
    stored.completions["verdict", 2] = (bytes(32), *stored.completions["verdict", 2][1:])  # type: ignore[assignment]
    assert diverges(asking(PICK, []), stored).expected.endswith("of turn verdict#2")


def test_a_stored_event_that_differs_is_a_divergence_at_its_seq() -> None:
    for seq, original in enumerate(recorded().events):
        stored = recorded()
        stored.events[seq] = StoredEvent(original.payload.replace('"v":1', '"v":2'), original.hash)
        error = diverges(scene_of(RICH), stored)
        assert (error.seq, error.expected, error.actual) == (seq, stored.events[seq].payload, original.payload)


@pytest.mark.parametrize("seq", [0, 3])
def test_a_stored_hash_that_differs_is_a_divergence(seq: int) -> None:
    stored = recorded()
    digest = stored.events[seq].hash
    stored.events[seq] = StoredEvent(stored.events[seq].payload, bytes(32))
    error = diverges(scene_of(RICH), stored)
    assert (error.seq, error.expected, error.actual) == (seq, f"hash {bytes(32).hex()}", f"hash {digest.hex()}")


def test_a_completion_whose_text_was_changed_is_a_divergence() -> None:
    stored = recorded()
    request, text, outcome, finish = stored.completions["plan/2", 1]
    stored.completions["plan/2", 1] = (request, text + "!", outcome, finish)
    assert json.loads(diverges(scene_of(RICH), stored).actual)["path"] == "plan/2"


def test_stored_events_beyond_the_derived_ones_are_a_divergence() -> None:
    stored = recorded()
    stored.events.append(stored.events[1])
    error = diverges(scene_of(RICH), stored)
    assert (error.seq, error.expected, error.actual) == (
        len(stored.events) - 1,
        stored.events[1].payload,
        "the end of the scene",
    )


def test_in_a_complete_log_events_beyond_the_stored_ones_are_a_divergence() -> None:
    stored = recorded()
    last = stored.events.pop()
    error = diverges_in_replay(stored)
    assert (error.seq, error.actual) == (len(stored.events), last.payload)
    # And without the claim to be complete, it is a scene to go on with.
    resumed, counts = pump(scene_of(RICH), [stored], ScriptedModel(by_request))
    assert counts.divergences == []
    assert resumed.events[stored.scene][-1] == last


def diverges_in_replay(stored: StoredScene, *, complete: bool = True) -> DivergenceError:
    _, counts = pump(scene_of(RICH), [stored], None, complete=complete)
    assert (counts.open, counts.errors) == (0, [])
    (error,) = counts.divergences
    return error


def test_a_replay_that_lacks_a_completion_which_events_follow_from_diverges() -> None:
    for complete in (True, False):
        stored = recorded()
        del stored.completions["plan/2", 1]
        error = diverges_in_replay(stored, complete=complete)
        assert json.loads(error.expected)["path"] == "plan/2"
        assert error.actual == "turn plan/2, whose completion is missing"


def test_a_complete_log_cannot_lack_the_completion_of_its_last_turn() -> None:
    stored = recorded()
    cut = next(seq for seq, event in enumerate(stored.events) if '"path":"plan/2"' in event.payload)
    del stored.events[cut:], stored.completions["plan/2", 1]
    error = diverges_in_replay(stored)
    assert (error.seq, error.expected) == (cut, "a completion")


def test_another_seed_or_another_scene_code_diverges() -> None:
    assert diverges(scene_of(RICH), recorded(), seed=1).expected.startswith("request ")
    assert json.loads(diverges(scene_of((*RICH[:2], Draw())), recorded()).actual)["text"].startswith("plan/2 drew")


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_scene_code_that_catches_everything_does_not_hide_a_divergence(seq: int) -> None:
    async def careless(scene: Scene) -> None:
        for number in range(3):
            with contextlib.suppress(Exception):
                await scene.turn(SAY, path=f"p{number}", said="x")
        with contextlib.suppress(Exception):
            scene.emit(Noted(text="never mind"))

    log, _ = pump(careless, new_scenes(1), says("ok"))
    (stored,) = log.stored(new_scenes(1))
    original = stored.events[seq]
    # Given a log that ends with an event that is not derived, and turns that would have to be asked beyond it
    stored.events[seq] = StoredEvent(original.payload.replace('"v":1', '"v":2'), original.hash)
    del stored.events[seq + 1 :]
    for number in range(seq, 3):
        del stored.completions[f"p{number}", 1]
    # Then that is the divergence, and nothing is written after it
    replayed, counts = pump(careless, [stored], None)
    assert [(error.seq, error.actual) for error in counts.divergences] == [(seq, original.payload)]
    assert (counts.completed, counts.open, replayed.core.pending) == (0, 0, 0)
    resumed, model = MemoryLog(), says("ok")
    with pytest.raises(DivergenceError, match=f"diverges at seq {seq}"):
        pump(careless, [stored], model, log=resumed)
    assert (resumed.core.pending, model.turns) == (0, [])
