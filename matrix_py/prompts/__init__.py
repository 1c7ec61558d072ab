"""Prompts and turn settings as files, and their rendering into the segments of a turn.

A prompt file `KIND.txt` is a list of messages: a line `--- user` (or `--- assistant`, last, for a prefill) begins one. `{name}` stands
for a value that the scene gives; values are untrusted text and are never read as part of the prompt. `{{` and `}}` are braces. The
system message is chosen by the kind's settings: the deployment's (`--system`) or the writer's (`writer.txt`).
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from matrix_py._core import Sampling
from matrix_py.errors import ConfigError, MatrixError
from matrix_py.models.chat import ChatTemplate, Message, Segment
from matrix_py.types import TurnSettings

SETTINGS_FILE = "settings.toml"
WRITER_FILE = "writer.txt"
PRINCIPLES_FILE = "principles.txt"

# A budget may take at most one part in this many of the context.
_CONTEXT_SHARE = 4
# Of whole numbers in settings; the core knows the bounds of the others.
_BOUNDS = {"max_tokens": (1, 2**31 - 1), "top_k": (0, 2**31 - 1), "retries": (0, 2)}

_MESSAGE = re.compile(r"^--- *(\w+) *$", re.MULTILINE)
_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}|[{}]")


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A parsed prompt file: messages of trusted text (str) and fields."""

    messages: tuple[tuple[str, tuple[str | Segment, ...]], ...]
    prefill: str
    fields: frozenset[str]


class Prompts:
    """All prompts and settings of a run, and the template that they are rendered with."""

    def __init__(
        self,
        files: Mapping[str, str],
        settings: Mapping[str, TurnSettings],
        *,
        system: str,
        template: ChatTemplate,
        context: int | None = None,
    ) -> None:
        """Parse prompt files.

        Args:
            files: file name -> text; `KIND.txt` for every kind in `settings`.
            settings: kind of turn -> settings.
            system: the deployment's system prompt; empty for none.
            template: the model's chat template.
            context: tokens that a turn may hold. No turn's budget is more than a quarter of it, so that what one turn writes leaves
                room for the prompt of the next.

        Raises:
            ConfigError: a file does not parse, a kind has no file, or a setting is out of range.
        """
        self.files = dict(files)
        self.settings = dict(settings)
        self.system = system
        self.template = template
        self._writer = files.get(WRITER_FILE, "").strip()
        self._prompts = {}
        for kind in settings:
            name = f"{kind}.txt"
            if name not in files:
                raise ConfigError(f"turn kind {kind!r} has settings but no prompt file {name}: add the file or drop [{kind}]")
            self._prompts[kind] = _parse(name, files[name])
        self._most_tokens = None if context is None else max(context // _CONTEXT_SHARE, 1)
        self._sampling = {kind: self._make_sampling(kind, None) for kind in settings}

    def principles(self) -> list[str]:
        """Return the lines of `principles.txt`.

        Raises:
            ConfigError: there are none.
        """
        lines = [line.strip() for line in self.files.get(PRINCIPLES_FILE, "").splitlines()]
        found = [line for line in lines if line]
        if not found:
            raise ConfigError(f"{PRINCIPLES_FILE} holds no principle: write one a line")
        return found

    def sampling(self, kind: str, form: str | None) -> Sampling:
        """Return the settings of a kind of turn as the engine takes them, with a form if there is one."""
        if kind not in self.settings:
            raise ConfigError(f"turn kind {kind!r} has no settings: add [{kind}] to the settings, and {kind}.txt")
        return self._sampling[kind] if form is None else self._make_sampling(kind, form)

    def render(self, kind: str, values: Mapping[str, str]) -> list[tuple[str, bool]]:
        """Return the segments (text, trusted) of a turn of that kind.

        Raises:
            ConfigError: the prompt names a value that the scene does not give.
            TemplateError: the template cannot place the messages exactly.
        """
        prompt = self._prompts[kind]
        missing = prompt.fields - values.keys()
        if missing:
            raise ConfigError(
                f"{kind}.txt uses {{{min(missing)}}}, which this scene does not give: it gives {', '.join(sorted(values)) or 'nothing'}"
            )
        choice = self.settings[kind].system
        system = {"deployment": self.system, "writer": self._writer, "none": ""}[choice]
        messages = [Message("system", (Segment(system, trusted=True),))] if system else []
        for role, parts in prompt.messages:
            filled = (Segment(values[part], trusted=False) if isinstance(part, str) else part for part in parts)
            messages.append(Message(role, tuple(segment for segment in filled if segment.text)))
        return [(segment.text, segment.trusted) for segment in self.template.render(messages, prefill=prompt.prefill)]

    def _make_sampling(self, kind: str, form: str | None) -> Sampling:
        settings = self.settings[kind]
        for name, (low, high) in _BOUNDS.items():
            value = getattr(settings, name)
            if not low <= value <= high:
                raise ConfigError(f"settings of turn kind [{kind}]: {name} is {value}; it must be between {low} and {high}")
        try:
            return Sampling(
                min(settings.max_tokens, self._most_tokens or settings.max_tokens),
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                min_p=settings.min_p,
                repetition_penalty=settings.repetition_penalty,
                stop=list(settings.stop),
                form=form,
            )
        except MatrixError as error:
            raise ConfigError(f"settings of turn kind [{kind}]: {error}") from error


def load_files(directory: Path | None) -> dict[str, str]:
    """Return the package's prompt files, with those of `directory` in their place or beside them.

    Raises:
        ConfigError: the directory or a file in it cannot be read.
    """
    package = resources.files("matrix_py.prompts")
    files = {entry.name: entry.read_text("utf-8") for entry in package.iterdir() if entry.name.endswith(".txt")}
    if directory is not None:
        if not directory.is_dir():
            raise ConfigError(f"prompt folder {directory} does not exist: give a folder of .txt files")
        for path in sorted(directory.glob("*.txt")):
            files[path.name] = _read(path)
    return dict(sorted(files.items()))


def load_settings(directory: Path | None, config: Path | None) -> dict[str, TurnSettings]:
    """Return the package's settings, overlaid kind by kind and key by key with `directory`'s settings.toml and with `config`.

    Raises:
        ConfigError: a file cannot be read, or a setting in it is unknown or of another type.
    """
    package = resources.files("matrix_py.prompts") / SETTINGS_FILE
    tables = _tables(SETTINGS_FILE, package.read_text("utf-8"))
    overlays = [directory / SETTINGS_FILE] if directory is not None and (directory / SETTINGS_FILE).is_file() else []
    for path in [*overlays, *([config] if config is not None else [])]:
        for kind, table in _tables(str(path), _read(path)).items():
            tables[kind] = {**tables.get(kind, {}), **table}
    settings = {}
    for kind, table in sorted(tables.items()):
        try:
            settings[kind] = msgspec.convert(table, TurnSettings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"settings of turn kind [{kind}]: {error}") from error
    return settings


def _tables(name: str, text: str) -> dict[str, dict[str, object]]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not valid TOML: {error}") from error
    for kind, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: {kind!r} stands outside of a table: put it under [KIND]")
    return tables


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _parse(name: str, text: str) -> _Prompt:
    marks = list(_MESSAGE.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise ConfigError(f"{name} does not begin with a message: its first line must be '--- user'")
    messages: list[tuple[str, tuple[str | Segment, ...]]] = []
    fields: set[str] = set()
    prefill = ""
    for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
        role, body = mark.group(1), text[mark.end() : end].strip()
        if role not in ("user", "assistant"):
            raise ConfigError(f"{name} has a message of {role!r}: only user and assistant are written here")
        parts = _fields(name, body)
        fields.update(part for part in parts if isinstance(part, str))
        if role == "assistant" and end == len(text):
            if any(isinstance(part, str) for part in parts):
                raise ConfigError(f"{name} has a field in its prefill: the last assistant message must be plain text")
            prefill = "".join(part.text for part in parts if isinstance(part, Segment))
        else:
            messages.append((role, parts))
    if not messages or messages[-1][0] != "user":
        raise ConfigError(f"{name} does not end with a user message (a prefill may follow): nothing is asked")
    return _Prompt(tuple(messages), prefill, frozenset(fields))


def _fields(name: str, body: str) -> tuple[str | Segment, ...]:
    """Split at fields: a str is a field's name, a segment is trusted text."""
    parts: list[str | Segment] = []
    text, at = "", 0
    for found in _FIELD.finditer(body):
        text += body[at : found.start()]
        at = found.end()
        if found.group(1) is not None:
            parts += [Segment(text, trusted=True), found.group(1)]
            text = ""
        elif found.group() in ("{{", "}}"):
            text += found.group()[0]
        else:
            raise ConfigError(f"{name} has a single {found.group()!r}: write {found.group() * 2!r} for a brace")
    parts.append(Segment(text + body[at:], trusted=True))
    return tuple(part for part in parts if isinstance(part, str) or part.text)
