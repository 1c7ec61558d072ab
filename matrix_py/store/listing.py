"""Making a log: where it may be written, and the scenes of its input."""

from pathlib import Path

import duckdb

from matrix_py import _core
from matrix_py.errors import StoreError
from matrix_py.store.connection import LOCK_HOLDER, connect, one_line
from matrix_py.store.writer import Inserter


class SceneLister:
    """Takes the scenes of a new run's input, in order, and gives them their identities."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Only `Log.create` makes these."""
        self._connection = connection
        self._name = name
        self._rows: list[tuple[object, ...]] = []
        self._position = 0
        # In a file of its own, which is thrown away: the input may be larger than memory, and the log is not to carry its traces.
        connection.execute(
            "CREATE TABLE input.input (position UBIGINT, label VARCHAR, row UBIGINT, instruction VARCHAR, response VARCHAR, meta VARCHAR, "
            "occurrence UBIGINT)"
        )

    def add(self, *, label: str, row: int, instruction: str, response: str | None, meta: str, occurrence: int | None = None) -> None:
        """Add a scene; `meta` is the JSON of the input's other columns. Its occurrence is counted, unless it is given for all scenes."""
        self._rows.append((self._position, label, row, instruction, response, meta, occurrence))
        self._position += 1
        if len(self._rows) >= 1000:
            self._flush()

    def finish(self) -> None:
        """Number scenes with the same instruction and response, and write all of them."""
        self._flush()
        event_log, inserter = _core.EventLog(), Inserter(self._connection)
        # A new log holds none.
        event_log.know_texts([])
        cursor = self._connection.cursor()
        cursor.execute(
            "SELECT position, label, row, instruction, response, meta, "
            "coalesce(occurrence, row_number() OVER (PARTITION BY instruction, response ORDER BY position) - 1) "
            "FROM input.input ORDER BY position"
        )
        while rows := cursor.fetchmany(1000):
            for position, label, row, instruction, response, meta, occurrence in rows:
                scene = _core.scene_id(self._name, instruction, response, occurrence)
                event_log.add_scene(
                    scene,
                    position=position,
                    label=label,
                    row=row,
                    occurrence=occurrence,
                    instruction=instruction,
                    response=response,
                    meta=meta,
                )
            inserter.write(event_log)
        inserter.close()
        cursor.close()

    def _flush(self) -> None:
        if self._rows:
            columns = list(zip(*self._rows, strict=True))
            self._connection.execute(
                "INSERT INTO input.input SELECT unnest($1::UBIGINT[]), unnest($2::VARCHAR[]), unnest($3::UBIGINT[]), "
                "unnest($4::VARCHAR[]), unnest($5::VARCHAR[]), unnest($6::VARCHAR[]), unnest($7::UBIGINT[])",
                [list(column) for column in columns],
            )
            self._rows.clear()


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse an output path before anything is paid for.

    Raises:
        StoreError: the file exists, or its folder cannot be written.
    """
    with one_line(path):
        is_folder, exists = path.is_dir(), path.exists()
    if is_folder:
        raise StoreError(f"output {path} is a folder: give a file name, such as {path / 'run.duckdb'}")
    if exists and not overwrite:
        raise StoreError(f"output {path} exists: choose another name, or give --overwrite to replace it")
    if not path.parent.is_dir():
        raise StoreError(f"folder {path.parent} of output {path.name} does not exist: make it first")
    # The longest name that is made beside the log.
    probe = path.with_name(f".{path.name}.input.wal")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(f"folder {path.parent} cannot be written: {error.strerror or error}") from error
    if exists:
        with one_line(path):
            try:
                # A log that another process holds must not be replaced under it; one that is damaged, or is no log, may be.
                connect(path).close()
            except duckdb.Error as error:
                if LOCK_HOLDER.search(str(error)):
                    raise
