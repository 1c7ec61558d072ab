"""Scenes that a script can tell apart, by the number of the key that they ask for, and what scripts read from their prompts."""

import re

from matrix_py import _core
from matrix_py.testing.fields import fields

SCENES = [f"Where is key {number}?" for number in range(12)]


def prompt_of(turn: _core.Turn) -> str:
    """The prompt of a turn."""
    return "".join(text for text, _ in turn.segments)


def number_of(turn: _core.Turn) -> int:
    """The number of the scene that asks."""
    return int(re.findall(r"Where is key (\d+)\?", prompt_of(turn))[0])


def told(turn: _core.Turn, name: str) -> str:
    """What a field of the prompt was filled with."""
    return fields(turn)[name]


def harms(turn: _core.Turn) -> str:
    """Everything that takes place does harm, of one of three grades, and says where."""
    return f"{1 + len(turn.path) % 3}: harm at {turn.path.removesuffix('/critique')}"
