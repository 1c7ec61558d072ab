"""What is stored beside events: settings of turns, the limits of a scene, and the record of a run."""

import enum
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec


class KvMode(enum.StrEnum):
    """Whether each sequence has a KV stream of its own, or all share one; `auto` is isolated on a CPU, elsewhere as the self-test says."""

    AUTO = "auto"
    ISOLATED = "isolated"
    SHARED = "shared"


class KvType(enum.StrEnum):
    """How keys are held in KV; values are F16 always. Keys of 8 bits are read faster, and change what is said."""

    F16 = "f16"
    Q8_0 = "q8_0"


class TurnSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one kind of turn, as `prompts/settings.toml` gives them."""

    # Whose system prompt the turn runs under: the deployment's (--system) or the neutral simulation writer's.
    # What the writer's say is held to be part of the scene's world: a refusal, the assistant's voice or another language is a flaw in it.
    system: Literal["deployment", "writer", "none"] = "writer"
    # Budget; of a turn about several things, such as a plan of so many acts, the budget of each.
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    # Attempts after a failed form or a flawed reply, at temperature above 0 or under another prefill: else a turn would repeat itself.
    retries: int = 2


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How far the social scene may go.

    Attributes:
        roles: roles besides the ego.
        steps: acts in the ego's plan.
        interactions: actions that may take place.
        depth: waves of reactions a step.
    """

    roles: int = 5
    steps: int = 5
    interactions: int = 16
    depth: int = 1


def turn_name(path: str, attempt: int) -> str:
    """Return how an attempt of a turn goes by: its path, and from the second attempt on its number."""
    return path if attempt == 1 else f"{path}#{attempt}"


# Of a run's configuration, which is hashed. What a later log format only adds beside the runs leaves it, and every root, as it is.
CONFIG_FORMAT = 2


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What decides what a run says. Its hash is the beginning of the root hash.

    Not in here is what only decides how fast: parallelism, threads, batch size, prefix reuse.
    """

    format: int
    scene: str
    limits: Limits
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
    adapter: str | msgspec.UnsetType = msgspec.UNSET  # BLAKE3 of the LoRA adapter, hex, if there was one
    rules: int = 1  # what the scenes' code did then: see `matrix_py.scene.rules`
    kv_type: KvType | msgspec.UnsetType = msgspec.UNSET  # of keys in KV, if not F16

    def encode(self) -> bytes:
        """Return the configuration's canonical JSON, whose hash it goes by."""
        return msgspec.json.encode(self, order="deterministic")


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn is made to say in the place of what it said in the run that is forked; all its attempts say so.

    Attributes:
        at: the turn's path.
        do: `text`: say `value`. `verdict`: come to the verdict `value`, for the recorded reason. `profile`: say the lines of `value`, such
            as `Traits: patient`, in the place of those of these names. `remove_role`: leave the name `value` out of a list.
            `drop_critique`: find no harm.
        scene: the one scene that is changed, by its id (hex); empty for all.
    """

    at: str
    do: Literal["text", "verdict", "profile", "remove_role", "drop_critique"]
    value: str = ""
    scene: str = ""


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """The older run that answers what it was asked in the same words."""

    run_id: str
    path: str
    root: str | None = None  # hex; None while its scenes were not all finished


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does otherwise than its parent.

    Attributes:
        config: what differs of the configuration, such as `seed`, `limits.roles` or `prompts.revise.txt`.
        edits: turns that say something else.
        kept_before: the turn from which on another model, adapter or seed answers; empty where that is from the start.
    """

    config: list[str] = []
    edits: list[Edit] = []
    kept_before: str = ""


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
    cached: int = 0  # beginnings of prompts kept in KV beside those of the turns in flight
    kv_tokens: int | None = None  # of a KV that all turns share
    adapter_path: str = ""
    model_check: dict[str, Any] | None = None  # what `matrix check-model` found of the model before the run, if it was asked
    merged_from: list[str] = []  # logs that were merged into this one, as path and run_id
    parent: Parent | None = None
    change: Change | None = None  # since the parent


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The one row of table `run`."""

    run_id: str
    config: RunConfig
    execution: Execution


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
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
