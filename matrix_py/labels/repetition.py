"""Detector `repetition`: a text loops (`loop`), or says what a turn of its kind said earlier in the scene (`repeat`).

What a loop is, the scenes know (`matrix_py.scene.flaws`). A repeat is a text of the scene's world that no form bound; case, white space
and a full stop make no difference.
"""

from matrix_py.labels.detector import Detector, Subject, every_text, fold
from matrix_py.scene.flaws import is_repetitive


def _find(subject: Subject) -> str | None:
    if subject.loops() or is_repetitive(subject.cleaned()):
        return "loop"
    if subject.in_world and not subject.is_form and fold(subject.text) in subject.earlier:
        return "repeat"
    return None


REPETITION = Detector("repetition", 1, every_text, _find)
