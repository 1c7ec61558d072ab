"""Replaying: run the scene code again on the recorded completions and compare every event. No model is needed.

The code and the prompts are those of today; chat template, system prompt, seed and completions are the log's. So replay is a gate: what
a changed prompt or a changed scene would have asked or concluded otherwise shows as a divergence.
"""

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from matrix_py import _core
from matrix_py.engine import available_cpus
from matrix_py.errors import ConfigError
from matrix_py.models.chat import ChatTemplate
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.pump import Counts, Pump
from matrix_py.replay.divergence import Cause, Causes, Divergence, changes, describe, grouped
from matrix_py.scene import find_scene
from matrix_py.scene.rules import check_rules
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log, strays, summary

__all__ = ["Cause", "Divergence", "Replay", "Workers", "describe", "grouped", "replay"]

_WINDOW = 16
# Scenes that a worker gets at a time: few enough to share out evenly, many enough that reading them is one page.
_SHARE = 50
# Runs with fewer scenes are replayed before a process has started.
_WORTH_A_PROCESS = 100
# Scenes left open are named so far.
_MAX_NOTED = 5


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    Attributes:
        num_scenes: scenes of the run.
        num_finished: of them, those that are finished.
        num_turns: completions that were used.
        root: the root hash of a finished run.
        divergences: for each scene that differs, the first event that does, in input order.
        problems: what is wrong with the log as a whole.
        notes: what a reader should know, such as which prompt files changed.
    """

    num_scenes: int
    num_finished: int
    num_turns: int
    root: bytes | None
    divergences: list[Divergence]
    problems: list[str]
    notes: list[str]

    @property
    def identical(self) -> bool:
        """Whether everything that the log holds was derived again."""
        return not self.divergences and not self.problems


@dataclass(frozen=True, slots=True)
class _Job:
    """Scenes of a log to replay: those at positions from `start` to before `stop`."""

    path: Path
    prompts_dir: Path | None
    recorded: bool
    start: int = 0
    stop: int | None = None


@dataclass(slots=True)
class _Part:
    """What came of some scenes."""

    scenes: int = 0
    turns: int = 0
    divergences: list[Divergence] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, other: "_Part") -> None:
        self.scenes += other.scenes
        self.turns += other.turns
        self.divergences += other.divergences
        self.errors += other.errors


class Workers:
    """Processes that replay shares of a log, beside this one. They start when a log is long enough, and stay for the next."""

    def __init__(self, jobs: int | None = None) -> None:
        """Allow `jobs` processes, this one among them; by default one a CPU.

        Raises:
            ConfigError: `jobs` is less than 1.
        """
        self.jobs = available_cpus() if jobs is None else jobs
        if self.jobs < 1:
            raise ConfigError(f"--jobs is {jobs}: give at least 1")
        self._pool: ProcessPoolExecutor | None = None

    def each(self, jobs: Sequence[_Job], own: Callable[[_Job], _Part]) -> Iterator[tuple[int, _Part]]:
        """Yield the number of each job and what came of it, as they are done; those of this process are done by `own`."""
        if self._pool is None:
            # Not forked: DuckDB and the core have threads.
            self._pool = ProcessPoolExecutor(self.jobs - 1, mp_context=get_context("spawn"))
        pool = self._pool
        waiting, done = deque(enumerate(jobs)), SimpleQueue[tuple[int, Future[_Part]]]()

        def give() -> None:
            """Give the next job to a process that has none: at the end, none waits behind another's."""
            with contextlib.suppress(IndexError):
                number, job = waiting.popleft()
                pool.submit(_replay_share, job).add_done_callback(partial(take, number))

        def take(number: int, future: Future[_Part]) -> None:
            give()
            done.put((number, future))

        try:
            for _ in range(self.jobs - 1):
                give()
            left = len(jobs)
            while left:
                try:
                    number, job = waiting.popleft()
                except IndexError:
                    number, future = done.get()
                    yield number, future.result()
                else:
                    yield number, own(job)
                left -= 1
        finally:
            waiting.clear()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def replay(
    path: Path,
    *,
    prompts_dir: Path | None = None,
    recorded: bool = False,
    workers: Workers | None = None,
    on_progress: Callable[[Counts, int], None] | None = None,
) -> Replay:
    """Replay a log.

    Args:
        path: the log.
        prompts_dir: folder of prompt files; by default the one that the run was given, if any.
        recorded: use the prompts and settings that the log holds, not today's.
        workers: processes to share a long log out to; by default it is replayed in this one. Processes import the program that
            started them: guard it with `if __name__ == "__main__"`.
        on_progress: called with counts and the number of scenes, now and then.

    Raises:
        MatrixError: the log cannot be read, or its scene or prompts cannot be used.
    """
    with Log.open(path, read_only=True) as log, log.bounded():
        config = log.record.config
        check_rules(config.rules)
        notes: list[str] = []
        prompts = recorded_prompts(config) if recorded else _todays_prompts(log, prompts_dir, notes)
        num_scenes, num_finished = log.num_scenes(), log.num_finished()
        whole = _Job(path.absolute(), prompts_dir, recorded)
        done = _Part()
        if workers is None or workers.jobs == 1 or num_scenes < _WORTH_A_PROCESS:
            done = _replay(log, whole, prompts, (lambda counts: on_progress(counts, num_scenes)) if on_progress else None)
        else:
            shares = [replace(whole, start=start, stop=stop) for start, stop in log.shares(_SHARE)]
            parts: dict[int, _Part] = {}
            for number, part in workers.each(shares, lambda share: _replay(log, share, prompts, None)):
                parts[number] = part
                if on_progress is not None:
                    so_far = parts.values()
                    on_progress(Counts(completed=sum(p.scenes for p in so_far), turns=sum(p.turns for p in so_far)), num_scenes)
            for _, part in sorted(parts.items()):
                done.add(part)
        recorded_root, root = log.recorded_root(), log.root()
        problems: list[str] = []
        notes += [f"left open: {line}" for line in done.errors[:_MAX_NOTED]]
        if recorded_root is not None and root != recorded_root and not done.divergences:
            actual = "none, as scenes are missing their end" if root is None else root.hex()
            problems.append(f"root hash: expected {recorded_root.hex()}, actual {actual}: scenes or the configuration were changed")
        problems += summary(strays(log))
        unused = log.num_completions() - done.turns
        if unused and not done.divergences and not problems:
            problems.append(f"{unused} completions answer no turn that a scene asks for")
        if done.divergences:
            notes += _changed_prompts(*changes(config, prompts))
        return Replay(
            num_scenes=num_scenes,
            num_finished=num_finished,
            num_turns=done.turns,
            root=root,
            divergences=done.divergences,
            problems=problems,
            notes=notes,
        )


def _replay_share(job: _Job) -> _Part:
    """Replay some scenes of a log, in a worker process."""
    with Log.open(job.path, read_only=True) as log, log.bounded():
        prompts = recorded_prompts(log.record.config) if job.recorded else _todays_prompts(log, job.prompts_dir, [])
        return _replay(log, job, prompts, None)


def _replay(log: Log, job: _Job, prompts: Prompts, on_progress: Callable[[Counts], None] | None) -> _Part:
    config = log.record.config
    pump = Pump(
        find_scene(config.scene),
        config.scene,
        prompts=prompts,
        limits=config.limits,
        seed=config.seed,
        rules=config.rules,
        log=_core.EventLog(),
        answerer=None,
        window=_WINDOW,
        complete=log.recorded_root() is not None,
        on_progress=(lambda counts, _: on_progress(counts)) if on_progress else None,
    )
    with _collecting_seldom():
        counts = pump.run(log.scenes(start=job.start, stop=job.stop))
    causes = Causes(log, prompts)
    return _Part(counts.scenes, counts.turns, [causes.explain(error) for error in counts.divergences], counts.errors)


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Let Python look for cycles seldom: scenes that are done with leave none, and a page of stored ones is many objects."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, 50, *before[2:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _todays_prompts(log: Log, given: Path | None, notes: list[str]) -> Prompts:
    config, execution = log.record.config, log.record.execution
    template = ChatTemplate(config.template, name="recorded", bos_token=config.bos_token, eos_token=config.eos_token)
    directory = given or (Path(execution.prompts_dir) if execution.prompts_dir else None)
    file = Path(execution.config_file) if execution.config_file else None
    if given is None and directory is not None and not directory.is_dir():
        notes.append(f"prompt folder {directory} is gone: the recorded prompts are used (--prompts names another folder)")
        return recorded_prompts(config)
    files = load_files(directory, config.scene)
    if file is not None and not file.is_file():
        notes.append(f"settings file {file} is gone: the recorded settings are used")
        settings = config.settings
    else:
        settings = load_settings(directory, file, config.scene)
    return Prompts(files, settings, system=config.system, template=template, context=config.context)


def _changed_prompts(files: list[str], kinds: list[str]) -> list[str]:
    notes = []
    if files:
        notes.append(f"prompt files that are not as recorded: {', '.join(files)}")
    if kinds:
        notes.append(f"settings that are not as recorded: {', '.join(kinds)}")
    return notes
