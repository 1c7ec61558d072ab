"""What the command line prints: progress, transcripts, tables. Text from models and inputs is shown as text, never as markup."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, time
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from matrix_py.check import PAIRS, Check, Share
from matrix_py.errors import ConfigError
from matrix_py.health import Health
from matrix_py.labels import Labelling
from matrix_py.labels.report import health_lines, label_line, label_rows
from matrix_py.pump import Counts, KindCounts
from matrix_py.replay import Replay, describe, grouped
from matrix_py.show import readable
from matrix_py.show.transcript import Part, Tone
from matrix_py.simulate import RunSummary
from matrix_py.status import Status

console = Console(highlight=False)
# Progress and notices go here, so that standard output holds results only.
notices = Console(stderr=True, highlight=False)

_NOTICE_S = 10.0
# Of headings, and of the texts that go with them. Of an act that did not take place, only the act is struck out.
_STYLES: dict[Tone, tuple[str, str]] = {
    "heading": ("bold", ""),
    "line": ("", ""),
    "struck": ("red", "red strike"),
    "rejected": ("red", "red"),
    "harm": ("magenta", "magenta"),
    "flaw": ("yellow", ""),
    "note": ("dim", ""),
}


class RunProgress:
    """A reporter (`matrix_py.simulate.Reporter`) with a progress bar; where there is no terminal, a line every ten seconds."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Make a reporter; `quiet` leaves only errors."""
        self._quiet = quiet
        self._progress: Progress | None = None
        self._task: Any = None
        self._start = 0.0
        self._before = 0  # scenes that were done with at the start: a resumed run has some, and they took no time
        self._done = 0
        self._last = 0.0

    def line(self, text: str) -> None:
        """Print a notice."""
        if not self._quiet:
            notices.print(Text(readable(text)), soft_wrap=True)

    def progress(self, counts: Counts, num_open: int, num_scenes: int) -> None:
        """Show how far the run is."""
        if self._quiet:
            return
        now = monotonic()
        if not self._start or counts.scenes < self._done:  # the first call, or the first of another run
            self._start, self._before = now, counts.scenes
        self._done = counts.scenes
        status = self._status(counts, num_open, now)
        if not notices.is_terminal:
            self._last = self._last or now
            if now - self._last >= _NOTICE_S:
                self._last = now
                self.line(f"{counts.scenes} of {num_scenes} scenes, {status}, {self._eta(counts, num_scenes, now)}")
            return
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("scenes"),
                TextColumn("{task.fields[status]}", markup=False),
                _Eta(),
                console=notices,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=num_scenes, status="", eta="")
        self._progress.update(self._task, completed=counts.scenes, status=status, eta=self._eta(counts, num_scenes, now))

    def replayed(self, counts: Counts, num_scenes: int) -> None:
        """Show how far a replay is."""
        self.progress(counts, 0, num_scenes)

    def _status(self, counts: Counts, num_open: int, now: float) -> str:
        seconds = max(now - self._start, 1e-3)
        parts = [f"{num_open} under way", f"{counts.turns} turns"]
        parts += [f"{counts.generated_tokens / seconds:.0f} tok/s"] if counts.generated_tokens else []
        parts += [f"{count} {name}" for name, count in (("failed", counts.failed), ("left open", counts.open)) if count]
        return ", ".join(parts)

    def _eta(self, counts: Counts, num_scenes: int, now: float) -> str:
        done_here = counts.scenes - self._before
        if done_here == 0:
            return "ETA unknown"
        return f"ETA {_duration((num_scenes - counts.scenes) * (now - self._start) / done_here)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()


class _Eta(ProgressColumn):
    """The estimate that the reporter made; rich's own would count scenes that a resumed run had finished before."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["eta"]))


@contextmanager
def bar(unit: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[str, int], None]]:
    """Yield a function that shows what is under way and how many of `total` units of it are done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, console=notices, transient=True, disable=quiet or not notices.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda what, done: progress.update(task, description=what, completed=done)


@contextmanager
def counting(unit: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many units are done, of how many, with the time that is left."""
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=notices, transient=True, disable=quiet or not notices.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def line(text: str) -> None:
    """Print a line of a result."""
    console.print(Text(readable(text)), soft_wrap=True)


def notice(text: str) -> None:
    """Print a line beside the result."""
    notices.print(Text(readable(text)), soft_wrap=True)


def print_summary(summary: RunSummary) -> None:
    """Print how a run ended."""
    counts = summary.counts
    rate = counts.live_turns / max(summary.wall_s, 1e-3)
    console.print(
        Text(
            f"{readable(str(summary.path))}: {summary.num_finished} of {summary.num_scenes} scenes finished"
            + (f" ({counts.failed} of them failed)" if counts.failed else "")
            + f", {counts.live_turns} turns in {_duration(summary.wall_s)} ({rate:.2f} turns/s, "
            + f"{counts.generated_tokens} tokens generated)"
        ),
        soft_wrap=True,
    )
    if summary.root is not None:
        console.print(Text(f"root {summary.root.hex()}"), soft_wrap=True)
    _print_reused(counts)
    _print_kinds(counts)
    _print_flaws(counts)
    if summary.labels is not None and summary.health is not None:
        for line in [label_line(summary.labels), *health_lines(summary.health)]:
            console.print(Text(readable(line)), soft_wrap=True)
    for line in counts.errors:
        notices.print(Text(f"left open: {readable(line)}"), soft_wrap=True)
    if summary.num_finished < summary.num_scenes:
        notices.print(Text(f"not finished: go on with: matrix resume {readable(str(summary.path))}"), soft_wrap=True)


def _print_reused(counts: Counts) -> None:
    """Print how many turns no model was asked for."""
    for what, kinds in (("reused", counts.reused), ("edited", counts.edited)):
        if kinds:
            line(f"{kinds.total()} turns {what}: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))


def _print_kinds(counts: Counts) -> None:
    """Print where the tokens went, the costliest kind of turn first."""
    if not counts.live:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "turns", "prompt tokens", "from cache", "generated"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    total = KindCounts()
    kinds = sorted(counts.live.items(), key=lambda item: item[1].cached_tokens - item[1].prompt_tokens - item[1].generated_tokens)
    for name, kind in [*kinds, ("all", total)]:
        share = f"{kind.cached_tokens / kind.prompt_tokens:.0%}" if kind.prompt_tokens else ""
        table.add_row(Text(readable(name)), str(kind.turns), str(kind.prompt_tokens), share, str(kind.generated_tokens))
        total.turns += kind.turns
        total.prompt_tokens += kind.prompt_tokens
        total.cached_tokens += kind.cached_tokens
        total.generated_tokens += kind.generated_tokens
    console.print(table)


def _print_flaws(counts: Counts) -> None:
    """Print what was wrong with replies, and what was done about it."""
    found = [f"{flaw} {policy.replace('_', ' ')} {count}" for (flaw, policy), count in sorted(counts.flaws.items())]
    found += [f"fallbacks {counts.fallbacks}"] if counts.fallbacks else []
    if found:
        console.print(Text(f"flawed replies: {', '.join(found)}"), soft_wrap=True)


def print_replay(path: Path, found: Replay) -> None:
    """Print what a replay found: a line for each scene that differs, grouped by what was changed, then one for the run."""
    for note in found.notes:
        notices.print(Text(readable(note)), soft_wrap=True)
    lines = []
    for cause, kind, group in grouped(found.divergences):
        lines.append(f"{cause}: {len(group)} of {found.num_scenes} scenes differ, first at {kind or 'their end'}")
        lines += [describe(each) for each in group]
    lines += found.problems
    verdict = "identical" if found.identical else f"{len(found.divergences)} scenes differ" if found.divergences else "damaged"
    unfinished = "" if found.num_finished == found.num_scenes else f" ({found.num_scenes - found.num_finished} of them not finished)"
    root = f", root {found.root.hex()}" if found.root else ""
    lines.append(f"{path}: {verdict}, {found.num_scenes} scenes{unfinished}, {found.num_turns} turns{root}")
    for line in lines:
        console.print(Text(readable(line)), soft_wrap=True)


def replay_document(path: Path, found: Replay) -> dict[str, Any]:
    """Return what a replay found, for JSON. Expected and actual are as `describe` shows them: without the sentences of models."""
    return {
        "run": str(path),
        "identical": found.identical,
        "scenes": found.num_scenes,
        "finished": found.num_finished,
        "turns": found.num_turns,
        "root": None if found.root is None else found.root.hex(),
        "divergences": [
            {
                "scene": each.scene,
                "seq": each.seq,
                "turn": each.turn or None,
                "kind": each.kind,
                "cause": each.cause,
                "what": describe(each),
            }
            for each in found.divergences
        ],
        "problems": found.problems,
        "notes": found.notes,
    }


def print_labels(labelling: Labelling, health: Health) -> None:
    """Print what detectors found, by kind of turn, and how healthy the simulations were."""
    console.print(Text(readable(str(labelling.path)), style="bold"), soft_wrap=True)
    print_table(["detector", "version", "kind", "label", "found", "turns", "share"], label_rows(labelling))
    for line in health_lines(health):
        console.print(Text(readable(line)), soft_wrap=True)


def print_parts(parts: Sequence[Part], *, reveal: bool) -> None:
    """Print a transcript; without `reveal`, texts that may be harmful are replaced by their length."""
    for part in parts:
        heading_style, style = _STYLES[part.tone]
        # One line, whatever names are in it.
        line = Text("  " * part.depth + readable(part.heading).replace("\n", "\\n"), style=heading_style)
        if part.text:
            # So far in that no line of a text passes for a part.
            indent = "  " * (part.depth + (1 if part.block else 3))
            line.append(f"\n{indent}" if part.block else ": ")
            if part.harmful and not reveal:
                line.append(f"[{len(part.text)} characters{' hidden; --reveal shows them' if part.block else ''}]", style="not bold dim")
            else:
                line.append(f"\n{indent}".join(readable(part.text).split("\n")), style=f"not bold not dim {style}")
        console.print(line, soft_wrap=True)


def print_segments(segments: Sequence[tuple[str, bool]], *, reveal: bool) -> None:
    """Print a prompt; trusted text (template and prompt files) is dimmed, what it was filled with is not, and hidden by default."""
    for text, trusted in segments:
        shown = readable(text) if trusted or reveal else f"[{len(text)} characters hidden]"
        if console.is_terminal:
            console.print(Text(shown, style="dim" if trusted else ""), end="", soft_wrap=True)
        else:
            # Past rich's layout, which makes spaces of tabs: what is read by a program is exact.
            console.file.write(shown)
    console.file.write("\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a result of SQL."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(readable(column)))
    for row in rows:
        table.add_row(*(Text(readable(cell(value))) for value in row))
    console.print(table)


def cell(value: object) -> str:
    """Return a value of SQL as text; hashes as hexadecimal digits."""
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, list):
        return f"[{', '.join(cell(item) for item in value)}]"
    return str(value)


def json_rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a result of SQL as a JSON list of objects, with control characters escaped.

    Raises:
        ConfigError: two columns have the same name.
    """
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"column {twice!r} is there twice: name one otherwise with AS")
    return json_text([dict(zip(columns, row, strict=True)) for row in rows])


def json_text(value: object) -> str:
    """Return a value as JSON on one line, with control characters escaped."""
    text = json.dumps(_json_value(value), ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _json_value(value: object) -> object:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [_json_value(item) for item in value]
        case dict():
            return {str(key): _json_value(item) for key, item in value.items()}
        case date() | time():
            return value.isoformat()
    return cell(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def print_status(status: Status) -> None:
    """Print how far a run is."""
    facts = [
        ("run", f"{status.run}, scene {status.scene}, {_state(status)}"),
        (
            "scenes",
            f"{status.completed + status.failed} of {status.scenes} finished ({status.failed} of them failed), {status.open} open, "
            f"{status.under_way} of those begun",
        ),
        (
            "turns",
            f"{status.turns}, {status.prompt_tokens} prompt tokens ({status.cached_tokens} from cache), "
            f"{status.generated_tokens} generated",
        ),
    ]
    session = status.session
    if session is not None:
        eta = "" if status.state != "running" else f", ETA {'unknown' if session.eta_s is None else _duration(session.eta_s)}"
        rates = (
            f", {session.scenes_per_minute:.2f} scenes/min, {session.turns_per_second:.2f} turns/s, "
            f"{session.generated_tokens_per_second:.1f} tok/s"
            if session.scenes_per_minute is not None
            and session.turns_per_second is not None
            and session.generated_tokens_per_second is not None
            else ""
        )
        facts.append(("session", f"{session.scenes} scenes and {session.turns} turns in {_duration(session.seconds)}{rates}{eta}"))
        delay = session.delay
        if delay is not None:
            facts.append(
                ("commits", f"{delay.commits}, delay {delay.p50_ms:.0f} ms (p50), {delay.p99_ms:.0f} ms (p99), {delay.max_ms:.0f} ms (max)")
            )
    told = [
        ("failures", [f"{reason} ({count})" for reason, count in status.failures.items()]),
        ("fallbacks", [f"{kind} ({count})" for kind, count in status.fallbacks.items()]),
        ("flaws", [f"{found.flaw} {found.policy.replace('_', ' ')} ({found.count})" for found in status.flaws]),
    ]
    facts += [(name, ", ".join(counts) or "none") for name, counts in told]
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        # One line each, whatever a reason says.
        console.print(Text(f"{name:<{width}}  {readable(' '.join(text.split()))}"), soft_wrap=True)


def _state(status: Status) -> str:
    match status.state:
        case "running":
            return f"running (process {status.pid})"
        case "stopped":
            return f"stopped: go on with: matrix resume {status.run}"
    return "finished"


def print_check(found: Check) -> None:
    """Print what a check of a model found."""

    def share(value: Share) -> str:
        return f"{value.count} of {value.of}" + (f" ({value.rate:.0%})" if value.of else "")

    facts = [
        ("model", f"{found.description}, BLAKE3 {found.model}"),
        ("fits", found.fits),
        ("chat template", f"{found.template}; system message: {found.system_role}"),
        (
            "tokens",
            f"prompts begin with {'one of their own' if found.bos else 'none of their own'}, replies end with {found.end or 'none'}",
        ),
        ("deterministic", f"{'yes' if found.deterministic else 'no'}: {found.self_test}"),
        ("asked", f"{found.turns} turns in {found.seconds:.1f} s ({found.turns_per_second:.2f} turns/s)"),
        ("too long", f"{found.too_long} prompts"),
        ("ended by itself", f"{share(found.ended)} free texts"),
    ]
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        console.print(Text(f"{name:<{width}}  {readable(text)}"), soft_wrap=True)
    kinds = sorted({*found.masked, *found.unmasked, *found.flaws})
    nothing = Share(0, 0)
    rows = []
    for kind in kinds:
        flaws = {flaw: count for flaw, count in found.flaws.get(kind, {}).items() if flaw != "turns"}
        told = ", ".join(f"{flaw} {count}" for flaw, count in flaws.items()) or "none"
        forms = [share(each[kind]) if kind in each else "" for each in (found.masked, found.unmasked)]
        rows.append((kind, *forms, f"{told} of {found.flaws[kind]['turns']}" if kind in found.flaws else ""))
    print_table(["turn", "forms under the mask", "without", "flawed replies"], rows)
    pairs = [
        (right, share(found.planted.get(right, nothing)), wrong, share(found.planted.get(wrong, nothing))) for right, wrong, _ in PAIRS
    ]
    print_table(["true", "rate", "false", "rate"], pairs)
    console.print(Text(found.verdict, style="bold"))
    for remark in found.remarks:
        console.print(Text(f"- {readable(remark)}"), soft_wrap=True)
