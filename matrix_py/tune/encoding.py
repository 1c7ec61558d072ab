"""Rows as tokens: with a GGUF by the very code that the simulator's engine runs, with a Hugging Face model by its own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from matrix_py.errors import ModelError, TemplateError
from matrix_py.models.chat import ChatTemplate, Message, Segment
from matrix_py.models.llama import LlamaModel

# The first stands before a text where the vocabulary adds a space to what it is given; the second where the first merges with the text.
_SENTINELS = ("\n", "\x01")


class Encoder(Protocol):
    """Segments to tokens."""

    @property
    def end(self) -> int:
        """The token that ends an assistant's message: training teaches it behind the completion."""

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Return a prompt's tokens, with the vocabulary's BOS if it asks for one. Each segment is tokenised by itself."""


def encode_row(encoder: Encoder, segments: Sequence[Segment], completion: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt, and those of what is to be said, with the one that ends it."""
    prompt = encoder.encode(segments)
    whole = encoder.encode([*segments, Segment(completion, trusted=False)])
    return prompt, [*whole[len(prompt) :], encoder.end]


class GgufEncoder:
    """The vocabulary of a GGUF. What it makes of a turn's segments are the tokens that the engine computed."""

    def __init__(self, model: LlamaModel, template: ChatTemplate) -> None:
        """Wrap an open model, which stays open as long; its weights are not needed (`vocab_only`).

        Raises:
            ModelError: no token ends a text.
        """
        self._tokenizer = model.tokenizer
        ends = (token for token in self.encode(_after_reply(template)) if model.ends_turn(token))
        self.end = next(ends, model.turn_end)
        if self.end < 0:
            msg = f"model {str(model.path)!r} has no token that ends a text: convert it again with its tokenizer"
            raise ModelError(msg)

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Return a prompt's tokens; see `Encoder`."""
        return self._tokenizer.encode(segments)


class HubEncoder:
    """The tokenizer of a Hugging Face model, used as the engine uses a GGUF's: segment by segment, no special tokens in untrusted text."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, *, ends: Sequence[int]) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: a `transformers.PreTrainedTokenizerBase`.
            template: the model's chat template.
            ends: tokens that end what the model says, as its configuration names them.

        Raises:
            ModelError: no token ends a text.
        """
        self._tokenizer = tokenizer
        self._adds_space = tokenizer.convert_ids_to_tokens(self._tokens("a", trusted=False))[0].startswith(("▁", "Ġ"))
        bos = tokenizer.bos_token_id
        self._bos = bos if bos is not None and tokenizer("a").input_ids[0] == bos else None
        found = [token for token in self.encode(_after_reply(template)) if token in ends and token != self._bos]
        end = next(iter([*found, *ends]), None)
        if end is None:
            msg = f"model {tokenizer.name_or_path} has no token that ends a text: add eos_token_id to its config.json"
            raise ModelError(msg)
        self.end = end

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Return a prompt's tokens; see `Encoder`."""
        tokens = [token for text, trusted in segments for token in self._exact(text, trusted=trusted)]
        return tokens if self._bos is None or tokens[:1] == [self._bos] else [self._bos, *tokens]

    def _exact(self, text: str, *, trusted: bool) -> list[int]:
        """Return the tokens of a text, without the space that some vocabularies put before any."""
        for sentinel in _SENTINELS if self._adds_space else ():
            before, tokens = self._tokens(sentinel, trusted=False), self._tokens(sentinel + text, trusted=trusted)
            if tokens[: len(before)] == before:
                return tokens[len(before) :]
        return self._tokens(text, trusted=trusted)

    def _tokens(self, text: str, *, trusted: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=not trusted).input_ids
        return ids


def _after_reply(template: ChatTemplate) -> list[Segment]:
    """Return what a template writes between a reply and what the user says next."""
    dialogue = [Message(role, (name,)) for role, name in (("user", "first"), ("assistant", "reply"), ("user", "next"))]
    try:
        pieces = template.place(dialogue)
    except TemplateError:
        return []  # it is for one question only
    between = pieces[pieces.index("reply") + 1 : pieces.index("next")]
    return [piece for piece in between if isinstance(piece, Segment)]
