"""Where a scene diverges, and why: what of today's prompts, forms or code is not as it was."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from matrix_py import _core
from matrix_py.errors import DivergenceError
from matrix_py.prompts import Prompts
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log, check_scene
from matrix_py.types import RunConfig

# Paths, names and hashes are shorter.
_LONGEST_NAME = 80
# What the pump says in the place of an event is shorter.
_LONGEST_PHRASE = 250


class Cause(StrEnum):
    """What was changed."""

    PROMPT = "prompt changed"  # a prompt file, the system prompt, the template
    SETTINGS = "settings changed"  # of that kind of turn
    FORM = "form changed"  # or what else is asked of the answer: the same prompt under another grammar or budget
    LOGIC = "logic changed"  # the scene's code makes other prompts, turns or events of the same completions
    LOG = "log changed"  # the log's own hashes do not fit


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first event of a scene that is not what the log holds.

    Attributes:
        scene: the scene's id, hex.
        seq: sequence number of the event.
        turn: name of the turn whose request differs (`path#2` for a second attempt); empty where it is another event that does.
        kind: kind of that turn, or of the event.
        expected: what the log holds.
        actual: what today's code derives.
    """

    scene: str
    seq: int
    turn: str
    kind: str
    cause: Cause
    expected: str
    actual: str


class Causes:
    """Finds out why scenes of a log diverge."""

    def __init__(self, log: Log, prompts: Prompts) -> None:
        """Compare what the run was made with and `prompts`."""
        self._log = log
        self._then, self._now = recorded_prompts(log.record.config), prompts
        self._files, self._settings = changes(log.record.config, prompts)

    def explain(self, error: DivergenceError) -> Divergence:
        """Say where and why a scene diverged."""
        turn = error.turn
        fields = _fields(error.actual) or _fields(error.expected) or {}
        kind = str(fields.get("kind", "")) if turn is None else turn.kind
        cause = self._cause(error)
        return Divergence(error.scene, error.seq, "" if turn is None else turn.name, kind, cause, error.expected, error.actual)

    def _cause(self, error: DivergenceError) -> Cause:
        if check_scene(self._log, bytes.fromhex(error.scene)):
            return Cause.LOG
        turn = error.turn
        # A file of no kind of its own, such as the principles, shows in what the scene draws from it.
        loose = any(name.removesuffix(".txt") not in self._now.settings for name in self._files)
        otherwise = Cause.PROMPT if loose else Cause.LOGIC
        if turn is None or turn.kind not in self._then.settings:
            return otherwise
        if self._then.template_hash(turn.kind) != self._now.template_hash(turn.kind):
            files = self._then.text(turn.kind) != self._now.text(turn.kind)
            return Cause.SETTINGS if turn.kind in self._settings and not files else Cause.PROMPT
        asked = self._log.prompt(turn.scene, turn.path, turn.attempt)
        today = [(_core.blake3(text.encode()), trusted) for text, trusted in turn.segments]
        return Cause.FORM if asked == today else otherwise


def changes(config: RunConfig, prompts: Prompts) -> tuple[list[str], list[str]]:
    """Return the names of prompt files, and the kinds of turns whose settings, are not as recorded."""
    names = sorted({*config.prompts, *prompts.files})
    kinds = sorted({*config.settings, *prompts.settings})
    return (
        [name for name in names if config.prompts.get(name) != prompts.files.get(name)],
        [kind for kind in kinds if config.settings.get(kind) != prompts.settings.get(kind)],
    )


def grouped(divergences: Sequence[Divergence]) -> list[tuple[Cause, str, list[Divergence]]]:
    """Return the divergences by cause and by kind of turn or event, the most frequent first."""
    groups: dict[tuple[Cause, str], list[Divergence]] = {}
    for each in divergences:
        groups.setdefault((each.cause, each.kind), []).append(each)
    return [(*key, group) for key, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))]


def describe(error: Divergence | DivergenceError) -> str:
    """Say in one line where a scene diverges, and in which fields if both sides are events.

    Sentences are given by length and hash: what models and inputs say may be harmful.
    """
    expected, actual = _fields(error.expected), _fields(error.actual)
    where = f"scene {error.scene} seq {error.seq}"
    if expected is None or actual is None or expected.get("kind") != actual.get("kind"):
        return f"{where}: expected {_side(error.expected, expected)}, actual {_side(error.actual, actual)}"
    names = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    turn = f" of {actual['path']}" if "path" in actual else ""
    if not names:  # the same fields, written otherwise
        return f"{where}: {actual['kind']}{turn}: expected {_short(error.expected)}, actual {_short(error.actual)}"
    return f"{where}: {actual['kind']}{turn}: expected {_listed(expected, names)}, actual {_listed(actual, names)}"


def _fields(payload: str) -> dict[str, object] | None:
    if not payload.startswith("{"):
        return None
    try:
        return msgspec.json.decode(payload, type=dict[str, object])
    except msgspec.DecodeError:
        return None


def _side(text: str, fields: Mapping[str, object] | None) -> str:
    if fields is None:
        return text if len(text) <= _LONGEST_PHRASE else f"{text[: _LONGEST_PHRASE - 3]}..."
    return f"{fields.get('kind')} ({_listed(fields, [name for name in fields if name not in ('kind', 'v')])})"


def _listed(fields: Mapping[str, object], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_short(fields[name])}" if name in fields else f"no {name}" for name in names)


def _short(value: object) -> str:
    """Names, numbers and hashes as they are; of sentences their length and hash."""
    text = str(value)
    if len(text) <= _LONGEST_NAME and text.isprintable() and not any(char.isspace() for char in text):
        return text or "(empty)"
    return f"[{len(text)} characters, BLAKE3 {_core.blake3(text.encode()).hex()[:12]}]"
