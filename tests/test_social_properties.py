"""What holds of every social scene, whatever the model says: shown on scenes in which it says all sorts of things, by a seeded draw."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import social

from matrix_py import _core
from matrix_py.prompts import Prompts
from matrix_py.scene import find_scene
from matrix_py.testing import FormFailed, ScriptedModel, TooLong, Trace, run_scene
from matrix_py.types import Limits

BATCHES, SCENES = 25, 100
METHODS = ("matrix", "published")

INSTRUCTION = "How do I get into the flat next door?"
RESPONSE = "Ask at the desk, or climb over the balcony."

NAMES = (
    "owner", "cashier", "guard", "head guard", "guard dog", "the bank", "bank", "Bank", "A neighbour", "neighbour", "O'Brien", "the money",
    "Ärztin", "医生", "नर्स", "Jose\u0301", "nobody", "None", "nurse of ward 4", "Terrorist", "an owner",
)  # fmt: skip
# Some make a flaw of the whole reply, some are cut out of it, some only look odd.
SAYINGS = (
    "I'm sorry, but I can't help with that request.", "", " \n ", "...", "<think>what now", "<think>what now</think>leaves {mark}",
    "As an AI, I have no body. {mark}", "{other}: stands up {mark}", "goes {mark}. {other}: comes", "{self}: waits {mark}",
    "runs {mark} and hides and runs and hides" + " and runs and hides" * 20, "Я не знаю, что мне теперь делать {mark}", "says nothing", "x",
    "asks {mark}: why? \"no\" — 'yes', {{field}} <|end|> 🔑\u202e", "{mark} " + "very long " * 40,
)  # fmt: skip
SEVERITIES = {1: "Slight", 2: "Serious", 3: "Grave"}
_MARK = re.compile(r"q\d+z")


@dataclass(frozen=True)
class Temper:
    """How a model is inclined, in one scene."""

    yes: float
    noticing: float
    harm: float
    odd: float
    unformed: float
    too_long: float
    plain_names: float

    @classmethod
    def draw(cls, rng: random.Random) -> Temper:
        return cls(
            yes=rng.choice((0.0, 0.4, 0.8, 1.0)),
            noticing=rng.choice((0.0, 0.3, 0.6, 1.0)),
            harm=rng.choice((0.0, 0.2, 1.0)),
            odd=rng.choice((0.0, 0.0, 0.1, 0.5)),
            unformed=rng.choice((0.0, 0.0, 0.1, 0.5)),
            too_long=rng.choice((0.0,) * 9 + (0.02,)),
            plain_names=rng.choice((0.3, 1.0)),
        )


class Improviser(ScriptedModel):
    """Says something to every turn, drawn from seed, path and attempt. Almost every text has a mark in it that no other text has."""

    def __init__(self, seed: int, temper: Temper, **options: Any) -> None:
        super().__init__(self._say, **options)
        self._seed = seed
        self._temper = temper

    def _complete(self, turn: _core.Turn) -> _core.Completion | Exception:
        """What is drawn for a form fills it, so the check is left to a sample."""
        said = self._say(turn)
        if not isinstance(said, str) or turn.sampling.form is None:
            return super()._complete(turn)
        if turn.attempt == 1 and self._seed % 50 == 0:
            assert _core.form_accepts(turn.sampling.form, said), (turn.path, said)
        return _core.Completion(turn, text=said, finish="form")

    def _say(self, turn: _core.Turn) -> str | FormFailed | TooLong:
        rng = random.Random(f"{self._seed}/{turn.path}#{turn.attempt}")
        mark = f"q{int.from_bytes(_core.blake3(f'{turn.path}#{turn.attempt}'.encode())[:5])}z"
        if rng.random() < self._temper.too_long:
            return TooLong()
        if turn.sampling.form is not None:
            if rng.random() < self._temper.unformed:
                return FormFailed(rng.choice(("", "1. owner\n2. guard", "It is", "owner,", "Verdict: yes")))
            return self._fill(turn, mark, rng)
        if rng.random() < self._temper.odd:
            saying = rng.choice(SAYINGS)
            return saying.format(mark=mark, other=rng.choice(NAMES), self=turn.path.split("/")[-1])
        repeats = turn.kind == "react" and rng.random() < 0.2
        return "shrugs" if repeats else f" does {mark} with {rng.choice(('care', 'a key', 'nobody'))}."

    def _line(self, mark: str, rng: random.Random) -> str:
        if rng.random() < self._temper.odd:
            # The places of a form hold at most 160 characters, and no line begins with a space.
            line = rng.choice(SAYINGS).format(mark=mark, other="owner", self="guard").split("\n")[0].strip()[:160]
            return line if len(line) > 1 else "--"
        return f"says {mark}, as ever"

    def _fill(self, turn: _core.Turn, mark: str, rng: random.Random) -> str:
        match turn.kind:
            case "ego":
                return rng.choice([name for name in NAMES if name not in ("nobody", "None")])
            case "roles" | "public":
                assert turn.sampling.form is not None
                [most] = re.findall(r"\{0,(\d+)\}\n", turn.sampling.form) or ["0"]
                return "\n".join(dict.fromkeys(self._name(mark, place, rng) for place in range(rng.randint(1, 1 + int(most)))))
            case "profile":
                age = f"Age: {rng.choice(('none', '4', '40', '104'))}\n" if "Age" in (turn.sampling.form or "") else ""
                return f"{age}Traits: {self._line(mark, rng)}\nStatus: {self._line(mark, rng)}"
            case "plan":
                acts = (turn.sampling.form or "").count("LINE") - 1
                lines: list[str] = []
                for act in range(1, acts + 1):
                    line = self._line(f"{mark} {act}", rng)
                    # No act stands twice.
                    lines.append(f"{line[:150]} {act}" if line in lines else line)
                return "\n".join(f"{act}. {line}" for act, line in enumerate(lines, 1))
            case "feasible":
                verdict, reason = "yes" if rng.random() < self._temper.yes else "no", self._line(mark, rng)
                return (
                    f"{verdict}: {reason}" if (turn.sampling.form or "").startswith("start: VERDICT") else f"{reason}\nVerdict: {verdict}"
                )
            case "recipients":
                others = re.findall(r'"([^"]*)" rest', turn.sampling.form or "")
                picked = [name for name in others if rng.random() < self._temper.noticing]
                rng.shuffle(picked)
                return ", ".join(picked) or "nobody"
            case "critique":
                return f"{rng.randint(1, 3)}: {self._line(mark, rng)}" if rng.random() < self._temper.harm else "none"
        raise AssertionError(f"no form is known for {turn.kind}")

    def _name(self, mark: str, place: int, rng: random.Random) -> str:
        return rng.choice(NAMES) if rng.random() < self._temper.plain_names else f"{rng.choice(('clerk', 'the clerk'))} {mark} {place}"


class Silent(ScriptedModel):
    """Is asked nothing."""

    def __init__(self) -> None:
        super().__init__(lambda turn: AssertionError(f"{turn.path} was asked in a replay"))


@dataclass
class Played:
    """A scene of the draw, and what it was drawn with."""

    method: str
    limits: Limits
    model: Improviser
    trace: Trace
    by_kind: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for event in self.trace.events:
            self.by_kind.setdefault(event["kind"], []).append(event)

    def all(self, kind: str) -> list[dict[str, Any]]:
        return self.by_kind.get(kind, [])


@cache
def prompts_of(method: str) -> Prompts:
    return social.prompts(method)


def draw_scene(seed: int) -> tuple[str, Limits, Temper, str | None]:
    rng = random.Random(seed)
    method = METHODS[rng.random() < 0.2]
    limits = Limits(
        roles=rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 7)),
        steps=rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 6)),
        interactions=rng.choice((1, 2, 3, 4, 5, 6, 7, 7, 7, 20)),
        depth=rng.choice((1, 1, 1, 2, 3)),
    )
    return method, limits, Temper.draw(rng), rng.choice((RESPONSE, RESPONSE, None))


def perform(seed: int, *, model: ScriptedModel | None = None, **options: Any) -> tuple[Improviser, Trace]:
    method, limits, temper, response = draw_scene(seed)
    improviser = Improviser(seed, temper, **options)
    scene, prompts = find_scene(method), prompts_of(method)
    trace = run_scene(scene, INSTRUCTION, improviser, prompts=prompts, response=response, limits=limits, seed=seed, name=method)
    return improviser, trace


def replay(seed: int, trace: Trace, completions: dict[tuple[str, int], tuple[bytes, str, str, str]], model: ScriptedModel) -> Trace:
    method, limits, _, response = draw_scene(seed)
    stored = trace.stored(INSTRUCTION, response)
    if completions is not trace.completions:
        # No event is in a log without its completions: so none are, here.
        stored = type(stored)(stored.scene, INSTRUCTION, response, 0, [], completions)
    return run_scene(
        find_scene(method),
        INSTRUCTION,
        model,
        prompts=prompts_of(method),
        response=response,
        limits=limits,
        seed=seed,
        name=method,
        stored=stored,
    )


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_scene(batch: int) -> None:
    for seed in range(batch * SCENES, (batch + 1) * SCENES):
        try:
            check(seed)
        except Exception as error:
            error.add_note(f"in the scene with seed {seed}: {draw_scene(seed)}")
            raise


def check(seed: int) -> None:
    method, limits, _, _ = draw_scene(seed)
    # The answers come shuffled, a few at a time.
    rng = random.Random(-seed - 1)
    model, trace = perform(seed, order=rng, at_once=rng.choice((1, 2, None)))
    played = Played(method, limits, model, trace)

    check_the_end(played)
    check_the_order(played)
    check_the_actions(played)
    check_the_waves(played)
    check_the_bounds(played)
    check_the_reads(played)
    if method == "matrix":
        check_the_memory(played)
        check_the_prompts(played)
    # In a replay they come at once, in the order of asking.
    replayed = replay(seed, trace, trace.completions, Silent())
    assert replayed.hashes == trace.hashes
    if seed % 5 == 0:
        _, again = perform(seed)
        assert again.hashes == trace.hashes
        some = {name: completion for name, completion in trace.completions.items() if rng.random() < 0.5}
        resumed = replay(seed, trace, some, Improviser(seed, draw_scene(seed)[2], order=rng))
        assert resumed.hashes == trace.hashes and resumed.completions == trace.completions


def check_the_end(played: Played) -> None:
    """Every scene ends: completed, or failed for a reason that the model gave."""
    [started], [finished] = played.all("SceneStarted"), played.all("SceneFinished")
    assert played.trace.events[0] is started and played.trace.events[-1] is finished
    assert finished["count"] == len(played.trace.events) - 1
    assert not played.trace.counts.open and not played.trace.counts.errors
    # The summary of the outcome in a scene `published` is missed by nobody.
    too_long = [event["path"] for event in played.all("TurnCompleted") if event["outcome"] == "too_long" and event["path"] != "outcome"]
    unusable = [event["path"] for event in played.all("ReplyFlawed") if event["policy"] == "failed" and event["path"] != "outcome"]
    # Nor does a scene end well if no harm was noted, but an answer to that question is missing.
    accepted = {event["action"] for event in played.all("ActionAccepted")}
    missing = [event["path"] for event in played.all("TurnFellBack") if event["path"].removesuffix("/critique") in accepted]
    missing = [path for path in missing if path.endswith("/critique")]
    unanswered = f"no harm was noted, but {len(missing)} of {len(accepted)} questions about harm went unanswered"
    silent = bool(missing) and not played.all("HarmNoted") and finished["reason"] == unanswered
    assert (finished["end"] == "failed") == bool(too_long or unusable or silent)
    assert not finished["reason"] or silent or any(path in finished["reason"] for path in [*too_long, *unusable])
    if finished["end"] == "completed":
        kinds = [event["kind"] for event in played.trace.events]
        assert kinds.count("SimulationEnded") == kinds.count("ConsequenceDrawn") == 1
        assert kinds.count("ResponseKept") + kinds.count("ResponseRevised") == 1
        [drawn] = played.all("ConsequenceDrawn")
        # In a scene `published`, a critique may come to nothing only together with its summary.
        assert played.all("HarmNoted") or not missing
        assert drawn["harmful"] == bool(played.all("HarmNoted")) == bool(played.all("ResponseRevised"))


def check_the_order(played: Played) -> None:
    """Events refer to what is before them."""
    turns: dict[str, Counter[str]] = {}
    finished: set[str] = set()
    proposed: set[str] = set()
    accepted: set[str] = set()
    last = None
    for event in played.trace.events:
        match event["kind"]:
            case "TurnCompleted":
                path, attempt = event["path"], event["attempt"]
                turns.setdefault(path, Counter())["attempts"] += 1
                assert turns[path]["attempts"] == attempt
                assert set(event["reads"]) <= finished | without_turns(played)
                assert len(set(event["reads"])) == len(event["reads"])
                finished.add(path if attempt == 1 else f"{path}#{attempt}")
            case "ReplyFlawed" | "TurnFellBack":
                assert event["path"] in turns
            case "ActionProposed":
                assert event["action"] not in proposed
                assert set(event["causes"]) <= accepted
                assert event["origin"] == "plan" or event["action"] in turns
                proposed.add(event["action"])
            case "FeasibilityJudged":
                # Nothing comes between a proposal and its verdict.
                assert last is not None and last["kind"] == "ActionProposed" and last["action"] == event["action"]
                assert f"{event['action']}/feasible" in turns
            case "ActionAccepted":
                assert last is not None and last["kind"] == "FeasibilityJudged" and last["action"] == event["action"] and last["feasible"]
                accepted.add(event["action"])
            case "ActionDropped":
                assert last is not None and last["kind"] == "FeasibilityJudged" and last["action"] == event["action"] and last["feasible"]
            case "ActionNoticed":
                assert last is not None and last["kind"] == "ActionAccepted" and last["action"] == event["action"]
            case "HarmNoted":
                assert last is not None and last["kind"] == "ActionNoticed" and last["action"] == event["action"]
            case "MemoryCondensed" | "CritiquesCondensed":
                assert event["turn"] in turns
        last = event


def check_the_actions(played: Played) -> None:
    """Actions are counted without a gap; recipients are others, each once, in the order of the cast; harm is graded."""
    cast = [event["role"] for event in played.all("RoleCast")]
    assert [event["rank"] for event in played.all("RoleCast")] == list(range(len(cast)))
    assert len({re.sub(r"^(a|an|the) ", "", name.casefold()) for name in cast}) == len(cast) <= played.limits.roles + 1
    actions = played.all("ActionProposed")
    assert [event["ordinal"] for event in actions] == list(range(1, len(actions) + 1))
    assert [event["interaction"] for event in played.all("ActionAccepted")] == list(range(1, len(played.all("ActionAccepted")) + 1))
    actors = {event["action"]: event["role"] for event in actions}
    assert all(cast[event["rank"]] == event["role"] for event in actions)
    places = [(event["step"], event["depth"], event["rank"]) for event in actions]
    assert places == sorted(places) and len(set(places)) == len(places)
    for event in played.all("ActionNoticed"):
        recipients = event["recipients"]
        assert actors[event["action"]] not in recipients
        assert recipients == [name for name in cast if name in recipients]
    verdicts = {event["action"]: event["feasible"] for event in played.all("FeasibilityJudged")}
    happened = [event["action"] for kind in ("ActionAccepted", "ActionDropped") for event in played.all(kind)]
    if played.trace.events[-1]["end"] == "completed":
        assert sorted(happened) == sorted(action for action, feasible in verdicts.items() if feasible)
    grades = (1, 2, 3) if played.method == "matrix" else (0,)
    assert all(event["severity"] in grades for event in played.all("HarmNoted"))


def check_the_waves(played: Played) -> None:
    """Who noticed something in a wave, and nobody else, is asked in the next; it answers all that it noticed, and nothing else."""
    roles = [event["role"] for event in played.all("RoleCast")][1:]
    proposed = {event["action"]: event for event in played.all("ActionProposed")}
    noticed = {event["action"]: event["recipients"] for event in played.all("ActionNoticed")}
    waves: dict[tuple[int, int], list[str]] = {}
    for event in played.all("ActionAccepted"):
        action = proposed[event["action"]]
        waves.setdefault((action["step"], action["depth"]), []).append(event["action"])
    expected: dict[str, list[str]] = {}
    so_far = 0
    for (step, depth), wave in waves.items():
        so_far += len(wave)
        if depth < played.limits.depth and so_far < played.limits.interactions:
            for role in roles:
                causes = [action for action in wave if role in noticed.get(action, [])]
                if causes:
                    expected[f"step/{step}/react/{role}" + (f"/{depth + 1}" if depth else "")] = causes
    asked = {event["path"] for event in played.all("TurnCompleted") if event["turn"] == "react"}
    if played.trace.events[-1]["end"] == "completed":
        assert asked == set(expected)
    assert asked <= set(expected)
    for path, event in proposed.items():
        if event["depth"]:
            assert event["causes"] == expected[path]
        else:
            assert all(event["role"] in noticed[cause] for cause in event["causes"])


def check_the_bounds(played: Played) -> None:
    """A scene's limits bound its steps, its interactions, its actions and its turns."""
    limits = played.limits
    others = max(len(played.all("RoleCast")) - 1, 0)
    for ended in played.all("SimulationEnded"):
        steps, interactions = ended["steps"], ended["interactions"]
        [plan] = played.all("ActsPlanned")
        assert interactions == len(played.all("ActionAccepted")) <= limits.interactions
        assert steps == max(event["step"] for event in played.all("ActionProposed"))
        assert steps <= len(plan["acts"]) <= limits.steps
        assert ended["reason"] == expected_reason(played, len(plan["acts"]))
        if played.all("ActionDropped"):
            assert ended["reason"] == "interactions"
    actions = limits.steps * (1 + others * limits.depth)
    assert len(played.all("ActionProposed")) <= actions
    # Before casting is done: response; situation, ego, future, two or three lists, plan, profiles, and what a method has besides.
    casting = 8 + limits.roles + 1 + 1
    # Of a step: the act, the reactions, three turns on each action, two condensations a step or an action.
    condensations = limits.steps if played.method == "matrix" else min(actions, limits.interactions) + 1
    turns = casting + limits.steps + limits.steps * others * limits.depth + 3 * actions + 2 * condensations + 3
    paths = {turn.path for turn in played.model.turns}
    assert len(paths) <= turns
    assert len(played.model.turns) <= 3 * turns


def expected_reason(played: Played, acts: int) -> str:
    lines = {event["action"]: f"{event['role']}: {event['text']}".casefold() for event in played.all("ActionProposed")}
    steps = {event["action"]: event["step"] for event in played.all("ActionProposed")}
    accepted = [event["action"] for event in played.all("ActionAccepted")]
    if len(accepted) == played.limits.interactions:
        return "interactions"
    seen: set[str] = set()
    stalled = 0
    for step in range(1, acts + 1):
        new = {lines[action] for action in accepted if steps[action] == step} - seen
        seen |= new
        stalled = 0 if new else stalled + 1
        if stalled == 2:
            return "no_progress" if step < acts else "plan"
    return "plan"


def check_the_memory(played: Played) -> None:
    """Story and critiques are condensed by their sizes at the end of a step."""
    story = critiques = times = 0
    for event in played.trace.events:
        match event["kind"]:
            case "ActionAccepted":
                story += 1
            case "HarmNoted":
                critiques += 1
            case "MemoryCondensed":
                assert event["entries"] == story > 3
                story = 1
            case "CritiquesCondensed":
                times += 1
                assert event["critiques"] == critiques > 8 and event["times"] == times <= 4
                critiques = 1
    asked = [event["path"] for event in played.all("TurnCompleted") if event["turn"].startswith("condense")]
    assert all(re.fullmatch(r"step/\d+/condense/(memory|critiques)", path) for path in asked)


# Reads ----------------------------------------------------------------------------------------------------------------


def check_the_reads(played: Played) -> None:
    """What is in a prompt comes from the input, from the scene's code, or from what the turn reads; and nothing is read in vain."""
    texts = replies(played)
    known = Known(played)
    for event in played.all("TurnCompleted"):
        reads = event["reads"]
        turn = known.asked[event["path"], event["attempt"]]
        untrusted = [text for text, trusted in turn.segments if not trusted]
        assert set(reads) <= set(texts), "only a turn's last attempt is read, and only if it gave a reply"
        sources = Sources(played, {path: texts[path] for path in reads})
        for segment in untrusted:
            assert sources.give(segment), f"{turn.path} has {segment!r}, which is not in what it reads: {reads}"
            strangers = [mark for mark in _MARK.findall(segment) if not any(mark in texts[path] for path in reads)]
            assert not strangers, f"{turn.path} has {segment!r} with what it does not read"
        needed, useful = known.deciders(turn, untrusted)
        assert needed <= set(reads), f"{turn.path} does not read {sorted(needed - set(reads))}"
        for path in set(reads) - useful:
            assert shows(untrusted, texts[path]), f"{turn.path} reads {path} in vain"


def replies(played: Played) -> dict[str, str]:
    """The texts that turns gave a scene, by path of the attempt that did: a completion, or a fallback in its place."""
    fallbacks = {(event["path"], event["attempts"]): event["text"] for event in played.all("TurnFellBack")}
    texts = {}
    for path, attempt in used_attempts(played).items():
        _, text, outcome, _ = played.trace.completions[path, attempt]
        if outcome != "too_long":
            texts[path if attempt == 1 else f"{path}#{attempt}"] = fallbacks.get((path, attempt), text)
    given = {path: event["text"] for event in played.all("ResponseGiven") if event["given"] for path in ("respond",)}
    planned = {f"step/{step}/act": act for event in played.all("ActsPlanned") for step, act in enumerate(event["acts"], 1)}
    return {**given, **{path: planned[path] for path in without_turns(played) - given.keys()}, **texts}


def used_attempts(played: Played) -> dict[str, int]:
    """By path, the attempt whose reply a scene uses: the last, or an earlier one that was kept in spite of its flaw."""
    last = Counter(event["path"] for event in played.all("TurnCompleted"))
    return {**last, **{event["path"]: event["attempt"] for event in played.all("ReplyFlawed") if event["policy"] == "kept"}}


def without_turns(played: Played) -> set[str]:
    """What may be read although no turn gave it: a response from the input, and the acts that are as planned."""
    given = {"respond" for event in played.all("ResponseGiven") if event["given"]}
    planned = {f"step/{step}/act" for event in played.all("ActsPlanned") for step in range(1, len(event["acts"]) + 1)}
    return (given | planned) - {event["path"] for event in played.all("TurnCompleted")}


def shows(segments: list[str], text: str) -> bool:
    """Whether something of a reply is in a prompt: a mark, a line, or a part of a line."""
    lines = [re.sub(r"^\d+\. ", "", line.strip()) for line in text.split("\n") if line.strip()]
    return any(piece in segment for piece in [*_MARK.findall(text), *lines] for segment in segments) or any(
        segment in line for line in lines for segment in segments
    )


@dataclass
class Sources:
    """What can be put together from some replies, by rules of its own: nothing here is taken from the scene's code."""

    played: Played
    texts: dict[str, str]

    def give(self, segment: str) -> bool:
        return self._input(segment) or self._stretch(segment) or self._card(segment) or self._action(segment) or self._critiques(segment)

    def _input(self, segment: str) -> bool:
        limits = self.played.limits
        return segment in (INSTRUCTION, RESPONSE, "Nothing yet.", "Nothing.", str(limits.steps), str(limits.roles))

    def _stretch(self, segment: str) -> bool:
        return any(segment in text for text in self.texts.values())

    def _card(self, segment: str) -> bool:
        name, _, rest = segment.partition(". ")
        profiles = [text for path, text in self.texts.items() if path.startswith("cast/profile/")]
        return name in self._names() and any(rest == f"{text.strip().replace(chr(10), '. ')}." for text in profiles)

    def _action(self, segment: str) -> bool:
        for name in self._names():
            if segment.startswith(f"{name}: "):
                said, impossible, reason = segment.removeprefix(f"{name}: ").partition(" (not possible: ")
                if self._stretch(said) and (not impossible or (reason.endswith(")") and self._stretch(reason[:-1]))):
                    return True
        return False

    def _critiques(self, segment: str) -> bool:
        """Critiques behind how grave they are; in a scene `published`, behind their actions, and several of them in one text."""
        label, _, text = segment.partition(": ")
        if self.played.method == "matrix":
            return label in SEVERITIES.values() and self._stretch(text)
        return all(self._stretch(line) or self._critique_of_action(line) for line in segment.split("\n"))

    def _critique_of_action(self, line: str) -> bool:
        parts = line.split(": ")
        return any(self._action(": ".join(parts[:place])) and self._stretch(": ".join(parts[place:])) for place in range(2, len(parts)))

    def _names(self) -> list[str]:
        lists = [text for path, text in self.texts.items() if re.match(r"cast/(ego|roles|public)\b", path)]
        return [name for text in lists for name in text.strip().split("\n")]


class Known:
    """Which verdicts and which recipients decided that a line belongs in a prompt."""

    def __init__(self, played: Played) -> None:
        self.asked = {(turn.path, turn.attempt): turn for turn in played.model.turns}
        self._attempts = used_attempts(played)
        places = {event["path"]: place for place, event in enumerate(played.trace.events) if event["kind"] == "TurnCompleted"}
        self._places = places | {
            event["action"]: place for place, event in enumerate(played.trace.events) if event["kind"] == "ActionProposed"
        }
        self._actions: dict[str, list[dict[str, Any]]] = {}
        self._critiques: dict[str, list[str]] = {}
        self._lines = {event["action"]: f"{event['role']}: {event['text']}" for event in played.all("ActionProposed")}
        reasons = {event["action"]: event["reason"] for event in played.all("FeasibilityJudged") if not event["feasible"]}
        for event in played.all("ActionProposed"):
            line = self._lines[event["action"]]
            if event["action"] in reasons:
                line += f" (not possible: {reasons[event['action']]})"
            self._actions.setdefault(line, []).append(event)
        for event in played.all("HarmNoted"):
            label = SEVERITIES.get(event["severity"], self._lines[event["action"]])
            self._critiques.setdefault(f"{label}: {event['text']}", []).append(event["action"])

    def deciders(self, turn: _core.Turn, segments: list[str]) -> tuple[set[str], set[str]]:
        """Return what a prompt must read for its lines, and what it may."""
        needed: set[str] = set()
        useful: set[str] = set()
        for segment in segments:
            about = [event for event in self._actions.get(segment, []) if self._places[event["action"]] < self._places[turn.path]]
            for event in about:
                turns = {self._last(f"{event['action']}/feasible")}
                if turn.kind in ("react", "act") and not self._own(turn, event):
                    turns.add(self._last(f"{event['action']}/recipients"))
                useful |= turns
                # An action under judgement may have the words of one before it, which the prompt need not hold.
                if len(about) == 1 and segment != self._lines.get(turn.path.rpartition("/")[0]):
                    needed |= turns
            # Where the consequence fell back to one critique, the revision reads the consequence.
            critiques = self._critiques.get(segment, []) if turn.kind != "revise" else []
            for action in critiques:
                turns = {self._last(f"{action}/feasible"), self._last(f"{action}/critique")}
                useful |= turns
                if len(critiques) == 1:
                    needed |= turns
        # What takes nothing but one text from the turn before it.
        if turn.kind == "revise":
            useful |= {path for actions in self._critiques.values() for action in actions for path in (self._last(f"{action}/feasible"),)}
        return {path for path in needed if path}, useful

    def _own(self, turn: _core.Turn, event: dict[str, Any]) -> bool:
        return event["rank"] == 0 if turn.kind == "act" else turn.path.split("/")[3] == event["role"]

    def _last(self, path: str) -> str:
        attempts = self._attempts.get(path)
        return "" if not attempts else path if attempts == 1 else f"{path}#{attempts}"


def check_the_prompts(played: Played) -> None:
    """What roles are not to know is in none of their prompts, and an accepted verdict's reason in nobody's."""
    reasons = {mark for event in played.all("FeasibilityJudged") if event["feasible"] for mark in _MARK.findall(event["reason"])}
    roles = {event["role"]: set(_MARK.findall(event["profile"])) for event in played.all("RoleCast")}
    casting = {
        mark for kind in ("SituationImagined", "FutureImagined") for event in played.all(kind) for mark in _MARK.findall(event["text"])
    }
    for turn in played.model.turns:
        text = "".join(text for text, _ in turn.segments)
        marks = set(_MARK.findall(text))
        assert not marks & reasons
        if turn.kind in ("react", "act"):
            assert INSTRUCTION not in text and RESPONSE not in text and not marks & casting
            own = turn.path.split("/")[3] if turn.kind == "react" else next(iter(roles))
            assert not [name for name, profile in roles.items() if name != own and profile & marks]
