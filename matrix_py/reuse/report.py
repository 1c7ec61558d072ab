"""What the commands print of a forecast and of a regeneration."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from matrix_py.reuse.forecast import Forecast
from matrix_py.reuse.regenerate import Regeneration
from matrix_py.terminal import line, print_table


def print_forecast(parent: Path, found: Forecast) -> None:
    """Print what a run that reuses an older log will take."""
    rows: list[tuple[object, ...]] = [(kind, found.reused[kind], found.edited[kind], found.may_run[kind]) for kind in found.kinds]
    rows.append(("all", found.reused.total(), found.edited.total(), found.may_run.total()))
    edited = any(row[2] for row in rows)
    columns = ["kind", "reused", *(["edited"] if edited else []), "may run"]
    print_table(columns, [row if edited else (row[0], row[1], row[3]) for row in rows])
    line(f"{parent} knows {found.num_scenes} of these scenes; {found.num_whole} of them need no model")
    if found.num_new:
        line(f"{found.num_new} scenes it does not know: all their turns run")


def print_regeneration(path: Path, found: Regeneration) -> None:
    """Print how a run came out the second time."""
    rows = [
        (
            kind,
            drift.identical,
            drift.other_text,
            "" if drift.first_token is None else drift.first_token,
            drift.other_outcome,
            drift.inherited,
            drift.gone,
            drift.new,
        )
        for kind, drift in found.kinds.items()
    ]
    print_table(["kind", "identical", "other text", "token", "outcome", "inherited", "gone", "new"], rows)
    for example in found.examples:
        at = "another outcome" if example.token is None else f"another text from token {example.token} on"
        line(f"scene {example.scene[:12]} turn {example.turn}: {at}")
    if not found.identical or found.other_facts:
        for name, (then, now) in found.facts.items():
            line(f"{name}: {then}" + ("" if then == now else f", now {now}"))
    verdict = "identical" if found.identical else f"{found.num_scenes - found.num_identical} scenes drifted"
    root = f", root {found.roots[1]}" if found.identical and found.roots[0] == found.roots[1] else ""
    line(f"{path}: {verdict}, {found.num_scenes} scenes, {found.summary.counts.live_turns} turns{root}")


def forecast_document(parent: Path, found: Forecast) -> dict[str, Any]:
    """Return a forecast for JSON."""
    kinds = {kind: {"reused": found.reused[kind], "edited": found.edited[kind], "may_run": found.may_run[kind]} for kind in found.kinds}
    return {
        "parent": str(parent),
        "scenes": found.num_scenes,
        "whole_scenes": found.num_whole,
        "new_scenes": found.num_new,
        "kinds": kinds,
        "reused": found.reused.total(),
        "edited": found.edited.total(),
        "may_run": found.may_run.total(),
    }


def regeneration_document(run: Path, found: Regeneration) -> dict[str, Any]:
    """Return a regeneration for JSON."""
    return {
        "run": str(run),
        "identical": found.identical,
        "scenes": found.num_scenes,
        "identical_scenes": found.num_identical,
        "kinds": {kind: asdict(drift) | {"first_token": drift.first_token} for kind, drift in found.kinds.items()},
        "examples": [asdict(example) for example in found.examples],
        "roots": list(found.roots),
        "facts": {name: {"then": facts[0], "now": facts[1]} for name, facts in found.facts.items()},
    }
