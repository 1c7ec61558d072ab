"""Asking: contexts go to an answerer as it has room, and come back scene by scene, in the order of the input."""

from collections import deque
from collections.abc import Iterator

from matrix_py import _core
from matrix_py.pump import Answerer
from matrix_py.reask.contexts import Context

_COLLECT_S = 0.2

Answered = list[tuple[Context, _core.Completion | Exception]]


class _Scene:
    """The contexts of a scene, and the answers so far, by path."""

    def __init__(self, contexts: list[Context]) -> None:
        self.contexts = contexts
        self.answers: dict[str, _core.Completion | Exception] = {}

    def is_answered(self) -> bool:
        return len(self.answers) == len(self.contexts)


def ask(answerer: Answerer, scenes: Iterator[list[Context]], *, most: int) -> Iterator[Answered]:
    """Yield the contexts of each scene with their answers; scenes are taken as long as fewer than `most` turns wait.

    Raises:
        MatrixError: a turn cannot be asked, or the answerer is gone.
    """
    waiting: deque[_Scene] = deque()
    by_id: dict[bytes, _Scene] = {}
    num_waiting = 0
    more = True
    while more or waiting:
        while more and num_waiting < most:
            contexts = next(scenes, None)
            if contexts is None:
                more = False
                break
            answerer.submit([context.turn for context in contexts])
            num_waiting += len(contexts)
            waiting.append(_Scene(contexts))
            by_id[contexts[0].turn.scene] = waiting[-1]
        if not waiting:
            break
        for turn, result in answerer.collect(_COLLECT_S):
            by_id[turn.scene].answers[turn.path] = result
            num_waiting -= 1
        while waiting and waiting[0].is_answered():
            scene = waiting.popleft()
            del by_id[scene.contexts[0].turn.scene]
            yield [(context, scene.answers[context.turn.path]) for context in scene.contexts]
