"""The one error tree. A message names the thing, the value and the remedy, in one line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matrix_py import _core


class MatrixError(Exception):
    """Root of every error that matrix raises on purpose."""


class InputError(MatrixError):
    """An input file or record cannot be used."""


class ConfigError(MatrixError):
    """An option, a settings file or a prompt file cannot be used."""


class ModelError(MatrixError):
    """A model cannot be found, opened or used."""


class TemplateError(ModelError):
    """A chat template cannot be rendered into exact segments."""


class EngineError(MatrixError):
    """llama.cpp or the engine around it failed; the scene stays open and `resume` retries."""


class EngineClosedError(EngineError):
    """The engine was used after it was closed."""


class RequestError(MatrixError):
    """A turn asks for what the engine cannot give (an empty prompt, a form that does not parse)."""


class SceneError(MatrixError):
    """Scene code broke a rule of the scene API (a path used twice, a turn outside its scene)."""


class PayloadError(MatrixError):
    """An event's payload is not canonical (a float, a number out of range, white space)."""


class TuningError(MatrixError):
    """Training failed or was ended; what its last checkpoint holds is kept."""


class StoreError(MatrixError):
    """A log cannot be opened, read or written."""


class LogLockedError(StoreError):
    """Another process holds the log."""


class FormatError(StoreError):
    """A file is no matrix log, or its format is one that this version cannot read."""


class DivergenceError(MatrixError):
    """Replay derived something else than the log holds.

    Attributes:
        scene: scene id in hex.
        seq: sequence number of the first event that differs.
        expected: what the log holds.
        actual: what the replay derived.
        turn: the turn whose request differs; None where it is an event.
    """

    def __init__(self, scene: str, seq: int, expected: str, actual: str, turn: "_core.Turn | None" = None) -> None:
        super().__init__(f"scene {scene} diverges at seq {seq}: expected {expected}, actual {actual}")
        self.scene = scene
        self.seq = seq
        self.expected = expected
        self.actual = actual
        self.turn = turn
