"""The instructions that matrix simulates, read from files or standard input."""

import base64
import csv
import enum
import gzip
import importlib
import json
import math
import os
import re
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

from matrix_py.errors import ConfigError, InputError

MULTI_TURN = "dialogue of more than one human turn"
"""The key of `Reader.dropped` that counts what `Dialogue.SINGLE` leaves out."""

_COLUMNS = ("instruction", "goal", "chosen", "turns")  # the first that a record has is read
_FORMATS = ".jsonl, .json, .csv (each also with .gz) or .parquet"
_MAX_LENGTH = 1 << 26  # a longer line or CSV field is a file without line breaks or a stray quote, not a record
_MAX_DEPTH = 64
_PARQUET_BATCH_ROWS = 1024
_KINDS = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
_EXTENSION = re.compile(r"\.(?:(jsonl|json|csv)(\.gz)?|(parquet))\Z", re.IGNORECASE)
_LABELLED = re.compile(r"([A-Za-z0-9._-]+)=(.+)", re.DOTALL)
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


class Dialogue(enum.StrEnum):
    """What becomes the instruction where a record holds a dialogue: HH-RLHF's `chosen`, or `turns`."""

    SINGLE = "single"
    """The human turn; a dialogue of more than one human turn is dropped and counted."""
    FIRST = "first"
    """The first human turn."""
    LAST_WITH_CONTEXT = "last-with-context"
    r"""The last human turn, without a prefix of its own, after all earlier turns as `Human: ...\n\nAssistant: ...\n\n`.

    `turns` holds human turns only, so there the context is `Human: ...\n\n` for each earlier one.
    """


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction to simulate.

    Attributes:
        text: the instruction, never blank; as written, save that HH-RLHF's turns lose surrounding white space.
        response: what the column `response` holds; None where it is absent, null, NaN or blank.
        label: the name of its input: NAME of `NAME=PATH`, else the file's name without extension, else `stdin`.
        row: 0-based row in its input, counted before drops; empty lines are no rows.
        meta: all other columns, ready for JSON. `chosen` and `turns` stay in it; HarmfulQA's topic and subtopic are in
            it. What JSON cannot hold everywhere travels as text: non-finite floats (`NaN`, `Infinity`, `-Infinity`),
            integers beyond 64 bits, and Parquet's dates and times (ISO 8601), decimals and bytes (base64).
    """

    text: str
    response: str | None
    label: str
    row: int
    meta: dict[str, Any]


class Reader:
    """Yields the instructions of all inputs in order and lazily: .jsonl, .csv and .parquet are streamed.

    An input is a path that ends in .jsonl, .json, .csv (each also with .gz) or .parquet, `NAME=PATH` to label it, or
    `-` for JSON lines on standard input. A .json file is a list of objects or HarmfulQA's topic -> subtopic -> list of
    questions; its text is held in memory. What exists as a path is a path, whatever `=` it contains.

    Args:
        inputs: at least one input; `-` at most once.
        dialogue: which turns of a dialogue become the instruction.
        limit: the most instructions to yield, over all inputs together; None for all.
        stdin: what `-` reads; `sys.stdin.buffer` by default. Never closed.

    Attributes:
        dropped: reasons -> counts of the records that the last iteration met and left out.

    Raises:
        InputError: no input, or `-` twice; while iterating, all that `check` finds.
        ConfigError: a negative limit.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        dialogue: Dialogue = Dialogue.SINGLE,
        limit: int | None = None,
        stdin: IO[bytes] | None = None,
    ) -> None:
        if limit is not None and limit < 0:
            raise ConfigError(f"limit {limit} is negative; give 0 or more")
        if not inputs:
            raise InputError(f"no input is given; name a file ({_FORMATS}), or - for standard input")
        self._sources = [_source(given, stdin) for given in inputs]
        if sum(source.path is None for source in self._sources) > 1:
            raise InputError("input '-' is given twice; standard input can be read only once")
        self._dialogue = dialogue
        self._limit = limit
        self._count: int | None = None
        self.dropped: dict[str, int] = {}

    def __iter__(self) -> Iterator[Instruction]:
        self.dropped = {}
        num_found = 0
        for source in self._sources:
            if num_found == self._limit:
                return
            for found in source.read(self._dialogue):
                if isinstance(found, str):
                    self.dropped[found] = self.dropped.get(found, 0) + 1
                    continue
                yield found
                num_found += 1
                if num_found == self._limit:
                    return

    def check(self) -> None:
        """Read the files as a run will, so that bad input is found before anything is written.

        Every file is opened and its first record read; further records only until `limit` instructions are found, for
        a run reads no more. Standard input is left alone and adds nothing towards the limit.

        Raises:
            InputError: a file is missing, a folder, unreadable, empty, of an unknown extension, broken, not UTF-8 or
                without an instruction column; a record does not parse, or its instruction is no string or blank.
        """
        num_found = 0
        for source in self._sources:
            if source.path is None:
                continue
            for found in source.read(self._dialogue):
                num_found += isinstance(found, Instruction)
                if self._limit is not None and num_found >= self._limit:
                    break
        self._count = num_found if self._limit is None else min(num_found, self._limit)

    def count(self) -> int | None:
        """How many instructions iteration yields: free after `check`, else its pass; None with standard input.

        Raises:
            InputError: as `check`.
        """
        if any(source.path is None for source in self._sources):
            return None
        if self._count is None:
            self.check()
        return self._count


class _UnusableError(ValueError):
    """Why a value cannot be used, as the end of a sentence; `_Source` adds where it stands."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One input and its format; `path` is None for standard input. Knows nothing of limits and counts."""

    label: str
    path: Path | None
    stdin: IO[bytes] | None

    def read(self, dialogue: Dialogue) -> Iterator[Instruction | str]:
        """Each record in order, as an instruction or as the reason why it is dropped."""
        row = 0
        for where, record in self._records():
            if not isinstance(record, dict):
                raise self._error(f"the record is no object but {_kind(record)}", 'write {"instruction": ...}', where)
            column = next((name for name in _COLUMNS if name in record), None)
            if column is None:
                found = ", ".join(repr(name[:40]) for name in list(record)[:12]) or "none"
                remedy = f"accepted are {', '.join(_COLUMNS)}"
                raise self._error(f"no instruction column among those found: {found}", remedy, where)
            # A dialogue stays in meta whole, for only a part of it becomes the text.
            moved = {"response"} if column in ("chosen", "turns") else {"response", column}
            name, meta = column, {}
            try:
                text = _text(column, record[column], dialogue)
                name = "response"
                response = _response(record.get(name))
                for name, value in record.items():
                    if name not in moved:
                        meta[_storable(name)] = _plain(value)
            except _UnusableError as error:
                raise self._error(f"column {name[:40]!r} {error}", "correct or remove the record", where) from None
            yield MULTI_TURN if text is None else Instruction(text, response, self.label, row, meta)
            row += 1
        if row == 0:
            raise self._error("holds no record", "fill it or leave it out")

    def _records(self) -> Iterator[tuple[str, Any]]:
        """Each record with the words that say where it stands."""
        if self.path is None:
            return self._jsonl()
        try:
            status = self.path.stat()
        except (OSError, ValueError) as error:
            hint = "; a label before = holds only A-Z a-z 0-9 . _ -" if "=" in str(self.path) else ""
            raise self._error(f"no such file ({_one_line(error)})", f"check the path{hint}") from None
        if stat.S_ISDIR(status.st_mode):
            raise self._error("is a folder", "name the files in it")
        if not stat.S_ISREG(status.st_mode):
            raise self._error("is no regular file", "pipe JSON lines into - instead")
        extension = _EXTENSION.search(self.path.name)
        if extension is None:
            raise self._error(f"unknown extension {self.path.suffix!r}", f"name it {_FORMATS}")
        if status.st_size == 0:
            raise self._error("is empty", "fill it or leave it out")
        readers = {"jsonl": self._jsonl, "json": self._json, "csv": self._csv, "parquet": self._parquet}
        return readers[(extension[1] or extension[3]).lower()]()

    def _jsonl(self) -> Iterator[tuple[str, Any]]:
        for line, text in self._lines():
            if stripped := text.strip(" \t\r\n"):
                with self._parsing(line):
                    record = _DECODER.decode(stripped)
                yield f"line {line}", record

    def _json(self) -> Iterator[tuple[str, Any]]:
        with self._open() as file:
            text = self._decoded(file.read(), 1)
        line, counted, at = 1, 0, _past_space(text, 0)
        if not text.startswith("[", at):
            with self._parsing(line):
                topics = _DECODER.decode(text)
            yield from self._questions(topics)
            return
        # Element by element, so that each record has its line and only the text is held.
        at = _past_space(text, at + 1)
        closed = text.startswith("]", at)
        while not closed:
            line, counted = line + text.count("\n", counted, at), at
            with self._parsing(line):
                record, at = _DECODER.raw_decode(text, at)
                at = _past_space(text, at)
                closed = text.startswith("]", at)
                if not closed and not text.startswith(",", at):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            yield f"line {line}", record
            at = at if closed else _past_space(text, at + 1)
        with self._parsing(line):
            if (at := _past_space(text, at + 1)) < len(text):
                raise json.JSONDecodeError("Extra data", text, at)

    def _questions(self, topics: Any) -> Iterator[tuple[str, Any]]:
        remedy = "a .json file is a list of objects or topic -> subtopic -> list of questions; JSON lines are .jsonl"
        if not isinstance(topics, dict) or not all(isinstance(subtopics, dict) for subtopics in topics.values()):
            raise self._error("is neither a list of objects nor HarmfulQA's topics", remedy)
        for topic, subtopics in topics.items():
            for subtopic, questions in subtopics.items():
                where = f"topic {topic[:40]!r}, subtopic {subtopic[:40]!r}"
                if not isinstance(questions, list):
                    raise self._error(f"no list of questions but {_kind(questions)}", remedy, where)
                for number, question in enumerate(questions, 1):
                    record = {"instruction": question, "topic": topic, "subtopic": subtopic}
                    yield f"{where}, question {number}", record

    def _csv(self) -> Iterator[tuple[str, Any]]:
        # Strict, for otherwise a stray quote silently swallows the rest of the file.
        rows = csv.reader((text for _, text in self._lines()), strict=True)
        header: list[str] = []
        while True:
            where = f"line {rows.line_num + 1}"
            try:
                with _long_fields():
                    fields = next(rows, None)
            except csv.Error as error:
                raise self._error(f"broken CSV ({error})", "check its quotes", where) from None
            if fields is None:
                return
            if not fields:
                continue
            if not header:
                header = fields
                self._check_columns(header)
            elif len(fields) != len(header):
                problem = f"{len(fields)} fields where the header has {len(header)}"
                raise self._error(problem, "quote fields that hold commas or line breaks", where)
            else:
                yield where, dict(zip(header, fields, strict=True))

    def _parquet(self) -> Iterator[tuple[str, Any]]:
        try:
            pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise self._error("Parquet needs pyarrow", "pip install pyarrow") from None
        row = 0
        with self._open() as file:
            try:
                # Without the buffer ahead, which would hold every row group and read on after the file is closed.
                table = parquet.ParquetFile(file, pre_buffer=False)
                self._check_columns(table.schema_arrow.names)
                for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                    for record in batch.to_pylist():
                        yield f"row {row} (from 0)", record
                        row += 1
            except (pyarrow.ArrowException, ValueError, OverflowError, OSError) as error:
                raise self._error(f"broken Parquet from row {row} on ({_one_line(error)})", "write it again") from None

    def _check_columns(self, names: list[str]) -> None:
        if twice := [name for name, num in Counter(names).items() if num > 1]:
            raise self._error(f"column {twice[0][:40]!r} stands twice in the header", "rename one")

    def _lines(self) -> Iterator[tuple[int, str]]:
        with self._open() as file:
            for line in count(1):
                raw = file.readline(_MAX_LENGTH + 1)
                if not raw:
                    return
                if len(raw) > _MAX_LENGTH:
                    problem = f"is longer than {_MAX_LENGTH >> 20} MiB"
                    raise self._error(problem, "write one record a line", f"line {line}")
                yield line, self._decoded(raw, line)

    def _decoded(self, raw: bytes, line: int) -> str:
        """Bytes that start at a line, as text without byte order mark."""
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            line += raw.count(b"\n", 0, error.start)
            raise self._error(f"not UTF-8 ({error.reason})", "save it as UTF-8", f"line {line}") from None
        if "\0" in text:
            line += text.count("\n", 0, text.index("\0"))
            raise self._error("a NUL byte", "remove it", f"line {line}")
        return text.removeprefix("\ufeff") if line == 1 else text

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        try:
            if self.path is None:
                yield self.stdin or sys.stdin.buffer
                return
            with gzip.open(self.path) if self.path.suffix.lower() == ".gz" else self.path.open("rb") as file:
                yield cast("IO[bytes]", file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise self._error(f"broken gzip ({_one_line(error)})", "compress or fetch it again") from None
        except OSError as error:
            raise self._error(f"cannot be read ({_one_line(error)})", "check the file and its permissions") from None

    @contextmanager
    def _parsing(self, line: int) -> Iterator[None]:
        try:
            yield
        except json.JSONDecodeError as error:
            # Within JSON lines the parser's own line is always 1; within a whole .json it is the later one.
            where = f"line {max(line, error.lineno)}, column {error.colno}"
            remedy = "one record a line is a .jsonl file" if error.msg == "Extra data" else "correct or remove it"
            raise self._error(f"broken JSON ({error.msg})", remedy, where) from None
        except (RecursionError, ValueError) as error:
            problem = "JSON nested too deeply" if isinstance(error, RecursionError) else f"unusable JSON ({error})"
            raise self._error(problem, "correct or remove the record", f"line {line}") from None

    def _error(self, problem: str, remedy: str, where: str = "") -> InputError:
        name = "standard input" if self.path is None else f"input {str(self.path)!r}"
        return InputError(f"{name}{', ' if where else ''}{where}: {problem}; {remedy}")


def _source(given: str, stdin: IO[bytes] | None) -> _Source:
    labelled = None if _exists(given) else _LABELLED.fullmatch(given)
    label, place = labelled.groups() if labelled else (None, given)
    if place == "-":
        return _Source(label or "stdin", None, stdin)
    # A name of bytes that are not UTF-8 must not make a label that no log can hold.
    name = os.fsencode(Path(place).name).decode(errors="replace")
    return _Source(label or _EXTENSION.sub("", name), Path(place), None)


def _exists(path: str) -> bool:
    try:
        Path(path).stat()
    except (OSError, ValueError):
        return False
    return True


def _text(column: str, value: Any, dialogue: Dialogue) -> str | None:
    """The instruction's text; None where the dialogue is dropped."""
    if column == "chosen":
        before, *parts = _SPEAKER.split(_string(value))
        turns = [(speaker, text.strip()) for speaker, text in zip(parts[::2], parts[1::2], strict=True)]
        if before or not turns or turns[0][0] != "Human":
            raise _UnusableError("is no dialogue that starts with 'Human:', each turn after an empty line")
    elif column == "turns":
        if not isinstance(value, list) or not value:
            raise _UnusableError("holds no turn" if value == [] else f"is no list of turns but {_kind(value)}")
        turns = [("Human", _string(turn)) for turn in value]
    else:
        turns = [("Human", _string(value))]
    humans = [at for at, (speaker, _) in enumerate(turns) if speaker == "Human"]
    if dialogue == Dialogue.SINGLE and len(humans) > 1:
        return None
    at = humans[-1] if dialogue == Dialogue.LAST_WITH_CONTEXT else 0
    if not turns[at][1].strip():
        raise _UnusableError("is blank" if len(turns) == 1 else "has a blank human turn")
    return "".join(f"{speaker}: {text}\n\n" for speaker, text in turns[:at]) + turns[at][1]


def _response(value: Any) -> str | None:
    # NaN is how data frames write a missing cell.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = _string(value)
    return text if text.strip() else None


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _UnusableError(f"is no string but {_kind(value)}")
    return _storable(value)


def _storable(text: str) -> str:
    if "\0" in text:
        raise _UnusableError("holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _UnusableError("holds a lone surrogate, which UTF-8 cannot encode") from None
    return text


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as any JSON writer takes it (see `Instruction.meta`)."""
    if depth > _MAX_DEPTH:
        raise _UnusableError(f"is nested deeper than {_MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if isinstance(value, dict):
        return {_storable(str(name)): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "an object" if isinstance(value, dict) else type(value).__name__)


def _past_space(text: str, at: int) -> int:
    found = _JSON_SPACE.match(text, at)
    return found.end() if found else at


def _one_line(error: Exception) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join("".join(char if char.isprintable() else " " for char in reason).split())[:160]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(name for name, num in Counter(name for name, _ in pairs).items() if num > 1)
        raise ValueError(f"key {twice[:40]!r} stands twice in an object")
    return record


@contextmanager
def _long_fields() -> Iterator[None]:
    # The limit belongs to the process, so it is raised only while a row is read.
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, _MAX_LENGTH))
    try:
        yield
    finally:
        csv.field_size_limit(before)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
