"""The work of a recorded run: its scenes' own code asks for the turns again, and gets the recorded answers when they have been computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from matrix_py import _core
from matrix_py.bench.workload import Answering, Ask
from matrix_py.errors import ConfigError, StoreError
from matrix_py.pump import Pump
from matrix_py.scene import find_scene
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log
from matrix_py.types import StoredScene


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


class RecordedWork:
    """The turns of a finished run: their prompts, what each waits for, and as many tokens as were generated."""

    def __init__(self, run: Path, tokenizer: _core.Tokenizer, *, window: int) -> None:
        """Read the run.

        Args:
            run: its log.
            tokenizer: of the model that the work is for.
            window: scenes open at a time.

        Raises:
            StoreError: the log cannot be read.
            ConfigError: the run is not finished.
        """
        self._run, self._tokenizer, self._window = run, tokenizer, window
        with Log.open(run, read_only=True) as log:
            self._config = log.record.config
            if log.num_finished() < log.num_scenes():
                raise ConfigError(f"{run} has {log.num_scenes() - log.num_finished()} scenes that are not finished: matrix resume it first")
            self._scenes = {scene.scene: scene for scene in log.scenes()}
            _, rows = log.query("SELECT scene, path, attempt, generated_tokens FROM completions")
        self._generated: dict[tuple[bytes, str, int], int] = {(scene, path, attempt): count for scene, path, attempt, count in rows}
        # The oldest scene goes first, as in a run.
        self._ranks = {scene: rank for rank, scene in enumerate(self._scenes)}
        # Tokenised once: it is the same work for whoever computes them.
        self._asks: dict[tuple[bytes, str, int], Ask] = {}
        self.run(_at_once())

    def asks(self) -> list[Ask]:
        """See `Work`."""
        return list(self._asks.values())

    def run(self, answering: Answering) -> None:
        """Let the scenes' code ask for its turns, as in the run."""
        log = _core.EventLog()
        answerer = _Recorded(self, answering)

        def fresh() -> Iterator[StoredScene]:
            for scene in self._scenes.values():
                yield StoredScene(scene.scene, scene.instruction, scene.response, scene.occurrence)

        pump = Pump(
            find_scene(self._config.scene),
            self._config.scene,
            prompts=recorded_prompts(self._config),
            limits=self._config.limits,
            seed=self._config.seed,
            log=log,
            answerer=answerer,
            window=self._window,
            keep_up=lambda: log.drain() and None,
        )
        counts = pump.run(fresh())
        if counts.open:
            raise StoreError(f"{self._run} cannot be run again: {counts.errors[0]}")

    def describe(self) -> dict[str, object]:
        """See `Work`."""
        return {"run": str(self._run), "scenes": len(self._scenes)}

    def ask(self, turn: _core.Turn) -> Ask:
        """Return a turn as it is to be computed.

        Raises:
            ConfigError: the log does not hold it.
        """
        key = (turn.scene, turn.path, turn.attempt)
        if key not in self._asks:
            if key not in self._generated:
                raise ConfigError(f"the log has no completion of turn {turn.path}: it was made by another version of the scene's code")
            rank = self._ranks[turn.scene]
            self._asks[key] = Ask(key, self._tokenizer.encode(turn.segments), self._generated[key], rank)
        return self._asks[key]

    def completion(self, turn: _core.Turn) -> _core.Completion:
        """Return what the log holds as a turn's answer."""
        _, text, outcome, finish = self._scenes[turn.scene].completions[turn.path, turn.attempt]
        return _core.Completion(turn, text=text, outcome=outcome, finish=finish)


class _Recorded:
    """Answers turns with the log's completions, each when it has been computed."""

    def __init__(self, work: RecordedWork, answering: Answering) -> None:
        self._work, self._answering = work, answering
        self._in_flight: dict[object, _core.Turn] = {}
        self._done: deque[_core.Turn] = deque()  # of them there was nothing to compute

    def submit(self, turns: list[_core.Turn]) -> None:
        asks = [(turn, self._work.ask(turn)) for turn in turns]
        self._done.extend(turn for turn, ask in asks if not ask.tokens)
        self._in_flight.update((ask.key, turn) for turn, ask in asks if ask.tokens)
        self._answering.submit([ask for _, ask in asks if ask.tokens])

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        done = [self._done.popleft() for _ in range(len(self._done))]
        if not done and self._in_flight and timeout_s:
            done = [self._in_flight.pop(key) for key in self._answering.collect()]
        return [(turn, self._work.completion(turn)) for turn in done]

    def cancel(self, scene: bytes) -> None:
        """Nothing is cancelled: an error ends the benchmark."""


def _at_once() -> Answering:
    """Whoever computes nothing."""
    asked: list[Ask] = []

    def collect() -> list[object]:
        keys = [ask.key for ask in asked]
        asked.clear()
        return keys

    return Answering(asked.extend, collect)
