"""Contexts: what the turns of one kind were asked in a run, and the same under changed prompts.

The log holds the segments of prompts, not the values that they were filled with. So scenes are replayed on their recorded completions, and
at every turn of the kind its values are put into the changed prompt. A turn keeps scene, path, attempt and seed, and so its random numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from matrix_py import _core
from matrix_py.errors import MatrixError
from matrix_py.prompts import Prompts, Value
from matrix_py.pump import Pump
from matrix_py.reask.answers import Answer
from matrix_py.scene import find_scene
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log
from matrix_py.types import StoredScene

# Scenes whose contexts are in memory at a time: a page of the log.
_SHARE = 100
_WINDOW = 16

_NUM_TURNS = """
    SELECT count(*) FROM completions
    WHERE kind = $1 AND attempt = 1 AND ($2 IS NULL OR scene IN (SELECT scene FROM scenes ORDER BY position LIMIT $2))
"""
_KINDS = "SELECT DISTINCT kind FROM completions ORDER BY kind"
_LOG_ODDS = """
    SELECT scene, path, log_odds FROM completions WHERE kind = $1 AND attempt = 1 AND scene IN (SELECT unnest($2::BLOB[]))
"""


@dataclass(frozen=True, slots=True)
class Context:
    """A turn to ask anew, and what was answered to it in the run."""

    turn: _core.Turn
    before: Answer


class Contexts:
    """The contexts of one kind of turn in a log.

    Only first attempts count: what a retry was asked follows from a reply that the change may have made another.

    Attributes:
        differing: turns that the scenes of this version ask otherwise than was recorded, or not at all: they are left out.
    """

    def __init__(self, log: Log, kind: str, changed: Prompts, *, limit: int | None = None) -> None:
        """Find nothing yet; `limit` is a number of scenes."""
        self.differing = 0
        self._log = log
        self._kind = kind
        self._changed = changed
        self._limit = limit

    def num_turns(self) -> int:
        """Return how many first attempts the log holds."""
        [(number,)] = self._log.query(_NUM_TURNS, [self._kind, self._limit])[1]
        return int(number)

    def kinds(self) -> list[str]:
        """Return the kinds of turns that the log holds."""
        return [kind for (kind,) in self._log.query(_KINDS)[1]]

    def scenes(self) -> Iterator[list[Context]]:
        """Yield the contexts of each scene that has some, in input order; a page of scenes is replayed at a time."""
        scenes = islice(self._log.scenes(), self._limit)
        recorded = recorded_prompts(self._log.record.config)
        rank = 0
        while share := list(islice(scenes, _SHARE)):
            found = self._replay(recorded, share, rank)
            rows = self._log.query(_LOG_ODDS, [self._kind, [*found]])[1]
            self.differing += len(rows) - sum(map(len, found.values()))
            log_odds = {(scene, path): value for scene, path, value in rows}
            for scene in share:
                contexts = []
                for turn in found[scene.scene]:
                    _, text, outcome, _ = scene.completions[turn.path, 1]
                    contexts.append(Context(turn, Answer(text, outcome, log_odds[scene.scene, turn.path])))
                if contexts:
                    yield contexts
            rank += len(share)

    def _replay(self, recorded: Prompts, share: list[StoredScene], rank: int) -> dict[bytes, list[_core.Turn]]:
        """Return the changed turns of some scenes, in the order in which the scenes ask them."""
        config = self._log.record.config
        stored = {scene.scene: (place, scene) for place, scene in enumerate(share, rank)}
        found: dict[bytes, list[_core.Turn]] = {scene.scene: [] for scene in share}
        # Raised in a scene's code, an error would be taken for the scene's.
        errors: list[MatrixError] = []

        def take(turn: _core.Turn, values: Mapping[str, Value], times: int) -> None:
            place, scene = stored[turn.scene]
            completion = scene.completions.get((turn.path, 1))
            if turn.kind != self._kind or turn.attempt != 1 or completion is None or completion[0] != turn.request:
                return
            try:
                found[turn.scene].append(self._changed_turn(turn, values, times, rank=place))
            except MatrixError as error:
                errors.append(error)

        pump = Pump(
            find_scene(config.scene),
            config.scene,
            prompts=recorded,
            limits=config.limits,
            seed=config.seed,
            rules=config.rules,
            log=_core.EventLog(),
            answerer=None,
            window=_WINDOW,
            on_turn=take,
        )
        pump.run(share)
        if errors:
            raise errors[0]
        return found

    def _changed_turn(self, turn: _core.Turn, values: Mapping[str, Value], times: int, *, rank: int) -> _core.Turn:
        sampling = turn.sampling
        return _core.Turn(
            seed=self._log.record.config.seed,
            scene=turn.scene,
            path=turn.path,
            attempt=turn.attempt,
            kind=turn.kind,
            segments=self._changed.render(turn.kind, values),
            sampling=self._changed.sampling(turn.kind, sampling.form, times=times, choices=sampling.choices),
            rank=rank,
        )
