"""Prompts and turn settings as files, and their rendering into the segments of a turn.

A prompt file `KIND.txt` is a list of messages: a line `--- user` (or `--- assistant`, last, for a prefill) begins one, and `--- retry`
after them another prefill, for later attempts. `{name}` stands for a value that the scene gives; values are untrusted text and are never
read as part of the prompt. `{> NAME}` stands for the text of NAME.txt. `{{` and `}}` are braces. The system message is chosen by the
kind's settings: the deployment's (`--system`) or the writer's (`writer.txt`).

The prompts that all scenes share lie in this folder, those of a scene in the folder of its name.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import Self, TypeAlias

import msgspec

from matrix_py._core import Sampling, blake3
from matrix_py.errors import ConfigError, MatrixError, TemplateError
from matrix_py.models.chat import ChatTemplate, Message, Piece, Segment, merge
from matrix_py.types import TurnSettings

SETTINGS_FILE = "settings.toml"
WRITER_FILE = "writer.txt"
PRINCIPLES_FILE = "principles.txt"

# A budget may take at most one part in this many of the context.
_CONTEXT_SHARE = 4
# Settings of forms that are kept.
_MOST_BOUND = 1024
# Of whole numbers in settings; the core knows the bounds of the others.
_BOUNDS = {"max_tokens": (1, 2**31 - 1), "top_k": (0, 2**31 - 1), "retries": (0, 2)}

_MESSAGE = re.compile(r"^--- *(\w+) *$", re.MULTILINE)
# Doubled braces first: what they enclose is no include.
_INCLUDE = re.compile(r"\{\{|\{> *(\w+) *\}")
_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}|[{}]")

# Stands for a line of a value. A noncharacter: it belongs in no text.
_LINE = "\ufdd2"
_NEW_LINE = Segment("\n", trusted=True)

# What a field is filled with: a text, or lines, each of which becomes a segment of its own. So a list that grows is stored once a line,
# and a prompt that continues another begins with the very same tokens.
Value: TypeAlias = str | Sequence[str]
# Trusted text, and the names of fields.
_Parts: TypeAlias = tuple[str | Segment, ...]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A parsed prompt file."""

    text: str
    messages: tuple[tuple[str, _Parts], ...]
    prefill: _Parts
    retry: _Parts | None
    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Layout:
    """A prompt's messages as the template places them.

    Attributes:
        places: of each field in order, the trusted text between the one before and it, and its name.
        end: the trusted text after the last.
    """

    places: tuple[tuple[str, str], ...]
    end: str

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Self:
        """Join what is trusted between fields."""
        places, text = [], ""
        for piece in pieces:
            if isinstance(piece, Segment):
                text += piece.text
            else:
                places.append((text, piece))
                text = ""
        return cls(tuple(places), text)

    @property
    def wording(self) -> str:
        """All trusted text."""
        return "".join([*(text for text, _ in self.places), self.end])

    def fill(self, values: Mapping[str, Value]) -> list[tuple[str, bool]]:
        """Return the segments, none of them empty, no two trusted side by side. Trusted new lines part the lines of a value."""
        segments: list[tuple[str, bool]] = []
        own = ""
        for text, name in self.places:
            own += text
            value = values[name]
            for place, line in enumerate((value,) if isinstance(value, str) else value):
                if place:
                    own += "\n"
                if line:
                    if own:
                        segments.append((own, True))
                        own = ""
                    segments.append((line, False))
        own += self.end
        if own:
            segments.append((own, True))
        return segments

    def unfill(self, segments: Sequence[tuple[str, bool]]) -> list[list[Segment]] | None:
        """Return the segments of each field's value, with the new lines that part them; None if these are not such a prompt's.

        Where a value begins or ends in empty lines, these may be told to be another's, next to it. That makes no other prompt.
        """
        if any(_LINE in text for text, trusted in segments if trusted):
            return None
        found = _pattern(self).fullmatch("".join([text if trusted else _LINE for text, trusted in segments]))
        if found is None:
            return None
        said = iter([Segment(text, trusted=False) for text, trusted in segments if not trusted])
        return [[next(said) if char == _LINE else _NEW_LINE for char in value] for value in found.groups()]


@lru_cache
def _pattern(layout: _Layout) -> re.Pattern[str]:
    """Return what a prompt of a layout looks like, with a mark for each line of a value."""
    return re.compile("".join(f"{re.escape(text)}({_LINE}?(?:\n{_LINE}?)*)" for text, _ in layout.places) + re.escape(layout.end))


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
            self._prompts[kind] = _parse(name, _included(name, files))
        self._most_tokens = None if context is None else max(context // _CONTEXT_SHARE, 1)
        # By kind, and whether it is for a later attempt.
        self._layouts: dict[tuple[str, bool], _Layout] = {}
        self._wordings: dict[tuple[str, bool], str] = {}
        # Of turns under forms; most forms come up again, those of a list of names within their scene.
        self._bound: dict[tuple[str, str | None, int, tuple[str, ...]], Sampling] = {}
        self._sampling = {kind: self._make_sampling(kind, None, 1, ()) for kind in settings}
        self._template_hashes = {kind: self._hash_template(kind) for kind in settings}

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

    def sampling(self, kind: str, form: str | None, *, times: int = 1, choices: Sequence[str] = ()) -> Sampling:
        """Return the settings of a kind of turn as the engine takes them.

        Args:
            kind: the kind.
            form: a grammar that binds the completion.
            times: how many things the turn is about, each of which has the kind's budget.
            choices: two texts that the form decides between, whose log-odds are recorded.
        """
        self._known(kind)
        if form is None and times == 1:
            return self._sampling[kind]
        key = kind, form, times, tuple(choices)
        if key not in self._bound:
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            self._bound[key] = self._make_sampling(kind, form, times, choices)
        return self._bound[key]

    def attempts(self, kind: str) -> int:
        """Return how often a turn may be asked: a greedy turn once, and once more if its prompt file has a prefill for retries."""
        settings = self.settings[kind]
        different = settings.retries if settings.temperature > 0 else int(self._prompts[kind].retry is not None)
        return 1 + min(settings.retries, different)

    def fields(self, kind: str) -> frozenset[str]:
        """Return the names of the values that the kind's prompt is filled with."""
        return self._prompts[kind].fields

    def text(self, kind: str) -> tuple[str, str]:
        """Return the system prompt and the prompt file, with what it includes, of a kind of turn."""
        return self._system_of(kind), self._prompts[kind].text

    def template_hash(self, kind: str) -> bytes:
        """Return the hash of all that a turn of that kind is rendered with, except the scene's values."""
        return self._template_hashes[kind]

    def render(self, kind: str, values: Mapping[str, Value], *, retry: bool = False) -> list[tuple[str, bool]]:
        """Return the segments of a turn of that kind, each with whether it is trusted; with `retry`, under the prefill for later attempts.

        Raises:
            ConfigError: the prompt names a value that the scene does not give.
            TemplateError: the template cannot place the messages exactly.
        """
        self._known(kind)
        missing = self._prompts[kind].fields - values.keys()
        if missing:
            raise ConfigError(
                f"{kind}.txt uses {{{min(missing)}}}, which this scene does not give: it gives {', '.join(sorted(values)) or 'nothing'}"
            )
        return self._layout(kind, retry=retry).fill(values)

    def unrender(
        self, kind: str, segments: Sequence[tuple[str, bool]], *, retry: bool = False
    ) -> tuple[tuple[Message, ...], tuple[Segment, ...]]:
        """Return the messages and the prefill of a turn of that kind, from its segments: `template.render` makes those of them again.

        Raises:
            TemplateError: these are not segments of such a turn.
        """
        self._known(kind)
        values = self._layout(kind, retry=retry).unfill(segments)
        if values is None:
            raise TemplateError(f"the prompt of a turn is not what {kind}.txt makes: matrix log check says whether the log was changed")
        messages, prefill = self._parts(kind, retry=retry)
        rest = iter(values)

        def filled(parts: Sequence[Piece]) -> tuple[Segment, ...]:
            return tuple(merge(chain.from_iterable([part] if isinstance(part, Segment) else next(rest) for part in parts)))

        return tuple([Message(message.role, filled(message.parts)) for message in messages]), filled(prefill)

    def wording(self, kind: str, *, retry: bool = False) -> str:
        """Return all trusted text of a turn of that kind, without what stands between the lines of its values."""
        if (kind, retry) not in self._wordings:
            self._wordings[kind, retry] = self._layout(kind, retry=retry).wording
        return self._wordings[kind, retry]

    def _layout(self, kind: str, *, retry: bool) -> _Layout:
        """Place a prompt's messages once for all its turns: only the values differ."""
        if (kind, retry) not in self._layouts:
            messages, prefill = self._parts(kind, retry=retry)
            self._layouts[kind, retry] = _Layout.of(self.template.place(messages, prefill=prefill))
        return self._layouts[kind, retry]

    def _parts(self, kind: str, *, retry: bool) -> tuple[list[Message], _Parts]:
        """Return a prompt's messages and its prefill, with the names of their fields."""
        prompt = self._prompts[kind]
        system = self._system_of(kind)
        messages = [Message("system", (Segment(system, trusted=True),))] if system else []
        messages += [Message(role, parts) for role, parts in prompt.messages]
        return messages, prompt.retry if retry and prompt.retry is not None else prompt.prefill

    def _known(self, kind: str) -> None:
        if kind not in self.settings:
            raise ConfigError(f"turn kind {kind!r} has no settings: add [{kind}] to the settings, and {kind}.txt")

    def _system_of(self, kind: str) -> str:
        return {"deployment": self.system, "writer": self._writer, "none": ""}[self.settings[kind].system]

    def _hash_template(self, kind: str) -> bytes:
        template = (self.template.source, *self.template.tokens)
        parts = (template, self._system_of(kind), self._prompts[kind].text, self.settings[kind], self._most_tokens)
        return blake3(msgspec.json.encode(parts, order="deterministic"))

    def _make_sampling(self, kind: str, form: str | None, times: int, choices: Sequence[str]) -> Sampling:
        settings = self.settings[kind]
        for name, (low, high) in _BOUNDS.items():
            value = getattr(settings, name)
            if not low <= value <= high:
                raise ConfigError(f"settings of turn kind [{kind}]: {name} is {value}; it must be between {low} and {high}")
        budget = settings.max_tokens * times
        try:
            return Sampling(
                min(budget, self._most_tokens or budget),
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                min_p=settings.min_p,
                repetition_penalty=settings.repetition_penalty,
                stop=list(settings.stop),
                form=form,
                choices=list(choices),
            )
        except MatrixError as error:
            raise ConfigError(f"settings of turn kind [{kind}]: {error}") from error


def load_files(directory: Path | None, scene: str = "") -> dict[str, str]:
    """Return the prompt files that all scenes share and those of a scene, with the files of `directory` in their place or beside them.

    Raises:
        ConfigError: the directory or a file in it cannot be read.
    """
    entries = chain.from_iterable(folder.iterdir() for folder in _package_folders(scene))
    files = {entry.name: entry.read_text("utf-8") for entry in entries if entry.name.endswith(".txt")}
    return changed_files(files, directory)


def changed_files(files: Mapping[str, str], directory: Path | None) -> dict[str, str]:
    """Return prompt files with those of `directory` in their place or beside them.

    Raises:
        ConfigError: the directory or a file in it cannot be read.
    """
    changed = dict(files)
    if directory is not None:
        if not directory.is_dir():
            raise ConfigError(f"prompt folder {directory} does not exist: give a folder of .txt files")
        for path in sorted(directory.glob("*.txt")):
            changed[path.name] = _read(path)
    return dict(sorted(changed.items()))


def load_settings(directory: Path | None, config: Path | None, scene: str = "") -> dict[str, TurnSettings]:
    """Return the package's settings for a scene, overlaid kind by kind and key by key with `directory`'s settings.toml and with `config`.

    Raises:
        ConfigError: a file cannot be read, or a setting in it is unknown or of another type.
    """
    package = [folder / SETTINGS_FILE for folder in _package_folders(scene)]
    return _overlaid({}, [*((SETTINGS_FILE, file.read_text("utf-8")) for file in package), *_given_settings(directory, config)])


def changed_settings(settings: Mapping[str, TurnSettings], directory: Path | None, config: Path | None) -> dict[str, TurnSettings]:
    """Return settings, overlaid in the same way.

    Raises:
        ConfigError: as above.
    """
    return _overlaid({kind: msgspec.to_builtins(each) for kind, each in settings.items()}, _given_settings(directory, config))


def _given_settings(directory: Path | None, config: Path | None) -> list[tuple[str, str]]:
    """Return the names and texts of the settings files that somebody gave."""
    given = [directory / SETTINGS_FILE] if directory is not None and (directory / SETTINGS_FILE).is_file() else []
    return [(str(path), _read(path)) for path in [*given, *([config] if config is not None else [])]]


def _overlaid(tables: dict[str, dict[str, object]], sources: Sequence[tuple[str, str]]) -> dict[str, TurnSettings]:
    for name, text in sources:
        for kind, table in _tables(name, text).items():
            tables[kind] = {**tables.get(kind, {}), **table}
    settings = {}
    for kind, table in sorted(tables.items()):
        try:
            settings[kind] = msgspec.convert(table, TurnSettings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"settings of turn kind [{kind}]: {error}") from error
    return settings


def _package_folders(scene: str) -> Iterator[Traversable]:
    """What all scenes share, then what is of that scene alone, if it is one of the package's with prompts of its own."""
    package = resources.files("matrix_py.prompts")
    yield package
    if scene.isidentifier() and (package / scene / SETTINGS_FILE).is_file():
        yield package / scene


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


def _included(name: str, files: Mapping[str, str]) -> str:
    """Return a file's text with the files that it includes in their places; those include none themselves."""

    def text_of(found: re.Match[str]) -> str:
        if found.group(1) is None:
            return found.group()
        included = f"{found.group(1)}.txt"
        if included not in files:
            raise ConfigError(f"{name} includes {found.group()}, but there is no {included}: add the file, or write its text in its place")
        if any(_INCLUDE.findall(files[included])):
            raise ConfigError(f"{included}, which {name} includes, includes another file: write that one's text in its place")
        return files[included].strip()

    return _INCLUDE.sub(text_of, files[name])


def _parse(name: str, text: str) -> _Prompt:
    marks = list(_MESSAGE.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise ConfigError(f"{name} does not begin with a message: its first line must be '--- user'")
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    messages = [(mark.group(1), _fields(name, text[mark.end() : end].strip())) for mark, end in zip(marks, ends, strict=True)]
    for role, _ in messages:
        if role not in ("user", "assistant", "retry"):
            raise ConfigError(f"{name} has a message of {role!r}: only user, assistant and retry are written here")
    retry = messages.pop()[1] if messages[-1][0] == "retry" else None
    prefill = messages.pop()[1] if messages and messages[-1][0] == "assistant" else ()
    if not messages or messages[-1][0] != "user":
        raise ConfigError(f"{name} does not end with a user message (a prefill may follow, then one for a retry): nothing is asked")
    if any(role == "retry" for role, _ in messages):
        raise ConfigError(f"{name} has a retry that is not its end: move it behind the messages")
    fields = {part for part in chain(*(parts for _, parts in messages), prefill, retry or ()) if isinstance(part, str)}
    return _Prompt(text, tuple(messages), prefill, retry, frozenset(fields))


def _fields(name: str, body: str) -> _Parts:
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
