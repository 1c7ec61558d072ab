"""Reads from a turn's prompt what the scene filled in, whatever the words around it are: what a scripted model answers by."""

import re
from functools import lru_cache

from matrix_py import _core
from matrix_py.prompts import load_files


def fields(turn: _core.Turn, scene: str = "matrix", *, around: tuple[str, str] = ("", "")) -> dict[str, str]:
    """Return the fields of a prompt, each as one text. A turn asked again, under another prefill, will do as well.

    Args:
        turn: a turn of that scene with the package's prompts.
        scene: name of the scene.
        around: what the chat template has directly before and after the user's message: needed where a field begins or ends a prompt.

    Raises:
        ValueError: the prompt is not that of the turn's kind.
    """
    names, pattern = _pattern(turn.kind, scene, around)
    found = pattern.search("".join(text for text, _ in turn.segments))
    if found is None:
        raise ValueError(f"the prompt of {turn.path} is not that of {turn.kind}.txt")
    return dict(zip(names, found.groups(), strict=True))


@lru_cache
def _pattern(kind: str, scene: str, around: tuple[str, str]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    files = load_files(None, scene)
    text = re.sub(r"\{> *(\w+) *\}", lambda found: files[f"{found.group(1)}.txt"].strip(), files[f"{kind}.txt"])
    user = re.split(r"^--- *\w+ *$", text, flags=re.MULTILINE)[1].strip()
    literals_and_names = re.split(r"\{(\w+)\}", user)
    names = tuple(literals_and_names[1::2])
    literals = [re.escape(literal.replace("{{", "{").replace("}}", "}")) for literal in literals_and_names[::2]]
    return names, re.compile(re.escape(around[0]) + "(.*?)".join(literals) + re.escape(around[1]), re.DOTALL)
