"""Merging logs of one configuration into one."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import msgspec

from matrix_py.errors import StoreError
from matrix_py.store.checking import strays, summary
from matrix_py.store.connection import one_line, quoted, remove, sql
from matrix_py.store.draft import FORMAT, drafted, filled, shared_columns
from matrix_py.store.listing import check_writable
from matrix_py.store.log import Log
from matrix_py.types import RunRecord

_OF_SCENES = ("completions", "events")


@dataclass(slots=True)
class Merge:
    """What came of a merge.

    Attributes:
        num_scenes: scenes of the merged log.
        num_finished: of them, those that are finished.
        num_shared: scenes that more than one log held, each of which is there once.
        root: the root hash, if all are finished.
        notes: what was left out.
    """

    num_scenes: int = 0
    num_finished: int = 0
    num_shared: int = 0
    root: bytes | None = None
    notes: list[str] = field(default_factory=list)


def merge(runs: Sequence[Path], out: Path, *, overwrite: bool = False, on_progress: Callable[[str, int], None] | None = None) -> Merge:
    """Make one log of several that have the same configuration.

    Scenes are in the order of the logs, then of their positions. A scene that several logs hold is taken from one where it is finished.

    Args:
        runs: the logs; they are only read.
        out: the log to write.
        overwrite: whether it may replace one.
        on_progress: told which log is under way and how many are done.

    Raises:
        StoreError: the logs differ in their configuration or in what a scene came to, one of them is damaged, or `out` cannot be written.
            Nothing is left behind then.
    """
    if len(runs) < 2:
        raise StoreError("one log alone cannot be merged: give two or more")
    for number, run in enumerate(runs):
        with one_line(run):
            if out.exists() and run.exists() and out.samefile(run):
                raise StoreError(f"output {out} is one of the logs to merge: give another name")
            if any(run.exists() and before.exists() and run.samefile(before) for before in runs[:number]):
                raise StoreError(f"log {run} is given twice: give each log once")
    check_writable(out, overwrite=overwrite)
    progress = on_progress or (lambda what, done: None)
    records = [_checked(runs[0], run) for run in runs]
    found = Merge()
    listing = out.with_name(f".{out.name}.input")
    remove(listing)
    try:
        with drafted(out) as draft:
            with filled(draft, out) as connection:
                connection.execute(f"ATTACH {quoted(listing)} AS source")
                for number, run in enumerate(runs):
                    with one_line(run):
                        connection.execute(f"ATTACH {quoted(run)} AS log_{number} (READ_ONLY)")
                _choose(connection, runs, found)
                _write_run(connection, runs, records)
                for number, run in enumerate(runs):
                    progress(str(run), number)
                    _copy(connection, number)
                _merge_labels(connection, len(runs), found)
                _merge_datasets(connection, len(runs))
            with Log.open(draft, read_only=False) as log:
                found.num_scenes, found.num_finished, found.root = log.num_scenes(), log.num_finished(), log.root()
                if found.root is not None:
                    log.set_root(found.root)
    finally:
        remove(listing)
    return found


def _checked(first: Path, run: Path) -> RunRecord:
    """Return a log's record, where it may be merged with the first."""
    with Log.open(run, read_only=True) as log:
        problems = summary(strays(log))
        if problems:
            raise StoreError(f"log {run} is damaged ({problems[0]}): recover it with matrix log salvage {run} --out NEW.duckdb")
        [(config,)] = log.query("SELECT config::VARCHAR FROM run")[1]
        record = log.record
    with Log.open(first, read_only=True) as log:
        [(expected,)] = log.query("SELECT config::VARCHAR FROM run")[1]
    if config != expected:
        raise StoreError(
            f"logs {first} and {run} differ in {_difference(json.loads(expected), json.loads(config))}: merge runs of one kind"
        )
    return record


def _difference(one: object, other: object, name: str = "") -> str:
    """Name the first field in which two configurations differ, with short values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return _difference(one.get(key), other.get(key), f"{name}.{key}" if name else key)
        return "how their configuration is written"
    values = [json.dumps(value) for value in (one, other)]
    return f"{name} of their configuration" + (f" ({values[0]} and {values[1]})" if max(map(len, values)) <= 80 else "")


def _choose(connection: duckdb.DuckDBPyConnection, runs: Sequence[Path], found: Merge) -> None:
    """Decide from which log each scene is taken."""
    connection.execute("CREATE TABLE source.scene (scene BLOB, log UINTEGER, position UBIGINT, last BLOB, num_completions BIGINT)")
    for number in range(len(runs)):
        connection.execute(
            f"INSERT INTO source.scene SELECT s.scene, {number}, s.position, e.hash, coalesce(c.num, 0) FROM log_{number}.scenes s "
            f"LEFT JOIN (FROM log_{number}.events WHERE kind = 'SceneFinished') e USING (scene) "
            f"LEFT JOIN (SELECT scene, count(*) AS num FROM log_{number}.completions GROUP BY scene) c USING (scene)"
        )
    differing = connection.execute(
        "SELECT lower(hex(scene)), min(log), arg_max(log, log) FROM source.scene WHERE last IS NOT NULL GROUP BY scene "
        "HAVING count(DISTINCT last) > 1 ORDER BY min(log), min(position) LIMIT 1"
    ).fetchone()
    if differing is not None:
        scene, one, other = differing
        raise StoreError(
            f"scene {scene[:12]} is finished in {runs[one]} and in {runs[other]}, with different events: leave one of the logs out "
            "(matrix show tells them apart)"
        )
    connection.execute(sql("merge.sql"))
    [(found.num_shared,)] = connection.execute(
        "SELECT count(*) FROM (SELECT scene FROM source.scene GROUP BY scene HAVING count(*) > 1)"
    ).fetchall()


def _write_run(connection: duckdb.DuckDBPyConnection, runs: Sequence[Path], records: Sequence[RunRecord]) -> None:
    """Write the run: executed as the first was."""
    sources = [f"{run} ({record.run_id})" for run, record in zip(runs, records, strict=True)]
    execution = msgspec.structs.replace(records[0].execution, merged_from=sources)
    connection.execute(
        "INSERT INTO run SELECT ?, ?, config, ?, NULL, ? FROM log_0.run",
        [str(uuid.uuid4()), FORMAT, msgspec.json.encode(execution).decode(), datetime.now(UTC).replace(tzinfo=None)],
    )


def _copy(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    """Copy what is taken from one of the logs."""
    source = f"log_{number}"
    chosen = f"(SELECT scene FROM source.chosen WHERE log = {number})"
    connection.execute(f"INSERT INTO texts SELECT hash, text FROM {source}.texts WHERE hash NOT IN (SELECT hash FROM texts)")
    connection.execute(
        "INSERT INTO scenes SELECT s.scene, c.position, s.label, s.row, s.occurrence, s.instruction, s.response, s.meta "
        f"FROM {source}.scenes s JOIN source.chosen c ON c.scene = s.scene AND c.log = {number} ORDER BY c.position"
    )
    columns = shared_columns(connection, source)
    for table in _OF_SCENES:
        connection.execute(
            f"INSERT INTO {table} ({columns[table]}) SELECT {columns[table]} FROM {source}.{table} WHERE scene IN {chosen} ORDER BY rowid"
        )
    if "sessions" in columns:  # not of an older format
        [(before,)] = connection.execute("SELECT count(*) FROM sessions").fetchall()
        for table in ("sessions", "commits"):
            connection.execute(f"INSERT INTO {table} SELECT * REPLACE (session + {before} AS session) FROM {source}.{table} ORDER BY rowid")


def _merge_labels(connection: duckdb.DuckDBPyConnection, num_logs: int, found: Merge) -> None:
    """Take over the labels of the detectors that looked at all logs, in one version: of others, a turn without a label says nothing."""
    logs = [number for number in range(num_logs) if "detectors" in shared_columns(connection, f"log_{number}")]
    seen = " UNION ALL ".join(f"SELECT {number} AS log, * FROM log_{number}.detectors" for number in logs)
    if not seen:
        return
    connection.execute(f"CREATE TABLE source.seen AS {seen}")
    connection.execute(
        "CREATE TABLE source.everywhere AS SELECT detector FROM source.seen GROUP BY detector "
        f"HAVING count(DISTINCT log) = {num_logs} AND count(DISTINCT version) = 1"
    )
    # Without the turns of scenes that were taken from another log.
    connection.execute(
        "INSERT INTO detectors SELECT detector, any_value(version), max(labelled_at), "
        "greatest(sum(num_turns) - any_value((SELECT coalesce(sum(num_completions), 0) FROM source.scene "
        "ANTI JOIN source.chosen USING (scene, log))), 0) "
        "FROM source.seen SEMI JOIN source.everywhere USING (detector) GROUP BY detector ORDER BY detector"
    )
    for number in logs:
        connection.execute(
            f"INSERT INTO labels SELECT l.* FROM log_{number}.labels l SEMI JOIN source.everywhere USING (detector) "
            f"WHERE l.scene IN (SELECT scene FROM source.chosen WHERE log = {number}) ORDER BY l.rowid"
        )
    left_out = connection.execute(
        "SELECT DISTINCT detector FROM source.seen ANTI JOIN source.everywhere USING (detector) ORDER BY detector"
    ).fetchall()
    if left_out:
        names = ", ".join(name for (name,) in left_out)
        found.notes.append(f"labels of {names} are left out: not every log has them in the same version; label again")


def _merge_datasets(connection: duckdb.DuckDBPyConnection, num_logs: int) -> None:
    """Take over what was made of the logs' scenes. A dataset of several of them has rows in each, and stands in one now."""
    for number in range(num_logs):
        source = f"log_{number}"
        if "datasets" not in shared_columns(connection, source):  # of an older format
            continue
        for table, name in (("tuning_steps", "tuning"), ("tunings", "tuning"), ("datasets", "dataset")):
            # By what stands there before this log's: steps go before the tunings that they belong to.
            known = "datasets" if table == "datasets" else "tunings"
            connection.execute(
                f"INSERT INTO {table} FROM {source}.{table} WHERE {name} NOT IN (SELECT {name} FROM log.{known}) ORDER BY rowid"
            )
        connection.execute(
            f"INSERT INTO dataset_rows FROM {source}.dataset_rows r WHERE NOT EXISTS (FROM log.dataset_rows d WHERE d.dataset = r.dataset "
            "AND d.scene = r.scene AND d.path = r.path AND d.attempt = r.attempt AND d.dropped_by IS NOT DISTINCT FROM r.dropped_by) "
            "ORDER BY rowid"
        )
