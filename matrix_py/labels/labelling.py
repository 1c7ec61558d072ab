"""Labelling a log: each text is shown to the detectors that look at its kind of turn. What they find replaces what they found before."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from matrix_py.errors import ConfigError
from matrix_py.labels.assistant import ASSISTANT
from matrix_py.labels.detector import Detector, Subject, fold
from matrix_py.labels.language import LANGUAGE
from matrix_py.labels.leak import LEAK
from matrix_py.labels.refusal import REFUSAL
from matrix_py.labels.repetition import REPETITION
from matrix_py.store import LabelRow, Log, SceneTexts, TurnText
from matrix_py.types import RunConfig

DETECTORS: tuple[Detector, ...] = (REFUSAL, ASSISTANT, LEAK, REPETITION, LANGUAGE)
# Labels that wait to be inserted together.
_MAX_ROWS = 1000
# Prompt files are named by kind; of those whose prompt is a file and a part of another (`{> modulator}`), the file's own words are enough.
_PROMPT_SUFFIX = ".txt"

_TEXTS = "SELECT kind, count(*) FROM completions WHERE outcome != 'too_long' GROUP BY kind ORDER BY kind"
_FOUND = """
    SELECT l.detector, c.kind, l.label, count(*)
    FROM labels l JOIN completions c USING (scene, path, attempt)
    GROUP BY ALL ORDER BY ALL
"""
_DETECTORS = "SELECT detector, version, labelled_at, num_turns FROM detectors"


@dataclass(frozen=True, slots=True)
class KindRates:
    """What a detector found in turns of one kind.

    Attributes:
        num_turns: turns of that kind that have a text.
        labels: label -> turns that got it.
    """

    kind: str
    num_turns: int
    labels: dict[str, int]

    @property
    def num_labelled(self) -> int:
        """Turns that got a label; a detector gives at most one."""
        return sum(self.labels.values())


@dataclass(frozen=True, slots=True)
class DetectorRates:
    """What a detector found in a run.

    Attributes:
        version: that of the detector when it looked.
        labelled_at: when that was, UTC.
        num_turns: turns that it looked at then.
        kinds: by kind of turn, all that it looks at.
    """

    detector: str
    version: int
    labelled_at: datetime
    num_turns: int
    kinds: tuple[KindRates, ...]

    @property
    def num_labelled(self) -> int:
        """Turns that got a label."""
        return sum(kind.num_labelled for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Labelling:
    """What the detectors found in a run, those that have looked at it."""

    path: Path
    detectors: tuple[DetectorRates, ...]


def label_run(
    log: Log,
    detectors: Sequence[Detector] = DETECTORS,
    *,
    stale_only: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Labelling:
    """Label the texts of a log anew, in one transaction: a failure, or Ctrl-C, leaves the labels as they were.

    The texts of a page of scenes are in memory at a time. Labels of other detectors stay.

    Args:
        log: an open log, not read-only.
        detectors: those to run.
        stale_only: leave out detectors that have seen every text of the log in their present version.
        on_progress: told how many of all texts are done with, and how many there are.

    Raises:
        StoreError: the log cannot be read or written.
        ConfigError: two detectors have the same name.
    """
    names = [detector.name for detector in detectors]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"detector {twice!r} is there twice: give each a name of its own")
    config = log.record.config
    texts = _texts(log)
    if stale_only:
        detectors = _stale(log, detectors, texts)
    if detectors:
        total, done = sum(texts.values()), 0
        looked = dict.fromkeys((detector.name for detector in detectors), 0)
        rows: list[LabelRow] = []
        with contextlib.closing(log.labels()) as tables, tables.transaction():
            for detector in detectors:
                tables.remove(detector.name)
            for scene in tables.scenes():
                for turn, subject in subjects(scene, config):
                    for detector in detectors:
                        if detector.looks_at(subject.kind, subject.in_world):
                            looked[detector.name] += 1
                            if label := detector.find(subject):
                                rows.append((scene.scene, turn.path, turn.attempt, label, detector.name, detector.version))
                    done += 1
                if len(rows) >= _MAX_ROWS:
                    tables.add(rows)
                    rows.clear()
                if on_progress is not None:
                    on_progress(done, total)
            tables.add(rows)
            for detector in detectors:
                tables.add_detector(detector.name, detector.version, looked[detector.name])
    return read_labels(log)


def read_labels(log: Log, detectors: Sequence[Detector] = DETECTORS) -> Labelling:
    """Return what a log holds of the labels of these detectors; those that never looked at it are left out.

    Raises:
        StoreError: the log cannot be read, or is of format 1, which has no labels: open it for writing to bring it up to date.
    """
    config = log.record.config
    texts = _texts(log)
    found: dict[tuple[str, str], dict[str, int]] = {}
    for name, kind, label, count in log.query(_FOUND)[1]:
        found.setdefault((name, kind), {})[label] = count
    seen = {name: (version, labelled_at, num_turns) for name, version, labelled_at, num_turns in log.query(_DETECTORS)[1]}
    return Labelling(
        log.path,
        tuple(
            DetectorRates(
                detector.name,
                *seen[detector.name],
                kinds=tuple(
                    KindRates(kind, count, found.get((detector.name, kind), {}))
                    for kind, count in texts.items()
                    if detector.looks_at(kind, _in_world(config, kind))
                ),
            )
            for detector in detectors
            if detector.name in seen
        ),
    )


def _texts(log: Log) -> dict[str, int]:
    """Return how many turns of each kind have a text."""
    return dict(log.query(_TEXTS)[1])


def _stale(log: Log, detectors: Sequence[Detector], texts: dict[str, int]) -> list[Detector]:
    """Return the detectors that have not seen every text in their present version."""
    config = log.record.config
    seen = {(name, version): num_turns for name, version, _, num_turns in log.query(_DETECTORS)[1]}

    def is_stale(detector: Detector) -> bool:
        num_turns = sum(count for kind, count in texts.items() if detector.looks_at(kind, _in_world(config, kind)))
        return seen.get((detector.name, detector.version)) != num_turns

    return [detector for detector in detectors if is_stale(detector)]


def _in_world(config: RunConfig, kind: str) -> bool:
    settings = config.settings.get(kind)
    return settings is not None and settings.system == "writer"


def subjects(scene: SceneTexts, config: RunConfig) -> Iterator[tuple[TurnText, Subject]]:
    """Yield the texts of a scene, each with what detectors are shown of it."""
    # Kind and text -> the path that said it first: another attempt of the same turn repeats nothing.
    first: dict[str, dict[str, str]] = {}
    for turn in scene.turns:
        said, folded = first.setdefault(turn.kind, {}), fold(turn.text)
        subject = Subject(
            text=turn.text,
            kind=turn.kind,
            in_world=_in_world(config, turn.kind),
            instruction=scene.instruction,
            response=scene.response,
            roles=scene.roles,
            prompt=config.prompts.get(turn.kind + _PROMPT_SUFFIX, ""),
            is_form=turn.finish == "form",
            earlier=said if said.get(folded, turn.path) != turn.path else (),
        )
        said.setdefault(folded, turn.path)
        yield turn, subject
