"""What is printed of a comparison: a page of lines, or one JSON document."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from matrix_py.diff.result import Diff, Estimate, Figure, KindChanges, Side

# Kinds of turn that have a line of their own, without and with a third run, so that all fits a screen; the others share one.
_MOST_KINDS = {False: 7, True: 4}
# Sorts of parting and of endings that are named, and parts of a configuration.
_MOST_PLACES = 4
_MOST_NAMED = 2
_WIDTH = 100

_FIGURES = {
    "parted": "scenes that part",
    "other_answers": "turns answered otherwise",
    "direct": "turns changed directly",
    "inherited": "turns that inherit a change",
    "noise": "turns changed by noise",
    "appeared": "turns in {b} only",
    "disappeared": "turns in A only",
    "roles_added": "roles added",
    "roles_removed": "roles removed",
    "verdicts_to_no": "verdicts from yes to no",
    "verdicts_to_yes": "verdicts from no to yes",
    "recipients_changed": "other recipients",
    "critiques_added": "critiques added",
    "critiques_removed": "critiques removed",
    "severities_changed": "other severities",
    "response_changed": "first responses changed",
    "revision_changed": "revisions changed",
    "kept_to_revised": "kept, then revised",
    "revised_to_kept": "revised, then kept",
    "end_changed": "simulations ended otherwise",
    "state_changed": "scenes failed in one only",
}
_LEVELS = {
    "rejected": "share of acts rejected",
    "interactions": "acts that took place",
    "critiques": "critiques",
    "severity": "mean severity of harms",
    "worst": "worst severity, 0 if none",
    "kept": "responses kept",
    "revision_characters": "characters of the revision",
}
_TEXTS = ("critique_a", "critique_b")
_UNKNOWN = "[unknown]"


def lines(found: Diff) -> list[str]:
    """Return a page: which runs, what changed by kind of turn, where scenes part, how often what differs, and the levels of each run."""
    page = [_side("A ", found.a), _side("B ", found.b), *([] if found.null is None else [_side("A2", found.null)])]
    floor = "" if found.null is None else "; A and A2 in: " + ", ".join(_named(found.null_configuration))
    *before, last = _named(found.configuration)
    page += _wrapped("A and B differ in: ", [*before, last + floor])
    if found.b.parent == found.a.run_id:
        page += _wrapped("B is a fork of A; turns that were edited: ", found.b.edits) or ["B reuses A"]
    page.append(
        f"scenes: {found.compared} compared, {found.only_a} only in A, {found.only_b} only in B, {found.unfinished} not finished in both"
        + ("" if found.compared_null in (None, found.compared) else f"; of these {found.compared_null} in A2, which is what means are over")
    )
    page += ["", *_kinds(found, _MOST_KINDS[found.null is not None]), "", *_partings(found), "", *_figures(found)]
    levels = _levels(found)
    page += [*([""] if levels else []), *levels]
    # From a single scene nothing can be said of others.
    return page if found.compared > 1 else [text.replace(_UNKNOWN, "").rstrip() for text in page]


def document(found: Diff, *, reveal: bool) -> dict[str, Any]:
    """Return all of it, for JSON; without `reveal`, `{"characters": n}` stands for each text."""
    made: dict[str, Any] = msgspec.to_builtins(found)
    for scene in made["scenes"] or []:
        for action in scene["actions"] or []:
            for name in _TEXTS:
                if not reveal and action[name] is not None:
                    action[name] = {"characters": len(action[name])}
    return made


def _side(name: str, side: Side) -> str:
    finished = "" if side.finished == side.scenes else f" ({side.finished} finished)"
    return f"{name} {side.run}: scene {side.scene}, seed {side.seed}, {side.scenes} scenes{finished}"


def _named(names: Sequence[str]) -> list[str]:
    rest = len(names) - _MOST_NAMED
    return [*names[:_MOST_NAMED], *([f"{rest} more"] if rest > 0 else [])] or ["nothing"]


def _kinds(found: Diff, most: int) -> list[str]:
    """Return a table: the kinds that changed most, the others, all."""
    kinds = found.kinds
    columns = {"same": "same", "direct": "direct", "inherited": "inherited", "edited": "edited", "noise": "noise"}
    columns |= {"disappeared": "A only", "appeared": "B only", "other_answers": "other answer"}
    if not any(kind.edited for kind in kinds):
        del columns["edited"]
    shown = [kind for kind in kinds if kind.same < _turns(kind)][:most]
    others = [kind for kind in kinds if kind not in shown]
    rows = [(kind.kind, [getattr(kind, name) for name in columns]) for kind in shown]
    for name, several in ((f"{len(others)} other kinds", others), ("all", list(kinds))):
        if several:
            rows.append((name, [sum(getattr(kind, number) for kind in several) for number in columns]))
    heads = columns.values()
    table = [f"{'turns':<20}" + "".join(f"{head:>{max(9, len(head)) + 1}}" for head in heads)]
    for name, values in rows:
        table.append(f"{name[:20]:<20}" + "".join(f"{value:>{max(9, len(head)) + 1}}" for head, value in zip(heads, values, strict=True)))
    return table


def _turns(kind: KindChanges) -> int:
    return kind.same + kind.direct + kind.inherited + kind.edited + kind.noise + kind.appeared + kind.disappeared


def _partings(found: Diff) -> list[str]:
    """Return where scenes part: by kind and step, then by who it is about."""
    if not found.parted:
        return ["no scene parts: every turn is answered alike"]
    places: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    for each in found.partings:
        places[f"{each.kind}{'' if each.step is None else f' in step {each.step}'} ({each.change})"] += each.scenes
        roles["nobody's" if each.rank is None else "the ego" if each.rank == 0 else f"rank {each.rank}"] += each.scenes
    made = [f"{found.parted} of {found.compared} scenes part, first at: {_counted(places)}", f"by role: {_counted(roles)}"]
    changed = {f"{each.a} to {each.b}": each.scenes for each in found.endings if each.a != each.b}
    return [*made, *([f"ends: {_counted(Counter(changed))}"] if changed else [])]


def _counted(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in counts.most_common(_MOST_PLACES))
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(_MOST_PLACES))
    return shown + (f", elsewhere {rest}" if rest else "")


def _figures(found: Diff) -> list[str]:
    """Return a table of what differs, a scene in the mean; figures that are zero everywhere share a line."""
    with_null = found.null is not None
    # Turns by change are in the first table, scenes that failed among the ends.
    told = [figure for figure in found.figures if figure.name not in ("direct", "inherited", "noise", "state_changed")]
    shown = [figure for figure in told if figure.total or (figure.null is not None and figure.null.mean)]
    none = [_FIGURES[figure.name].format(b="B") for figure in told if figure not in shown]
    beside = f"{'A and A2':>10}  effect, 95% (below 0: A2 differs more)" if with_null else "  95%" if found.compared > 1 else ""
    head = f"{'a scene, in the mean' if found.compared > 1 else 'the scene':<28}{'A and B':>10}{beside}"
    table = [head]
    for figure in shown:
        table.append((f"{_FIGURES[figure.name].format(b='B' if not with_null else 'B or A2'):<28}" + _columns(figure)).rstrip())
    return [*table, *_wrapped("none: ", none)]


def _columns(figure: Figure) -> str:
    if figure.null is None or figure.effect is None:
        return f"{_number(figure.difference.mean):>10}  {_ends(figure.difference)}"
    return (
        f"{_number(figure.difference.mean):>10}{_number(figure.null.mean):>10}  "
        f"{_number(figure.effect.mean, signed=True):>7} {_ends(figure.effect)}{_mark(figure.effect, figure.survives)}"
    )


def _levels(found: Diff) -> list[str]:
    """Return a table of each run's levels, and of their differences scene by scene."""
    if not found.levels:
        return []
    with_null = found.null is not None
    difference = "B - A, 95%" if found.compared > 1 else "  B - A"
    table = [f"{'level':<27}{'A':>8}{'B':>8}  " + (f"{difference:<31}A2 - A, 95%" if with_null else difference)]
    for level in found.levels:
        change = f"{_number(level.difference.mean, signed=True):>7} {_ends(level.difference)}{_mark(level.difference, level.survives)}"
        floor = level.null_difference
        beside = "" if floor is None else f"{_number(floor.mean, signed=True):>7} {_ends(floor)}{_mark(floor, None)}"
        table.append(f"{_LEVELS[level.name]:<27}{_number(level.a):>8}{_number(level.b):>8}  {change:<31}{beside}".rstrip())
    return table


def _wrapped(head: str, names: Sequence[str]) -> list[str]:
    made = [head] if names else []
    for number, name in enumerate(names):
        part = name + (", " if number < len(names) - 1 else "")
        if len(made[-1] + part.rstrip()) > _WIDTH:
            made.append(" " * len(head))
        made[-1] += part
    return [line.rstrip() for line in made]


def _number(value: float, *, signed: bool = False) -> str:
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 0.1 else 3
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return "0" if float(text) == 0 else text


def _ends(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return _UNKNOWN
    return f"[{_number(estimate.low)}, {_number(estimate.high)}]"


def _mark(estimate: Estimate, survives: bool | None) -> str:
    return " **" if survives else " *" if estimate.is_clear else ""
