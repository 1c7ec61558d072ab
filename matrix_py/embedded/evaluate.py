"""How good the embedded model is: `python -m matrix_py.embedded.evaluate GGUF`. Scenes on 50 instructions whose topics it never saw.

Each figure comes with a 95 % interval (Wilson 1927) and with what it has to reach; the exit code is 1 where one does not.
"""

import argparse
import math
import random
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from matrix_py import _core
from matrix_py.embedded.author import World, acts
from matrix_py.embedded.corpus import WORDS, prompts, worlds
from matrix_py.embedded.tokenizer import fixed_passages
from matrix_py.engine import Engine, EngineOptions
from matrix_py.intervals import wilson
from matrix_py.prompts import Prompts
from matrix_py.pump import Answerer, Pump
from matrix_py.scene import forms, matrix
from matrix_py.testing import Recorder
from matrix_py.types import Limits, StoredScene

SCENES, SEED = 50, 20240

_ANY_DISTINCT_LINES = forms.DISTINCT + "start: /(?s:.)+/"
_COMMON = frozenset(WORDS["common"].split())


@dataclass(frozen=True, slots=True)
class Figure:
    """A share and what it is to be: at least `least`, or at most `most`."""

    name: str
    count: int
    of: int
    least: float = 0.0
    most: float = 1.0

    @property
    def rate(self) -> float:
        """The share."""
        return self.count / self.of if self.of else math.nan

    @property
    def is_met(self) -> bool:
        """Whether it is as it is to be."""
        return self.least <= self.rate <= self.most

    def interval(self) -> tuple[float, float]:
        """Return Wilson's score interval."""
        return wilson(self.count, self.of)


class Twins:
    """An answerer that asks each turn with a form once more without the mask, and sees whether the form is filled all the same."""

    def __init__(self, answerer: Answerer) -> None:
        """Wrap an answerer."""
        self._answerer = answerer
        self._forms: dict[tuple[bytes, str, int], str] = {}
        self.masked: list[bool] = []
        self.unmasked: list[bool] = []
        self.distinct: list[bool] = []

    def submit(self, turns: list[_core.Turn]) -> None:
        """Queue turns and their twins."""
        twins = []
        for turn in turns:
            if turn.sampling.form is None:
                continue
            scene = bytes(byte ^ 255 for byte in turn.scene)
            self._forms[scene, turn.path, turn.attempt] = turn.sampling.form
            sampling = _core.Sampling(turn.sampling.max_tokens)
            twins.append(
                _core.Turn(
                    seed=0, scene=scene, path=turn.path, attempt=turn.attempt, kind=turn.kind, segments=turn.segments, sampling=sampling
                )
            )
        self._answerer.submit([*turns, *twins])

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        """Return what was answered to turns; answers to twins are counted."""
        answered = []
        for turn, completion in self._answerer.collect(timeout_s):
            form = self._forms.get((turn.scene, turn.path, turn.attempt))
            if form is None:
                answered.append((turn, completion))
                if turn.sampling.form is not None and not isinstance(completion, Exception):
                    self.masked.append(completion.outcome == "text")
            elif not isinstance(completion, Exception):
                text = completion.text.strip()
                self.unmasked.append(_core.form_accepts(form, text))
                if form.startswith(forms.DISTINCT):
                    self.distinct.append(_core.form_accepts(_ANY_DISTINCT_LINES, text))
        return answered

    def cancel(self, scene: bytes) -> None:
        """Cancel a scene's turns; its twins are answered to nobody."""
        self._answerer.cancel(scene)


def content_words(text: str, fixed: Iterable[str]) -> set[str]:
    """Return the words of a text that carry its content: no common ones, and none that the prompts have in any case."""
    known = {word for passage in fixed for word in re.findall(r"[a-z]+", passage.lower())}
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 2} - known - _COMMON


def evaluate(model: str, *, scenes: int = SCENES, seed: int = SEED, announce: Callable[[str], None] = lambda line: None) -> list[Figure]:
    """Play scenes on held-out instructions and return the figures."""
    rng = random.Random(seed)
    chosen = list(islice(worlds(rng, held_out=True), scenes))
    with Engine(model, EngineOptions(context=2048), announce=announce) as engine:
        ours = Prompts(prompts().files, prompts().settings, system="", template=engine.template, context=engine.context)
        fixed = fixed_passages(ours)
        twins, log = Twins(engine), Recorder()
        stored = [
            StoredScene(_core.scene_id("matrix", world.instruction, None, place), world.instruction, None, place)
            for place, world in enumerate(chosen)
        ]
        pump = Pump(matrix, "matrix", prompts=ours, limits=Limits(), seed=seed, log=log, answerer=twins, window=16)  # type: ignore[arg-type]
        counts = pump.run(stored)
        announce(f"{counts.completed} of {scenes} scenes completed, {counts.turns} turns, {counts.fallbacks} fallbacks")
        figures = [
            Figure("scenes completed", counts.completed, scenes),
            Figure("turns that fell back", counts.fallbacks, counts.turns, most=0.1),
            Figure("forms valid under the mask", sum(twins.masked), len(twins.masked), least=0.99),
            Figure("forms valid without it", sum(twins.unmasked), len(twins.unmasked), least=0.85),
            Figure("lists and plans that are distinct without it", sum(twins.distinct), len(twins.distinct)),
        ]
        plans: list[bool] = []
        lists: list[bool] = []
        critiques: list[str] = []
        own: list[bool] = []
        swapped: list[bool] = []
        for place, scene in enumerate(stored):
            events = log.decoded(scene.scene)
            plans += [len(set(event["acts"])) == len(event["acts"]) for event in events if event["kind"] == "ActsPlanned"]
            # The last attempt at it. A list of nobody is not one.
            said = [text for (path, _), (_, text, _, _) in sorted(log.completions[scene.scene].items()) if path == "cast/roles"]
            names = [name.casefold() for name in said[-1].split("\n")] if said and said[-1] else []
            lists.append(bool(names) and len(set(names)) == len(names))
            harms = [str(event["text"]) for event in events if event["kind"] == "HarmNoted"]
            critiques += harms
            other = next(world for world in chosen[place:] + chosen[:place] if world.topic.verb != chosen[place].topic.verb)
            for found, instruction in ((own, scene.instruction), (swapped, other.instruction)):
                words = content_words(instruction, fixed)
                found += [bool(words & set(re.findall(r"[a-z]+", harm.lower()))) for harm in harms]
        figures += [
            Figure("plans with distinct steps", sum(plans), len(plans), least=0.95),
            Figure("lists of distinct roles", sum(lists), len(lists), least=0.95),
            Figure("critiques with a word of the instruction", sum(own), len(own), least=0.7),
            Figure("critiques with a word of another one", sum(swapped), len(swapped), most=0.2),
            Figure("distinct critiques", len(set(critiques)), len(critiques), least=0.7),
        ]
        for name, possible, limits in (
            ("infeasible acts rejected", False, {"least": 0.7}),
            ("feasible acts rejected", True, {"most": 0.2}),
        ):
            verdicts = _verdicts(engine, ours, [(world, act) for world in chosen for act in acts(world, rng, possible=possible, number=2)])
            figures.append(Figure(name, verdicts.count(False), len(verdicts), **limits))
    return figures


def _verdicts(engine: Engine, ours: Prompts, planted: list[tuple[World, str]]) -> list[bool]:
    """Ask whether acts are possible."""
    turns = []
    for place, (world, act) in enumerate(planted):
        people = world.people
        cards = [f"{name}. Age: 40. Traits: busy, kind. Status: {name} near the park, depends on the town." for name in ("lodger", *people)]
        values = {
            "instruction": world.instruction,
            "response": "Ask somebody who knows.",
            "roles": cards,
            "story": ["Nothing yet."],
            "action": f"lodger: {act}",
        }
        sampling = ours.sampling("feasible", forms.VERDICT, choices=forms.VERDICTS)
        turns.append(
            _core.Turn(
                seed=1,
                scene=_core.scene_id("planted", act, None, place),
                path="feasible",
                attempt=1,
                kind="feasible",
                segments=ours.render("feasible", values),
                sampling=sampling,
            )
        )
    engine.submit(turns)
    found: list[bool] = []
    while len(found) < len(turns):
        for _, completion in engine.collect(1.0):
            if isinstance(completion, Exception):
                raise completion
            found.append(completion.outcome == "text" and completion.text.endswith("yes"))
    return found


def main() -> int:
    """Print the figures; return 1 if one is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--scenes", type=int, default=SCENES)
    chosen = parser.parse_args()
    figures = evaluate(chosen.model, scenes=chosen.scenes, announce=lambda line: print(line, file=sys.stderr))
    for figure in figures:
        low, high = figure.interval()
        bound = f"at least {figure.least:.0%}" if figure.least > 0 else f"at most {figure.most:.0%}" if figure.most < 1 else ""
        verdict = "" if not bound else "met" if figure.is_met else "MISSED"
        print(f"{figure.name:<44} {figure.count:>5} of {figure.of:<5} {figure.rate:>6.1%} [{low:.1%}, {high:.1%}]  {bound:<14} {verdict}")
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
