"""The work of a recorded run: its scenes' own code asks for the turns again, and gets the recorded answers when they have been computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeAlias

from matrix_py import _core
from matrix_py.bench.workload import Answering, Ask
from matrix_py.errors import ConfigError, StoreError
from matrix_py.pump import Pump
from matrix_py.scene import find_scene
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log
from matrix_py.types import StoredScene

# Scene, path and attempt of a turn.
Key: TypeAlias = tuple[bytes, str, int]


def recorded_model(run: Path) -> str:
    """Return where the model of a run was.

    Raises:
        StoreError: the log cannot be read.
    """
    with Log.open(run, read_only=True) as log:
        return log.record.execution.model_path


def longest_turn(run: Path) -> int:
    """Return how many tokens the longest turn of a run held, its completion included.

    Raises:
        StoreError: the log cannot be read.
        ConfigError: it holds no turns.
    """
    with Log.open(run, read_only=True) as log:
        _, [(longest,)] = log.query("SELECT max(prompt_tokens + generated_tokens) FROM completions WHERE generated_tokens > 0")
    if longest is None:
        raise ConfigError(f"{run} holds no turns to compute")
    return int(longest)


class Recording:
    """A finished run: its scenes, and the completions that their turns had."""

    def __init__(self, run: Path) -> None:
        """Read the run.

        Raises:
            StoreError: the log cannot be read.
            ConfigError: the run is not finished.
        """
        self.run = run
        with Log.open(run, read_only=True) as log:
            self.record = log.record
            if log.num_finished() < log.num_scenes():
                raise ConfigError(f"{run} has {log.num_scenes() - log.num_finished()} scenes that are not finished: matrix resume it first")
            self.scenes = {scene.scene: scene for scene in log.scenes()}
            _, rows = log.query("SELECT scene, path, attempt, generated_tokens FROM completions")
        self._generated: dict[Key, int] = {(scene, path, attempt): count for scene, path, attempt, count in rows}

    def completion(self, turn: _core.Turn) -> _core.Completion:
        """Return what the log holds as a turn's answer.

        Raises:
            ConfigError: it holds none.
        """
        found = self.scenes[turn.scene].completions.get((turn.path, turn.attempt))
        if found is None:
            raise ConfigError(f"the log has no completion of turn {turn.path}: it was made by another version of the scene's code")
        _, text, outcome, finish = found
        generated = self._generated[turn.scene, turn.path, turn.attempt]
        return _core.Completion(turn, text=text, outcome=outcome, finish=finish, generated_tokens=generated)


class AtOnce:
    """Answers turns with their recorded completions. Implements `matrix_py.pump.Answerer`."""

    def __init__(self, recording: Recording) -> None:
        """Answer from a recording."""
        self._recording = recording
        self._done: list[tuple[_core.Turn, _core.Completion]] = []

    def submit(self, turns: list[_core.Turn]) -> None:
        """See `Answerer`."""
        self._done += [(turn, self._recording.completion(turn)) for turn in turns]

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        """See `Answerer`."""
        done, self._done = self._done, []
        return [*done]

    def cancel(self, scene: bytes) -> None:
        """Nothing takes long enough to be cancelled."""


class RecordedWork:
    """The turns of a recording: their prompts, what each waits for, and as many tokens as were generated."""

    def __init__(self, recording: Recording, tokenizer: _core.Tokenizer, *, window: int) -> None:
        """Find the turns and tokenise their prompts, once for whoever computes them.

        Args:
            recording: a finished run.
            tokenizer: of the model that the work is for.
            window: scenes open at a time.
        """
        self._recording, self._window = recording, window
        # The oldest scene goes first, as in a run.
        ranks = {scene: rank for rank, scene in enumerate(recording.scenes)}
        self._asks: dict[Key, Ask] = {}

        def note(turn: _core.Turn, completion: _core.Completion) -> None:
            key = (turn.scene, turn.path, turn.attempt)
            self._asks[key] = Ask(key, tokenizer.encode(turn.segments), completion.generated_tokens, ranks[turn.scene])

        self._play(_Noting(recording, note))

    def asks(self) -> list[Ask]:
        """See `Work`."""
        return list(self._asks.values())

    def run(self, answering: Answering) -> None:
        """Let the scenes' code ask for its turns, as in the run."""
        self._play(_Computed(self._recording, self._asks, answering))

    def describe(self) -> dict[str, object]:
        """See `Work`."""
        return {"run": str(self._recording.run), "scenes": len(self._recording.scenes)}

    def _play(self, answerer: AtOnce) -> None:
        config, log = self._recording.record.config, _core.EventLog()

        def drop() -> None:
            log.drain()

        pump = Pump(
            find_scene(config.scene),
            config.scene,
            prompts=recorded_prompts(config),
            limits=config.limits,
            seed=config.seed,
            rules=config.rules,
            log=log,
            answerer=answerer,
            window=self._window,
            keep_up=drop,
        )
        scenes = self._recording.scenes.values()
        counts = pump.run(StoredScene(scene.scene, scene.instruction, scene.response, scene.occurrence) for scene in scenes)
        if counts.open:
            raise StoreError(f"{self._recording.run} cannot be run again: {counts.errors[0]}")


class _Noting(AtOnce):
    """Tells of each turn, with its answer."""

    def __init__(self, recording: Recording, note: Callable[[_core.Turn, _core.Completion], None]) -> None:
        super().__init__(recording)
        self._note = note

    def submit(self, turns: list[_core.Turn]) -> None:
        before = len(self._done)
        super().submit(turns)
        for turn, completion in self._done[before:]:
            self._note(turn, completion)


class _Computed(AtOnce):
    """Answers turns when as many tokens as they had have been computed; those that had none, at once."""

    def __init__(self, recording: Recording, asks: dict[Key, Ask], answering: Answering) -> None:
        super().__init__(recording)
        self._asks, self._answering = asks, answering
        self._in_flight: dict[Hashable, _core.Turn] = {}

    def submit(self, turns: list[_core.Turn]) -> None:
        asks = [(turn, self._asks[turn.scene, turn.path, turn.attempt]) for turn in turns]
        super().submit([turn for turn, ask in asks if not ask.tokens])
        self._in_flight.update((ask.key, turn) for turn, ask in asks if ask.tokens)
        self._answering.submit([ask for _, ask in asks if ask.tokens])

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        if not self._done and self._in_flight and timeout_s:
            super().submit([self._in_flight.pop(key) for key in self._answering.collect()])
        return super().collect(timeout_s)
