"""What is printed of labels and of a run's health: lines, rows of a table, a JSON document."""

from matrix_py.health import Health, Share
from matrix_py.labels.labelling import DetectorRates, Labelling


def label_rows(labelling: Labelling) -> list[tuple[str, int, str, str, int, int, str]]:
    """Return the rows of a table: detector, version, kind of turn, label, turns that got it, turns, and their share.

    A kind without a label has no row, but each detector has one for all its kinds.
    """
    rows = []
    for found in labelling.detectors:
        for kind in found.kinds:
            for label, count in sorted(kind.labels.items()):
                rows.append((found.detector, found.version, kind.kind, label, count, kind.num_turns, share(Share(count, kind.num_turns))))
        total = Share(found.num_labelled, found.num_turns)
        rows.append((found.detector, found.version, "all", "", total.count, total.total, share(total)))
    return rows


def label_line(labelling: Labelling) -> str:
    """Return one line: of each detector, how many turns got a label, and of which kinds most."""
    return "labels: " + ", ".join(_detector(found) for found in labelling.detectors)


def _detector(found: DetectorRates) -> str:
    total = Share(found.num_labelled, found.num_turns)
    kinds = sorted((kind for kind in found.kinds if kind.num_labelled), key=lambda kind: (-kind.num_labelled, kind.kind))
    named = "; ".join(f"{kind.kind} {kind.num_labelled}" for kind in kinds[:3])
    return f"{found.detector} {total.count} of {total.total}" + (f" ({share(total)}: {named})" if total.count else "")


def health_lines(health: Health) -> list[str]:
    """Return lines: what became of acts, where there were any, and which budgets were hit."""
    acts = [
        f"{name} {each.count} of {each.total} ({share(each)})"
        for name, each in (
            ("infeasible acts", health.infeasible),
            ("acts that nobody noticed", health.unnoticed),
            ("repeated reactions", health.repeated),
        )
        if each.total
    ]
    cut = {kind: each for kind, each in health.length.items() if each.count}
    kinds = sorted(cut.items(), key=lambda item: (-item[1].count, item[0]))
    hit = ", ".join(f"{kind} {each.count} of {each.total} ({share(each)})" for kind, each in kinds)
    return [*(["health: " + ", ".join(acts)] if acts else []), "budgets hit: " + (hit or "none")]


def document(labelling: Labelling, health: Health) -> dict[str, object]:
    """Return all of it, for JSON."""
    return {
        "path": str(labelling.path),
        "detectors": [
            {
                "detector": found.detector,
                "version": found.version,
                "labelled_at": found.labelled_at,
                "turns": found.num_turns,
                "labelled": found.num_labelled,
                "kinds": [{"kind": kind.kind, "turns": kind.num_turns, "labels": kind.labels} for kind in found.kinds],
            }
            for found in labelling.detectors
        ],
        "health": {
            "infeasible": _share(health.infeasible),
            "unnoticed": _share(health.unnoticed),
            "repeated": _share(health.repeated),
            "length": {kind: _share(each) for kind, each in health.length.items()},
        },
    }


def share(value: Share) -> str:
    """Return a share in per cent; nothing of nothing."""
    return "" if value.rate is None else f"{value.rate:.1%}"


def _share(value: Share) -> dict[str, object]:
    return {"count": value.count, "total": value.total, "rate": value.rate}
