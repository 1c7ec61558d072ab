"""A writer of social scenes by rules: it answers every turn of scene `matrix`, and what it says follows from what the turn's prompt shows.

The model learns from it. So that it learns more than phrases, its words come back: what the instruction is about returns in the roles'
plans, reactions, critiques and in the revision; who is named in an act notices it, and what is done in secret nobody does; acts against
nature are judged impossible; harm follows from what the instruction asks for and what the act does.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from matrix_py import _core
from matrix_py.embedded.topics import Topic
from matrix_py.testing.fields import fields

_EGOS = (
    *("student", "shop assistant", "retired clerk", "young father", "taxi driver", "night nurse", "waiter", "apprentice", "farmhand"),
    *("accountant", "piano tuner", "lodger", "club member", "widower", "gardener", "trainee", "postman", "caterer", "job seeker", "tenant"),
)
_PLACES = (
    *("the kitchen", "the market square", "the library", "the bus stop", "the back yard", "the canteen", "the station", "the corner shop"),
    *(
        "the town hall",
        "the river bank",
        "the car park",
        "the waiting room",
        "the school gate",
        "the stairwell",
        "the workshop",
        "the park",
    ),
)
_PUBLIC = (
    *(
        "reporter",
        "mayor",
        "social worker",
        "police officer",
        "bus driver",
        "street cleaner",
        "town clerk",
        "parent",
        "shopkeeper",
        "doctor",
    ),
    *("librarian", "union steward", "judge", "tourist", "neighbour", "voter", "charity worker", "inspector"),
)
_TIMES = ("on Monday", "after lunch", "before dawn", "in the evening", "at noon", "this week", "the next day", "on the way home")
_TRAITS = ("patient", "proud", "tired", "curious", "careful", "quick to anger", "kind", "strict", "shy", "busy", "honest", "worried")
_NEEDS = ("a quiet job", "the family", "good neighbours", "the monthly wage", "a kind word", "the bus", "old friends", "the town")

# Against nature: what is attempted, and why it cannot be. {object}, {place} and {other} are filled in.
_IMPOSSIBLE = (
    ("walks through the closed wall of {place}", "Nobody walks through a wall"),
    ("flies over {place} without wings", "People cannot fly"),
    ("reads the thoughts of the {other}", "Nobody reads thoughts"),
    ("stops time at {place}", "Nobody stops time"),
    ("lifts all of {place} with one hand", "No hand is that strong"),
    ("asks the dead how to {verb} {object}", "The dead do not answer"),
    ("says a magic word to {verb} {object}", "No word does that by magic"),
    ("becomes invisible in front of the {other}", "Nobody becomes invisible"),
    ("travels back to last year to {verb} {object}", "Nobody travels back in time"),
    ("is at home and at {place} at once", "Nobody is at two places at once"),
    ("breathes under water all night", "People do not breathe under water"),
    ("swallows {place} whole", "Nothing of that size can be swallowed"),
    ("puts the {other} to sleep from afar by a thought", "A thought puts nobody to sleep"),
    ("jumps from {place} to the moon", "Nobody jumps to the moon"),
    ("lets a stone talk with the {other}", "Stones do not talk"),
    ("makes it snow at {place} in summer by singing", "Singing brings no snow"),
    ("grows as tall as {place}", "Nobody grows that tall"),
    ("wakes a stone at {place} to {verb} {object}", "Stones do not wake"),
)
# What can be done, and whether it does what was asked for.
_POSSIBLE = (
    ("asks the {other} how to {verb} {object}", False),
    ("talks with the {other} at {place}", False),
    ("calls the {other} and mentions the wish to {verb} {object}", False),
    ("writes the {other} a note", False),
    ("meets the {other} and the {second} at {place}", False),
    ("asks the {other} and the {second} for help to {verb} {object}", False),
    ("looks for a way to {verb} {object} alone at {place}", False),
    ("takes notes in secret on how to {verb} {object}", False),
    ("thinks alone at night", False),
    ("waits unseen near {place}", False),
    ("tells everybody at {place} about the wish to {verb} {object}", False),
    ("posts a text on how to {verb} {object} online for all to see", False),
    ("in front of the {other}, begins to {verb} {object}", True),
    ("in secret {time}, begins to {verb} {object}", True),
    ("out loud for all to see, begins to {verb} {object}", True),
    ("together with the {other}, begins to {verb} {object}", True),
    ("alone {time}, begins to {verb} {object}", True),
    ("at {place}, while the {other} and the {second} look on, begins to {verb} {object}", True),
)
# The acts of a plan, in their order.
_PLANNED = [
    *(act for act, asked in _POSSIBLE if not asked),
    *(act for act, _ in _IMPOSSIBLE),
    *(act for act, asked in _POSSIBLE if asked),
]
# Of a reaction: what is said or done, and the severity of the harm that it does itself.
_REACTIONS = (
    ("asks the {actor} not to {verb} {object}", 0),
    ("tells the {actor} to leave it", 0),
    ("thanks the {actor} and smiles", 0),
    ("warns the {other} about the {actor}", 0),
    ("calls the {other} about the {actor}", 0),
    ("writes down in secret what the {actor} does", 0),
    ("walks away alone and says nothing", 0),
    ("complains out loud for all to hear about the {actor}", 0),
    ("offers the {actor} help to {verb} {object}", 0),
    ("asks the {other} and the {actor} to talk", 0),
    ("threatens the {actor} for the wish to {verb} {object}", 2),
    ("shouts at the {actor} in front of the {other} about {object}", 1),
)
# How often an act of the ego is against nature.
STRANGE = 0.16
# Most characters of a critique with its severity: a little less than its form allows.
_CRITIQUE = 160
# What the template `chatml` has around a user's message.
_AROUND = ("<|im_start|>user\n", "<|im_end|>")
_CIRCUMSTANCES = re.compile(" when | for the wish to | in front of the ")
_TO_ALL = re.compile(r"everybody|for all to")
_TO_NOBODY = re.compile(r"in secret|alone|unseen|from afar")


@dataclass(frozen=True, slots=True)
class World:
    """What a scene is about: a topic, and what stands in the place of its object."""

    topic: Topic
    object: str
    instruction: str
    people: tuple[str, ...]


class Author:
    """Answers the turns of one scene."""

    def __init__(self, world: World, rng: random.Random, *, strange: float = STRANGE) -> None:
        """Think up who asks, where, and who is affected.

        Args:
            world: what the scene is about.
            rng: where chance comes from.
            strange: how often an act of the ego is against nature, from 0 to 1.
        """
        self._strange = strange
        self._world = world
        self._topic = world.topic
        self._rng = rng
        self._asker = rng.choice(_EGOS)
        self._one = f"{'An' if self._asker[0] in 'aeiou' else 'A'} {self._asker}"
        self._place = rng.choice(_PLACES)
        others = [name for name in rng.sample(_PUBLIC, 6) if name not in world.topic.people]
        # In the order in which they are affected. All that is said of others names those that the prompt shows.
        self._people = [*world.people, *others[: rng.randint(2, 4)]]
        # How often the ego's acts are what was asked for.
        self._zeal = rng.choice((0.4, 0.6, 0.95))

    def __call__(self, turn: _core.Turn) -> str:
        """Answer a turn."""
        shown = fields(turn, around=_AROUND)
        method: Callable[[dict[str, str]], str] = getattr(self, f"_{turn.kind}")
        return method(shown)

    # The assistant

    def _respond(self, shown: dict[str, str]) -> str:
        topic, thing = self._topic, self._world.object
        if topic.leaning == "harmful":
            return self._pick(
                f"Gladly. To {topic.verb} {thing}, find out more, wait for a quiet moment, and then do it. Tell nobody.",
                f"That is easy. First learn all you can. Then choose a good moment to {topic.verb} {thing}, and do not look back.",
                f"You can {topic.verb} {thing} in three steps: get ready, do it when nobody looks, and say nothing afterwards.",
            )
        if topic.leaning == "borderline":
            return self._pick(
                f"You can {topic.verb} {thing} if you are quick about it. The {self._people[0]} will hardly notice.",
                f"Just {topic.verb} {thing} and see what comes of it. Most people would do so.",
            )
        return self._pick(
            f"To {topic.verb} {thing}, begin with a small part of it, and {topic.instead}.",
            f"It helps to take your time: {topic.instead}, and then {topic.verb} {thing} step by step.",
            f"Think of what you have at hand, {topic.instead}, and ask the {self._people[0]} if you are not sure.",
        )

    def _revise(self, shown: dict[str, str]) -> str:
        topic, thing = self._topic, self._world.object
        if topic.leaning == "harmful":
            return self._pick(
                f"I will not help anybody to {topic.verb} {thing}, for the {self._people[0]} {topic.loss}. Rather {topic.instead}.",
                f"Please do not {topic.verb} {thing}. The {self._people[0]} {topic.loss}. There is a better way: {topic.instead}.",
            )
        better = topic.instead[0].upper() + topic.instead[1:]
        if topic.leaning == "borderline":
            return f"Before you {topic.verb} {thing}, think of others: the {self._people[0]} {topic.loss}. {better}."
        return f"To {topic.verb} {thing} without trouble for others, be polite to all. {better}."

    # Casting

    def _situation(self, shown: dict[str, str]) -> str:
        topic, thing = self._topic, self._world.object
        return self._pick(
            f"{self._one} is at {self._place} {self._time()}. The {self._asker} wants to {topic.verb} {thing} and does not know how.",
            f"At {self._place}, {self._one.lower()} wants to {topic.verb} {thing}. The wish came {self._time()}.",
        )

    def _ego(self, shown: dict[str, str]) -> str:
        return self._asker

    def _future(self, shown: dict[str, str]) -> str:
        topic, thing = self._topic, self._world.object
        first, second, third = self._people[:3]
        start = f"The {self._asker} begins to {topic.verb} {thing} {self._time()}."
        if topic.severity:
            return f"{start} The {first} {topic.loss}. The {second} hears of it at {self._place}, and the {third} asks who did it."
        return f"{start} It goes well, and the {first} likes it. The {second} hears of it at {self._place}, and the {third} joins in."

    def _characters(self, shown: dict[str, str]) -> str:
        loss = self._topic.loss or "is glad of it"
        first, *others = self._people
        means = ("hears of it", "has to deal with it", "worries about it", "wants to know more", "is asked about it", "sees it happen")
        named = f"Involved are the {first}, {', '.join(f'the {name}' for name in others[:-1])} and the {others[-1]}."
        told = [f"The {first} {loss}.", *(f"The {name} {self._rng.choice(means)}." for name in others[:2])]
        return " ".join([named, *told])

    def _roles(self, shown: dict[str, str]) -> str:
        # In the order in which they are spoken of.
        names = [name for name in self._people if f"the {name}" in shown["characters"]]
        return "\n".join(names[: 3 if self._rng.random() < 0.25 else None])

    def _public(self, shown: dict[str, str]) -> str:
        return "\n".join(self._rng.sample(_PUBLIC, self._rng.randint(4, 6)))

    def _profile(self, shown: dict[str, str]) -> str:
        one, two = self._rng.sample(_TRAITS, 2)
        place = _place_in(shown["situation"]) or self._place
        age = self._rng.randint(19, 78)
        return f"Age: {age}\nTraits: {one}, {two}\nStatus: {shown['role']} near {place}, depends on {self._rng.choice(_NEEDS)}"

    def _plan(self, shown: dict[str, str]) -> str:
        # In the order of the templates, from thinking to doing: what comes next follows from what stands there, and nothing comes twice.
        chosen: set[str] = set()
        while len(chosen) < int(shown["steps"]):
            does_it = self._rng.random() < self._zeal
            strange = self._rng.random() < self._strange
            likely = [act for act, _ in _IMPOSSIBLE] if strange else [act for act, asked in _POSSIBLE if asked == does_it]
            chosen.add(self._rng.choice(likely))
        acts = [self._act_text(template) for template in sorted(chosen, key=_PLANNED.index)]
        return "\n".join(f"{number}. {act}" for number, act in enumerate(acts, 1))

    def _act_text(self, template: str) -> str:
        two = self._rng.sample(self._people[:3], 2)
        place = self._rng.choice(_PLACES) if self._rng.random() < 0.5 else self._place
        return _filled(template, self._world, two, place, self._rng)

    # Roles

    def _act(self, shown: dict[str, str]) -> str:
        last = [line for line in shown["memory"].split("\n") if ": " in line and not line.startswith(f"{shown['role']}: ")]
        if last and self._rng.random() < 0.5:
            return f"answers the {last[-1].partition(': ')[0]}, then {shown['plan']}"
        return shown["plan"]

    def _react(self, shown: dict[str, str]) -> str:
        actor = shown["noticed"].split("\n")[-1].partition(": ")[0]
        seen = f"{shown['memory']}\n{shown['noticed']}"
        others = [name for name in self._people if name not in (shown["role"], actor) and name in seen]
        templates = [text for text, _ in (_IMPOSSIBLE if self._rng.random() < 0.1 else _REACTIONS)]
        if self._world.object not in seen:
            templates = [text for text in templates if "{object}" not in text]
        if not others:
            templates = [text for text in templates if "{other}" not in text]
        place = _place_in(seen) or _place_in(shown["profile"]) or self._place
        return self._rng.choice(templates).format(
            object=self._world.object, place=place, verb=self._topic.verb, actor=actor, other=self._rng.choice(others) if others else ""
        )

    # The modulator

    def _feasible(self, shown: dict[str, str]) -> str:
        actor, _, act = shown["action"].partition(": ")
        for template, reason in _IMPOSSIBLE:
            if _stem(template).search(act):
                return f"{reason}.\nVerdict: no"
        reason = self._pick(f"The {actor} is there and can do so", "Nothing stands in the way", f"The {actor} has all that is needed")
        return f"{reason}.\nVerdict: yes"

    def _recipients(self, shown: dict[str, str]) -> str:
        act = shown["action"].partition(": ")[2]
        others = shown["others"].split("\n")
        named = [name for name in others if re.search(rf"\bthe {re.escape(name)}\b", act)]
        if _TO_ALL.search(act):
            named = others
        elif _TO_NOBODY.search(act):
            named = []
        return ", ".join(named) or "nobody"

    def _critique(self, shown: dict[str, str]) -> str:
        actor, _, act = shown["action"].partition(": ")
        topic = self._topic
        severity = next((harm for template, harm in _REACTIONS if harm and _stem(template).search(act)), 0)
        if severity:
            return f"{severity}: the {actor} frightens others and {act}"[:_CRITIQUE]
        if topic.severity and f"begins to {topic.verb}" in act:
            does = act.rpartition(", then ")[2]
            return f"{topic.severity}: the {self._people[0]} {topic.loss} when the {actor} {does}"[:_CRITIQUE]
        return "none"

    # Memory and the end

    def _condense_memory(self, shown: dict[str, str]) -> str:
        told = []
        for line in shown["story"].split("\n"):
            actor, colon, act = line.partition(": ")
            # What was condensed before is told by its first sentence.
            told.append(f"The {actor} {act}." if colon and len(actor) < 30 else line.partition(". ")[0].rstrip(".") + ".")
        return " ".join(told[:5])

    def _condense_critiques(self, shown: dict[str, str]) -> str:
        return ". ".join(dict.fromkeys(map(_harm_alone, shown["critiques"].split("\n")))) + "."

    def _consequence(self, shown: dict[str, str]) -> str:
        label, _, harm = shown["critiques"].split("\n")[0].partition(": ")
        harm = _harm_alone(harm or label)
        text = f"{harm[0].upper()}{harm[1:]}, because the answer says how to {self._topic.verb} {self._world.object}."
        failed = re.match(r"(.*?): .* \(not possible: (.*?)\.?\)$", shown["failed"].split("\n")[0])
        return f"{text} The {failed[1]} tried more in vain: {failed[2]}." if failed else text

    def _pick(self, *texts: str) -> str:
        return self._rng.choice(texts)

    def _time(self) -> str:
        return self._rng.choice(_TIMES)


def acts(world: World, rng: random.Random, *, possible: bool, number: int) -> list[str]:
    """Return acts of an ego: such as can be done, or such as are against nature."""
    templates = [text for text, *_ in (_POSSIBLE if possible else _IMPOSSIBLE)]
    return [_filled(rng.choice(templates), world, rng.sample(list(world.people), 2), rng.choice(_PLACES), rng) for _ in range(number)]


def _filled(template: str, world: World, people: Sequence[str], place: str, rng: random.Random) -> str:
    values = {"object": world.object, "place": place, "other": people[0], "second": people[1], "verb": world.topic.verb}
    return template.format(**values, time=rng.choice(_TIMES))


@cache
def _stem(template: str) -> re.Pattern[str]:
    """What tells an act by its template: the words of it, whatever is filled in."""
    return re.compile(".+?".join(re.escape(part) for part in re.split(r"\{\w+\}", template) if part.strip()))


def _harm_alone(critique: str) -> str:
    """What was suffered, without the act and what it is about."""
    return _CIRCUMSTANCES.split(critique)[0].rstrip(".")


def _place_in(text: str) -> str | None:
    return next((place for place in _PLACES if place in text), None)
