"""What the process that trains says to the one that started it: one JSON document a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A line."""


class Started(Message, frozen=True, kw_only=True, tag="started"):
    """The model is loaded, and training begins."""

    steps: int  # of the whole training
    step: int  # already done, when it was resumed
    sequences: int  # an epoch; of packed rows fewer than rows
    trainable: int  # parameters
    parameters: int  # of the base
    device: str


class Measured(Message, frozen=True, kw_only=True):
    """How far a training has come."""

    num_tokens: int  # computed since the beginning, without padding
    seconds: float  # of training since the beginning, without evaluations and checkpoints

    @property
    def tokens_per_second(self) -> float:
        """Its pace."""
        return self.num_tokens / max(self.seconds, 1e-9)


class Step(Measured, frozen=True, kw_only=True, tag="step"):
    """The optimiser made a step."""

    step: int  # from 1 on
    epoch: float
    loss: float  # mean over the step's tokens that are learnt
    learning_rate: float
    grad_norm: float | None


class HeldOut(Message, frozen=True, kw_only=True, tag="held_out"):
    """The held-out rows were evaluated."""

    step: int
    loss: float  # mean over their tokens that would be learnt


class Saved(Message, frozen=True, kw_only=True, tag="saved"):
    """A checkpoint is whole."""

    step: int


class Finished(Measured, frozen=True, kw_only=True, tag="finished"):
    """The adapter is written, or training was stopped behind a checkpoint."""

    stopped: bool
    step: int
    peak_bytes: int  # of the GPU's memory, or of the process's
    versions: dict[str, str]


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """Training ended in an error."""

    text: str


AnyMessage = Started | Step | HeldOut | Saved | Finished | Failed

_DECODER: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)


def decode(line: bytes) -> AnyMessage | None:
    """Return the message of a line; None for what is none, such as a library's own print."""
    try:
        return _DECODER.decode(line)
    except msgspec.MsgspecError:
        return None


def write_messages(path: Path, messages: Sequence[AnyMessage]) -> None:
    """Write messages, one a line."""
    path.write_bytes(msgspec.json.Encoder().encode_lines(messages))


def read_messages(path: Path) -> list[AnyMessage]:
    """Return the messages of a file."""
    return [_DECODER.decode(line) for line in path.read_bytes().splitlines()]
