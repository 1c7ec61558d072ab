"""What the process that trains is given: a folder with the job and its rows as tokens. The checkpoints join them there."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from matrix_py.errors import StoreError
from matrix_py.tune.options import TuneOptions

_JOB, _ROWS = "job.json", "rows.msgpack"
METRICS = "metrics.jsonl"
ADAPTER = "adapter"
CHECKPOINT = "checkpoint-"
# Shorter packs would hold too few rows to be full.
_SHORTEST_PACK = 512


class Tokens(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row as tokens: a prompt, and behind it what is learnt."""

    ids: list[int]
    prompt: int  # how many of them are the prompt


class Rows(msgspec.Struct, frozen=True):
    """The rows to learn from, and those to evaluate on."""

    train: list[Tokens]
    held_out: list[Tokens]

    def sequence_tokens(self, options: TuneOptions) -> int:
        """Return how many tokens a sequence may hold. A pack is no longer than the longest row needs: its cost grows with its square."""
        if not options.packing:
            return options.max_tokens
        longest = max(len(row.ids) for rows in (self.train, self.held_out) for row in rows)
        return min(max(longest, _SHORTEST_PACK), options.max_tokens)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A training. What was begun goes on only with the same job.

    Attributes:
        base: what `open_base` is given.
        base_hash: BLAKE3 of the base, hex.
        dataset: hash of the dataset, hex.
        tuning: its name in the log.
    """

    tuning: str
    base: str
    base_hash: str
    chat_template: str | None
    dataset: str
    options: TuneOptions

    def differences(self, other: Job) -> list[str]:
        """Return what another job has otherwise, in words; `threads` and `checkpoint_every` may differ."""
        mine, theirs = self._identity(), other._identity()
        return [f"{name} {mine[name]}, not {theirs[name]}" for name in mine if mine[name] != theirs[name]]

    def _identity(self) -> dict[str, object]:
        options = msgspec.to_builtins(self.options)
        for name in ("threads", "checkpoint_every"):
            del options[name]
        return {"base": self.base_hash, "dataset": self.dataset, "chat_template": self.chat_template, **options}


def write_job(folder: Path, job: Job, rows: Rows) -> None:
    """Write a job into its folder, the job itself last: a folder without it was never whole.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _ROWS).write_bytes(msgspec.msgpack.encode(rows))
        (folder / _JOB).write_bytes(msgspec.json.encode(job))
    except OSError as error:
        raise StoreError(
            f"folder {folder} cannot be written ({error.strerror or error}): free room there, or give another --out"
        ) from error


def read_job(folder: Path) -> Job | None:
    """Return the job of a folder; None if there is none.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return msgspec.json.decode((folder / _JOB).read_bytes(), type=Job)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"job {folder / _JOB} cannot be read ({error}): remove {folder}, and tune anew") from error


def read_rows(folder: Path) -> Rows:
    """Return the rows of a job.

    Raises:
        StoreError: they cannot be read.
    """
    try:
        return msgspec.msgpack.decode((folder / _ROWS).read_bytes(), type=Rows)
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"rows {folder / _ROWS} cannot be read ({error}): remove {folder}, and tune anew") from error


def last_checkpoint(folder: Path) -> Path | None:
    """Return the latest checkpoint of a job; each that goes by its name is whole."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]
    return max(found, key=checkpoint_step, default=None)


def checkpoint_step(path: Path) -> int:
    """Return the step that a checkpoint was written behind."""
    return int(path.name.removeprefix(CHECKPOINT))
