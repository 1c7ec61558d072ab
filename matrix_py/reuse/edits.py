"""Edits: what a turn is made to say in the place of what it said. Each is a function of the recorded text, and of nothing else."""

import re
from collections.abc import Sequence

from matrix_py import _core
from matrix_py.errors import ConfigError
from matrix_py.scene import forms
from matrix_py.scene.quote import Quote
from matrix_py.store import RecordedScene
from matrix_py.types import Edit

# The lists that a cast is made of, and the turns about an action that an edit may be about.
ROLE_LISTS = ("cast/roles", "cast/public")
_ABOUT = {"verdict": "feasible", "drop_critique": "critique"}
_VERDICT = re.compile(r"(?P<reason>.*)\nVerdict: (?P<verdict>yes|no)", re.DOTALL)
_VERDICT_FIRST = re.compile(r"(?P<verdict>yes|no): (?P<reason>.*)", re.DOTALL)


def check_edit(edit: Edit) -> Edit:
    """Return an edit with the turn's own path where it names the action that the turn is about.

    Raises:
        ConfigError: it cannot be made, whatever the turn said.
    """
    if not edit.at:
        raise ConfigError(f"--at is missing: give the path of the turn that --set {edit.do}=... is about, as matrix show prints it")
    if "#" in edit.at:
        raise ConfigError(f"--at is {edit.at!r}: an edit is about all attempts of a turn: give {edit.at.partition('#')[0]!r}")
    if edit.do == "verdict" and edit.value not in forms.VERDICTS:
        raise ConfigError(f"--set verdict is {edit.value!r}: give yes or no")
    if edit.do == "remove_role" and not edit.value.strip():
        raise ConfigError("--remove-role is empty: give the name of a role")
    if edit.do == "profile":
        _profile_lines(edit.value)
    about = _ABOUT.get(edit.do)
    if about is not None and edit.at.rpartition("/")[2] != about:
        return Edit(at=f"{edit.at}/{about}", do=edit.do, value=edit.value, scene=edit.scene)
    return edit


def said_instead(edit: Edit, recorded: str) -> str | None:
    """Return what a turn says by an edit in the place of what is recorded; None where there is nothing to change.

    Raises:
        ConfigError: what is recorded cannot be changed so.
    """
    match edit.do:
        case "text":
            text: str | None = edit.value
        case "verdict":
            text = _with_verdict(recorded, edit.value)
        case "profile":
            text = _with_lines(recorded, _profile_lines(edit.value))
        case "remove_role":
            text = _without_name(recorded, edit.value)
        case "drop_critique":
            text = forms.NONE
    return None if text == recorded else text


class Edits:
    """The edits of a run, found by the turn that they are about."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        """Take edits.

        Raises:
            ConfigError: two of them are about one turn, or one cannot be made.
        """
        self.edits = [check_edit(edit) for edit in edits]
        self._at = {(edit.scene, edit.at): edit for edit in self.edits}
        if len(self._at) < len(self.edits):
            twice = next(edit.at for edit in self.edits if self._at[edit.scene, edit.at] is not edit)
            raise ConfigError(f"turn {twice} is changed twice: give one change a turn")
        # By the scene that they are for.
        self._places: dict[str, list[int]] = {}
        for place, edit in enumerate(self.edits):
            self._places.setdefault(edit.scene, []).append(place)

    def matching(self, scene: bytes, held: RecordedScene) -> list[int]:
        """Return the places in the list of the edits that change something of what is recorded of a scene."""
        return [
            place
            for place in self._places.get("", []) + self._places.get(scene.hex(), [])
            if (recorded := held.last(self.edits[place].at)) and said_instead(self.edits[place], recorded.text.strip()) is not None
        ]

    def answer(self, turn: _core.Turn, held: RecordedScene) -> _core.Completion | None:
        """Return what a turn says by the edit that is about it; None where there is none, or nothing to change.

        Raises:
            ConfigError: the turn's form does not allow it.
        """
        edit = self._at.get((turn.scene.hex(), turn.path)) or self._at.get(("", turn.path))
        if edit is None:
            return None
        recorded = held.last(turn.path)
        if recorded is None and edit.do != "text":
            return None
        text = said_instead(edit, recorded.text.strip() if recorded is not None else "")
        if text is None:
            return None
        form = turn.sampling.form
        if form is None and edit.do == "drop_critique":
            raise ConfigError(f"turn {turn.name} has no form to say that there is no harm: critiques are dropped in scene 'matrix' only")
        if form is not None and not _core.form_accepts(form, text):
            raise ConfigError(
                f"what turn {turn.name} of scene {turn.scene.hex()[:12]} is to say ({len(text)} characters) does not fill its form: "
                f"matrix show RUN {turn.scene.hex()[:12]} --turn {turn.path} shows what does"
            )
        return _core.Completion(turn, text=text, finish="eos" if form is None else "form", source="edited")


def _with_verdict(recorded: str, verdict: str) -> str | None:
    if found := _VERDICT.fullmatch(recorded):
        return f"{found['reason']}\nVerdict: {verdict}"
    if found := _VERDICT_FIRST.fullmatch(recorded):
        return f"{verdict}: {found['reason']}"
    return None


def _profile_lines(value: str) -> dict[str, str]:
    """Return the lines of a profile by their names. They are parted by `;` or a line's end."""
    parts = [part.strip() for part in re.split(r"[;\n]", value) if part.strip()]
    lines = dict(part.split(": ", 1) for part in parts if ": " in part)
    if not parts or len(lines) != len(parts):
        raise ConfigError(f"--set profile is {value!r}: give lines such as 'Traits: patient; Status: retired'")
    return lines


def _with_lines(recorded: str, lines: dict[str, str]) -> str | None:
    names = [line.partition(": ")[0] for line in recorded.split("\n")]
    unknown = next((name for name in lines if name not in names), None)
    if unknown is not None:
        raise ConfigError(f"--set profile has a line {unknown!r}: the lines of this profile are {', '.join(names)}")
    return "\n".join(f"{name}: {lines[name]}" if name in lines else line for name, line in zip(names, recorded.split("\n"), strict=True))


def _without_name(recorded: str, name: str) -> str | None:
    listed = forms.read_names(Quote(recorded), besides=[])
    kept = forms.read_names(Quote(recorded), besides=[name])
    if len(kept) == len(listed):
        return None
    # A list names at least one; `nobody` is read as no role.
    return "\n".join(kept) or forms.NOBODY
