"""What is printed of an ablation: lines, a table, a JSON document."""

import math
from collections.abc import Sequence

from matrix_py.ablation import Ablation
from matrix_py.ablation.table import Totals


def tables(found: Ablation) -> list[tuple[list[str], list[tuple[object, ...]]]]:
    """Return a table for each limit, columns and rows: the scenes as they were in the run, and under each value, side by side."""
    made = []
    for limit in dict.fromkeys(arm.limit for arm in found.arms):
        arms = [arm for arm in found.arms if arm.limit == limit]
        name = f"{limit} (live)" if arms[0].is_live else limit
        each = [found.run, *(arm.totals for arm in arms)]
        made.append(([name, "the run", *(str(arm.value) for arm in arms)], _rows(each, is_cut=not arms[0].is_live)))
    return made


def lines(found: Ablation) -> list[str]:
    """Return what the table does not say."""
    texts = [f"{found.table}: a row for each scene under each limit; the logs lie beside it"]
    if found.unfinished:
        texts.append(f"{found.unfinished} open scenes of {found.path} are left out")
    if any(not arm.is_live for arm in found.arms):
        texts.append(
            "interactions: scenes are cut, and only what follows the cut ran live; who ended before the limit is the same as in the run"
        )
    if any(arm.is_live for arm in found.arms):
        texts.append("roles: casts are nested, and scenes were simulated live from the first turn that a missing role changes")
    return texts


def document(found: Ablation) -> dict[str, object]:
    """Return all of it, for JSON."""
    return {
        "run": str(found.path),
        "table": str(found.table),
        "unfinished": found.unfinished,
        "interrupted": found.interrupted,
        "baseline": _totals(found.run),
        "limits": [
            {"limit": arm.limit, "value": arm.value, "log": str(arm.path), "live": arm.is_live, **_totals(arm.totals)} for arm in found.arms
        ],
    }


def _rows(each: Sequence[Totals], *, is_cut: bool) -> list[tuple[object, ...]]:
    def mean(total: float, count: int, digits: int) -> str:
        return f"{total / count:.{digits}f}" if count else ""

    def bound(of: Totals, side: int) -> str:
        value = of.distance.interval()[side]
        return "" if math.isnan(value) else f"{min(max(value, 0), 1):.3f}"

    return [
        ("scenes", *(of.scenes for of in each)),
        ("failed", *(of.failed for of in each)),
        *([("ended before the limit", "", *(of.censored for of in each[1:]))] if is_cut else []),
        ("actions a scene", *(mean(of.interactions, of.scenes, 1) for of in each)),
        ("critiques a scene", *(mean(of.critiques, of.scenes, 1) for of in each)),
        ("gravest, mean", *(mean(of.severity, of.severe, 2) for of in each)),
        ("kept", *(of.kept for of in each)),
        ("revised", *(of.revised for of in each)),
        ("refusals", *(of.refuses for of in each)),
        ("another answer", *(of.moved for of in each)),
        ("distance from the run", *(f"{of.distance.mean:.3f}" if of.distance.count else "" for of in each)),
        ("  95% from", *(bound(of, 0) for of in each)),
        ("  95% to", *(bound(of, 1) for of in each)),
        ("turns reused", "", *(of.reused_turns for of in each[1:])),
        ("turns live", "", *(of.live_turns for of in each[1:])),
    ]


def _totals(of: Totals) -> dict[str, object]:
    return {
        "scenes": of.scenes,
        "failed": of.failed,
        "ended_before": of.censored,
        "interactions": of.interactions,
        "critiques": of.critiques,
        "mean_severity": of.severity / of.severe if of.severe else None,
        "kept": of.kept,
        "revised": of.revised,
        "refuses": of.refuses,
        "moved": of.moved,
        "distance": of.distance.mean,
        "interval": list(of.distance.interval()),
        "reused_turns": of.reused_turns,
        "live_turns": of.live_turns,
    }
