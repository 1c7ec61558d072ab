"""Counterfactuals: scenes played again without some of their critiques, each as far as the log answers from the log, then by the model."""

from collections.abc import Callable, Sequence

from matrix_py import _core
from matrix_py.attribution.story import Drop, Effect, Playing, Story
from matrix_py.prompts import Prompts
from matrix_py.pump import Counts, Pump
from matrix_py.reuse import Reuse
from matrix_py.reuse.edits import Edits
from matrix_py.scene import find_scene
from matrix_py.types import Edit, RunConfig, StoredScene

# More events than a scene has: none of them is buffered for a writer.
_NONE_BUFFERED = 2**32 - 1


class Counterfactuals:
    """Plays scenes without what is dropped, many at a time. A scene is there once at a time: its turns go by its id."""

    def __init__(self, config: RunConfig, prompts: Prompts, reuse: Reuse, *, window: int) -> None:
        """Play scenes of a run by `reuse`, so many at a time."""
        self._config = config
        self._prompts = prompts
        self._reuse = reuse
        self._window = window

    def play(
        self, scenes: Sequence[tuple[StoredScene, Story, Drop]], on_progress: Callable[[int], None]
    ) -> tuple[dict[bytes, Effect], Counts]:
        """Play scenes, each without something of its own; return the effects by scene, and what was asked.

        Raises:
            MatrixError: a critique cannot be dropped, or the answerer is gone.
        """
        edits = [
            Edit(at=critique.action, do="drop_critique", scene=stored.scene.hex())
            for stored, _, drop in scenes
            for critique in drop.critiques
        ]
        self._reuse.edits = Edits(edits)
        sink = _Sink({stored.scene: Playing(drop) for stored, _, drop in scenes})
        pump = Pump(
            find_scene(self._config.scene),
            self._config.scene,
            prompts=self._prompts,
            limits=self._config.limits,
            seed=self._config.seed,
            rules=self._config.rules,
            log=sink,  # type: ignore[arg-type]
            answerer=self._reuse,
            window=self._window,
            on_progress=lambda counts, _: on_progress(counts.scenes),
        )
        unplayed = [StoredScene(stored.scene, stored.instruction, stored.response, stored.occurrence) for stored, _, _ in scenes]
        counts = pump.run(self._reuse.following(unplayed))
        if self._reuse.refused is not None:
            raise self._reuse.refused
        return {stored.scene: sink.playing[stored.scene].effect(story) for stored, story, _ in scenes}, counts


class _Sink:
    """Stands for a run's event log: it derives events, and keeps only what scenes come to."""

    def __init__(self, playing: dict[bytes, Playing]) -> None:
        self.playing = playing
        self._log = _core.EventLog()

    def open(self, scene: bytes, stored: int) -> None:
        self._log.open(scene, _NONE_BUFFERED)

    def append(self, scene: bytes, payload: bytes) -> tuple[int, bytes]:
        self.playing[scene].ending = self.playing[scene].ending.after(payload)
        return self._log.append(scene, payload)

    def record(self, turn: _core.Turn, completion: _core.Completion) -> None:
        self.playing[turn.scene].live += completion.source == "model"

    def close(self, scene: bytes) -> None:
        self._log.close(scene)
