"""What is shown while a tuning goes on: a bar where there is a terminal, else a line every ten seconds."""

from time import monotonic
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from matrix_py.terminal import notice, notices
from matrix_py.tune.messages import AnyMessage, HeldOut, Started, Step

_NOTICE_S = 10.0


class TuneProgress:
    """A reporter (`matrix_py.tune.tuning.Reporter`)."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Make a reporter; `quiet` leaves only errors."""
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: Any = None
        self._what = ""
        self._last = monotonic()
        self._steps = 0
        self._held_out = ""

    def line(self, text: str) -> None:
        """Print a notice."""
        if not self._quiet:
            notice(text)

    def done(self, what: str, done: int, total: int, status: str = "") -> None:
        """Show how many of so many units are done."""
        if self._quiet:
            return
        if not notices.is_terminal:
            if monotonic() - self._last >= _NOTICE_S:
                self._last = monotonic()
                notice(f"{done} of {total} {what}" + (f", {status}" if status else ""))
            return
        if self._bar is None:
            columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Progress(
                *columns, TextColumn("{task.fields[status]}", markup=False), TimeRemainingColumn(), console=notices, transient=True
            )
            self._bar.start()
        if what != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._what, self._task = what, self._bar.add_task(what, total=total, status="")
        self._bar.update(self._task, completed=done, total=total, status=status)

    def message(self, message: AnyMessage) -> None:
        """Take what the process that trains says."""
        match message:
            case Started():
                self._steps = message.steps
                self.line(f"training {message.trainable} parameters beside {message.parameters} on {message.device}")
                self.done("steps", message.step, message.steps)
            case HeldOut():
                self._held_out = f", held out {message.loss:.4f}"
            case Step():
                pace = f"{message.tokens_per_second:.0f} tokens/s"
                self.done("steps", message.step, self._steps, f"loss {message.loss:.4f}{self._held_out}, {pace}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
