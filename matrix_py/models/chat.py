"""Chat templates: from messages to the segments of a prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from matrix_py.errors import TemplateError
from matrix_py.models.hub import printable

BUILT_INS = ("chatml", "gemma", "llama-2", "llama-3", "mistral", "phi-3", "plain", "vicuna")
METADATA_KEY = "tokenizer.chat_template"

MAX_SOURCE_BYTES = 256 * 1024
# Of one rendering: loop rounds and calls; characters. Real templates stay far below both.
_MAX_STEPS = 50_000
_COUNT_ROUNDS = "matrix_count_rounds"
_MAX_CHARS = 4 * 1024 * 1024

# The date that the templates of Llama 3.x fall back to. A clock would make a prompt differ from day to day.
_TODAY = datetime(2024, 7, 26)

# Noncharacters: they belong in no text, no filter trims them, and what a template does to them shows at once.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_PLACEHOLDER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class Segment(NamedTuple):
    """A piece of a prompt, tokenised by itself.

    Attributes:
        text: the text, as it stands in the prompt.
        trusted: matrix or the template wrote it: texts of special tokens in it become special tokens. In what users and
            models wrote they never do.
    """

    text: str
    trusted: bool


# A segment, or the name of a field that whoever asked for the layout fills in.
Piece: TypeAlias = Segment | str


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says.

    Attributes:
        role: `system`, `user` or `assistant`.
        parts: the content, in order; names of fields for `place` only.
    """

    role: str
    parts: tuple[Piece, ...]


_BLANK_LINE = Segment("\n\n", trusted=True)


class ChatTemplate:
    """A model's chat template, rendered so that no content can pass for a part of the template.

    The template never sees the content. It renders one placeholder a message, and the content takes its place
    afterwards, untouched: code and special tokens in it stay text, and a filter such as `trim` does not apply to it.

    Templates come from model files, so they run in jinja's sandbox, without clock and chance, and within bounds on
    source, steps and output. What memory a hostile template takes within those is not bounded.
    """

    def __init__(self, source: str, *, name: str, bos_token: str = "", eos_token: str = "") -> None:
        """Compile a template.

        Args:
            source: the jinja source, at most 256 KiB.
            name: what errors call it.
            bos_token: text of the token that begins a text, for templates that write it.
            eos_token: text of the token that ends a text.

        Raises:
            TemplateError: the source is too long or does not parse.
        """
        self.source = source
        self.name = name
        self.is_plain = False
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._layouts: dict[tuple[str, ...], tuple[Segment | int, ...]] = {}
        size = len(source.encode("utf-8", errors="replace"))
        if size > MAX_SOURCE_BYTES:
            raise self._error(f"is {size} bytes long", f"use one of at most {MAX_SOURCE_BYTES} bytes")
        self._sandbox = _Sandbox()
        try:
            self._template = self._sandbox.compile_bounded(source)
        except Exception as error:
            raise self._error(f"does not parse: {_describe(error)}") from error

    @classmethod
    def plain(cls, *, bos_token: str = "", eos_token: str = "") -> ChatTemplate:
        """Return the fallback for models without a template: headings in plain text."""
        template = cls(_built_in("plain"), name="plain", bos_token=bos_token, eos_token=eos_token)
        template.is_plain = True
        return template

    @cached_property
    def folds_system(self) -> bool:
        """Whether system messages become the beginning of the first user message, followed by a blank line.

        So it is where the template refuses or drops them, or moves them behind another message, as Mistral's may.
        The template is tried on two short dialogues, with and without a system message: the answer depends on the
        template alone, not on what was rendered before.
        """
        dialogues = (("user",), ("user", "assistant", "user"))
        return any(not self._fits(("system", *roles)) and self._fits(roles) for roles in dialogues)

    @property
    def tokens(self) -> tuple[str, str]:
        """What the template may write for the tokens that begin and end a text."""
        return self._tokens["bos_token"], self._tokens["eos_token"]

    def render(self, messages: Sequence[Message], *, prefill: str | Sequence[Segment] = "") -> tuple[Segment, ...]:
        """Return the prompt that asks for the next message of the assistant.

        Args:
            messages: the dialogue so far.
            prefill: what the answer is to begin with: trusted text, or segments.

        Returns:
            Segments that are not empty; two neighbours are never both trusted.

        Raises:
            TemplateError: the template refuses these messages, or leaves out, repeats, reorders or cuts their content.
        """
        pieces = self.place(messages, prefill=[Segment(prefill, trusted=True)] if isinstance(prefill, str) else prefill)
        return tuple(merge(piece for piece in pieces if isinstance(piece, Segment)))

    def place(self, messages: Sequence[Message], *, prefill: Sequence[Piece] = ()) -> list[Piece]:
        """Return the pieces of a prompt in order, the template's own between the messages' parts: what `render` joins.

        Raises:
            TemplateError: as for `render`.
        """
        if any(message.role == "system" for message in messages) and self.folds_system:
            messages = self._fold(messages)
        pieces: list[Piece] = []
        for item in self._layout(tuple([message.role for message in messages])):
            pieces += messages[item].parts if isinstance(item, int) else (item,)
        return [*pieces, *prefill]

    def _fold(self, messages: Sequence[Message]) -> list[Message]:
        head = [part for message in messages if message.role == "system" for part in (*message.parts, _BLANK_LINE)]
        rest = [message for message in messages if message.role != "system"]
        at = next((at for at, message in enumerate(rest) if message.role == "user"), None)
        if at is None:
            raise self._error("has no place for a system message", "put a user message after it")
        rest[at] = Message("user", (*head, *rest[at].parts))
        return rest

    def _fits(self, roles: tuple[str, ...]) -> bool:
        try:
            self._layout(roles)
        except TemplateError:
            return False
        return True

    def _layout(self, roles: tuple[str, ...]) -> tuple[Segment | int, ...]:
        """Return the template's own texts and, between them, the places of the messages by their index."""
        if roles not in self._layouts:
            self._layouts[roles] = self._split(roles, self._render_text(roles))
        return self._layouts[roles]

    def _render_text(self, roles: tuple[str, ...]) -> str:
        messages = [{"role": role, "content": f"{_OPEN}{at}{_CLOSE}"} for at, role in enumerate(roles)]
        try:
            return self._sandbox.render_bounded(
                self._template,
                messages=messages,
                add_generation_prompt=True,
                enable_thinking=False,
                tools=None,
                documents=None,
                **self._tokens,
            )
        except Exception as error:  # a template can raise anything that Python can
            raise self._error(f"cannot render {', '.join(roles)}: {_describe(error)}") from error

    def _split(self, roles: tuple[str, ...], text: str) -> tuple[Segment | int, ...]:
        pieces = _PLACEHOLDER.split(text)
        own, found = pieces[::2], pieces[1::2]
        for at, role in enumerate(roles):
            count = found.count(str(at))
            if count != 1:
                what = "repeats" if count else "leaves out"
                raise self._error(f"{what} message {at + 1} ({role}) of {', '.join(roles)}")
        if found != [str(at) for at in range(len(roles))]:
            raise self._error(f"reorders the messages {', '.join(roles)}")
        if any(mark in text for text in own for mark in (_OPEN, _CLOSE)):
            raise self._error(f"cuts into the content of {', '.join(roles)}")
        layout: list[Segment | int] = [Segment(own[0], trusted=True)]
        for at, following in enumerate(own[1:]):
            layout += [at, Segment(following, trusted=True)]
        return tuple(layout)

    def _error(self, what: str, remedy: str = "choose another chat template") -> TemplateError:
        return TemplateError(f"chat template {self.name!r} {what}; {remedy}")


def load(metadata: Mapping[str, str], *, override: str | None, bos_token: str, eos_token: str) -> ChatTemplate:
    """Return the chat template of a model.

    Args:
        metadata: the metadata of its GGUF.
        override: the name of a built-in template or the path of a jinja file, to use instead of the model's own.
        bos_token: text of the token that begins a text, or empty.
        eos_token: text of the token that ends a text, or empty.

    Returns:
        The override; else the template in the metadata; else the plain one.

    Raises:
        TemplateError: there is no such built-in template or file, it cannot be read, is too long or does not parse.
    """
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    own = metadata.get(METADATA_KEY, "")
    if override == "plain" or (override is None and not own.strip()):
        return ChatTemplate.plain(**tokens)
    if override is None:
        return ChatTemplate(own, name=METADATA_KEY, **tokens)
    source = _built_in(override) if override in BUILT_INS else _read_file(override)
    return ChatTemplate(source, name=override, **tokens)


def _built_in(name: str) -> str:
    return files(__package__).joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")


def _read_file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            source = file.read(MAX_SOURCE_BYTES + 1)  # the byte too many makes the constructor refuse a longer file
        return source.decode("utf-8", errors="replace" if len(source) > MAX_SOURCE_BYTES else "strict")
    except UnicodeDecodeError:
        msg = f"chat template {path!r} is not UTF-8: save it as UTF-8"
        raise TemplateError(msg) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"chat template {path!r} cannot be read ({reason}): name a jinja file, or one of {', '.join(BUILT_INS)}"
        raise TemplateError(msg) from None


def merge(pieces: Iterable[Segment]) -> list[Segment]:
    """Drop empty segments and join trusted neighbours."""
    merged: list[Segment] = []
    pending = ""
    for piece in pieces:
        text, trusted = piece
        if trusted:
            pending += text
        elif text:
            if pending:
                merged.append(Segment(pending, trusted=True))
                pending = ""
            merged.append(piece)
    if pending:
        merged.append(Segment(pending, trusted=True))
    return merged


def _describe(error: Exception) -> str:
    line = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    return printable(str(error) or type(error).__name__) + line


class _Generation(Extension):
    """`{% generation %}`, which marks what the assistant wrote, for training: here only its body counts."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it as an attribute of instances

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment that `transformers` gives to templates, without clock and chance, with a count of steps."""

    # These let one line take all memory or all time, some even while it is compiled.
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation])
        self._steps = 0
        del self.globals["lipsum"], self.filters["random"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _TODAY.strftime}
        self.filters |= {"tojson": partial(json.dumps, ensure_ascii=False), _COUNT_ROUNDS: self._count_rounds}

    def compile_bounded(self, source: str) -> jinja2.Template:
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNT_ROUNDS, [], [], None, None, lineno=loop.lineno)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def render_bounded(self, template: jinja2.Template, **variables: Any) -> str:
        self._steps = 0
        chunks: list[str] = []
        num_chars = 0
        for chunk in template.generate(**variables):
            chunks.append(chunk)
            num_chars += len(chunk)
            if num_chars > _MAX_CHARS:
                msg = f"it writes more than {_MAX_CHARS} characters"
                raise SecurityError(msg)
        return "".join(chunks)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._spend()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            msg = f"operator {operator} on these operands is not available to templates"
            raise SecurityError(msg)
        return super().call_binop(context, operator, left, right)

    def _count_rounds(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._spend()
            yield item

    def _spend(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            msg = f"it takes more than {_MAX_STEPS} steps"
            raise SecurityError(msg)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
