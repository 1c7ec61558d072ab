"""A detector: a pure function of a turn's text, and of what it needs beside it, with a name and a version."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

from matrix_py.scene.flaws import clean, sentences

# Several detectors read a text in the same way, one after the other: so few are kept that memory stays as it is.
_clean, _sentences = lru_cache(maxsize=4)(clean), lru_cache(maxsize=64)(sentences)


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

    def cleaned(self) -> str:
        """Return the text as a scene would go on with it; of a form, all of it."""
        return self.text if self.is_form else _clean(self.text)[0]

    def loops(self) -> bool:
        """Whether the text ends in a phrase that it says again and again."""
        return not self.is_form and "loop" in _clean(self.text)[1]

    def sentences(self) -> list[tuple[str, list[int]]]:
        """Return what is judged each for itself, the lines of a form or the whole text, as `flaws.sentences` does."""
        lines = self.text.split("\n") if self.is_form else [self.cleaned()]
        return [_sentences(line) for line in lines if line.strip() or not self.is_form]


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
