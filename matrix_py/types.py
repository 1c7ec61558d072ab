"""What is stored: events, settings of turns, and the record of a run.

Events are hashed in the form that `msgspec.json.encode` gives them (see `encode`): the fields in the order below, integers, booleans,
strings and lists of these, no floats. A change of a field, its meaning or its place raises that event's `version`.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import msgspec


class Event(msgspec.Struct, frozen=True, tag_field="kind", kw_only=True):
    """A fact of a scene, in the past tense."""

    # Version of this kind's fields.
    version: ClassVar[int] = 1


class SceneStarted(Event, frozen=True):
    """A scene began; texts by their BLAKE3 hashes (hex)."""

    scene: str
    instruction: str
    response: str | None
    occurrence: int


class TurnCompleted(Event, frozen=True):
    """The LLM answered a turn. The same request on the same model gives the same text."""

    path: str
    attempt: int
    turn: str
    request: str
    outcome: str
    finish: str
    text: str


class FormFellBack(Event, frozen=True):
    """A turn's form failed at every attempt; the scene goes on with the documented fallback."""

    path: str
    attempts: int
    text: str


class ResponseGiven(Event, frozen=True):
    """The scene has its initial response: from the input (`given`) or from a turn."""

    given: bool
    text: str


class CritiqueWritten(Event, frozen=True):
    """A critique of the response by a principle."""

    principle: str
    text: str


class ResponseRevised(Event, frozen=True):
    """The scene has its revision."""

    text: str


SceneEnd: TypeAlias = Literal["completed", "failed"]


class SceneFinished(Event, frozen=True):
    """The scene's last event. `count` is the number of events before it; `reason` says why a scene failed."""

    count: int
    end: SceneEnd
    reason: str = ""


def encode(event: Event) -> bytes:
    """Return the canonical payload of an event: compact JSON, UTF-8; first its kind and the version of its fields."""
    text = msgspec.json.encode(event)
    kind_end = len(b'{"kind":""') + len(type(event).__name__)
    return b'%s,"v":%d%s' % (text[:kind_end], event.version, text[kind_end:])


class TurnSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one kind of turn, as `prompts/settings.toml` gives them."""

    # Whose system prompt the turn runs under: the deployment's (--system) or the neutral simulation writer's.
    system: Literal["deployment", "writer", "none"] = "writer"
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    # Attempts after a failed form, at temperature above 0; a greedy turn would only repeat itself.
    retries: int = 2


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What decides what a run says. Its hash is the beginning of the root hash.

    Not in here is what only decides how fast: parallelism, threads, batch size, prefix reuse.
    """

    format: int
    scene: str
    seed: int
    model: str  # BLAKE3 of the model file, hex
    template: str  # source of the chat template
    bos_token: str  # what the template may write for the tokens that begin and end a text
    eos_token: str
    context: int  # tokens that a turn may hold
    deterministic: bool
    system: str  # the deployment's system prompt; empty for none
    prompts: dict[str, str]  # file name -> text
    settings: dict[str, TurnSettings]  # kind of turn -> settings

    def encode(self) -> bytes:
        """Return the configuration's canonical JSON, whose hash it goes by."""
        return msgspec.json.encode(self, order="deterministic")


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """How a run was made: provenance, not identity."""

    model_path: str
    model_description: str
    llama_cpp: str  # version of llama-cpp-python and llama.cpp's description of this machine
    device: str  # "cpu", or what layers were offloaded to
    gpu_layers: int
    kv: str
    parallel: int
    threads: int
    batch: int
    prefix_reuse: bool
    self_test: str
    inputs: list[str]
    dropped: dict[str, int]
    prompts_dir: str  # where prompts and settings came from, besides the package; empty for nowhere
    config_file: str
    versions: dict[str, str]  # package -> version


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The one row of table `run`."""

    run_id: str
    config: RunConfig
    execution: Execution


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the log holds it."""

    payload: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class StoredScene:
    """A scene of the run, with what the log holds of it.

    Attributes:
        events: in the order of their sequence numbers, which are 0, 1, 2 and so on.
        completions: by path and attempt, with the request that each answers.
    """

    scene: bytes
    instruction: str
    response: str | None
    occurrence: int
    events: list[StoredEvent] = field(default_factory=list)
    completions: dict[tuple[str, int], tuple[bytes, str, str, str]] = field(default_factory=dict)
