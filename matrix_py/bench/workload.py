"""Work for benchmarks as token ids, so that any engine can be given the same."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from matrix_py.errors import ConfigError

Tokens: TypeAlias = list[int]
# Scene and role of a prompt, within its round.
Key: TypeAlias = tuple[int, int]

# Ids below are taken for control tokens and bytes; those at the end too.
_FIRST, _LAST = 300, 10


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


def work_of(shape: Shape, n_vocab: int, *, bos: int = 1, seed: int = 0) -> list[list[list[Tokens]]]:
    """Return prompts by scene, round and role. Their tokens are random, so that the weights may be so too: the shape alone counts.

    Raises:
        ConfigError: the vocabulary is too small.
    """
    if n_vocab - _LAST <= _FIRST:
        raise ConfigError(
            f"a vocabulary of {n_vocab} tokens is too small for the benchmark: give a model with {_FIRST + _LAST + 1} or more"
        )
    rng = random.Random(seed)

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


class Answering:
    """Whoever answers prompts: they go in with a key each, and the keys of those that are answered come out."""

    def __init__(self, submit: Callable[[list[tuple[Key, Tokens]]], None], collect: Callable[[], list[Key]]) -> None:
        """Wrap the two halves."""
        self.submit, self.collect = submit, collect


def timed(work: list[list[list[Tokens]]], answering: Answering) -> float:
    """Run the work: a round of a scene when the one before is answered. Returns seconds."""
    left = {scene: len(rounds[0]) for scene, rounds in enumerate(work)}
    at = dict.fromkeys(left, 0)
    began = time.perf_counter()
    answering.submit([((scene, role), prompt) for scene, rounds in enumerate(work) for role, prompt in enumerate(rounds[0])])
    while left:
        for scene, _ in answering.collect():
            left[scene] -= 1
            if left[scene]:
                continue
            at[scene] += 1
            if at[scene] == len(work[scene]):
                del left[scene]
                continue
            turns = work[scene][at[scene]]
            left[scene] = len(turns)
            answering.submit([((scene, role), prompt) for role, prompt in enumerate(turns)])
    return time.perf_counter() - began


def distinct_tokens(work: list[list[list[Tokens]]]) -> int:
    """Return how many tokens have to be computed if every beginning that two prompts share is computed once."""
    prompts = sorted(prompt for scene in work for turns in scene for prompt in turns)
    total = 0
    before: Tokens = []
    for prompt in prompts:
        shared = next((place for place, (one, other) in enumerate(zip(prompt, before, strict=False)) if one != other), None)
        total += len(prompt) - (min(len(prompt), len(before)) if shared is None else shared)
        before = prompt
    return total
