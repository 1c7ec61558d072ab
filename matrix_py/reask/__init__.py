"""Re-asking: a changed prompt, changed settings or another model is put to all recorded contexts of one kind of turn.

Nothing follows from the new answers: no scene goes on with them. So what differs is what the change does to this kind of turn, and nothing
that came of it; what a change does to whole scenes is another question, and takes another run.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError, ModelError
from matrix_py.models import hub
from matrix_py.opening import hash_of, open_recorded
from matrix_py.prompts import Prompts, changed_files, changed_settings
from matrix_py.pump import Answerer
from matrix_py.reask.answers import Answer, Comparison, Mean, Pair, Tally, choices_of, compare
from matrix_py.reask.asking import Answered, ask
from matrix_py.reask.contexts import Contexts
from matrix_py.replay.divergence import changes
from matrix_py.scene.rules import check_rules
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log, TableWriter, check_table
from matrix_py.types import RunConfig, RunRecord

__all__ = ["Answer", "Comparison", "Mean", "Pair", "Reask", "ReaskOptions", "reask", "reask_with"]

# Turns that wait with the answerer for each that it works on: it must not run dry while a page of the log is replayed.
_AHEAD = 16
# The table of pairs: its columns as SQL has them. Scenes and paths are as in the view `turn`.
_COLUMNS = {
    "scene": "VARCHAR",
    "path": "VARCHAR",
    "old": "VARCHAR",
    "new": "VARCHAR",
    "likeness": "VARCHAR",
    "old_outcome": "VARCHAR",
    "new_outcome": "VARCHAR",
    "old_log_odds": "DOUBLE",
    "new_log_odds": "DOUBLE",
    "old_text": "VARCHAR",
    "new_text": "VARCHAR",
}


@dataclass(frozen=True, slots=True)
class ReaskOptions:
    """What to ask anew.

    Attributes:
        kind: the kind of turn.
        prompts_dir: prompt files in the place of the recorded ones; a settings.toml among them counts, too.
        config_file: settings by kind of turn, over the recorded ones.
        model: another model than the run's, or where the run's is now; None for where it was.
        limit: scenes at most.
        out: a table of all pairs of answers, .parquet or .json.
        overwrite: replace `out` if it exists.
        examples: pairs with another answer to keep for reading.
        engine: how to open the model; an adapter in the place of the run's is `lora`.
    """

    kind: str
    prompts_dir: Path | None = None
    config_file: Path | None = None
    model: str | None = None
    limit: int | None = None
    out: Path | None = None
    overwrite: bool = False
    examples: int = 5
    engine: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class Reask:
    """What came of it.

    Attributes:
        changed: what is not as it was in the run: names of prompt files, `settings of KIND`, `model`, `adapter`.
        bears_on: whether any of that bears on turns of this kind.
        differing: recorded turns that the scenes of this version ask otherwise, or not at all; they are left out.
        errors: turns that the engine could not answer, left out too; `first_error` says why.
        examples: pairs with another answer, the first in the order of the input.
    """

    path: Path
    kind: str
    changed: tuple[str, ...]
    bears_on: bool
    comparison: Comparison
    differing: int
    errors: int
    first_error: str
    examples: tuple[Pair, ...]


def reask(
    path: Path,
    options: ReaskOptions,
    *,
    announce: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reask:
    """Put a change to the recorded contexts of one kind of turn, and compare the answers.

    Args:
        path: the log; it is only read.
        options: what to ask anew.
        announce: told in a line each what takes time and what was decided.
        on_progress: called with how many turns are answered, and how many there are.

    Raises:
        MatrixError: an option, the log or the model cannot be used.
    """
    options.engine.check()
    with Log.open(path, read_only=True) as log:
        config = log.record.config
        prompts = changed_prompts(config, options)
        _check(log, options)  # before a model is opened
        with _open(log.record, options, path, announce) as engine:
            announce(engine.summary)
            if engine.model_hash.hex() != config.model:
                # What another model's own template and context make of them.
                prompts = Prompts(prompts.files, prompts.settings, system=config.system, template=engine.template, context=engine.context)
            models = _changed_models(config, engine)
            return reask_with(log, prompts, engine, options, changed_models=models, in_flight=engine.parallel, on_progress=on_progress)


def changed_prompts(config: RunConfig, options: ReaskOptions) -> Prompts:
    """Return a run's prompts with what is changed of them.

    Raises:
        ConfigError: a file cannot be used.
    """
    files = changed_files(config.prompts, options.prompts_dir)
    settings = changed_settings(config.settings, options.prompts_dir, options.config_file)
    return Prompts(files, settings, system=config.system, template=recorded_prompts(config).template, context=config.context)


def reask_with(
    log: Log,
    prompts: Prompts,
    answerer: Answerer,
    options: ReaskOptions,
    *,
    changed_models: Sequence[str] = (),
    in_flight: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reask:
    """Do the same with any answerer.

    Args:
        log: an open log.
        prompts: see `changed_prompts`.
        answerer: answers the turns.
        options: `kind`, `limit`, `out`, `overwrite` and `examples` count.
        changed_models: `model` and `adapter`, if the answerer is not the run's in that.
        in_flight: turns that the answerer works on at a time.
        on_progress: as above.

    Raises:
        MatrixError: there are no such turns, one cannot be asked, or the answerer is gone.
    """
    _check(log, options)
    kind = options.kind
    contexts = Contexts(log, kind, prompts, limit=options.limit)
    total, done = contexts.num_turns(), 0
    found = _Findings(options.examples)
    with _table(options) as table:
        for answered in ask(answerer, contexts.scenes(), most=_AHEAD * in_flight):
            pairs = found.add(answered)
            if table is not None:
                table.add(map(_row, pairs))
            done += len(answered)
            if on_progress is not None:
                on_progress(done, total)
    files, kinds = changes(log.record.config, prompts)
    same = recorded_prompts(log.record.config).template_hash(kind) == prompts.template_hash(kind)
    return Reask(
        path=log.path,
        kind=kind,
        changed=(*files, *(f"settings of {each}" for each in kinds), *changed_models),
        bears_on=not same or bool(changed_models),
        comparison=found.tally.result(),
        differing=contexts.differing,
        errors=found.errors,
        first_error=found.first_error,
        examples=tuple(found.examples),
    )


class _Findings:
    """What the answers come to, scene by scene."""

    def __init__(self, most_examples: int) -> None:
        self.tally = Tally()
        self.examples: list[Pair] = []
        self.errors = 0
        self.first_error = ""
        self._most_examples = most_examples

    def add(self, answered: Answered) -> list[Pair]:
        pairs = []
        for context, after in answered:
            if isinstance(after, Exception):
                self.errors += 1
                self.first_error = self.first_error or str(after)
                continue
            pairs.append(compare(context.turn, context.before, Answer(after.text, after.outcome, after.log_odds)))
        choices = choices_of(answered[0][0].turn.sampling)
        self.tally.add(pairs, () if choices is None else choices[0])
        differing = [pair for pair in pairs if (pair.old != pair.new if choices else pair.likeness == "other")]
        self.examples += differing[: self._most_examples - len(self.examples)]
        return pairs


def _check(log: Log, options: ReaskOptions) -> None:
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}: give at least 1")
    if options.out is not None:
        check_table(options.out, overwrite=options.overwrite)
    check_rules(log.record.config.rules)
    [(there,)] = log.query("SELECT count(*) FROM completions WHERE kind = ?", [options.kind])[1]
    if not there:
        kinds = ", ".join(kind for (kind,) in log.query("SELECT DISTINCT kind FROM completions ORDER BY kind")[1])
        raise ConfigError(f"--kind is {options.kind!r}, of which {log.path} holds no turn: {f'choose {kinds}' if kinds else 'it has none'}")


def _open(record: RunRecord, options: ReaskOptions, path: Path, announce: Callable[[str], None]) -> Engine:
    """Open the run's model as the run did, or another one, or another adapter, by its own lights."""
    config, engine = record.config, options.engine
    model = hub.resolve(options.model or record.execution.model_path)
    is_runs = hash_of(model) == config.model
    if is_runs and (engine.lora is None or hash_of(engine.lora) == config.adapter):
        return open_recorded(record, path, model=options.model, engine=engine, announce=announce)
    if not is_runs and options.model is None:
        raise ModelError(f"model {model} is not the one that {path} was made with: give that file, or another one to compare, with --model")
    if is_runs:
        # The recorded template is used; the model's own may be one that cannot be.
        engine = replace(engine, context=config.context, chat_template="plain")
    return Engine(str(model), engine, announce=announce)


def _changed_models(config: RunConfig, engine: Engine) -> tuple[str, ...]:
    adapter = msgspec.UNSET if engine.lora_hash is None else engine.lora_hash.hex()
    pairs = (("model", config.model, engine.model_hash.hex()), ("adapter", config.adapter, adapter))
    return tuple(name for name, then, now in pairs if then != now)


def _table(options: ReaskOptions) -> contextlib.AbstractContextManager[TableWriter | None]:
    return contextlib.nullcontext() if options.out is None else TableWriter(options.out, _COLUMNS, overwrite=options.overwrite)


def _row(pair: Pair) -> tuple[object, ...]:
    before, after = pair.before, pair.after
    return (
        pair.scene.hex(),
        pair.path,
        pair.old or None,
        pair.new or None,
        pair.likeness,
        before.outcome,
        after.outcome,
        before.log_odds,
        after.log_odds,
        before.text,
        after.text,
    )
