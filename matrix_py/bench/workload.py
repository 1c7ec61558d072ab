"""Work for benchmarks as token ids, so that any engine can be given the same."""

import random
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass
from typing import Protocol, TypeAlias

from matrix_py.errors import ConfigError

Tokens: TypeAlias = list[int]

# Ids below are taken for control tokens and bytes; those at the end too.
_FIRST, _LAST = 300, 10


@dataclass(frozen=True, slots=True)
class Ask:
    """A turn to compute.

    Attributes:
        key: what its answer is known by.
        prompt: its tokens.
        tokens: to generate.
        rank: of the turns that wait, those of the lowest rank go first.
    """

    key: Hashable
    prompt: Tokens
    tokens: int
    rank: int = 0


class Answering:
    """Whoever computes turns: they go in, and the keys of those that are done come out, at least one at a time."""

    def __init__(self, submit: Callable[[list[Ask]], None], collect: Callable[[], list[Hashable]]) -> None:
        """Wrap the two halves."""
        self.submit, self.collect = submit, collect


class Work(Protocol):
    """Turns and what each has to wait for."""

    def asks(self) -> list[Ask]:
        """Return all turns."""

    def run(self, answering: Answering) -> None:
        """Have all turns computed, each as soon as it may be."""

    def describe(self) -> dict[str, object]:
        """Return what the work is, for people and for JSON."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Scenes of rounds of turns that share prefixes, as a social scene has them.

    A prompt is BOS, a preamble (the same for all), the scene's text, the scene's history (which grows each round and is the same for the
    round's roles), and the role's card. The turns of a round may run together; a round begins when the one before is done.

    Attributes:
        scenes: number of scenes, which know nothing of one another.
        rounds: rounds of each.
        roles: turns of a round.
        tokens: to generate for each turn.
        preamble: tokens of the preamble.
        text: tokens of a scene's text.
        growth: tokens by which the history grows each round.
        card: tokens of a role's card.
    """

    scenes: int = 4
    rounds: int = 4
    roles: int = 5
    tokens: int = 32
    preamble: int = 200
    text: int = 250
    growth: int = 40
    card: int = 60

    @property
    def longest(self) -> int:
        """Tokens of the longest turn, its completion included."""
        return 1 + self.preamble + self.text + self.rounds * self.growth + self.card + self.tokens


class ShapedWork:
    """Work of a given shape. Its tokens are random, so that the weights may be so too: the shape alone counts."""

    def __init__(self, shape: Shape, n_vocab: int, *, bos: int = 1, seed: int = 0) -> None:
        """Write the prompts.

        Raises:
            ConfigError: the vocabulary is too small.
        """
        self.shape = shape
        # By scene, round and role.
        self.prompts = _prompts(shape, n_vocab, bos, random.Random(seed))

    def asks(self) -> list[Ask]:
        """See `Work`."""
        return [ask for scene in range(self.shape.scenes) for number in range(self.shape.rounds) for ask in self._round(scene, number)]

    def run(self, answering: Answering) -> None:
        """Run a round of a scene when the one before is answered."""
        left = dict.fromkeys(range(self.shape.scenes), self.shape.roles)
        at = dict.fromkeys(left, 0)
        scene_of = {ask.key: scene for scene in left for number in range(self.shape.rounds) for ask in self._round(scene, number)}
        answering.submit([ask for scene in left for ask in self._round(scene, 0)])
        while left:
            for key in answering.collect():
                scene = scene_of[key]
                left[scene] -= 1
                if left[scene]:
                    continue
                at[scene] += 1
                if at[scene] == self.shape.rounds:
                    del left[scene]
                    continue
                left[scene] = self.shape.roles
                answering.submit(self._round(scene, at[scene]))

    def describe(self) -> dict[str, object]:
        """See `Work`."""
        return asdict(self.shape)

    def _round(self, scene: int, number: int) -> list[Ask]:
        return [Ask((scene, number, role), prompt, self.shape.tokens) for role, prompt in enumerate(self.prompts[scene][number])]


def _prompts(shape: Shape, n_vocab: int, bos: int, rng: random.Random) -> list[list[list[Tokens]]]:
    if n_vocab - _LAST <= _FIRST:
        raise ConfigError(
            f"a vocabulary of {n_vocab} tokens is too small for the benchmark: give a model with {_FIRST + _LAST + 1} or more"
        )

    def ids(count: int) -> Tokens:
        return [rng.randrange(_FIRST, n_vocab - _LAST) for _ in range(count)]

    preamble = ids(shape.preamble)
    work = []
    for _ in range(shape.scenes):
        text, cards = ids(shape.text), [ids(shape.card) for _ in range(shape.roles)]
        history: Tokens = []
        rounds = []
        for _ in range(shape.rounds):
            history = history + ids(shape.growth)
            rounds.append([[bos, *preamble, *text, *history, *card] for card in cards])
        work.append(rounds)
    return work


def distinct_tokens(prompts: Iterable[Tokens]) -> int:
    """Return how many tokens have to be computed if every beginning that two prompts share is computed once."""
    total = 0
    before: Tokens = []
    for prompt in sorted(prompts):
        shared = next((place for place, (one, other) in enumerate(zip(prompt, before, strict=False)) if one != other), None)
        total += len(prompt) - (min(len(prompt), len(before)) if shared is None else shared)
        before = prompt
    return total
