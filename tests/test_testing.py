"""Help for tests of scenes: the scripted model, single scenes and their resume, prompts for scenes under test."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from matrix_py import _core
from matrix_py.errors import DivergenceError, EngineError, MatrixError, RequestError
from matrix_py.events import ResponseRevised
from matrix_py.scene import Scene, vanilla
from matrix_py.testing import FormFailed, ScriptedModel, TooLong, make_prompts, run_scene
from matrix_py.types import TurnSettings

YES_NO = 'start: "yes" | "no"'
PROMPTS = make_prompts({"respond": "{instruction}", "verdict": "Is it so? {instruction}"})


async def judged(scene: Scene) -> None:
    """Ask three things in turn and two at a time."""
    first = await scene.turn("respond", path="first", instruction=scene.instruction)
    verdict = await scene.turn("verdict", form=YES_NO, fallback="no", instruction=first.text)
    both = await scene.gather(*(scene.turn("respond", path=f"then/{n}", instruction=verdict.text) for n in range(2)))
    scene.emit(ResponseRevised(text=" ".join(reply.text for reply in both)))


def answer(turn: _core.Turn) -> str:
    return "yes" if turn.kind == "verdict" else f"said at {turn.path}"


def turn(path: str, form: str | None = None, scene: bytes = bytes(32)) -> _core.Turn:
    sampling = _core.Sampling(8, form=form)
    return _core.Turn(seed=0, scene=scene, path=path, attempt=1, kind="verdict", segments=[("?", True)], sampling=sampling)


def one(model: ScriptedModel, asked: _core.Turn) -> _core.Completion:
    model.submit([asked])
    ((answered, completion),) = model.collect(0)
    assert answered is asked
    assert isinstance(completion, _core.Completion)
    assert completion.request == asked.request
    return completion


# The scripted model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "outcome", "finish"),
    [
        ("yes", "text", "form"),
        ("no", "text", "form"),
        ("yes, of course", "form_failed", "length"),
        ("ye", "form_failed", "length"),
        ("", "form_failed", "length"),
        (" yes", "form_failed", "length"),
        (FormFailed("ye"), "form_failed", "length"),
    ],
)
def test_a_turn_with_a_form_is_held_to_it(said: str | FormFailed, outcome: str, finish: str) -> None:
    completion = one(ScriptedModel(lambda turn: said), turn("p", YES_NO))
    assert (completion.outcome, completion.finish) == (outcome, finish)
    assert completion.text == (said.text if isinstance(said, FormFailed) else said)


def test_a_turn_without_a_form_may_say_anything() -> None:
    completion = one(ScriptedModel(lambda turn: " yes, of course\n"), turn("p"))
    assert (completion.text, completion.outcome, completion.finish) == (" yes, of course\n", "text", "eos")


def test_too_long_is_an_outcome_and_an_exception_is_none() -> None:
    completion = one(ScriptedModel(lambda turn: TooLong()), turn("p"))
    assert (completion.text, completion.outcome, completion.finish) == ("", "too_long", "none")
    error = EngineError("down")
    model = ScriptedModel(lambda turn: error)
    model.submit([turn("p")])
    assert [result for _, result in model.collect(0)] == [error]


def test_a_form_that_does_not_parse_is_refused_with_all_that_it_is_submitted_with() -> None:
    model = ScriptedModel(answer)
    with pytest.raises(RequestError, match="form does not parse"):
        model.submit([turn("fine"), turn("wrong", "start: (")])
    assert (model.turns, model.collect(0)) == ([], [])


def test_answers_come_in_the_order_of_asking_or_shuffled_and_as_many_at_once_as_wanted() -> None:
    asked = [turn(f"p{number}") for number in range(20)]

    def batches(**options: Any) -> list[list[str]]:
        model, found = ScriptedModel(answer, **options), []
        model.submit(asked)
        while batch := model.collect(0):
            found.append([each.path for each, _ in batch])
        assert model.turns == asked
        return found

    paths = [each.path for each in asked]
    assert batches() == [paths]
    assert batches(at_once=8) == [paths[:8], paths[8:16], paths[16:]]
    (shuffled,) = batches(order=random.Random(1))
    assert shuffled != paths
    assert sorted(shuffled) == sorted(paths)
    assert batches(order=random.Random(1)) == [shuffled]


def test_a_cancelled_scene_is_not_answered() -> None:
    model, other = ScriptedModel(answer), bytes([1] * 32)
    model.submit([turn("a"), turn("b", scene=other), turn("c")])
    model.cancel(bytes(32))
    assert [each.path for each, _ in model.collect(0)] == ["b"]


# One scene ------------------------------------------------------------------------------------------------------------


def test_run_scene_returns_what_the_scene_did() -> None:
    model = ScriptedModel(answer)
    trace = run_scene(judged, "Is it?", model, prompts=PROMPTS, seed=3, name="judged")
    assert trace.scene == _core.scene_id("judged", "Is it?", None, 0)
    assert [event["kind"] for event in trace.events] == [
        *(
            "SceneStarted",
            "TurnCompleted",
            "TurnCompleted",
            "TurnCompleted",
            "TurnCompleted",
            "ResponseRevised",
            "SceneFinished",
        ),
    ]
    assert trace.events[0]["scene"] == "judged"
    assert trace.events[5]["text"] == "said at then/0 said at then/1"
    assert (trace.counts.completed, trace.counts.live_turns) == (1, 4)
    assert len(trace.hashes) == len(set(trace.hashes)) == 7
    assert trace.completions == {
        (each.path, 1): (each.request, answer(each), "text", "form" if each.kind == "verdict" else "eos") for each in model.turns
    }


def test_the_hashes_of_a_trace_are_those_of_the_event_log() -> None:
    trace = run_scene(judged, "Is it?", ScriptedModel(answer), prompts=PROMPTS)
    log = _core.EventLog()
    log.open(trace.scene)
    stored = trace.stored("Is it?")
    assert [log.append(trace.scene, event.payload.encode())[1] for event in stored.events] == trace.hashes


def test_run_scene_is_a_function_of_its_arguments() -> None:
    def hashes(**options: Any) -> list[bytes]:
        return run_scene(judged, "Is it?", ScriptedModel(answer, order=random.Random()), prompts=PROMPTS, **options).hashes

    assert hashes() == hashes()
    assert hashes(seed=1) != hashes()
    assert hashes(name="other") != hashes()
    assert hashes(response="Yes.") != hashes()


def test_a_trace_can_be_stored_and_replayed_without_asking() -> None:
    trace = run_scene(judged, "Is it?", ScriptedModel(answer), prompts=PROMPTS)
    silent = ScriptedModel(answer)
    again = run_scene(judged, "Is it?", silent, prompts=PROMPTS, stored=trace.stored("Is it?"))
    assert silent.turns == []
    assert (again.events, again.hashes, again.completions) == (trace.events, trace.hashes, trace.completions)
    assert (again.counts.turns, again.counts.live_turns) == (4, 0)


@pytest.mark.parametrize("down", ["first", "verdict", "then/0", "then/1"])
def test_a_scene_that_was_left_open_is_resumed_from_its_trace(down: str) -> None:
    expected = run_scene(judged, "Is it?", ScriptedModel(answer), prompts=PROMPTS, response="Yes.")
    failing: Callable[[_core.Turn], Any] = lambda turn: EngineError("down") if turn.path == down else answer(turn)  # noqa: E731
    trace = run_scene(judged, "Is it?", ScriptedModel(failing), prompts=PROMPTS, response="Yes.")
    assert (trace.counts.open, trace.counts.completed) == (1, 0)
    assert (down, 1) not in trace.completions
    model = ScriptedModel(answer)
    resumed = run_scene(judged, "Is it?", model, prompts=PROMPTS, stored=trace.stored("Is it?", "Yes."))
    assert (resumed.hashes, resumed.completions) == (expected.hashes, expected.completions)
    assert {(each.path, 1) for each in model.turns} == expected.completions.keys() - trace.completions.keys()


def test_run_scene_raises_where_what_is_stored_is_not_what_the_scene_derives() -> None:
    trace = run_scene(judged, "Is it?", ScriptedModel(answer), prompts=PROMPTS)
    with pytest.raises(DivergenceError) as caught:
        run_scene(vanilla, "Is it?", ScriptedModel(answer), prompts=PROMPTS, stored=trace.stored("Is it?"))
    assert (caught.value.scene, caught.value.seq) == (trace.scene.hex(), 1)
    truncated = replace(trace, events=trace.events[:3], hashes=trace.hashes[:3])
    resumed = run_scene(judged, "Is it?", ScriptedModel(answer), prompts=PROMPTS, stored=truncated.stored("Is it?"))
    assert resumed.hashes == trace.hashes


def test_an_answer_that_comes_twice_is_refused() -> None:
    class Repeating(ScriptedModel):
        def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
            return super().collect(timeout_s) * 2

    with pytest.raises(MatrixError, match="answered twice"):
        run_scene(judged, "Is it?", Repeating(answer), prompts=PROMPTS)


# Prompts for tests ----------------------------------------------------------------------------------------------------


def test_make_prompts_gives_each_kind_one_user_message() -> None:
    prompts = make_prompts({"verdict": "Is it so? {instruction}"})
    segments = prompts.render("verdict", {"instruction": "{x}"})
    assert [text for text, trusted in segments if not trusted] == ["{x}"]
    assert "Is it so? " in segments[0][0]
    sampling = prompts.sampling("verdict", YES_NO)
    assert (sampling.max_tokens, sampling.temperature, sampling.form) == (64, 0.0, YES_NO)


def test_make_prompts_takes_settings_and_further_files() -> None:
    chosen = TurnSettings(max_tokens=9, temperature=0.5)
    prompts = make_prompts({"a": "x", "b": "y"}, settings={"b": chosen}, files={"principles.txt": "One?\n\n  Two?  \n"})
    assert (prompts.sampling("a", None).max_tokens, prompts.sampling("b", None).max_tokens) == (64, 9)
    assert prompts.sampling("b", None).temperature == 0.5
    assert prompts.principles() == ["One?", "Two?"]
