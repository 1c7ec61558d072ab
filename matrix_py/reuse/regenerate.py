"""Regenerating: a run live again, under the same seed and with nothing reused, and how far the two are apart, turn by turn."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from statistics import median_low

from msgspec import structs

from matrix_py import _core
from matrix_py.engine import EngineOptions
from matrix_py.opening import how_run, open_recorded
from matrix_py.reuse.answering import open_parent
from matrix_py.reuse.rerun import rerun
from matrix_py.scene.rules import check_rules
from matrix_py.simulate import Reporter, RunSummary, Silent, tidy
from matrix_py.store import Log, RecordedScene, RecordedTurn, check_writable, listed_scenes, recorded_scenes
from matrix_py.types import Edit, Execution

# Scenes whose turns are compared at a time.
_PAGE = 100
# Turns that are named.
_MAX_EXAMPLES = 20
# What may make the same request come out otherwise.
FACTS = ("llama_cpp", "device", "gpu_layers", "kv", "kv_tokens", "parallel", "cached", "threads", "batch", "prefix_reuse", "self_test")


@dataclass(slots=True)
class KindDrift:
    """How turns of one kind came out the second time.

    Attributes:
        identical: the same request, the same answer.
        other_text: the same request and outcome, another text.
        other_outcome: the same request, and another outcome: one time the form failed, or the prompt was too long.
        inherited: another request, since a turn before came out otherwise.
        gone: turns that were not asked the second time.
        new: turns that were not asked the first time.
        first_tokens: for each other text, the number of the first token that differs, from 0.
    """

    identical: int = 0
    other_text: int = 0
    other_outcome: int = 0
    inherited: int = 0
    gone: int = 0
    new: int = 0
    first_tokens: list[int] = field(default_factory=list)

    @property
    def first_token(self) -> int | None:
        """The median of `first_tokens`."""
        return median_low(self.first_tokens) if self.first_tokens else None


@dataclass(frozen=True, slots=True)
class DriftedTurn:
    """A turn that was asked in the same words and came out otherwise; `token` is None where the outcome is another."""

    scene: str
    turn: str
    kind: str
    token: int | None


@dataclass(slots=True)
class Regeneration:
    """How a run came out the second time.

    Attributes:
        kinds: by kind of turn.
        num_scenes: scenes of the run.
        num_identical: of them, those that came out the same in every turn.
        examples: the first turns that drifted, in input order.
        roots: the root hashes of the two, in hex; None where scenes are not finished.
        facts: of how the two were made, by name: the first, the second.
        summary: how the second ended.
    """

    kinds: dict[str, KindDrift]
    num_scenes: int
    num_identical: int
    examples: list[DriftedTurn]
    roots: tuple[str | None, str | None]
    facts: dict[str, tuple[object, object]]
    summary: RunSummary

    @property
    def identical(self) -> bool:
        """Whether every turn came out the same."""
        return self.num_identical == self.num_scenes

    @property
    def other_facts(self) -> dict[str, tuple[object, object]]:
        """The facts in which the two differ."""
        return {name: facts for name, facts in self.facts.items() if facts[0] != facts[1]}


def regenerate(
    run: Path,
    out: Path | None = None,
    *,
    model: str | None = None,
    engine: EngineOptions | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Regeneration:
    """Run all scenes of a log live again, and compare turn by turn. What was edited there is given again; nothing is reused.

    Args:
        run: the log.
        out: where the second run is to be kept; if not given, it is thrown away.
        model: where the model is now, if it was moved.
        engine: how to run it; that may differ, and is what the comparison is for.
        overwrite: replace `out` if it exists.
        reporter: told how it goes.

    Raises:
        MatrixError: the log or its model cannot be used, or `out` not be written.
    """
    reporter = reporter or Silent()
    with ExitStack() as stack:
        log = stack.enter_context(open_parent(run, out=out))
        check_rules(log.record.config.rules)
        out = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="matrix-"))) / "regenerated.duckdb"
        check_writable(out, overwrite=overwrite)
        opened = stack.enter_context(open_recorded(log.record, run, model=model, engine=engine, strict=False, announce=reporter.line))
        reporter.line(opened.summary)
        config = structs.replace(log.record.config, deterministic=opened.deterministic)
        execution = structs.replace(log.record.execution, **how_run(opened), self_test=opened.self_test)
        summary = rerun(
            log,
            out,
            opened,
            config=config,
            edits=[*_given(log)],
            reuse=False,
            execution=execution,
            window=2 * opened.parallel,
            overwrite=overwrite,
            reporter=reporter,
            stats=opened.stats,
        )
        with Log.open(out, read_only=True) as again:
            found = compare(log, again, opened.tokenizer, summary)
        tidy(summary)
    return found


def compare(then: Log, now: Log, tokenizer: _core.Tokenizer, summary: RunSummary) -> Regeneration:
    """Compare two runs of the same scenes turn by turn."""
    kinds: dict[str, KindDrift] = {}
    examples: list[DriftedTurn] = []
    num_scenes = num_identical = 0
    for scene, before, after in _both(then, now):
        num_scenes += 1
        same = True
        for key in sorted({*before.turns, *after.turns}):
            one, other = before.turns.get(key), after.turns.get(key)
            drift = kinds.setdefault((one or other).kind, KindDrift())  # type: ignore[union-attr]  # one of them is there
            token = _count(drift, one, other, tokenizer)
            if one is not None and other is not None and _said(one) == _said(other) and one.request == other.request:
                continue
            same = False
            if one is not None and other is not None and one.request == other.request and len(examples) < _MAX_EXAMPLES:
                name = key[0] if key[1] == 1 else f"{key[0]}#{key[1]}"
                examples.append(DriftedTurn(scene.hex(), name, one.kind, token))
        num_identical += same
    roots = [log.recorded_root() for log in (then, now)]
    return Regeneration(
        kinds=dict(sorted(kinds.items())),
        num_scenes=num_scenes,
        num_identical=num_identical,
        examples=examples,
        roots=(None if roots[0] is None else roots[0].hex(), None if roots[1] is None else roots[1].hex()),
        facts=_facts(then, now),
        summary=summary,
    )


def _count(drift: KindDrift, one: RecordedTurn | None, other: RecordedTurn | None, tokenizer: _core.Tokenizer) -> int | None:
    """Count a turn; return the number of the first token that differs, where one does."""
    if one is None:
        drift.new += 1
    elif other is None:
        drift.gone += 1
    elif one.request != other.request:
        drift.inherited += 1
    elif _said(one) == _said(other):
        drift.identical += 1
    elif one.outcome != other.outcome:
        drift.other_outcome += 1
    else:
        drift.other_text += 1
        drift.first_tokens.append(first_other_token(tokenizer, one.text, other.text))
        return drift.first_tokens[-1]
    return None


def _said(turn: RecordedTurn) -> tuple[str, str, str]:
    return turn.text, turn.outcome, turn.finish


def first_other_token(tokenizer: _core.Tokenizer, one: str, other: str) -> int:
    """Return the number of the first token in which two texts differ, from 0; where one is the beginning of the other, its length."""
    pairs = [tokenizer.encode([(text, False)]) for text in (one, other)]
    # Of texts, not of prompts: a token that begins every prompt does not count.
    bare = [tokens[1:] if tokens and tokenizer.is_special(tokens[0]) else tokens for tokens in pairs]
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*bare, strict=False)))


def _given(log: Log) -> Iterator[Edit]:
    """Yield the answers that were given to turns of a fork: they are no model's."""
    if not any(name == "source" for name in _columns(log)):
        return
    _, rows = log.query(
        "SELECT DISTINCT lower(hex(c.scene)), c.path, t.text FROM completions c JOIN texts t ON t.hash = c.text WHERE c.source = 'edited' "
        "ORDER BY ALL"
    )
    for scene, path, text in rows:
        yield Edit(at=path, do="text", value=text, scene=scene)


def _columns(log: Log) -> Sequence[str]:
    _, rows = log.query("SELECT column_name FROM duckdb_columns() WHERE table_name = 'completions'")
    return [name for (name,) in rows]


def _both(then: Log, now: Log) -> Iterator[tuple[bytes, RecordedScene, RecordedScene]]:
    """Yield the scenes in input order, each with its turns in the two runs."""
    for page in _pages([listed.scene for listed in listed_scenes(then)]):
        before, after = recorded_scenes(then, page), recorded_scenes(now, page)
        for scene in page:
            yield scene, before[scene], after[scene]


def _pages(scenes: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(scenes), _PAGE):
        yield scenes[start : start + _PAGE]


def _facts(then: Log, now: Log) -> dict[str, tuple[object, object]]:
    executions: list[Execution] = [then.record.execution, now.record.execution]
    facts: dict[str, tuple[object, object]] = {name: (getattr(executions[0], name), getattr(executions[1], name)) for name in FACTS}
    facts["deterministic"] = (then.record.config.deterministic, now.record.config.deterministic)
    return facts
