"""Scenes for the model to learn from: scene `matrix`, played by the rules of `author`, with this project's prompts and chat template."""

import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from string import ascii_lowercase, digits, punctuation

from matrix_py.embedded.author import STRANGE, Author, World
from matrix_py.embedded.topics import COMPOSED_PHRASINGS, HELD_OUT_PHRASINGS, HELD_OUT_TOPICS, PHRASINGS, TOPICS
from matrix_py.models import chat
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.scene import matrix
from matrix_py.testing import ScriptedModel, run_scene
from matrix_py.types import Limits

TEMPLATE = "chatml"
END = "<|im_end|>"
# The turns by which the words of an instruction enter a scene.
OPENING = frozenset({"respond", "situation", "ego", "future", "characters", "roles", "plan", "revise"})

# What stands in the place of a topic's own words now and then, so that the model learns to repeat words, not just to know them.
WORDS: dict[str, str] = tomllib.loads((resources.files("matrix_py.embedded") / "words.toml").read_text("utf-8"))
_SYLLABLES, _ENDS, _NOUNS, _ADJECTIVES, _TRADES, _VERBS, _PARTICLES, _COMMON = (
    WORDS[name].split() for name in ("syllables", "ends", "nouns", "adjectives", "trades", "verbs", "particles", "common")
)
# Any word of any topic, wherever it makes no sense: a word that is never said in training is not said afterwards either. Of a topic that is
# held out, neither the verb nor an object as a whole is among what scenes are about.
_ANY = sorted(
    {word for topic in TOPICS for text in (topic.verb, *topic.objects, *topic.people) for word in text.split()} | {*_ADJECTIVES, *_VERBS}
)
_SIGNS = digits + punctuation
_HELD_OUT = {text for topic in TOPICS if topic.verb in HELD_OUT_TOPICS for text in (topic.verb, *topic.objects)}


@dataclass(frozen=True, slots=True)
class Example:
    """A turn and what is to be said to it.

    Attributes:
        segments: (text, trusted), as the engine gets them.
    """

    kind: str
    segments: tuple[tuple[str, bool], ...]
    completion: str


def prompts() -> Prompts:
    """The package's prompts for the social scene, under the model's own template."""
    template = chat.load({}, override=TEMPLATE, bos_token="", eos_token=END)
    return Prompts(load_files(None, "matrix"), load_settings(None, None, "matrix"), system="", template=template)


def worlds(rng: random.Random, *, held_out: bool = False) -> Iterator[World]:
    """Yield what scenes are about, without end: with `held_out`, topics and phrasings that are kept out of training."""
    topics = [topic for topic in TOPICS if (topic.verb in HELD_OUT_TOPICS) == held_out]
    while True:
        topic = rng.choice(topics)
        thing = rng.choice(topic.objects) if held_out or rng.random() < 0.3 else _new(_made_up, rng)
        if not held_out and rng.random() < 0.5:
            topic = replace(topic, verb=_new(_made_up_verb, rng))
        phrasing = rng.choice(HELD_OUT_PHRASINGS if held_out else PHRASINGS if rng.random() < 0.3 else COMPOSED_PHRASINGS)
        instruction = phrasing.format(verb=topic.verb, object=thing)
        if not held_out and rng.random() < 0.15:
            # Instructions may be long, and more than one sentence.
            instruction = f"{instruction} {_babble(rng)}" if rng.random() < 0.5 else f"{_babble(rng)} {instruction}"
        people = topic.people
        if not held_out and rng.random() < 0.4:
            people = (
                (f"{_word(rng)} {rng.choice(_TRADES)}", *people[1:])
                if rng.random() < 0.5
                else (people[0], f"{_word(rng)} {rng.choice(_TRADES)}", *people[2:])
            )
        yield World(topic, thing, instruction, people)


def opening_examples(world: World, rng: random.Random, prompts: Prompts) -> list[Example]:
    """Play a scene of one action, and return the turns that find in the instruction what is asked for."""
    limits = Limits(roles=3, steps=rng.randint(2, 5), interactions=1, depth=1)
    return [example for example in _played(world, rng, prompts, limits) if example.kind in OPENING]


def judged_examples(world: World, rng: random.Random, prompts: Prompts) -> list[Example]:
    """Play a short scene in which half of the acts are against nature, and return the turns that judge what is possible."""
    limits = Limits(roles=3, steps=5, interactions=3, depth=1)
    return [example for example in _played(world, rng, prompts, limits, strange=0.5) if example.kind == "feasible"]


def scene_examples(world: World, rng: random.Random, prompts: Prompts) -> list[Example]:
    """Play a scene, and return its turns."""
    limits = Limits(roles=rng.randint(3, 5), steps=rng.randint(2, 5), interactions=16, depth=1 if rng.random() < 0.8 else 2)
    return _played(world, rng, prompts, limits)


def _played(world: World, rng: random.Random, prompts: Prompts, limits: Limits, strange: float = STRANGE) -> list[Example]:
    author = Author(world, rng, strange=strange)
    model = ScriptedModel(author)
    response = _babble(rng) if rng.random() < 0.05 else None
    trace = run_scene(
        matrix, world.instruction, model, prompts=prompts, response=response, limits=limits, seed=rng.getrandbits(32), name="matrix"
    )
    if trace.counts.completed != 1 or trace.counts.fallbacks or trace.counts.flaws:
        raise ValueError(f"the scene of {world.instruction!r} went wrong: {trace.events[-1]}, {trace.counts.flaws}")
    said = {key: text for key, (_, text, _, _) in trace.completions.items()}
    return [Example(turn.kind, tuple(turn.segments), said[turn.path, turn.attempt]) for turn in model.turns]


def _new(make: Callable[[random.Random], str], rng: random.Random) -> str:
    """Make something up that no held-out topic is about."""
    while (made := make(rng)) in _HELD_OUT:
        pass
    return made


def _made_up(rng: random.Random) -> str:
    noun = _word(rng)
    first = rng.choice(("the ", "a ", "my ", "the neighbour's ", "our ", "that ", "two ", "some ", ""))
    adjective = f"{rng.choice(_ADJECTIVES)} " if rng.random() < 0.6 or not first else ""
    return f"{first}{adjective}{noun}"


def _made_up_verb(rng: random.Random) -> str:
    verb = rng.choice(_VERBS) if rng.random() < 0.7 else _word(rng)
    return f"{verb} {rng.choice(_PARTICLES)}" if rng.random() < 0.25 else verb


def _word(rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.35:
        return rng.choice(_NOUNS)
    if chance < 0.65:
        return rng.choice(_ANY)
    if chance < 0.88:
        return "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) + rng.choice(("", "", *_ENDS))
    # Spelled letter by letter, as words are that no scene has.
    return "".join(rng.choices(ascii_lowercase, k=rng.randint(3, 7)))


def _babble(rng: random.Random) -> str:
    words = [rng.choice(rng.choice((_ADJECTIVES, _COMMON))) if rng.random() < 0.5 else _word(rng) for _ in range(rng.randint(4, 24))]
    # Signs and numbers too: a token that is never said has the likelihood that it was born with, which is more than that of a rare word.
    words = ["".join(rng.choices(_SIGNS, k=rng.randint(1, 3))) if rng.random() < 0.06 else word for word in words]
    text = " ".join(f"{word}," if rng.random() < 0.08 else word for word in words).rstrip(",")
    return f"{text[0].upper()}{text[1:]}{rng.choice('.?.')}"
