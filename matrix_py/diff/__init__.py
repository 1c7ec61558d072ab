"""Comparing runs: what an edit did to thousands of scenes, beside what another seed does (docs/diff.md)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from matrix_py.diff.interval import LEVEL, interval
from matrix_py.diff.result import Diff, Ending, Estimate, Figure, KindChanges, Level, Parting, Side
from matrix_py.engine import available_cpus
from matrix_py.errors import ConfigError
from matrix_py.store.comparison import ComparedLog, compared, num_steps
from matrix_py.types import RunConfig

__all__ = ["Diff", "Ending", "Estimate", "Figure", "KindChanges", "Level", "Parting", "Side", "diff", "num_steps"]

# In the order in which they are told; views of the same names say them.
FIGURES = (
    *("parted", "other_answers", "direct", "inherited", "noise", "appeared", "disappeared", "roles_added", "roles_removed"),
    *("verdicts_to_no", "verdicts_to_yes", "recipients_changed", "critiques_added", "critiques_removed", "severities_changed"),
    *("response_changed", "revision_changed", "kept_to_revised", "revised_to_kept", "end_changed", "state_changed"),
)
LEVELS = ("rejected", "interactions", "critiques", "severity", "worst", "kept", "revision_characters")

_COUNTS = """
    SELECT
        (SELECT count(*) FROM diff_pair),
        (SELECT count(*) FROM a.scenes ANTI JOIN b.scenes USING (scene)),
        (SELECT count(*) FROM b.scenes ANTI JOIN a.scenes USING (scene)),
        (SELECT count(*) FROM a.scenes SEMI JOIN b.scenes USING (scene))
"""
_KINDS = """
    SELECT
        kind,
        coalesce(sum(turns) FILTER (change = 'same'), 0),
        coalesce(sum(turns) FILTER (change = 'direct'), 0),
        coalesce(sum(turns) FILTER (change = 'inherited'), 0),
        coalesce(sum(turns) FILTER (change = 'edited'), 0),
        coalesce(sum(turns) FILTER (change = 'noise'), 0),
        sum(same_request),
        coalesce(sum(turns) FILTER (change = 'appeared'), 0),
        coalesce(sum(turns) FILTER (change = 'disappeared'), 0),
        sum(other_answers)
    FROM diff_count GROUP BY kind ORDER BY sum(turns) FILTER (change != 'same') DESC NULLS LAST, kind
"""
_PARTINGS = "SELECT change, kind, step, rank, count(*) FROM diff_parting GROUP BY ALL ORDER BY count(*) DESC, kind, step, rank, change"
_ENDINGS = """
    SELECT if(state_a = 'failed', 'failed', end_reason_a) AS a, if(state_b = 'failed', 'failed', end_reason_b) AS b, count(*)
    FROM diff_scene GROUP BY ALL ORDER BY count(*) DESC, a, b
"""
_FIGURES = "SELECT figure, scenes, total, mean, error, NULL, NULL, NULL, NULL FROM diff_figure"
_EFFECTS = "SELECT figure, scenes, total, mean, error, null_mean, null_error, effect, effect_error FROM diff_effect"
_LEVELS = """
    SELECT figure, avg(value_a), avg(value_b), NULL FROM diff_level WHERE value_a IS NOT NULL AND value_b IS NOT NULL GROUP BY figure
"""
_LEVELS_NULL = """
    SELECT figure, avg(d.value_a), avg(d.value_b), avg(n.value_b) FROM diff_level d JOIN null_level n USING (scene, figure)
    WHERE d.value_a IS NOT NULL AND d.value_b IS NOT NULL AND n.value_b IS NOT NULL GROUP BY figure
"""
_SCENES = """
    SELECT
        s.* EXCLUDE (revision_a, revision_b),
        length(revision_a) AS revision_characters_a,
        length(revision_b) AS revision_characters_b,
        (SELECT list({'role': role, 'change': change, 'rank_a': rank_a, 'rank_b': rank_b} ORDER BY coalesce(rank_a, rank_b), role)
         FROM diff_role r WHERE r.position = s.position AND r.change != 'same') AS roles,
        (SELECT list(a ORDER BY step, depth, rank, action) FROM (
             SELECT * EXCLUDE (scene) FROM diff_action
             WHERE NOT (in_a AND in_b) OR flipped IS NOT NULL OR recipients_changed OR critique != 'same'
         ) a WHERE a.position = s.position) AS actions
    FROM diff_scene s ORDER BY s.position
"""


def diff(
    a: Path,
    b: Path,
    *,
    null: Path | None = None,
    scenes: bool = False,
    threads: int | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> Diff:
    """Compare two runs, scene by scene.

    Args:
        a: the log of the run that B is compared with.
        b: the log of the other.
        null: the log of another run of A's configuration under another seed: every figure then stands beside what that differs by.
        scenes: whether the result has what differs in each scene.
        threads: that read the logs; all CPUs, if not given.
        on_progress: told which view is under way and how many are done, of `num_steps`.

    Raises:
        ConfigError: the runs have no finished scene in common, or `threads` is less than 1.
        StoreError: a log is given twice, cannot be read, or is written by a run.
    """
    if threads is None:
        threads = available_cpus()
    if threads < 1:
        raise ConfigError(f"--threads is {threads}: give at least 1")
    with compared(a, b, null, threads=threads, on_progress=on_progress) as found:
        [(num_compared, only_a, only_b, shared)] = found.query(_COUNTS)
        configs = [log.record.config for log in found.logs]
        if not shared:
            scenes_named = " and ".join(sorted({config.scene for config in configs[:2]}))
            raise ConfigError(f"{a} and {b} share no scene (they play {scenes_named}): compare runs of one scene on the same instructions")
        if not num_compared:
            raise ConfigError(f"{a} and {b} have finished no scene of the {shared} that they share: matrix resume them first")
        compared_null = None
        if null is not None:
            [(compared_null,)] = found.query("SELECT count(DISTINCT scene) FROM diff_value SEMI JOIN null_value USING (scene)")
            if not compared_null:
                raise ConfigError(
                    f"{null} has finished none of the {num_compared} scenes that {a} and {b} share: it is no noise floor for them"
                )
        sides = [_side(log) for log in found.logs]
        figures = {row[0]: row for row in found.query(_FIGURES if null is None else _EFFECTS)}
        levels = {row[0]: row for row in found.query(_LEVELS if null is None else _LEVELS_NULL)}
        return Diff(
            a=sides[0],
            b=sides[1],
            null=None if null is None else sides[2],
            configuration=_differences(configs[0], configs[1]),
            null_configuration=[] if null is None else _differences(configs[0], configs[2]),
            compared=num_compared,
            only_a=only_a,
            only_b=only_b,
            unfinished=shared - num_compared,
            compared_null=compared_null,
            parted=found.query("SELECT count(*) FROM diff_parting")[0][0],
            kinds=[KindChanges(**dict(zip(KindChanges.__struct_fields__, row, strict=True))) for row in found.query(_KINDS)],
            partings=[Parting(**dict(zip(Parting.__struct_fields__, row, strict=True))) for row in found.query(_PARTINGS)],
            endings=[Ending(a=one, b=other, scenes=num) for one, other, num in found.query(_ENDINGS)],
            figures=[_figure(figures[name], len(figures)) for name in FIGURES if name in figures],
            levels=[
                _level(figures[name], levels[name], len(LEVELS) if null is None else len(figures)) for name in LEVELS if name in levels
            ],
            scenes=found.rows(_SCENES) if scenes else None,
        )


def _side(log: ComparedLog) -> Side:
    config, execution = log.record.config, log.record.execution
    edits = [] if execution.change is None else execution.change.edits
    return Side(
        run=str(log.path),
        run_id=log.record.run_id,
        scene=config.scene,
        seed=config.seed,
        scenes=log.num_scenes,
        finished=log.num_finished,
        parent="" if execution.parent is None else execution.parent.run_id,
        edits=list(dict.fromkeys(f"{edit.at} ({edit.do.replace('_', ' ')})" for edit in edits)),
    )


def _differences(one: RunConfig, other: RunConfig) -> list[str]:
    """Name what differs between two configurations: of prompts, settings and limits, which."""
    found = []
    before, after = (msgspec.to_builtins(config) for config in (one, other))
    for name in RunConfig.__struct_fields__:
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        elif old != new:
            found.append(name)
    return found


def _estimate(mean: float, error: float | None, num: int) -> Estimate:
    low, high = interval(mean, error, num) or (None, None)
    return Estimate(mean=mean, low=low, high=high)


def _survives(mean: float | None, error: float | None, num: int, among: int) -> bool | None:
    """Whether zero is outside of an interval that holds for so many figures at once (Dunn 1961)."""
    ends = None if mean is None else interval(mean, error, num, level=1 - (1 - LEVEL) / among)
    return None if ends is None else not ends[0] <= 0 <= ends[1]


def _figure(row: tuple[Any, ...], among: int) -> Figure:
    name, num, total, mean, error, null_mean, null_error, effect, effect_error = row
    return Figure(
        name=name,
        scenes=num,
        total=total,
        difference=_estimate(mean, error, num),
        null=None if effect is None else _estimate(null_mean, null_error, num),
        effect=None if effect is None else _estimate(effect, effect_error, num),
        survives=_survives(effect, effect_error, num, among),
    )


def _level(row: tuple[Any, ...], means: tuple[Any, ...], among: int) -> Level:
    name, num, _, mean, error, null_mean, null_error, effect, effect_error = row
    _, mean_a, mean_b, mean_null = means
    return Level(
        name=name,
        scenes=num,
        a=mean_a,
        b=mean_b,
        difference=_estimate(mean, error, num),
        null=mean_null,
        null_difference=None if effect is None else _estimate(null_mean, null_error, num),
        effect=None if effect is None else _estimate(effect, effect_error, num),
        survives=_survives(mean, error, num, among),
    )
