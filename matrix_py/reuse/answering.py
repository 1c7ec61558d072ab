"""Answering from an older log: what was asked there in the very same words gets the very same answer. The rest is handed on."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from matrix_py import _core
from matrix_py.errors import ConfigError, LogLockedError, MatrixError, StoreError
from matrix_py.pump import Answerer
from matrix_py.reuse.edits import Edits
from matrix_py.store import Log, RecordedScene, recorded_scenes
from matrix_py.types import Change, Edit, Execution, Parent, RunConfig, StoredScene

# Scenes whose turns are fetched at a time.
_PAGE = 100
# Scenes whose turns are in memory. What is longest out of use goes, and is fetched again if it is asked for after all.
_KEPT_SCENES = 600


class Reuse:
    """Answers turns by edits, then from an older log, and else by who answers live. Implements `matrix_py.pump.Answerer`.

    A request covers prompt, sampling settings, form and random key (seed, scene, path, attempt). On the same model, the same request
    has the same answer: so nothing else is compared, and nothing else is reused.

    Attributes:
        edits: what turns say in the place of what they said.
        refused: the first edit that could not be made. Its scene is left open.
    """

    def __init__(
        self,
        parent: Log | None,
        live: Answerer,
        config: RunConfig,
        *,
        edits: Sequence[Edit] = (),
        kept_before: str = "",
    ) -> None:
        """Stand in front of `live`.

        Args:
            parent: the older log; None where it is gone, and only edits are left of it.
            live: answers what the log does not.
            config: of the run that asks.
            edits: what turns say in the place of what they said.
            kept_before: path of a turn. Those before it are as in the parent whoever answers from there on: another model, adapter or
                seed. So nothing before that turn may be changed: then the scene comes to them by the same way, and asks the same.

        Raises:
            ConfigError: an edit cannot be made.
        """
        self.edits = Edits(edits)
        self.refused: MatrixError | None = None
        self._parent = parent
        self._live = live
        self._kept_before = kept_before
        self._same_model = parent is not None and same_model(parent.record.config, config)
        self._scenes: OrderedDict[bytes, RecordedScene] = OrderedDict()
        self._ready: list[tuple[_core.Turn, _core.Completion | Exception]] = []

    def following(self, scenes: Iterable[StoredScene]) -> Iterator[StoredScene]:
        """Yield scenes that are to be played, and fetch what the parent holds of them, a page at a time."""
        source = iter(scenes)
        while page := [*islice(source, _PAGE)]:
            self._fetch([stored.scene for stored in page])
            yield from page

    def held(self, scene: bytes) -> RecordedScene:
        """Return what the parent holds of a scene."""
        if scene not in self._scenes:
            self._fetch([scene])
        self._scenes.move_to_end(scene)
        return self._scenes[scene]

    def submit(self, turns: list[_core.Turn]) -> None:
        """Queue turns; see `Answerer`.

        Raises:
            MatrixError: a turn cannot be asked, or its edit not be made; then none is queued.
        """
        answered, rest = [], []
        for turn in turns:
            completion = self._answer(turn)
            if completion is None:
                rest.append(turn)
            else:
                answered.append((turn, completion))
        if rest:
            self._live.submit(rest)
        self._ready += answered

    def collect(self, timeout_s: float) -> list[tuple[_core.Turn, _core.Completion | Exception]]:
        """Return what is answered; see `Answerer`. Who answers live is not waited for while there is something at hand."""
        ready, self._ready = self._ready, []
        return ready + self._live.collect(0.0 if ready else timeout_s)

    def cancel(self, scene: bytes) -> None:
        """Cancel a scene's turns; see `Answerer`."""
        self._ready = [(turn, completion) for turn, completion in self._ready if turn.scene != scene]
        self._live.cancel(scene)

    def _answer(self, turn: _core.Turn) -> _core.Completion | None:
        held = self.held(turn.scene)
        try:
            edited = self.edits.answer(turn, held)
        except MatrixError as error:
            self.refused = self.refused or error
            raise
        if edited is not None:
            return edited
        key = turn.path, turn.attempt
        recorded = held.turns.get(key)
        if recorded is None or not (key in held.kept or (self._same_model and recorded.request == turn.request)):
            return None
        return _core.Completion(
            turn,
            text=recorded.text,
            outcome=recorded.outcome,
            finish=recorded.finish,
            prompt_tokens=recorded.prompt_tokens,
            generated_tokens=recorded.generated_tokens,
            masked_tokens=recorded.masked_tokens,
            log_odds=recorded.log_odds,
            source="reused",
        )

    def _fetch(self, scenes: list[bytes]) -> None:
        if self._parent is None:
            self._scenes.update({scene: RecordedScene() for scene in scenes})
        else:
            self._scenes.update(recorded_scenes(self._parent, scenes, before=self._kept_before))
        while len(self._scenes) > _KEPT_SCENES:
            self._scenes.popitem(last=False)


def open_parent(path: Path, *, out: Path | None = None) -> Log:
    """Open a log to reuse turns of; `out` is where the new one is to be.

    Raises:
        ConfigError: the two are one file.
        StoreError: it cannot be read, or another process writes it.
        FormatError: it is no log.
    """
    if out is not None and out.resolve() == path.resolve():
        raise ConfigError(f"log {path} is both reused and written: give another --out")
    return Log.open(path, read_only=True)


def reopen_parent(execution: Execution, *, announce: Callable[[str], None]) -> Log | None:
    """Open the parent of a run that is resumed; None, after a line that says so, where it is gone and the rest can run without it.

    Raises:
        StoreError: it is gone, and the rest cannot run without; or another process writes it.
    """
    parent, change = execution.parent, execution.change or Change()
    if parent is None:
        return None
    path = Path(parent.path)
    try:
        log = Log.open(path, read_only=True)
    except LogLockedError:
        raise
    except StoreError:
        what = f"log {path}, of which turns are reused, is gone"
    else:
        if log.record.run_id == parent.run_id:
            return log
        log.close()
        what = f"log {path} is of another run now than the one of which turns are reused ({parent.run_id})"
    if change.kept_before or any(edit.do != "text" for edit in change.edits):
        raise StoreError(f"{what}, and this run changes what was said there: put it back, then resume")
    announce(f"{what}: the rest runs live")
    return None


# What the answer to a request depends on beside the request, and how the command names it.
_ANSWERERS = {"model": "--model", "adapter": "--lora", "context": "--ctx", "kv_type": "--kv-type"}


def same_model(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs have the same model, adapter, context and type of KV, so that the same request has the same answer in both."""
    return all(getattr(one, name) == getattr(other, name) for name in _ANSWERERS)


def check_same_model(path: Path, parent: RunConfig, config: RunConfig) -> None:
    """Refuse to reuse turns of another model.

    Raises:
        ConfigError: the model, the adapter, the context or the type of KV is another.
    """

    def named(value: object) -> str:
        return "none" if value is msgspec.UNSET else str(value)[:12]

    for name, option in _ANSWERERS.items():
        then, now = named(getattr(parent, name)), named(getattr(config, name))
        if then != now:
            raise ConfigError(
                f"log {path} was made with another {name} ({then}, here {now}), so no turn of it can be reused: give that with {option}, "
                "or another log"
            )


def parent_of(log: Log) -> Parent:
    """Return how a log is named as the parent of a run."""
    root = log.recorded_root()
    return Parent(run_id=log.record.run_id, path=str(log.path.absolute()), root=None if root is None else root.hex())


def changed_fields(then: RunConfig, now: RunConfig) -> list[str]:
    """Name what differs between two configurations, such as `seed`, `limits.roles`, `prompts.revise.txt` or `settings.react.top_p`."""
    return [*_differences(msgspec.to_builtins(then), msgspec.to_builtins(now))]


def _differences(then: object, now: object, name: str = "") -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    else:
        yield name
