"""What is printed of an attribution: lines, a table, a JSON document. Answers are for whoever wants to see them."""

import math

from matrix_py.attribution import Attributed, Attribution
from matrix_py.attribution.story import Effect
from matrix_py.attribution.summary import Group, Summary


def heading_lines(found: Attribution) -> list[str]:
    """Return what was dropped, and what the model was asked for it."""
    what = "critiques dropped one at a time" if found.by == "critique" else "times all critiques of a role dropped"
    left = [
        f"{count} {what}"
        for count, what in (
            (found.unmoved, "without a critique"),
            (found.unfinished, "failed or open"),
            (found.differing, "that today's code derives otherwise (matrix replay says where)"),
        )
        if count
    ]
    lines = [f"{found.path}: {found.drops} {what}, in {found.scenes} scenes" + (f"; left out: {', '.join(left)}" if left else "")]
    live = ", ".join(f"{kind} {count}" for kind, count in found.live.items())
    lines.append(f"turns: {sum(found.live.values())} live ({live or 'none'}), {found.reused} reused")
    lines.append("without a drop, every request is the log's and so is the answer: distance 0")
    return lines


def group_rows(summary: Summary) -> list[tuple[object, ...]]:
    """Return the rows of a table: effects, how far the answer moved, how often not at all, and what became of another kind."""
    groups = [
        ("all", summary.every),
        ("moved most in its scene", summary.first),
        ("the others there", summary.others),
        ("the only one of its scene", summary.sole),
        *((f"severity {severity}", group) for severity, group in sorted(summary.severities.items())),
        *(("the asker's" if rank == 0 else f"role {rank}'s", group) for rank, group in sorted(summary.ranks.items())),
        *((f"step {step}", group) for step, group in sorted(summary.steps.items())),
    ]
    return [(name, *_cells(group)) for name, group in groups if group.drops]


GROUP_COLUMNS = ["dropped", "times", "distance", "95%", "unmoved", "of another kind"]


def summary_lines(summary: Summary) -> list[str]:
    """Return what the table does not say."""
    if not summary.choosing:
        return []
    return [f"one alone moved the answer in {summary.deciding} of the {summary.choosing} scenes that had more than one"]


def scene_lines(attributed: Attributed, *, reveal: bool) -> list[str]:
    """Return a scene's effects, a line each, what moved its answer most first; with `reveal`, the answers too."""
    story = attributed.story
    lines = [f"scene {story.scene.hex()[:12]}: {'kept' if story.ending.kept else 'revised'}, {len(story.critiques)} critiques"]
    if reveal:
        lines.append(f"    answer: {_flat(story.ending.answer)}")
    for effect in attributed.effects:
        lines.append(f"  {_effect(effect)}")
        if reveal and effect.distance:
            lines.append(f"    answer: {_flat(effect.after.answer)}")
    return lines


def document(found: Attribution, *, reveal: bool) -> dict[str, object]:
    """Return all of it, for JSON; without `reveal`, answers as their lengths."""
    summary = found.summary

    def text(value: str) -> object:
        return value if reveal else len(value)

    return {
        "run": str(found.path),
        "by": found.by,
        "scenes": found.scenes,
        "left_out": {"unmoved": found.unmoved, "unfinished": found.unfinished, "differing": found.differing},
        "drops": found.drops,
        "turns": {"live": found.live, "reused": found.reused},
        "floor": 0,
        "groups": {
            "all": _group(summary.every),
            "first": _group(summary.first),
            "others": _group(summary.others),
            "sole": _group(summary.sole),
            "severity": {value: _group(group) for value, group in sorted(summary.severities.items())},
            "rank": {value: _group(group) for value, group in sorted(summary.ranks.items())},
            "step": {value: _group(group) for value, group in sorted(summary.steps.items())},
        },
        "deciding": {"count": summary.deciding, "of": summary.choosing},
        "examples": [
            {
                "scene": each.story.scene.hex(),
                "kept": each.story.ending.kept,
                "answer": text(each.story.ending.answer),
                "effects": [
                    {
                        "dropped": effect.drop.name,
                        "critiques": [critique.action for critique in effect.drop.critiques],
                        "severity": effect.drop.severity,
                        "distance": effect.distance,
                        "changes": list(effect.changes),
                        "live_turns": effect.live,
                        "answer": None if effect.distance is None else text(effect.after.answer),
                    }
                    for effect in each.effects
                ],
            }
            for each in found.examples
        ],
    }


def _cells(group: Group) -> tuple[object, ...]:
    low, high = group.distance.interval()
    interval = "" if math.isnan(low) else f"{max(low, 0):.3f} to {min(high, 1):.3f}"
    mean = f"{group.distance.mean:.3f}" if group.distance.count else ""
    changes = ", ".join(f"{change} {count}" for change, count in sorted(group.changes.items()))
    return group.drops, mean, interval, group.unmoved, changes


def _group(group: Group) -> dict[str, object]:
    return {
        "drops": group.drops,
        "distance": group.distance.mean,
        "interval": list(group.distance.interval()),
        "unmoved": group.unmoved,
        "changes": dict(sorted(group.changes.items())),
    }


def _effect(effect: Effect) -> str:
    [*critiques] = effect.drop.critiques
    whose = f"{critiques[0].role}, severity {critiques[0].severity}" if len(critiques) == 1 else f"{len(critiques)} critiques"
    moved = "no answer" if effect.distance is None else "unmoved" if effect.distance == 0 else f"moved by {effect.distance:.3f}"
    return f"{effect.drop.name} ({whose}): {moved}" + (f", {', '.join(effect.changes)}" if effect.changes else "")


def _flat(text: str) -> str:
    return " / ".join(text.split("\n"))
