"""Scene `published`: what it keeps of the released code, and each of that code's defects, which it does not have."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from logs import drive, make_log, make_record
from social import INSTRUCTION, RESPONSE, ROLES, Script, events, kinds, play

from matrix_py import _core
from matrix_py.models import chat
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.scene import find_scene, published
from matrix_py.testing import FormFailed, ScriptedModel, TooLong, Trace, run_scene
from matrix_py.testing.fields import fields
from matrix_py.types import Limits

NO = "no: There is no such key."
PERSONA = "You are an assistant who is safe"
WORKED_REFUSAL = "I will not help with hurting somebody"
# Kinds of turn without which there is no scene, and those that may say what they like.
NEEDED = ("situation", "future", "characters", "respond", "revise")
BUDGETS = {"traits": 200, "target": 200, "revise": 2048}


def rehearse(model: ScriptedModel, *, response: str | None = RESPONSE, **limits: int) -> Trace:
    trace = play(model, scene=published, response=response, **limits)
    assert trace.counts.completed == 1, trace.events[-1]
    return trace


def everybody(turn: _core.Turn) -> str:
    """All whom a turn of kind `recipients` lets choose."""
    return ", ".join(re.findall(r'"([^"]*)" rest', turn.sampling.form or ""))


def shown(model: Script, path: str) -> dict[str, str]:
    """What the prompt of a turn was filled with."""
    [turn] = [turn for turn in model.turns if turn.path == path and turn.attempt == 1]
    return fields(turn, "published")


def texts(trace: Trace, kind: str, field: str = "text") -> list[Any]:
    return [event[field] for event in events(trace, kind)]


# Casting --------------------------------------------------------------------------------------------------------------


def test_the_turns_up_to_the_first_act_come_in_the_order_of_the_released_code() -> None:
    model = Script()
    trace = rehearse(model, response=None, roles=2)
    assert model.paths()[:13] == [
        "respond",
        "cast/situation",
        "cast/ego",
        "cast/future",
        "cast/characters",
        "cast/roles",
        "cast/public",
        "cast/plan",
        "cast/profile/owner",
        "cast/profile/cashier",
        "cast/traits",
        "cast/target",
        "step/1/act/recipients",
    ]
    assert kinds(trace)[2:9] == ["SituationImagined", "FutureImagined", *["RoleCast"] * 3, "ActsPlanned", "TargetNamed"]


def test_the_future_is_split_into_the_plan_and_not_the_response() -> None:
    model = Script()
    rehearse(model, steps=3)
    assert shown(model, "cast/plan") == {"future": "Text of cast/future.", "ego": "visitor", "steps": "3"}
    assert shown(model, "cast/future")["response"] == RESPONSE


def test_the_second_list_is_asked_for_in_any_case_and_knows_nothing_of_the_first() -> None:
    model = Script({"public": "mayor\nvoter"})
    trace = rehearse(model, roles=2)
    assert shown(model, "cast/public") == {"ego": "visitor", "instruction": INSTRUCTION, "response": RESPONSE, "number": "2"}
    assert texts(trace, "RoleCast", "role") == ["visitor", "owner", "cashier"]


def test_the_second_list_fills_the_gaps_of_the_first() -> None:
    trace = rehearse(Script({"roles": "owner\nthe visitor", "public": "The Owner\nmayor\nvoter"}), roles=3)
    cast = [(event["role"], event["origin"]) for event in events(trace, "RoleCast")]
    assert cast == [("visitor", "situation"), ("owner", "future"), ("mayor", "public"), ("voter", "public")]


@pytest.mark.parametrize("roles", [1, 2, 5])
def test_both_lists_hold_as_many_names_as_roles_are_wanted(roles: int) -> None:
    model = Script()
    trace = rehearse(model, roles=roles)
    assert [role for role in texts(trace, "RoleCast", "role") if role != "visitor"] == list(ROLES[:roles])
    for turn in model.turns[4:6]:
        assert shown(model, turn.path)["number"] == str(roles)
        assert _core.form_accepts(turn.sampling.form or "", "\n".join(ROLES[:roles]))
        assert not _core.form_accepts(turn.sampling.form or "", "\n".join([*ROLES[:roles], "clerk"]))


def test_names_are_read_whole() -> None:
    names = ["store owner", "actor", "editor-in-chief", "the mayor", "doctor"]
    trace = rehearse(Script({"ego": "author", "roles": "\n".join(names)}))
    assert texts(trace, "RoleCast", "role") == ["author", *names]


def test_there_may_be_more_roles_than_steps() -> None:
    assert texts(rehearse(Script(), roles=5, steps=2), "RoleCast", "role") == ["visitor", *ROLES]


def test_all_steps_of_the_plan_are_acted_out_word_for_word() -> None:
    plan = ["walks in", "looks at the till", "asks for the key", "tries it", "leaves"]
    model = Script({"plan": "\n".join(f"{number}. {step}" for number, step in enumerate(plan, 1)), "recipients": everybody})
    trace = rehearse(model, interactions=100)
    # Also after the ego noticed what the others do: it has no turn of its own.
    assert "visitor" in events(trace, "ActionNoticed")[1]["recipients"]
    assert [event["text"] for event in events(trace, "ActionProposed") if event["rank"] == 0] == plan
    assert all(turn.kind != "act" for turn in model.turns)


def test_a_profile_is_written_from_the_roles_name_alone_and_gives_no_age() -> None:
    model = Script()
    trace = rehearse(model)
    assert shown(model, "cast/profile/owner") == {"role": "owner"}
    assert texts(trace, "RoleCast", "profile")[1] == "Traits: those of owner\nStatus: in the shop"
    assert "40" not in "".join(text for turn in model.turns for text, _ in turn.segments)


def test_an_age_that_a_profile_tells_of_is_kept() -> None:
    profile = "Traits: 71 years old and patient\nStatus: in the shop"
    model = Script({"cast/profile/owner": profile}, notice={"step/1/act": "owner"})
    rehearse(model)
    assert shown(model, "step/1/react/owner")["profile"] == profile


def test_the_egos_profile_is_its_traits_and_what_it_is_after() -> None:
    model = Script({"traits": "patient", "target": "to open the till"})
    trace = rehearse(model)
    assert (shown(model, "cast/traits"), shown(model, "cast/target")) == ({"role": "visitor"}, {"instruction": INSTRUCTION})
    assert texts(trace, "RoleCast", "profile")[0] == "Traits: patient\nTarget: to open the till"
    assert texts(trace, "TargetNamed") == ["to open the till"]


# The modulator --------------------------------------------------------------------------------------------------------


def test_who_is_aware_is_asked_before_feasibility_and_then_the_critique_for_every_action() -> None:
    model = Script({"recipients": everybody})
    trace = rehearse(model, depth=2, steps=2, interactions=100)
    order = {path: place for place, path in enumerate(model.paths())}
    actions = texts(trace, "ActionProposed", "action")
    assert len(actions) == 2 * (1 + 5 + 5)
    for action in actions:
        assert order[f"{action}/recipients"] < order[f"{action}/feasible"] < order[f"{action}/critique"]
    completed = [path for path in texts(trace, "TurnCompleted", "path") if path.startswith("step/1/act/")]
    assert completed == ["step/1/act/recipients", "step/1/act/feasible", "step/1/act/critique"]


@pytest.mark.parametrize("action", ["step/1/act", "step/1/react/owner"])
def test_what_is_not_feasible_reaches_nobody_and_leaves_nothing_but_its_record(action: str) -> None:
    model = Script({f"{action}/feasible": NO}, notice={"step/1/act": "owner", "step/1/react/owner": "guard"})
    trace = rehearse(model, steps=2, depth=2)
    assert f"{action}/recipients" in model.paths()
    [judged] = [event for event in events(trace, "FeasibilityJudged") if not event["feasible"]]
    assert (judged["action"], judged["reason"]) == (action, "There is no such key.")
    for kind in ("ActionAccepted", "ActionNoticed", "HarmNoted"):
        assert action not in texts(trace, kind, "action")
    assert f"{action}/critique" not in model.paths()
    reacting = model.paths("react")
    assert reacting == ([] if action == "step/1/act" else ["step/1/react/owner"])
    [proposed] = [event["text"] for event in events(trace, "ActionProposed") if event["action"] == action]
    later = [model.prompt(path) for path in model.paths()[model.paths().index(f"{action}/feasible") + 1 :]]
    assert not [prompt for prompt in later if f": {proposed}" in prompt]


def test_a_no_is_asked_for_once_only() -> None:
    model = Script({"step/1/act/feasible": NO})
    rehearse(model)
    assert model.paths().count("step/1/act/feasible") == 1


def test_the_verdict_comes_before_its_reason() -> None:
    model = Script({"feasible": "yes: The key fits."})
    trace = rehearse(model, steps=1)
    [turn] = [turn for turn in model.turns if turn.kind == "feasible"]
    assert turn.sampling.choices == ["yes", "no"]
    assert not _core.form_accepts(turn.sampling.form or "", "The key fits.\nVerdict: yes")
    assert texts(trace, "FeasibilityJudged", "reason") == ["The key fits."]


def test_feasibility_is_judged_after_the_memory_and_by_nothing_else() -> None:
    model = Script()
    rehearse(model, steps=2)
    assert shown(model, "step/1/act/feasible") == {"story": "Nothing yet.", "action": "visitor: tries key 1"}
    assert shown(model, "step/2/act/feasible") == {"story": "visitor: tries key 1", "action": "visitor: tries key 2"}


def test_a_critique_is_shown_the_action_and_the_response_and_not_the_plan() -> None:
    model = Script()
    rehearse(model)
    for step in range(1, 6):
        path = f"step/{step}/act/critique"
        action = f"visitor: tries key {step}"
        assert shown(model, path) == {"ego": "visitor", "instruction": INSTRUCTION, "response": RESPONSE, "action": action}
        assert model.prompt(path).count("tries key") == 1


def test_whatever_takes_place_is_criticised_without_a_grade() -> None:
    trace = rehearse(Script({"critique": "none"}), steps=2)
    assert [(event["action"], event["severity"], event["text"]) for event in events(trace, "HarmNoted")] == [
        ("step/1/act", 0, "none"),
        ("step/2/act", 0, "none"),
    ]


def test_nobody_is_an_answer_to_who_is_aware() -> None:
    model = Script({"recipients": "nobody"})
    assert texts(rehearse(model), "ActionNoticed", "recipients") == [[]] * 5
    assert model.paths("react") == []


# Reactions ------------------------------------------------------------------------------------------------------------


def test_a_role_reacts_by_its_profile_and_what_it_observes_without_any_memory() -> None:
    model = Script({"recipients": everybody})
    rehearse(model, steps=3, interactions=100)
    for step in (1, 2, 3):
        path = f"step/{step}/react/guard"
        profile = "Traits: those of guard\nStatus: in the shop"
        assert shown(model, path) == {"role": "guard", "profile": profile, "noticed": f"visitor: tries key {step}"}
        assert "answers at" not in model.prompt(path)


def test_the_first_step_is_treated_like_any_other() -> None:
    model = Script(notice={"step/1/act": "owner", "step/2/act": "owner"})
    rehearse(model, steps=2)
    first, second = ([path for path in model.paths() if path.startswith(f"step/{step}/")] for step in (1, 2))
    assert [path.replace("step/2", "step/1") for path in second if "condense" not in path] == first
    assert "step/1/react/owner" in first


def test_everyone_who_is_aware_reacts_from_one_snapshot() -> None:
    model = Script({"recipients": everybody})
    rehearse(model, steps=1)
    assert model.paths("react") == [f"step/1/react/{role}" for role in ROLES]
    assert {shown(model, f"step/1/react/{role}/feasible")["story"] for role in ROLES} == {"visitor: tries key 1"}


def test_a_role_answers_all_that_it_observed_at_once_and_never_itself() -> None:
    model = Script({"recipients": everybody})
    trace = rehearse(model, steps=1, depth=2, interactions=100)
    others = [role for role in ROLES if role != "guard"]
    observed = "\n".join(f"{role}: answers at step/1/react/{role}" for role in others)
    assert shown(model, "step/1/react/guard/2")["noticed"] == observed
    roles = {event["action"]: event["role"] for event in events(trace, "ActionProposed")}
    for event in events(trace, "ActionNoticed"):
        assert roles[event["action"]] not in event["recipients"]
    for event in events(trace, "ActionProposed"):
        assert event["role"] not in [roles[cause] for cause in event["causes"]]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_cascades_end_at_the_depth(depth: int) -> None:
    trace = rehearse(Script({"recipients": everybody}), steps=1, depth=depth, interactions=100)
    assert max(texts(trace, "ActionProposed", "depth")) == depth
    assert texts(trace, "SimulationEnded", "reason") == ["plan"]


def test_cascades_end_at_the_last_interaction() -> None:
    trace = rehearse(Script({"recipients": everybody}), depth=9, interactions=8)
    assert events(trace, "SimulationEnded")[0]["reason"] == "interactions"
    assert (len(events(trace, "ActionAccepted")), len(events(trace, "ActionDropped"))) == (8, 3)


def test_a_scene_without_progress_ends() -> None:
    trace = rehearse(Script({"feasible": NO}), steps=5)
    assert (events(trace, "SimulationEnded")[0]["reason"], events(trace, "SimulationEnded")[0]["steps"]) == ("no_progress", 2)


# Memory and critiques -------------------------------------------------------------------------------------------------


def test_four_entries_become_one_as_soon_as_there_are_four() -> None:
    model = Script(notice={"step/1/act": "owner, cashier, guard, bank"})
    trace = rehearse(model, steps=5)
    # The act and three reactions are four. What is condensed counts one, so three more entries make four again.
    assert model.paths("condense_memory") == ["step/1/react/guard/condense/memory", "step/3/act/condense/memory"]
    assert texts(trace, "MemoryCondensed", "entries") == [4, 4]
    condensed = "Text of step/1/react/guard/condense/memory."
    assert shown(model, "step/2/act/feasible")["story"] == f"{condensed}\nbank: answers at step/1/react/bank"
    assert shown(model, "step/4/act/feasible")["story"] == "Text of step/3/act/condense/memory."


def test_nine_critiques_become_one_as_soon_as_there_are_nine() -> None:
    model = Script()
    trace = rehearse(model, steps=11)
    assert model.paths("condense_critiques") == ["step/9/act/condense/critiques", "end/condense/critiques"]
    assert [(event["critiques"], event["times"]) for event in events(trace, "CritiquesCondensed")] == [(9, 1), (2, 2)]
    lines = [f"visitor: tries key {step}: Harm of step/{step}/act/critique." for step in range(1, 12)]
    assert shown(model, "step/9/act/condense/critiques")["critiques"].split("\n") == lines[:9]
    assert shown(model, "end/condense/critiques")["critiques"].split("\n") == lines[9:]


def test_after_four_condensations_nothing_is_criticised_any_more() -> None:
    model = Script()
    trace = rehearse(model, steps=40, interactions=100)
    assert texts(trace, "CritiquesCondensed", "times") == [1, 2, 3, 4]
    assert model.paths("critique") == [f"step/{step}/act/critique" for step in range(1, 37)]
    assert len(events(trace, "ActionAccepted")) == 40
    condensed = [f"Text of step/{step}/act/condense/critiques." for step in (9, 18, 27, 36)]
    assert texts(trace, "ConsequenceDrawn") == ["\n".join(condensed)]


def test_the_consequence_is_all_condensed_critiques_in_order() -> None:
    model = Script()
    trace = rehearse(model, steps=11)
    consequence = "Text of step/9/act/condense/critiques.\nText of end/condense/critiques."
    assert [(event["harmful"], event["text"]) for event in events(trace, "ConsequenceDrawn")] == [(True, consequence)]
    assert shown(model, "revise")["consequence"] == consequence
    assert "consequence" not in [turn.kind for turn in model.turns]


def test_critiques_that_cannot_be_condensed_are_kept_as_they_are() -> None:
    trace = rehearse(Script({"condense_critiques": ""}), steps=2)
    lines = [f"visitor: tries key {step}: Harm of step/{step}/act/critique." for step in (1, 2)]
    assert texts(trace, "ConsequenceDrawn") == ["\n".join(lines)]


def test_critiques_that_could_not_be_condensed_are_condensed_with_the_next() -> None:
    model = Script({"step/9/act/condense/critiques": ""})
    trace = rehearse(model, steps=10)
    assert list(dict.fromkeys(model.paths("condense_critiques"))) == ["step/9/act/condense/critiques", "step/10/act/condense/critiques"]
    assert texts(trace, "CritiquesCondensed", "critiques") == [10]
    assert texts(trace, "ConsequenceDrawn") == ["Text of step/10/act/condense/critiques."]


def test_nothing_is_condensed_where_no_critique_is_pending() -> None:
    model = Script()
    rehearse(model, steps=9)
    assert model.paths("condense_critiques") == ["step/9/act/condense/critiques"]


def test_where_nothing_was_criticised_the_response_is_kept() -> None:
    model = Script({"feasible": NO})
    trace = rehearse(model)
    [drawn] = events(trace, "ConsequenceDrawn")
    assert (drawn["harmful"], drawn["text"].partition("\n")[0]) == (False, "Nothing harmful was found.")
    assert kinds(trace)[-2:] == ["ResponseKept", "SceneFinished"]
    asked = {turn.kind for turn in model.turns}
    assert not asked & {"condense_critiques", "summary", "revise"}
    # Nor is an outcome made up where nothing took place.
    assert "outcome" not in asked


def test_where_no_critique_was_usable_the_scene_fails() -> None:
    trace = play(Script({"critique": ""}), scene=published)
    assert trace.events[-1]["end"] == "failed"
    assert "questions about harm went unanswered" in trace.events[-1]["reason"]


# The end --------------------------------------------------------------------------------------------------------------


def test_the_outcome_is_summarised_and_stands_in_no_later_prompt() -> None:
    model = Script({"outcome": "The marked outcome."})
    trace = rehearse(model)
    assert texts(trace, "OutcomeSummarised") == ["The marked outcome."]
    assert shown(model, "outcome")["target"] == "Text of cast/target."
    assert [turn.path for turn in model.turns if any("The marked outcome." in text for text, _ in turn.segments)] == []
    assert not [event["path"] for event in events(trace, "TurnCompleted") if "outcome" in event["reads"]]


@pytest.mark.parametrize("answer", [TooLong(), "", "I'm sorry, but I can't help with that request."])
def test_no_scene_fails_for_its_outcome(answer: Any) -> None:
    trace = rehearse(Script({"outcome": answer}))
    assert (events(trace, "OutcomeSummarised"), kinds(trace)[-2:]) == ([], ["ResponseRevised", "SceneFinished"])


def test_the_revision_is_given_the_summary_and_not_the_response_with_persona_and_worked_refusal() -> None:
    model = Script({"summary": "A marked sentence.", "revise": "Ask the owner."})
    trace = rehearse(model)
    assert shown(model, "summary") == {"instruction": INSTRUCTION, "response": RESPONSE}
    assert texts(trace, "ResponseSummarised") == ["A marked sentence."]
    prompt = model.prompt("revise")
    places = [prompt.index(text) for text in (PERSONA, WORKED_REFUSAL, INSTRUCTION, "A marked sentence.")]
    assert places == sorted(places)
    assert RESPONSE not in prompt
    assert texts(trace, "ResponseRevised") == ["Ask the owner."]


def test_a_summary_that_only_refuses_does_not_bring_the_response_back() -> None:
    model = Script({"summary": "I'm sorry, but I can't help with that request."})
    trace = rehearse(model)
    assert texts(trace, "ResponseSummarised") == ["An answer that is not repeated here."]
    assert RESPONSE not in model.prompt("revise")


def test_persona_and_worked_refusal_go_with_one_prompt_file() -> None:
    files = load_files(None, "published") | {"revise.txt": load_files(None, "matrix")["revise.txt"]}
    own = Prompts(files, load_settings(None, None, "published"), system="", template=chat.ChatTemplate.plain())
    model = Script()
    trace = run_scene(published, INSTRUCTION, model, prompts=own, response=RESPONSE, name="published")
    assert trace.counts.completed == 1
    prompt = model.prompt("revise")
    assert "Text of summary." in prompt
    assert PERSONA not in prompt and WORKED_REFUSAL not in prompt


# Prompts and settings -------------------------------------------------------------------------------------------------


def test_every_turn_has_the_released_codes_temperature_and_budget() -> None:
    model = Script({"recipients": everybody})
    rehearse(model, response=None, roles=3, steps=9, interactions=100)
    asked = {turn.kind: turn.sampling for turn in model.turns}
    settings = load_settings(None, None, "published")
    assert set(asked) == set(settings)
    assert {kind: sampling.max_tokens for kind, sampling in asked.items()} == {kind: BUDGETS.get(kind, 1024) for kind in asked}
    assert {round(sampling.temperature, 6) for sampling in asked.values()} == {0.2}
    for each in settings.values():
        assert (each.temperature, each.top_p, each.top_k, each.min_p, each.repetition_penalty) == (0.2, 1.0, 0, 0.0, 1.0)


def test_all_turns_but_the_answers_to_the_asker_run_under_one_line_of_the_scenes_own() -> None:
    files, settings = load_files(None, "published"), load_settings(None, None, "published")
    line = files["writer.txt"].strip()
    assert "\n" not in line and line != load_files(None, "matrix")["writer.txt"].strip()
    own = Prompts(files, settings, system="Deployed here.", template=chat.ChatTemplate.plain())
    model = Script(notice={"step/1/act": "owner"})
    run_scene(published, INSTRUCTION, model, prompts=own, limits=Limits(steps=9), name="published")
    for turn in model.turns:
        prompt = "".join(text for text, _ in turn.segments)
        is_answer = turn.kind in ("respond", "revise")
        assert (line in prompt, "Deployed here." in prompt) == (not is_answer, is_answer), turn.kind


def test_the_prompts_are_rendered_with_every_built_in_template_and_have_another_prefill_for_retries() -> None:
    files, settings = load_files(None, "published"), load_settings(None, None, "published")
    for name in chat.BUILT_INS:
        template = chat.load({}, override=name, bos_token="<s>", eos_token="</s>")
        own = Prompts(files, settings, system="You advise.", template=template)
        for kind in settings:
            values = {field: f"The {field}." for field in own.fields(kind)}
            first, again = own.render(kind, values), own.render(kind, values, retry=True)
            assert {text for text, trusted in first if not trusted} == set(values.values())
            # What has a form of several parts begins with one of them in any case.
            assert (first == again) == (kind in ("respond", "revise", "plan", "profile", "recipients"))


def test_what_a_scene_fills_in_has_lines_of_its_own() -> None:
    files = load_files(None, "published")
    for kind in load_settings(None, None, "published"):
        assert not re.search(r"\S\{\w+\}|[^\n{]\{\w+\}|\{\w+\}[^\n]", files[f"{kind}.txt"]), kind


def test_the_scene_goes_by_its_name() -> None:
    assert find_scene("published") is published


# Determinism and failures ---------------------------------------------------------------------------------------------


def eventful(seed: int) -> dict[str, Callable[[_core.Turn], Any]]:
    """A script of many turns of fate, each a function of the turn alone."""

    def rng(turn: _core.Turn) -> random.Random:
        return random.Random(f"{seed} {turn.path} {turn.attempt}")

    def recipients(turn: _core.Turn) -> str:
        names = everybody(turn).split(", ")
        return ", ".join(rng(turn).sample(names, rng(turn).randint(0, len(names)))) or "nobody"

    def one_of(*answers: Any) -> Callable[[_core.Turn], Any]:
        return lambda turn: rng(turn).choice(answers)

    return {
        "recipients": recipients,
        "feasible": one_of("yes: It can be done.", "yes: Why not?", NO, FormFailed("perhaps")),
        "critique": one_of("Somebody may lose money.", "Trust is lost.", "", "I'm sorry, but I can't help with that request."),
        "react": one_of("calls the police", "waits", "asks why", ""),
        "condense_critiques": one_of("In short, much is lost.", ""),
        "condense_memory": one_of("In short, much happened.", ""),
        "outcome": one_of("It ended badly.", TooLong()),
    }


@pytest.mark.parametrize("seed", range(6))
def test_the_same_answers_in_any_order_make_the_same_scene(seed: int) -> None:
    limits = {"roles": 4, "steps": 6, "depth": 1 + seed % 3, "interactions": 60}
    trace = rehearse(Script(eventful(seed)), **limits)
    assert rehearse(Script(eventful(seed)), **limits).hashes == trace.hashes
    shuffled = Script(eventful(seed), order=random.Random(seed), at_once=1)
    assert rehearse(shuffled, **limits).hashes == trace.hashes

    # Nor is anything asked again in a replay.
    silent = ScriptedModel(lambda turn: AssertionError(turn.path))
    stored = trace.stored(INSTRUCTION, RESPONSE)
    again = play(silent, scene=published, stored=stored, **limits)
    assert (again.hashes, silent.turns) == (trace.hashes, [])


@pytest.mark.parametrize("rule", ["", "I cannot help with that request."], ids=["nothing", "refusals"])
@pytest.mark.parametrize("kind", [kind for kind in load_settings(None, None, "published") if kind not in (*NEEDED, "critique")])
def test_a_kind_of_turn_that_always_fails_does_not_stop_the_scene(kind: str, rule: str) -> None:
    model = Script({"recipients": everybody, kind: rule})
    trace = rehearse(model, steps=2, interactions=100)
    assert model.paths(kind)
    assert events(trace, "SimulationEnded")


def test_a_prompt_that_does_not_fit_fails_the_scene_with_its_reason() -> None:
    trace = play(Script({"step/2/act/critique": TooLong()}), scene=published)
    assert (trace.events[-1]["end"], "step/2/act/critique" in trace.events[-1]["reason"]) == ("failed", True)


# Comparing the methods ------------------------------------------------------------------------------------------------


def test_the_queries_of_the_documentation_compare_two_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(INSTRUCTION, RESPONSE), ("How do I lock the till?", "Turn the key.")]
    scripts = {
        "matrix": Script({"critique": "2: money is lost", "step/2/act/feasible": "There is no key.\nVerdict: no"}),
        "published": Script({"step/2/act/feasible": NO, "step/4/act/feasible": NO}),
    }
    for method, model in scripts.items():
        with make_log(tmp_path / f"{method}.duckdb", rows, record=make_record(method)) as log:
            drive(log, model)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "published.md").read_text("utf-8")
    queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    with duckdb.connect(config={"threads": 1}) as connection:
        _, actions, harms, verdicts, costs, revisions = [connection.execute(query).fetchall() for query in queries]
    assert actions == [("matrix", 10, 2, 8, 2, 0), ("published", 10, 4, 6, 2, 0)]
    assert harms == [("matrix", 2, 8)]
    assert [row[:2] for row in verdicts] == [("matrix", 10), ("published", 10)]
    critiques = {method: turns for kind, method, turns, *_ in costs if kind == "critique"}
    assert critiques == {"matrix": 8, "published": 6}
    assert revisions == [(place, *row, "Text of revise.", "Text of revise.") for place, row in enumerate(rows)]
