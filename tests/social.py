"""A scripted model that plays whole social scenes, for tests that say only what is special about theirs."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matrix_py import _core
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.scene import SceneFunction, matrix
from matrix_py.testing import FormFailed, ScriptedModel, TooLong, Trace, run_scene
from matrix_py.testing.fields import fields
from matrix_py.types import Limits, StoredScene

INSTRUCTION = "How do I get the shop's till to open?"
RESPONSE = "Press the key under the drawer."
ROLES = ("owner", "cashier", "guard", "bank", "customer")

Answer = str | FormFailed | TooLong | Exception
Rule = Answer | Callable[[_core.Turn], Answer]


class Script(ScriptedModel):
    """Answers by path, else by kind, else by the defaults: five roles, every act possible and unnoticed, no harm unless it has to be."""

    def __init__(self, rules: Mapping[str, Rule] | None = None, *, notice: Mapping[str, str] | None = None, **options: Any) -> None:
        """Set up a script.

        Args:
            rules: path or kind of turn -> what the model says, or a function of the turn that says it.
            notice: path of an action -> who notices it; nobody notices the others.
            **options: see `ScriptedModel`.
        """
        super().__init__(self.say, **options)
        self._rules = dict(rules or {})
        for action, recipients in (notice or {}).items():
            self._rules[f"{action}/recipients"] = recipients

    def say(self, turn: _core.Turn) -> Answer:
        """What the model says to a turn."""
        rule = self._rules.get(turn.path, self._rules.get(turn.kind))
        if rule is None:
            rule = _default(turn)
        return rule(turn) if callable(rule) else rule

    def paths(self, kind: str | None = None) -> list[str]:
        """The paths of the turns that were asked, of one kind or all."""
        return [turn.path for turn in self.turns if kind in (None, turn.kind)]

    def prompt(self, path: str) -> str:
        """The prompt of a turn."""
        [turn] = [turn for turn in self.turns if turn.path == path and turn.attempt == 1]
        return "".join(text for text, _ in turn.segments)


def _default(turn: _core.Turn) -> Answer:
    form = turn.sampling.form or ""
    match turn.kind:
        case "ego":
            return "visitor"
        case "roles" | "public":
            lists = ("\n".join(ROLES[:most]) for most in range(len(ROLES), 0, -1))
            return next(each for each in lists if _core.form_accepts(form, each))
        case "profile":
            age = "Age: 31\n" if "Age: " in form else ""
            return f"{age}Traits: those of {turn.path.rpartition('/')[2]}\nStatus: in the shop"
        case "plan":
            steps = form.count("LINE") - 1
            return "\n".join(f"{step}. tries key {step}" for step in range(1, steps + 1))
        case "feasible":
            verdict_first = form.startswith("start: VERDICT")
            return f"yes: Reason for {turn.path}." if verdict_first else f"Reason for {turn.path}.\nVerdict: yes"
        case "recipients":
            return "nobody"
        case "critique":
            return "none" if form else f"Harm of {turn.path}."
        case "react" | "act":
            return f"answers at {turn.path}"
    return f"Text of {turn.path}."


def prompts(scene: str = "matrix") -> Prompts:
    """The package's prompts and settings for a scene."""
    return Prompts(load_files(None, scene), load_settings(None, None, scene), system="", template=ChatTemplate.plain())


def play(
    model: ScriptedModel,
    *,
    scene: SceneFunction = matrix,
    response: str | None = RESPONSE,
    stored: StoredScene | None = None,
    **limits: int,
) -> Trace:
    """Play one scene on a script."""
    name = scene.__name__
    return run_scene(scene, INSTRUCTION, model, prompts=prompts(name), response=response, limits=Limits(**limits), name=name, stored=stored)


def events(trace: Trace, kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [event for event in trace.events if event["kind"] == kind]


def kinds(trace: Trace, *, without: Iterable[str] = ("TurnCompleted",)) -> list[str]:
    """The kinds of the events, in order."""
    return [event["kind"] for event in trace.events if event["kind"] not in without]


NO = "There is no key.\nVerdict: no"


def candidates(turn: _core.Turn) -> list[str]:
    """Whom a turn of kind `recipients` lets choose."""
    assert turn.sampling.form is not None
    return re.findall(r'"([^"]*)" rest', turn.sampling.form)


def everybody(turn: _core.Turn) -> str:
    return ", ".join(candidates(turn))


def turn_of(model: Script, path: str, attempt: int = 1) -> _core.Turn:
    [turn] = [turn for turn in model.turns if (turn.path, turn.attempt) == (path, attempt)]
    return turn


def shown(model: Script, path: str) -> dict[str, str]:
    """What the prompt of a turn was filled with."""
    return fields(turn_of(model, path))


def of_action(trace: Trace, kind: str, action: str) -> list[dict[str, Any]]:
    return [event for event in events(trace, kind) if event["action"] == action]


def one(trace: Trace, kind: str) -> dict[str, Any]:
    [event] = events(trace, kind)
    return event


def numbered(turn: _core.Turn) -> str:
    """A harm that nothing else has."""
    return f"2: harm of {turn.path}"
