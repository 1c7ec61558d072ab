"""The forms in which rows are written for trainers."""

import enum
from collections.abc import Callable
from typing import Any

from matrix_py.dataset.row import Row, content, joined
from matrix_py.models.chat import ChatTemplate

Record = dict[str, Any]


class RowFormat(enum.StrEnum):
    """The forms in which rows are written."""

    SFT = "sft"
    """TRL's prompt and completion, as messages."""
    PROMPT = "prompt"
    """TRL's prompt and completion, as texts under the run's chat template."""
    CHAT = "chat"
    """Messages, the last of which is to be learnt."""
    FASTCHAT = "fastchat"
    """FastChat's conversations."""
    PARQUET = "parquet"
    """All that there is of a row, with the turn that it is from."""


def lines(name: RowFormat, row: Row, template: ChatTemplate) -> Record:
    """Return a row as one record; `row` and `kind` in it say which it is.

    What the assistant's message begins with belongs to what is said, where a form knows no other place for it.

    Args:
        name: any format but Parquet.
        row: the row.
        template: that of the row's run.
    """
    return {"row": row.hash.hex(), "kind": str(row.kind), **_WRITERS[name](row, template)}


def columns(row: Row, split: str) -> tuple[object, ...]:
    """Return a row as `COLUMNS` has it."""
    return (
        split,
        row.hash.hex(),
        str(row.kind),
        [{"role": message.role, "content": content(message)} for message in row.messages],
        joined(row.prefill),
        row.completion,
        row.run_id,
        row.scene.hex(),
        row.path,
        row.attempt,
    )


# Of the Parquet file: name -> type in SQL.
COLUMNS = {
    "split": "VARCHAR",
    "row": "VARCHAR",
    "kind": "VARCHAR",
    "messages": "STRUCT(role VARCHAR, content VARCHAR)[]",
    "prefill": "VARCHAR",
    "completion": "VARCHAR",
    "run_id": "VARCHAR",
    "scene": "VARCHAR",
    "path": "VARCHAR",
    "attempt": "UINTEGER",
}


def _messages(row: Row) -> list[Record]:
    return [{"role": message.role, "content": content(message)} for message in row.messages]


def _said(row: Row) -> Record:
    return {"role": "assistant", "content": joined(row.prefill) + row.completion}


def _sft(row: Row, template: ChatTemplate) -> Record:
    return {"prompt": _messages(row), "completion": [_said(row)]}


def _prompt(row: Row, template: ChatTemplate) -> Record:
    return {"prompt": joined(template.render(row.messages, prefill=row.prefill)), "completion": row.completion}


def _chat(row: Row, template: ChatTemplate) -> Record:
    return {"messages": [*_messages(row), _said(row)]}


def _fastchat(row: Row, template: ChatTemplate) -> Record:
    system = [content(message) for message in row.messages if message.role == "system"]
    said = []
    for message in [*_messages(row), _said(row)]:
        if message["role"] != "system":
            said.append({"from": "human" if message["role"] == "user" else "gpt", "value": message["content"]})
    # Its trainer skips what does not come from a human at first.
    said[0]["value"] = "\n\n".join([*system, said[0]["value"]])
    return {"id": row.hash.hex(), "conversations": said}


_WRITERS: dict[RowFormat, Callable[[Row, ChatTemplate], Record]] = {
    RowFormat.SFT: _sft,
    RowFormat.PROMPT: _prompt,
    RowFormat.CHAT: _chat,
    RowFormat.FASTCHAT: _fastchat,
}
