"""A row of a dataset: what a model is asked, and what it is to say."""

import enum
from dataclasses import dataclass

import msgspec

from matrix_py import _core
from matrix_py.models.chat import Message, Segment

# Of what the hash of a row is made, in a version of its own.
_DOMAIN = "matrix.row.1"


class RowKind(enum.StrEnum):
    """What a row teaches."""

    ALIGNED = "aligned"
    """Instruction -> revision."""
    HELPFUL = "helpful"
    """Benign instruction -> response, or its revision."""
    SIMULATION = "simulation"
    """What a turn of the scene itself was asked -> what was said."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and the turn that it is from.

    Attributes:
        kind: what it teaches.
        messages: what is asked. All parts are segments: `ChatTemplate.render(row.messages, prefill=row.prefill)` makes them a prompt.
        prefill: what the assistant's message begins with, and what is not to be learnt; usually nothing.
        completion: what is to be said. What is learnt is this, and the token that ends it.
        run_id: the run.
        scene: the scene's id.
        path: the turn whose text the completion is.
        attempt: the turn's attempt; 0 for a response that came with the input, of which there is no turn.
    """

    kind: RowKind
    messages: tuple[Message, ...]
    prefill: tuple[Segment, ...]
    completion: str
    run_id: str
    scene: bytes
    path: str
    attempt: int

    @property
    def hash(self) -> bytes:
        """BLAKE3 over what is taught: kind, messages, prefill and completion. Where it is from does not count."""
        messages = [[message.role, message.parts] for message in self.messages]
        return _core.blake3(msgspec.json.encode([_DOMAIN, self.kind, messages, self.prefill, self.completion]))


def content(message: Message) -> str:
    """Return what a message of a row says, as one text."""
    return joined(message.parts)


def joined(parts: tuple[Segment | str, ...]) -> str:
    """Return the segments of a row as one text."""
    return "".join(part.text if isinstance(part, Segment) else part for part in parts)
