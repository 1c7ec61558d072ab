"""Attribution: which critique, or which role's, moved the answer. Each is dropped in turn, and the scene played again without it.

A critique enters no prompt but those that condense critiques, the consequence's and the revision's. So these run live, and all else comes
from the log: acts, verdicts and reactions are the same. Random numbers are, too. Where nothing is dropped, every request is as it was and
so is every answer: the floor of the measure is 0.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from matrix_py import _core
from matrix_py.attribution.counterfactuals import Counterfactuals
from matrix_py.attribution.story import By, Critique, Drop, Effect, Ending, Story, read_story
from matrix_py.attribution.summary import Group, Summary
from matrix_py.distance import distance
from matrix_py.engine import EngineOptions
from matrix_py.errors import ConfigError
from matrix_py.opening import open_recorded
from matrix_py.pump import Answerer, Counts, Pump
from matrix_py.reuse import Reuse
from matrix_py.scene import find_scene
from matrix_py.scene.rules import check_rules
from matrix_py.show.reading import find_scene_id
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log, TableWriter, check_table
from matrix_py.types import StoredScene

__all__ = [
    "AttributeOptions",
    "Attributed",
    "Attribution",
    "By",
    "Critique",
    "Drop",
    "Effect",
    "Ending",
    "Group",
    "attribute",
    "attribute_with",
]

# Scenes that are in memory at a time.
_PAGE = 100
_WINDOW = 16
_COLUMNS = {
    "scene": "VARCHAR",
    "dropped_by": "VARCHAR",
    "place": "UINTEGER",
    "dropped": "VARCHAR",
    "critiques": "VARCHAR[]",
    "roles": "VARCHAR[]",
    "severity": "UINTEGER",
    "distance": "DOUBLE",
    "changes": "VARCHAR[]",
    "distance_of_response_before": "DOUBLE",
    "distance_of_response_after": "DOUBLE",
    "live_turns": "UINTEGER",
    "answer_before": "VARCHAR",
    "answer_after": "VARCHAR",
}


@dataclass(frozen=True, slots=True)
class AttributeOptions:
    """What to drop, and where.

    Attributes:
        by: one critique at a time, or all critiques of a role.
        scenes: ids, first digits of ids, or places in the input; empty for all.
        limit: scenes at most.
        model: where the run's model is now, if it was moved.
        out: a table of all effects, .parquet or .json.
        overwrite: replace `out` if it exists.
        engine: how to open the model; None for as the run did.
    """

    by: By = "critique"
    scenes: tuple[str, ...] = ()
    limit: int | None = None
    model: str | None = None
    out: Path | None = None
    overwrite: bool = False
    engine: EngineOptions | None = None


@dataclass(frozen=True, slots=True)
class Attributed:
    """A scene, and what dropping each did, what moved the answer most first."""

    story: Story
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Attribution:
    """What came of it.

    Attributes:
        scenes: scenes whose critiques were dropped.
        unmoved: scenes without a critique, in which there is nothing to drop.
        unfinished: scenes that failed or are open.
        differing: scenes that today's code does not derive from the log as they are there: nothing could be said of them.
        drops: how often something was dropped.
        live: turns that the model was asked, by kind.
        reused: turns that the log answered.
        summary: what that did, over all scenes.
        examples: scenes, the first in the order of the input, in full.
    """

    path: Path
    by: By
    scenes: int
    unmoved: int
    unfinished: int
    differing: int
    drops: int
    live: dict[str, int]
    reused: int
    summary: Summary
    examples: tuple[Attributed, ...]


def attribute(
    path: Path,
    options: AttributeOptions,
    *,
    examples: int = 10,
    announce: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Drop critiques of a run's scenes, one after the other, and see what that does to their answers.

    Args:
        path: the log; it is only read.
        options: what to drop, and where.
        examples: scenes to return in full.
        announce: told in a line each what takes time and what was decided.
        on_progress: called with how many scenes are done, and how many there are.

    Raises:
        MatrixError: an option, the log or the model cannot be used.
    """
    if options.engine is not None:
        options.engine.check()
    with Log.open(path, read_only=True) as log:
        _check(log, options)  # before a model is opened
        with open_recorded(log.record, path, model=options.model, engine=options.engine, announce=announce) as engine:
            announce(engine.summary)
            return attribute_with(log, engine, options, window=2 * engine.parallel, examples=examples, on_progress=on_progress)


def attribute_with(
    log: Log,
    answerer: Answerer,
    options: AttributeOptions,
    *,
    window: int = _WINDOW,
    examples: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Do the same with any answerer, playing `window` scenes at a time.

    Raises:
        MatrixError: an option cannot be used, a critique of the log not be dropped, or the answerer is gone.
    """
    chosen = _check(log, options)
    num_scenes = len(chosen) if chosen is not None else log.num_scenes()
    num_scenes = min(num_scenes, options.limit or num_scenes)
    config = log.record.config
    prompts = recorded_prompts(config)
    counterfactuals = Counterfactuals(config, prompts, Reuse(log, answerer, config), window=window)
    found = _Findings(options.by, examples)
    scenes = islice(_chosen(log, chosen), options.limit)
    done = 0
    with _table(options) as table:
        while page := list(islice(scenes, _PAGE)):

            def progress(share: float, done: int = done, page: list[StoredScene] = page) -> None:
                if on_progress is not None:
                    on_progress(done + int(share * len(page)), num_scenes)

            for attributed in _attribute_page(log, page, counterfactuals, found, progress):
                found.add(attributed)
                if table is not None:
                    table.add(_rows(options.by, attributed))
            done += len(page)
            progress(0.0, done)
    return found.result(log.path)


def _attribute_page(
    log: Log, page: list[StoredScene], counterfactuals: Counterfactuals, found: "_Findings", progress: Callable[[float], None]
) -> Iterator[Attributed]:
    stories = {stored.scene: read_story(stored) for stored in page}
    whole = _derived(log, [stored for stored in page if stories[stored.scene].ending.end == "completed"])
    found.unfinished += sum(story.ending.end != "completed" for story in stories.values())
    found.differing += sum(story.ending.end == "completed" for story in stories.values()) - len(whole)
    todo = [(stored, stories[stored.scene], stories[stored.scene].drops(found.by)) for stored in whole]
    found.unmoved += sum(not drops for _, _, drops in todo)
    total, played = sum(len(drops) for _, _, drops in todo), 0
    effects: dict[bytes, list[Effect]] = {stored.scene: [] for stored in whole}
    for turn in range(max((len(drops) for _, _, drops in todo), default=0)):
        scenes = [(stored, story, drops[turn]) for stored, story, drops in todo if len(drops) > turn]
        before = played
        of_scenes, counts = counterfactuals.play(scenes, lambda done, before=before: progress((before + done) / total))  # type: ignore[misc]
        for scene, effect in of_scenes.items():
            effects[scene].append(effect)
        found.count(counts)
        played += len(scenes)
    for _, story, drops in todo:
        if drops:
            ranked = sorted(effects[story.scene], key=lambda effect: effect.weight, reverse=True)
            yield Attributed(story, tuple(ranked))


def _derived(log: Log, scenes: list[StoredScene]) -> list[StoredScene]:
    """Return the scenes that replay as they are in the log: without a drop, nothing of them moves."""
    config = log.record.config
    pump = Pump(
        find_scene(config.scene),
        config.scene,
        prompts=recorded_prompts(config),
        limits=config.limits,
        seed=config.seed,
        rules=config.rules,
        log=_core.EventLog(),
        answerer=None,
        window=_WINDOW,
        complete=True,
    )
    counts = pump.run(scenes)
    differing = {error.scene for error in counts.divergences}
    return [stored for stored in scenes if stored.scene.hex() not in differing]


@dataclass(slots=True)
class _Findings:
    """What was found so far."""

    by: By
    most_examples: int
    unmoved: int = 0
    unfinished: int = 0
    differing: int = 0
    scenes: int = 0
    drops: int = 0
    reused: int = 0
    live: Counter[str] = field(default_factory=Counter)
    summary: Summary = field(default_factory=Summary)
    examples: list[Attributed] = field(default_factory=list)

    def count(self, counts: Counts) -> None:
        self.live.update({kind: each.turns for kind, each in counts.live.items()})
        self.reused += counts.reused.total()

    def add(self, attributed: Attributed) -> None:
        self.scenes += 1
        self.drops += len(attributed.effects)
        self.summary.add(attributed.effects)
        if len(self.examples) < self.most_examples:
            self.examples.append(attributed)

    def result(self, path: Path) -> Attribution:
        return Attribution(
            path=path,
            by=self.by,
            scenes=self.scenes,
            unmoved=self.unmoved,
            unfinished=self.unfinished,
            differing=self.differing,
            drops=self.drops,
            live=dict(sorted(self.live.items())),
            reused=self.reused,
            summary=self.summary,
            examples=tuple(self.examples),
        )


def _check(log: Log, options: AttributeOptions) -> list[str] | None:
    """Refuse what cannot work; return the ids of the scenes that were asked for, None for all."""
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}: give at least 1")
    if options.out is not None:
        check_table(options.out, overwrite=options.overwrite)
    check_rules(log.record.config.rules)
    severities = log.query("SELECT DISTINCT (payload ->> 'severity')::INTEGER FROM events WHERE kind = 'HarmNoted'")[1]
    if not severities:
        raise ConfigError(f"{log.path} holds no critique of an action: there is nothing to drop")
    if (0,) in severities:
        raise ConfigError(
            f"scene {log.record.config.scene!r} of {log.path} gives critiques no severity, and no turn of it can say that there is no "
            "harm: critiques are dropped in scene 'matrix' only"
        )
    return [find_scene_id(log, scene) for scene in options.scenes] or None


def _chosen(log: Log, chosen: list[str] | None) -> Iterator[StoredScene]:
    if chosen is None:
        yield from log.scenes()
        return
    for scene in dict.fromkeys(chosen):
        [(position,)] = log.query("SELECT position FROM scenes WHERE scene = ?", [bytes.fromhex(scene)])[1]
        yield from log.scenes(start=position, stop=position + 1)


def _table(options: AttributeOptions) -> AbstractContextManager[TableWriter | None]:
    return nullcontext() if options.out is None else TableWriter(options.out, _COLUMNS, overwrite=options.overwrite)


def _rows(by: By, attributed: Attributed) -> Iterator[tuple[object, ...]]:
    for place, effect in enumerate(attributed.effects, 1):
        critiques = effect.drop.critiques
        before, after = effect.before, effect.after
        yield (
            attributed.story.scene.hex(),
            by,
            place,
            effect.drop.name,
            [critique.action for critique in critiques],
            list(dict.fromkeys(critique.role for critique in critiques)),
            effect.drop.severity,
            effect.distance,
            list(effect.changes),
            distance(before.response, before.answer),
            None if effect.distance is None else distance(after.response, after.answer),
            effect.live,
            before.answer,
            None if effect.distance is None else after.answer,
        )
