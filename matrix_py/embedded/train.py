"""Trains the embedded model: `python -m matrix_py.embedded.train FOLDER`. Started again in the same folder, it goes on where it stopped.

The same seed makes the same corpus, vocabulary and order of training on any machine; weights agree as far as floating point does.
"""

import argparse
import math
import random
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional

from matrix_py import _core
from matrix_py.embedded.corpus import END, WORDS, Example, judged_examples, opening_examples, prompts, scene_examples, worlds
from matrix_py.embedded.export import Shape, write_gguf
from matrix_py.embedded.network import Network, batch
from matrix_py.embedded.packs import FILLED, Pack, pack
from matrix_py.embedded.tokenizer import Vocabulary, fixed_passages, make_vocabulary
from matrix_py.embedded.topics import TOPICS
from matrix_py.models.llama import LlamaModel
from matrix_py.prompts import Prompts

# Scenes that the vocabulary is learnt from, pieces to learn, scenes a chunk (the unit of resuming), tokens a row, rows a step.
VOCABULARY_SCENES, MERGES, CHUNK, LENGTH, ROWS = 200, 4700, 16, 640, 4
# Of how many more instructions a chunk has the openings, for each whole scene: they are where it is learnt to find what is asked for.
OPENINGS = 2
# One chunk more for so many, at the end, has judgements of acts in the place of openings: scenes show few acts that are against nature.
JUDGING = 10
# How often a listed word counts for the vocabulary.
_WORD_WEIGHT = 6
# Replies of fewer tokens count as if they had so many, but no token for more than that of others.
_FULL, _MOST = 24, 6.0
PEAK_RATE, WARMUP, DECAY = 5e-4, 100, 0.05
# Of embeddings. Adam makes steps of one size of gradients of any: with its usual epsilon, all rare words would be pushed the same way, away
# from what is likely, until they cannot be told apart and are not copied any more.
EMBEDDING_RATE, EMBEDDING_EPSILON = 0.3, 1e-4


class Corpus:
    """Scenes by number: the same number is the same scene."""

    def __init__(self, seed: int) -> None:
        """Set up the prompts."""
        self._seed = seed
        self.prompts: Prompts = prompts()

    def scene(self, number: int, *, held_out: bool = False) -> list[Example]:
        """Return the turns of a scene."""
        rng = random.Random(f"{self._seed}/{'held out' if held_out else 'scene'}/{number}")
        return scene_examples(next(worlds(rng, held_out=held_out)), rng, self.prompts)

    def opening(self, number: int) -> list[Example]:
        """Return the first turns of another scene."""
        rng = random.Random(f"{self._seed}/opening/{number}")
        return opening_examples(next(worlds(rng)), rng, self.prompts)

    def judged(self, number: int) -> list[Example]:
        """Return the judgements of what is possible of yet another scene."""
        rng = random.Random(f"{self._seed}/judged/{number}")
        return judged_examples(next(worlds(rng)), rng, self.prompts)

    def vocabulary(self) -> Vocabulary:
        """Learn the vocabulary: of scenes, and of all words that scenes may be about, also of topics that no scene of training has."""
        words = [word for lists in WORDS.values() for word in lists.split()]
        words += [
            word
            for topic in TOPICS
            for text in (topic.verb, *topic.objects, *topic.people, topic.loss, topic.instead)
            for word in text.split()
        ]
        # In the middle of a text and at its start.
        texts = [f"{before}{word}" for word in words for before in (" ", "") for _ in range(_WORD_WEIGHT)]
        for number in range(VOCABULARY_SCENES):
            for example in self.scene(number):
                texts.append(example.completion)
                texts += [text for text, trusted in example.segments if not trusted]
        return make_vocabulary(texts, fixed_passages(self.prompts), merges=MERGES)


class Encoder:
    """Turns as tokens with their weights, by the tokeniser that the engine uses."""

    def __init__(self, tokenizer: _core.Tokenizer) -> None:
        """Wrap a tokeniser."""
        self._encode = lru_cache(maxsize=100_000)(lambda text, trusted: tuple(tokenizer.encode([(text, trusted)])))
        [self._bos, self._end] = self._encode(END, True)

    def turn(self, example: Example) -> list[tuple[int, float]]:
        """Return a turn's tokens with their weights.

        1 or more for what is to be said, so that a name or a verdict counts for something beside a plan; little for what the prompt was
        filled with; 0 for the rest.
        """
        tokens = [(self._bos, 0.0)]
        for text, trusted in example.segments:
            tokens += [(token, 0.0 if trusted else FILLED) for token in self._encode(text, trusted)[1:]]
        said = [*self._encode(example.completion, False)[1:], self._end]
        weight = min(max(_FULL / len(said), 1.0), _MOST)
        return tokens + [(token, weight) for token in said]


def chunk(corpus: Corpus, encoder: Encoder, number: int, *, judging: bool = False) -> list[Pack]:
    """Return the rows of a chunk of scenes, in an order that depends on its number alone."""
    rows: list[Pack] = []
    for scene in range(number * CHUNK, (number + 1) * CHUNK):
        turns = [encoder.turn(example) for example in corpus.scene(scene)]
        rows += pack(sorted(turns), LENGTH)
    more = range(number * CHUNK * OPENINGS, (number + 1) * CHUNK * OPENINGS)
    turns_of = corpus.judged if judging else corpus.opening
    rows += pack(sorted(encoder.turn(example) for each in more for example in turns_of(each)), LENGTH)
    random.Random(number).shuffle(rows)
    return rows


def loss_of(network: Network, rows: list[Pack]) -> torch.Tensor:
    """Return the weighted mean of the cross entropy over rows."""
    tokens, positions, visible, parents, weights = batch(rows)
    hidden = network(tokens, positions, visible)
    used = weights > 0
    before = torch.gather(hidden, 1, parents[..., None].expand(-1, -1, hidden.shape[-1]))[used]
    losses = functional.cross_entropy(network.logits(before), tokens[used], reduction="none")
    total: torch.Tensor = (losses * weights[used]).sum() / weights.sum()
    return total


def rate(step: int, steps: int) -> float:
    """Return the learning rate: a linear warm-up, then half a cosine down to a twentieth."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * (DECAY + (1 - DECAY) * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(steps - WARMUP, 1))))


def train(folder: Path, *, scenes: int, seed: int, save_every: int) -> None:
    """Train, and write `model.gguf` into the folder; `state.pt` in it is where to go on."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(seed)
    vocabulary = corpus.vocabulary()
    shape = Shape(len(vocabulary.tokens), n_layer=5, n_head=4)
    template = corpus.prompts.template.source
    write_gguf(folder / "vocabulary.gguf", shape, vocabulary, {}, template=template)
    torch.manual_seed(seed)
    network = Network(shape)
    embeddings = [network.token_embd.weight]
    matrices = [weight for weight in network.blocks.parameters() if weight.ndim == 2]
    norms = [weight for weight in network.parameters() if weight.ndim < 2]
    parts = [
        {"params": matrices, "weight_decay": 0.05, "factor": 1.0},
        {"params": norms, "weight_decay": 0.0, "factor": 1.0},
        {"params": embeddings, "weight_decay": 0.0, "factor": EMBEDDING_RATE, "eps": EMBEDDING_EPSILON},
    ]
    optimizer = torch.optim.AdamW(parts, betas=(0.9, 0.98))
    first, step = 0, 0
    decaying = math.ceil(scenes / CHUNK)
    chunks = decaying + decaying // JUDGING
    saved = folder / "state.pt"
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first, step = state["chunk"], state["step"]
    parameters = sum(weight.numel() for weight in network.parameters())
    print(f"{parameters / 1e6:.2f} million parameters, {shape.n_vocab} tokens, chunks {first} to {chunks}", flush=True)
    with LlamaModel(folder / "vocabulary.gguf", vocab_only=True) as opened:
        encoder = Encoder(opened.tokenizer)
        held_out = [row for number in range(12) for row in pack(sorted(map(encoder.turn, corpus.scene(number, held_out=True))), LENGTH)]
        # How many steps there will be is only known at the end, so the rate goes by the chunk.
        began, seen = time.monotonic(), 0
        for number in range(first, chunks):
            rows = chunk(corpus, encoder, number, judging=number >= decaying)
            total = 0.0
            groups = [rows[at : at + ROWS] for at in range(0, len(rows), ROWS)]
            for place, group in enumerate(groups):
                # After the decay, the rate stays where it is.
                done = min((number + place / len(groups)) / decaying, 1.0)
                now = rate(step, round(step / done)) if done and step >= WARMUP else rate(step, WARMUP + 1)
                for part in optimizer.param_groups:
                    part["lr"] = part["factor"] * now
                loss = loss_of(network, group)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                seen += sum(map(len, group))
                total += loss.item()
            pace = seen / (time.monotonic() - began)
            line = f"chunk {number + 1}/{chunks}, step {step}: loss {total / len(groups):.4f}, {pace:.0f} tokens/s"
            if (number + 1) % save_every == 0 or number + 1 == chunks:
                line += f", held out {_validate(network, held_out):.4f}"
                torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "chunk": number + 1, "step": step}, saved)
                write_gguf(folder / "model.gguf", shape, vocabulary, network.tensors(), template=template)
            print(line, flush=True)


@torch.no_grad()
def _validate(network: Network, rows: list[Pack]) -> float:
    # Of what is to be said alone.
    spoken = [replace(row, weights=[float(weight >= 1.0) for weight in row.weights]) for row in rows]
    losses = [loss_of(network, spoken[at : at + ROWS]).item() for at in range(0, len(spoken), ROWS)]
    return sum(losses) / len(losses)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where state, vocabulary and model go")
    parser.add_argument("--scenes", type=int, default=3200, help="scenes to learn from, and then a tenth more [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=10, help="chunks of scenes between two saved states [default: %(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = _arguments()
    torch.set_num_threads(chosen.threads)
    train(chosen.folder, scenes=chosen.scenes, seed=chosen.seed, save_every=chosen.save_every)
