"""Reads from a turn's prompt what the scene filled in, whatever the words around it are."""

import re
from functools import lru_cache

from matrix_py import _core
from matrix_py.prompts import load_files


def fields(turn: _core.Turn, scene: str = "matrix") -> dict[str, str]:
    """Return the fields of a prompt of that scene, each as one text. A turn asked again, under another prefill, will do as well."""
    names, pattern = _pattern(turn.kind, scene)
    found = pattern.search("".join(text for text, _ in turn.segments))
    assert found is not None, f"the prompt of {turn.path} is not that of {turn.kind}.txt"
    return dict(zip(names, found.groups(), strict=True))


@lru_cache
def _pattern(kind: str, scene: str) -> tuple[tuple[str, ...], re.Pattern[str]]:
    files = load_files(None, scene)
    text = re.sub(r"\{> *(\w+) *\}", lambda found: files[f"{found.group(1)}.txt"].strip(), files[f"{kind}.txt"])
    user = re.split(r"^--- *\w+ *$", text, flags=re.MULTILINE)[1].strip()
    literals_and_names = re.split(r"\{(\w+)\}", user)
    names = tuple(literals_and_names[1::2])
    literals = [re.escape(literal.replace("{{", "{").replace("}}", "}")) for literal in literals_and_names[::2]]
    return names, re.compile("(.*?)".join(literals), re.DOTALL)
