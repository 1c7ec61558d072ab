"""The model's vocabulary: byte-pair pieces of the corpus, all bytes to fall back to, and each fixed passage of the prompts as one token.

The prompts' own words never change, so one token for each passage is enough; a prompt is then not much longer than what a scene fills in.
Other prompts are spelled with the pieces like any other text.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from gguf import TokenType

from matrix_py.embedded.corpus import END
from matrix_py.prompts import Prompts

START, BOS, UNKNOWN = "<|im_start|>", "<s>", "<unk>"
_CONTROLS = (BOS, START, END)
_SPACE = "▁"
# Letters, digits, signs and white space take turns; a word has the space before it.
_WORD = re.compile(r" ?[^\W\d_]+| ?\d+|\n|.", re.DOTALL)


@dataclass(slots=True)
class Vocabulary:
    """Tokens by id, with the type and score of each, as GGUF files hold them."""

    tokens: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, text: str, type_: int, score: float = 0.0) -> None:
        """Add a token."""
        self.tokens.append(text)
        self.types.append(int(type_))
        self.scores.append(score)


def make_vocabulary(texts: Iterable[str], passages: Iterable[str], *, merges: int) -> Vocabulary:
    """Return a vocabulary.

    Args:
        texts: what scenes say and are filled with.
        passages: fixed texts that are one token each.
        merges: pieces of two letters or more to learn.
    """
    vocabulary = Vocabulary()
    vocabulary.add(UNKNOWN, TokenType.UNKNOWN)
    for control in _CONTROLS:
        vocabulary.add(control, TokenType.CONTROL)
    for byte in range(256):
        vocabulary.add(f"<0x{byte:02X}>", TokenType.BYTE)
    for passage in sorted(set(passages)):
        vocabulary.add(passage, TokenType.USER_DEFINED)
    words = Counter(word.replace(" ", _SPACE) for text in texts for word in _WORD.findall(text))
    letters = sorted({*map(chr, range(0x21, 0x7F)), *(letter for word in words for letter in word), _SPACE, "\n"})
    pieces = [*_learn(words, merges), *letters]
    # A piece that was learnt earlier scores higher, and the tokeniser joins the highest score first.
    for rank, piece in enumerate(dict.fromkeys(pieces)):
        vocabulary.add(piece, TokenType.NORMAL, -float(rank))
    return vocabulary


def fixed_passages(prompts: Prompts) -> set[str]:
    """Return what the prompts say around what a scene fills in, without the template's own tokens."""
    found = set()
    for kind in prompts.settings:
        for retry in (False, True):
            values = dict.fromkeys(prompts.fields(kind), "\0")
            for text, trusted in prompts.render(kind, values, retry=retry):
                if trusted:
                    found.update(re.split("|".join(map(re.escape, _CONTROLS)), text))
    return {passage for passage in found if len(passage) > 1}


def _learn(words: Counter[str], merges: int) -> list[str]:
    """Byte-pair merges (Sennrich et al. 2016) of words by their numbers."""
    symbols = {word: list(word) for word in words}
    counts: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[str]] = {}
    for word, parts in symbols.items():
        for pair in pairwise(parts):
            counts[pair] += words[word]
            holders.setdefault(pair, set()).add(word)
    learnt: list[str] = []
    while len(learnt) < merges and counts:
        best = max(counts, key=lambda pair: (counts[pair], pair))  # the pair breaks ties: one vocabulary everywhere
        if counts[best] < 2:
            break
        learnt.append("".join(best))
        for word in sorted(holders.pop(best)):
            parts = symbols[word]
            for pair in pairwise(parts):
                counts[pair] -= words[word]
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1
            for pair in pairwise(parts):
                counts[pair] += words[word]
                holders.setdefault(pair, set()).add(word)
        del counts[best]
    return list(dict.fromkeys(learnt))
