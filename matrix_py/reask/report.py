"""What is printed of re-asked turns: lines, a table, a JSON document. Texts of models are for whoever wants to see them."""

import math

from matrix_py.reask import Reask
from matrix_py.reask.answers import Comparison, Mean, Pair


def heading_lines(found: Reask) -> list[str]:
    """Return what was asked, and what the reader has to know of it."""
    of = found.comparison
    lines = [f"{found.path}: {of.pairs} turns of kind {found.kind}, changed: {', '.join(found.changed) or 'nothing'}"]
    if not found.bears_on:
        lines.append(f"nothing of that bears on turns of kind {found.kind}: what differs below is not its doing")
    if found.differing:
        lines.append(f"{found.differing} recorded turns are left out: today's scenes ask them otherwise (matrix replay says where)")
    if found.errors:
        lines.append(f"{found.errors} turns are left out: {found.first_error}")
    return lines


def confusion_rows(of: Comparison) -> list[tuple[object, ...]]:
    """Return the confusion matrix as rows of a table, with the recorded choices down the side, and totals. Empty for free text."""
    if not of.choices:
        return []
    rows: list[tuple[object, ...]] = []
    for old in of.choices:
        counts = [of.confusion[old, new] for new in of.choices]
        rows.append((f"was {old}", *counts, sum(counts)))
    totals = [sum(of.confusion[old, new] for old in of.choices) for new in of.choices]
    return [*rows, ("all", *totals, sum(totals))]


def confusion_columns(of: Comparison) -> list[str]:
    """Return the names of its columns."""
    return ["", *(f"now {choice}" for choice in of.choices), "all"]


def result_lines(of: Comparison) -> list[str]:
    """Return agreement, texts and shifts, a line each."""
    if not of.pairs:
        return ["there is nothing to compare"]
    low, high = of.agreement_interval
    what = "the same choice" if of.choices else "the same text"
    lines = [f"{what}: {of.agreement} of {of.pairs} ({of.agreement / of.pairs:.1%}, 95% {low:.1%} to {high:.1%})"]
    likeness = of.likeness
    lines.append(f"texts: {likeness['identical']} identical, {likeness['folded']} the same but for spelling, {likeness['other']} other")
    if of.first_shift is not None:
        first = of.choices[0]
        was, now = (sum(of.confusion[pair] for pair in of.confusion if pair[side] == first) for side in (0, 1))
        lines.append(f"share of {first}: {was / of.pairs:.1%} -> {now / of.pairs:.1%}, {_mean(of.first_shift, 100, ' points')}")
    if of.log_odds_shift is not None:
        first, second = of.choices[:2]
        lines.append(f"log-odds of {first} to {second}: {_mean(of.log_odds_shift, 1, ' nats')}, over {of.log_odds_shift.count} turns")
    lines.append(f"length: {_mean(of.length_shift, 1, ' characters')}")
    return lines


def example_lines(pair: Pair, *, reveal: bool) -> list[str]:
    """Return a pair in three lines; without `reveal`, texts as their lengths."""

    def shown(text: str) -> str:
        return " / ".join(text.split("\n")) if reveal else f"[{len(text)} characters]"

    choice = f": {pair.old} -> {pair.new}" if pair.old else ""
    return [f"scene {pair.scene.hex()[:12]} {pair.path}{choice}", f"  was {shown(pair.before.text)}", f"  now {shown(pair.after.text)}"]


def document(found: Reask, *, reveal: bool) -> dict[str, object]:
    """Return all of it, for JSON."""
    of = found.comparison

    def text(value: str) -> object:
        return value if reveal else len(value)

    return {
        "run": str(found.path),
        "kind": found.kind,
        "changed": list(found.changed),
        "bears_on": found.bears_on,
        "pairs": of.pairs,
        "differing": found.differing,
        "errors": found.errors,
        "first_error": found.first_error or None,
        "choices": list(of.choices),
        "confusion": [{"old": old, "new": new, "turns": count} for (old, new), count in of.confusion.items()],
        "agreement": {
            "count": of.agreement,
            "of": of.pairs,
            "rate": of.agreement / of.pairs if of.pairs else None,
            "interval": list(of.agreement_interval),
        },
        "texts": dict(of.likeness),
        "first_shift": _mean_document(of.first_shift),
        "log_odds_shift": _mean_document(of.log_odds_shift),
        "length_shift": _mean_document(of.length_shift),
        "examples": [
            {
                "scene": pair.scene.hex(),
                "path": pair.path,
                "old": pair.old or None,
                "new": pair.new or None,
                "old_log_odds": pair.before.log_odds,
                "new_log_odds": pair.after.log_odds,
                "old_text": text(pair.before.text),
                "new_text": text(pair.after.text),
            }
            for pair in found.examples
        ],
    }


def _mean(mean: Mean, scale: float, unit: str) -> str:
    if math.isnan(mean.low):
        return f"{mean.value * scale:+.3g}{unit} (one scene gives no interval)"
    return f"{mean.value * scale:+.3g}{unit} (95% {mean.low * scale:+.3g} to {mean.high * scale:+.3g})"


def _mean_document(mean: Mean | None) -> dict[str, object] | None:
    return None if mean is None else {"mean": mean.value, "interval": [mean.low, mean.high], "turns": mean.count}
