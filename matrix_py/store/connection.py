"""DuckDB, and its errors as ours: one line, with the thing, its value and the remedy. No module outside of this folder imports duckdb."""

import contextlib
import re
import time
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import duckdb

from matrix_py.errors import LogLockedError, StoreError
from matrix_py.store.wal import wal_files

# Older DuckDB releases open files of this storage version.
_STORAGE_VERSION = "v1.2.0"
# Bytes. Each column begins a block of its own: with DuckDB's 256 KiB, a log of three scenes is four times as large, one of a thousand a
# twelfth larger; with 16 KiB, one of a thousand is half as large again.
_BLOCK_SIZE = 65536
# How long who wants to write a log waits for those who just read it, and DuckDB's words where the holder only reads.
_READERS_S = 2.0
_RETRY_S = 0.05
_HELD_BY_READER = "would be able to open this database in read-only mode"
LOCK_HOLDER = re.compile(r"held in (.*?) \(PID (\d+)\)")


def connect(path: Path, *, read_only: bool = False, new: bool = False) -> duckdb.DuckDBPyConnection:
    """Open a file; with `new`, make one in the storage version of logs. For writing, wait a moment for who just reads it."""
    if new:
        connection = duckdb.connect(":memory:", config={"threads": 1})
        attach_new(connection, path)
        return connection
    end = time.monotonic() + _READERS_S
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only, config={"threads": 1})
        except duckdb.IOException as error:
            # A query takes a moment, and would else keep a run from being resumed.
            if read_only or _HELD_BY_READER not in str(error) or time.monotonic() >= end:
                raise
        time.sleep(_RETRY_S)


def attach_new(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Make a file for a log, and let the connection use it, under the name `log`."""
    connection.execute(f"ATTACH {quoted(path)} AS log (STORAGE_VERSION '{_STORAGE_VERSION}', BLOCK_SIZE {_BLOCK_SIZE})")
    connection.execute("USE log")


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Write in one transaction: all that is done in here is there after it, or, if it is left by an exception, nothing is changed."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise


def quoted(path: Path) -> str:
    """Return a path as an SQL string."""
    return "'{}'".format(str(path).replace("'", "''"))


@cache
def sql(name: str) -> str:
    """Return one of the package's SQL files."""
    return (resources.files("matrix_py.sql") / name).read_text("utf-8")


def remove(path: Path) -> None:
    """Remove a database that was only a draft, and its write-ahead logs."""
    for file in [path, *wal_files(path)]:
        file.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors into ours."""
    try:
        yield
    except duckdb.IOException as error:
        holder = LOCK_HOLDER.search(str(error))
        if holder:
            raise LogLockedError(
                f"log {path} is held by process {holder.group(2)} ({holder.group(1)}): wait until it ends, or stop it"
            ) from error
        raise StoreError(f"log {path}: {first_line(error)}") from error
    except duckdb.ConnectionException as error:
        if "different configuration" in str(error):
            raise LogLockedError(f"log {path} is open in this process already, and not as it is wanted now: close it first") from error
        raise StoreError(f"log {path}: {first_line(error)}") from error
    except (duckdb.Error, OSError) as error:
        raise StoreError(f"log {path}: {first_line(error)}") from error
