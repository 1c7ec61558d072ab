"""Tuning: from the scenes of logs to an adapter that the engine loads. Everything that can be wrong is found before training begins."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from matrix_py import _core
from matrix_py.dataset import Dataset, DatasetOptions, build, record
from matrix_py.embedded import EMBEDDED
from matrix_py.errors import ConfigError, ModelError, StoreError
from matrix_py.models import hub
from matrix_py.opening import hash_of
from matrix_py.store import Log, TuningStep
from matrix_py.tune.base import Base, GgufBase, open_base
from matrix_py.tune.card import Card, write_card
from matrix_py.tune.curve import curve, draw
from matrix_py.tune.job import ADAPTER, METRICS, Job, checkpoint_step, last_checkpoint, read_job, write_job
from matrix_py.tune.memory import Estimate, estimate
from matrix_py.tune.messages import AnyMessage, Finished, Started, read_messages
from matrix_py.tune.options import TuneOptions, stated
from matrix_py.tune.rows import EncodedRows, encode_rows
from matrix_py.tune.worker import check_libraries, run_job

UNFINISHED = "unfinished"
ADAPTER_GGUF, MERGED_GGUF, CURVE = "adapter.gguf", "merged.gguf", "loss.png"


class Reporter(Protocol):
    """Who is told how a tuning goes."""

    def line(self, text: str) -> None:
        """Take a line about what was decided or takes time."""

    def done(self, what: str, done: int, total: int) -> None:
        """Take how many of so many units are done: `rows`, or `bytes` of a merged model."""

    def message(self, message: AnyMessage) -> None:
        """Take what the process that trains says."""


class Silent:
    """A reporter that tells nobody."""

    def line(self, text: str) -> None:
        """Drop the line."""

    def done(self, what: str, done: int, total: int) -> None:
        """Drop the count."""

    def message(self, message: AnyMessage) -> None:
        """Drop the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What is to be tuned, on what.

    Attributes:
        runs: logs.
        out: the folder to make.
        base: see `open_base`; None for the model that the scenes were played on.
        dataset: how the rows are chosen.
        options: how the adapter is trained.
        chat_template: in the place of the base's own.
        merge: write a whole model, too.
        gguf: where `base` is no GGUF: the one that the adapter is merged into; None for the model of the runs.
        resume: go on with what `out` holds.
    """

    runs: tuple[Path, ...]
    out: Path
    base: str | None = None
    dataset: DatasetOptions = field(default_factory=DatasetOptions)
    options: TuneOptions = field(default_factory=TuneOptions)
    chat_template: str | None = None
    merge: bool = False
    gguf: Path | None = None
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a tuning would be."""

    dataset: Dataset
    base: str
    notes: tuple[str, ...]
    rows: EncodedRows
    sequences: int
    steps: int
    memory: Estimate


@dataclass(frozen=True, slots=True)
class TuneSummary:
    """How a tuning ended.

    Attributes:
        stopped: Ctrl-C ended it; `--resume` goes on.
        steps: what was measured, step by step.
        adapter: hash of the adapter's weights, hex; None if it was stopped.
        merged: hash of the whole model, hex, if there is one.
    """

    out: Path
    dataset: bytes
    stopped: bool
    finished: Finished
    steps: list[TuningStep]
    rows: EncodedRows
    adapter: str | None
    merged: str | None


def forecast(request: TuneRequest, *, reporter: Reporter | None = None) -> Forecast:
    """Say what a tuning would be: rows, tokens, steps, memory. Nothing is written and no weights are loaded.

    Raises:
        MatrixError: a log, the base or an option cannot be used.
    """
    reporter = reporter or Silent()
    dataset = _build(request, reporter)
    spec = _base(request, dataset)
    with open_base(spec, chat_template=request.chat_template) as base:
        rows = encode_rows(dataset, base, request.options, on_progress=lambda done, total: reporter.done("rows", done, total))
        return Forecast(
            dataset,
            spec,
            tuple(_notes(base, dataset, rows)),
            rows,
            rows.num_sequences(request.options),
            rows.num_steps(request.options),
            estimate(base, request.options),
        )


def tune(request: TuneRequest, *, reporter: Reporter | None = None) -> TuneSummary:
    """Make a dataset of logs, train an adapter on it, and write what the engine loads.

    Raises:
        MatrixError: a log, the base, an option or the folder cannot be used, or training failed.
    """
    reporter = reporter or Silent()
    folder = request.out / UNFINISHED
    _check_out(request, folder)
    check_libraries()
    dataset = _build(request, reporter)
    spec = _base(request, dataset)
    with open_base(spec, chat_template=request.chat_template) as base:
        merge_into = _merge_into(request, base, dataset)
        rows = encode_rows(dataset, base, request.options, on_progress=lambda done, total: reporter.done("rows", done, total))
        notes = _notes(base, dataset, rows)
        job = Job(
            tuning=str(uuid.uuid4()),
            # The process that trains may run elsewhere.
            base=str(Path(spec).absolute()) if spec != EMBEDDED and Path(spec).exists() else spec,
            base_hash=base.hash,
            chat_template=request.chat_template,
            dataset=dataset.hash.hex(),
            options=request.options,
        )
        for note in notes:
            reporter.line(note)
        job = _resumed(job, folder, reporter) if request.resume else _begun(job, folder, dataset, rows)
        started: list[Started] = []

        def on_message(message: AnyMessage) -> None:
            if isinstance(message, Started):
                started.append(message)
            reporter.message(message)

        finished = run_job(folder, job, on_message)
        if finished.stopped:
            return TuneSummary(request.out, dataset.hash, True, finished, [], rows, None, None)
        steps = curve(_measured(folder))
        adapter, merged = _assemble(request, folder, base, merge_into, reporter)
        draw(
            steps,
            request.out / CURVE,
            num_train=len(rows.rows.train),
            num_held_out=len(rows.rows.held_out),
            title=f"{Path(spec).name}, recipe {job.options.recipe}, rank {job.options.rank}",
        )
        card = Card(job=job, dataset=dataset, rows=rows, base=base, notes=notes, steps=steps, started=started[-1], finished=finished)
        write_card(request.out, card, adapter=adapter, merged=merged)
    for path in request.runs:
        try:
            with Log.open(path, read_only=False) as log:
                tables = log.tunings()
                try:
                    tables.step(job.tuning, *steps)
                    tables.finish(job.tuning, adapter=adapter, merged=merged)
                finally:
                    tables.close()
        except StoreError as error:
            reporter.line(f"the curve is in {request.out / METRICS}, but not in the log: {error}")
    shutil.rmtree(folder)
    return TuneSummary(request.out, dataset.hash, False, finished, steps, rows, adapter, merged)


def _check_out(request: TuneRequest, folder: Path) -> None:
    """Refuse a folder that is in use, or one with nothing to go on with."""
    out = request.out
    begun = read_job(folder)
    if request.resume:
        if begun is None:
            raise ConfigError(f"--out {out} holds no unfinished tuning: leave out --resume to begin one")
        return
    if begun is not None:
        last = last_checkpoint(folder)
        where = "before its first checkpoint" if last is None else f"behind step {checkpoint_step(last)}"
        raise ConfigError(f"--out {out} holds a tuning that was stopped {where}: go on with --resume, or remove {folder} to begin anew")
    if out.exists() and (not out.is_dir() or any(each.name != UNFINISHED for each in out.iterdir())):
        raise ConfigError(f"--out {out} is in use: name a new folder")


def _build(request: TuneRequest, reporter: Reporter) -> Dataset:
    dataset = build(request.runs, request.dataset, on_progress=lambda done, total: reporter.done("scenes", done, total))
    dataset.check()
    return dataset


def _base(request: TuneRequest, dataset: Dataset) -> str:
    """Return the base: what was named, or the model of the runs."""
    if request.base is not None:
        return request.base
    place = _model_of_runs(dataset)
    if place is None:
        raise ConfigError("--base is missing, and the runs have no one model that is where it was: give --base MODEL")
    return place


def _model_of_runs(dataset: Dataset) -> str | None:
    """Return where the model is that the scenes were played on; None if it is not there any more, or runs differ in it."""
    models = {run.model: run.record.execution.model_path for run in dataset.runs}
    if len(models) > 1:
        return None
    [(model, place)] = models.items()
    path = hub.resolve(place) if place == EMBEDDED else Path(place)
    return place if path.is_file() and hash_of(path) == model else None


def _merge_into(request: TuneRequest, base: Base, dataset: Dataset) -> Path | None:
    """Return the GGUF that the adapter is to be merged into; None if it is not to be."""
    if not request.merge:
        if request.gguf is not None:
            raise ConfigError(f"--gguf {request.gguf} is for --merge: give both, or neither")
        return None
    if isinstance(base, GgufBase):
        if request.gguf is not None and hash_of(request.gguf) != base.hash:
            raise ConfigError(f"--gguf {request.gguf} is not the base {base.spec}: leave it out")
        return base.path
    place = _model_of_runs(dataset) if request.gguf is None else str(request.gguf)
    if place is None:
        raise ConfigError(f"--merge needs base {base.spec} as a GGUF, and the model of the runs is not where it was: give --gguf FILE")
    return hub.resolve(place)


def _notes(base: Base, dataset: Dataset, rows: EncodedRows) -> list[str]:
    """Return what whoever tunes should know."""
    notes = [base.note] if base.note else []
    if any(model != base.hash for model, _ in dataset.templates):
        notes.append("the base is another model file than the one that played the scenes")
    if any(template.source != base.template.source for _, template in dataset.templates):
        notes.append("the base's chat template is another than that of the runs: rows are rendered by the base's")
    if rows.too_long:
        total = rows.too_long + len(rows.rows.train) + len(rows.rows.held_out)
        notes.append(f"{rows.too_long} of {total} rows left out, longer than --max-tokens (the longest has {rows.longest} tokens)")
    if not rows.rows.held_out:
        notes.append("no row is held out, so nothing shows overfitting: more scenes, or a greater --held-out")
    return notes


def _begun(job: Job, folder: Path, dataset: Dataset, rows: EncodedRows) -> Job:
    """Record the dataset and the tuning in the logs, and write the job."""
    write_job(folder, job, rows.rows)
    try:
        record(dataset)
        for run in dataset.runs:
            with Log.open(run.path, read_only=False) as log:
                tables = log.tunings()
                try:
                    tables.begin(job.tuning, dataset=dataset.hash, options=msgspec.json.encode(stated(job.options)), base=job.base_hash)
                finally:
                    tables.close()
    except BaseException:
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # it was there before
            folder.parent.rmdir()
        raise
    return job


def _resumed(job: Job, folder: Path, reporter: Reporter) -> Job:
    """Return the job that is gone on with, if it is the same as is asked for now."""
    begun = read_job(folder)
    assert begun is not None  # checked at the start
    if other := begun.differences(job):
        raise ConfigError(f"the tuning in {folder.parent} was begun with {other[0]}: give the same, or another --out")
    last = last_checkpoint(folder)
    reporter.line("no checkpoint was written: beginning anew" if last is None else f"going on behind step {checkpoint_step(last)}")
    return begun


def _measured(folder: Path) -> Sequence[AnyMessage]:
    return read_messages(folder / ADAPTER / METRICS)


def _assemble(request: TuneRequest, folder: Path, base: Base, merge_into: Path | None, reporter: Reporter) -> tuple[str, str | None]:
    """Put the adapter in its place, in both forms, and merge it if that was asked for; return the hashes."""
    from matrix_py.tune.adapter import Adapter, write_adapter
    from matrix_py.tune.merge import merge

    try:
        # Copied, not moved: until all is there, `--resume` finds it where it was.
        for file in (folder / ADAPTER).iterdir():
            shutil.copyfile(file, request.out / file.name)
    except OSError as error:
        raise StoreError(
            f"folder {request.out} cannot be written ({error.strerror or error}): free room, and go on with --resume"
        ) from error
    adapter = Adapter(request.out)
    write_adapter(adapter, request.out / ADAPTER_GGUF, base.layout())
    weights = _core.hash_file(request.out / "adapter_model.safetensors").hex()
    if merge_into is None:
        return weights, None
    merged = request.out / MERGED_GGUF
    try:
        merge(merge_into, adapter, merged, on_progress=lambda done, total: reporter.done("bytes", done, total))
    except ModelError as error:
        raise ModelError(f"{error}; the adapter is in {request.out}, and only the merged model is missing") from error
    return weights, _core.hash_file(merged).hex()
