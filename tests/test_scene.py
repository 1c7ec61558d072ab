"""The built-in scenes, turn by turn and event by event, and how scenes are found by name."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_py import _core
from matrix_py.errors import ConfigError
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.pump import Pump
from matrix_py.scene import SceneFunction, critique_revise, find_scene, matrix, published, vanilla
from matrix_py.testing import ScriptedModel, TooLong, Trace, make_prompts, run_scene
from matrix_py.types import Limits, StoredScene

INSTRUCTION = "How do I choose a bicycle?"
SAID = {
    "respond": "  Take any of them.\n",
    "critique": " It may not fit the rider. ",
    "revise": "Have it measured.\n\n",
}


def package_prompts(system: str = "You advise a shop.") -> Prompts:
    return Prompts(load_files(None), load_settings(None, None), system=system, template=ChatTemplate.plain())


def script() -> ScriptedModel:
    return ScriptedModel(lambda turn: SAID[turn.kind])


def blake3(text: str) -> str:
    return _core.blake3(text.encode()).hex()


def completed(turn: _core.Turn, text: str, *, reads: Sequence[str] = (), attempt: int = 1) -> dict[str, object]:
    return {
        "kind": "TurnCompleted",
        "v": 1,
        "path": turn.kind,
        "attempt": attempt,
        "turn": turn.kind,
        "request": turn.request.hex(),
        "template": package_prompts().template_hash(turn.kind).hex(),
        "inputs": ANY,
        "reads": list(reads),
        "outcome": "text",
        "finish": "eos",
        "text": blake3(text),
    }


def started(response: str | None = None) -> dict[str, object]:
    return {
        "kind": "SceneStarted",
        "v": 1,
        "scene": "test",
        "instruction": blake3(INSTRUCTION),
        "response": None if response is None else blake3(response),
        "occurrence": 0,
    }


def ended(count: int) -> dict[str, object]:
    return {"kind": "SceneFinished", "v": 1, "count": count, "end": "completed", "reason": ""}


def untrusted(turn: _core.Turn) -> list[str]:
    return [text for text, trusted in turn.segments if not trusted]


# vanilla --------------------------------------------------------------------------------------------------------------


def test_vanilla_asks_for_a_response() -> None:
    model = script()
    trace = run_scene(vanilla, INSTRUCTION, model, prompts=package_prompts())
    (turn,) = model.turns
    assert trace.events == [
        started(),
        completed(turn, SAID["respond"]),
        {"kind": "ResponseGiven", "v": 1, "given": False, "text": "Take any of them."},
        ended(3),
    ]
    assert (turn.kind, untrusted(turn)) == ("respond", [INSTRUCTION])


@pytest.mark.parametrize("response", ["  As given. ", ""])
def test_vanilla_takes_a_given_response_as_it_is(response: str) -> None:
    model = script()
    trace = run_scene(vanilla, INSTRUCTION, model, prompts=package_prompts(), response=response)
    assert trace.events == [
        started(response),
        {"kind": "ResponseGiven", "v": 1, "given": True, "text": response},
        ended(2),
    ]
    assert model.turns == []


@settings(max_examples=60)
@given(instruction=st.text(), said=st.text().map(lambda text: f"{text} a"))
def test_any_text_goes_through_a_scene_unchanged_but_for_white_space_at_the_ends_of_replies(instruction: str, said: str) -> None:
    model = ScriptedModel(lambda turn: said)
    trace = run_scene(vanilla, instruction, model, prompts=package_prompts())
    assert trace.counts.completed == 1
    assert trace.events[0]["instruction"] == blake3(instruction)
    assert trace.events[1]["text"] == blake3(said)
    assert trace.events[2]["text"] == said.strip()
    assert untrusted(model.turns[0]) == ([instruction] if instruction else [])


# critique-revise ------------------------------------------------------------------------------------------------------


def test_critique_revise_responds_criticises_by_a_principle_and_revises() -> None:
    model, prompts = script(), package_prompts()
    trace = run_scene(critique_revise, INSTRUCTION, model, prompts=prompts)
    respond, critique, revise = model.turns
    principle = untrusted(critique)[2]
    assert principle in prompts.principles()
    assert trace.events == [
        started(),
        completed(respond, SAID["respond"]),
        {"kind": "ResponseGiven", "v": 1, "given": False, "text": "Take any of them."},
        completed(critique, SAID["critique"], reads=["respond"]),
        {"kind": "CritiqueWritten", "v": 1, "principle": principle, "text": "It may not fit the rider."},
        completed(revise, SAID["revise"], reads=["critique", "respond"]),
        {"kind": "ResponseRevised", "v": 1, "text": "Have it measured."},
        ended(7),
    ]


def test_a_given_response_skips_the_respond_turn() -> None:
    model = script()
    trace = run_scene(critique_revise, INSTRUCTION, model, prompts=package_prompts(), response="Any will do.")
    assert [turn.kind for turn in model.turns] == ["critique", "revise"]
    assert [event["kind"] for event in trace.events] == [
        *(
            "SceneStarted",
            "ResponseGiven",
            "TurnCompleted",
            "CritiqueWritten",
            "TurnCompleted",
            "ResponseRevised",
            "SceneFinished",
        ),
    ]
    assert trace.events[1] == {"kind": "ResponseGiven", "v": 1, "given": True, "text": "Any will do."}
    assert untrusted(model.turns[0])[:2] == [INSTRUCTION, "Any will do."]


def test_each_turn_sees_what_it_is_to_see_and_nothing_else() -> None:
    model, prompts = script(), package_prompts(system="You advise a shop.")
    run_scene(critique_revise, INSTRUCTION, model, prompts=prompts)
    respond, critique, revise = model.turns
    assert untrusted(respond) == [INSTRUCTION]
    assert untrusted(critique)[:2] == [INSTRUCTION, "Take any of them."]
    assert untrusted(revise) == [INSTRUCTION, "Take any of them.", "It may not fit the rider."]
    # The deployment answers under its own system prompt, and the writer criticises under another.
    texts = {turn.kind: "".join(text for text, _ in turn.segments) for turn in model.turns}
    assert ["You advise a shop." in texts[kind] for kind in ("respond", "critique", "revise")] == [True, False, True]
    assert not any(principle in texts["revise"] for principle in prompts.principles())


def critiques(scenes: list[StoredScene], *, seed: int = 0, window: int = 4) -> dict[bytes, _core.Turn]:
    """Return the critique turn of each scene of a run."""
    model = script()
    pump = Pump(
        critique_revise,
        "test",
        prompts=package_prompts(),
        seed=seed,
        log=_core.EventLog(),
        answerer=model,
        window=window,
        limits=Limits(),
    )
    assert pump.run(scenes).completed == len(scenes)
    return {turn.scene: turn for turn in model.turns if turn.kind == "critique"}


def listed(instructions: list[str]) -> list[StoredScene]:
    return [StoredScene(_core.scene_id("test", text, "Yes.", 0), text, "Yes.", 0) for text in instructions]


def test_the_principle_is_drawn_uniformly() -> None:
    num_scenes, principles = 1400, package_prompts().principles()
    turns = critiques(listed([f"instruction {number}" for number in range(num_scenes)]), window=64)
    counts = Counter(untrusted(turn)[2] for turn in turns.values())
    expected = num_scenes / len(principles)
    chi_square = sum((counts[principle] - expected) ** 2 / expected for principle in principles)
    assert len(principles) == 7
    assert chi_square < 22.5  # 6 degrees of freedom: one in a thousand is above


def test_the_principle_is_the_same_whatever_else_is_in_the_run() -> None:
    texts = [f"instruction {number}" for number in range(20)]
    together = critiques(listed(texts))
    for scenes in (listed(texts[::-1]), listed(["another", *texts[5:9]]), listed(texts[:1])):
        for scene, turn in critiques(scenes, window=1).items():
            if scene in together:
                assert turn.request == together[scene].request
    other_seed = critiques(listed(texts), seed=1)
    assert [untrusted(turn) for turn in together.values()] != [untrusted(other_seed[scene]) for scene in together]


def test_the_prompts_of_scenes_of_one_run_hold_nothing_of_one_another() -> None:
    scenes = [StoredScene(_core.scene_id("test", text, None, 0), text, None, 0) for text in ("red alder", "blue beech", "grey cedar")]
    model = ScriptedModel(lambda turn: f"{turn.kind} of {untrusted(turn)[0]}")
    pump = Pump(critique_revise, "test", prompts=package_prompts(), seed=0, log=_core.EventLog(), answerer=model, window=3, limits=Limits())
    assert pump.run(scenes).completed == 3
    for turn in model.turns:
        own = next(scene.instruction for scene in scenes if scene.scene == turn.scene)
        text = "".join(text for text, _ in turn.segments)
        assert [scene.instruction for scene in scenes if scene.instruction in text] == [own]
    assert len(model.turns) == 9


def test_a_critique_that_finds_no_room_ends_the_scene_as_failed() -> None:
    model = ScriptedModel(lambda turn: TooLong() if turn.kind == "critique" else SAID[turn.kind])
    trace = run_scene(critique_revise, INSTRUCTION, model, prompts=package_prompts())
    assert trace.events[-1]["end"] == "failed"
    assert "critique" in trace.events[-1]["reason"]
    assert (trace.counts.failed, len(model.turns)) == (1, 2)


def test_a_prompt_file_without_principles_leaves_the_scene_open() -> None:
    files = load_files(None) | {"principles.txt": " \n\n"}
    prompts = Prompts(files, load_settings(None, None), system="", template=ChatTemplate.plain())
    trace = run_scene(critique_revise, INSTRUCTION, script(), prompts=prompts)
    assert (trace.counts.open, len(trace.counts.errors)) == (1, 1)
    assert "principles.txt holds no principle" in trace.counts.errors[0]


# Finding scenes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function"),
    [("vanilla", vanilla), ("critique-revise", critique_revise), ("matrix", matrix), ("published", published)],
)
def test_built_in_scenes_go_by_their_names(name: str, function: SceneFunction) -> None:
    assert find_scene(name) is function


OWN_SCENE = """
from matrix_py.scene import Scene
from matrix_py.events import Event


class PoemWritten(Event, frozen=True):
    text: str


async def poem(scene: Scene) -> None:
    lines = await scene.gather(*(scene.turn("line", path=f"line/{n}", instruction=scene.instruction) for n in range(2)))
    scene.emit(PoemWritten(text=" / ".join(line.text for line in lines)))


def not_async(scene: Scene) -> None:
    pass


NOT_A_FUNCTION = 3
"""


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that is not installed, as a user would have it beside the inputs."""
    package = tmp_path / "own_scenes_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "poetry.py").write_text(OWN_SCENE, "utf-8")
    (package / "broken.py").write_text("async def poem(scene)\n", "utf-8")
    (package / "raising.py").write_text("raise RuntimeError('no such device')\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return package.name


def test_a_scene_of_ones_own_is_found_by_module_and_function(own_package: str) -> None:
    # Given a function in a package of the user's, when it is run like a built-in one
    function = find_scene(f"{own_package}.poetry:poem")
    model = ScriptedModel(lambda turn: f"{turn.path} on {untrusted(turn)[0]}")
    trace: Trace = run_scene(function, "spring", model, prompts=make_prompts({"line": "One line on {instruction}."}))
    # Then it may have events of its own
    assert inspect.iscoroutinefunction(function)
    assert trace.events[-2] == {"kind": "PoemWritten", "v": 1, "text": "line/0 on spring / line/1 on spring"}
    assert trace.counts.completed == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("critique_revise", "is not known: choose critique-revise, matrix, published, vanilla, or give package.module:function"),
        ("", "is not known"),
        ("no_such_module_at_all:poem", "No module named 'no_such_module_at_all'"),
        ("{package}.prose:poem", "No module named"),
        ("{package}.poetry:prose", "has no attribute 'prose'"),
        ("{package}.poetry:", "has no attribute ''"),
        (":poem", "cannot be imported"),
        (".poetry:poem", "cannot be imported"),
        ("{package}.broken:poem", "SyntaxError"),
        ("{package}.raising:poem", "RuntimeError: no such device"),
        ("{package}.poetry:not_async", "is not an async function: write 'async def not_async(scene): ...'"),
        ("{package}.poetry:NOT_A_FUNCTION", "is not an async function"),
    ],
)
def test_a_name_that_no_scene_goes_by_is_refused(own_package: str, name: str, reason: str) -> None:
    name = name.format(package=own_package)
    with pytest.raises(ConfigError) as caught:
        find_scene(name)
    assert str(caught.value).startswith(f"scene {name!r} ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
