"""A detector: a pure function of a turn's text, and of what it needs beside it, with a name and a version."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from matrix_py.scene.flaws import clean


@dataclass(frozen=True, slots=True)
class Subject:
    """A text to be judged, and what detectors need beside it.

    Attributes:
        text: a completion.
        kind: what its turn was for.
        in_world: whether it is part of the scene's world: the turn ran under the simulation writer's system prompt.
        instruction: what the scene is about.
        response: the scene's first response; empty where there is none.
        roles: names of the scene's roles.
        prompt: the prompt file of the kind, in whose language a model may answer, too; empty where it is not known.
        is_form: whether a form bound it: it is read line by line then.
        earlier: texts of earlier turns of that kind in the scene, each as `fold` returns it.
    """

    text: str
    kind: str
    in_world: bool
    instruction: str
    response: str = ""
    roles: tuple[str, ...] = ()
    prompt: str = ""
    is_form: bool = False
    earlier: Collection[str] = ()

    def lines(self) -> list[str]:
        """Return what is judged each for itself: the lines of a form, else the whole text without the thoughts at its start."""
        if self.is_form:
            return [line for line in self.text.split("\n") if line.strip()]
        return [clean(self.text)[0]]


@dataclass(frozen=True, slots=True)
class Detector:
    """Names what it finds in texts.

    Attributes:
        name: column `detector` of the tables `labels` and `detectors`.
        version: raised whenever it may judge a text otherwise than before.
        looks_at: given the kind of a turn, and whether that is in the scene's world, whether its texts are judged.
        find: the label of a text, or None.
    """

    name: str
    version: int
    looks_at: Callable[[str, bool], bool]
    find: Callable[[Subject], str | None]


# A choice among names that others gave: it has no words of its own.
_CHOICES = frozenset({"recipients"})


def every_text(kind: str, in_world: bool) -> bool:
    """Look at all turns that have words of their own."""
    return kind not in _CHOICES


def world_texts(kind: str, in_world: bool) -> bool:
    """Look at those of the scene's world."""
    return in_world and kind not in _CHOICES


def revisions(kind: str, in_world: bool) -> bool:
    """Look at revisions."""
    return kind == "revise"


def fold(text: str) -> str:
    """Return a text without what makes no difference to whether it was said before: case, white space, a full stop at its end."""
    return " ".join(text.casefold().split()).rstrip(".。! ")
