"""Writing a finished log anew, without the room that its growing left free."""

import contextlib
from pathlib import Path

import duckdb

from matrix_py.store.connection import connect, one_line, remove

# A checkpoint writes the end of each table again and leaves the old blocks free for what comes next; after the last, nothing comes.
_LEAST_BYTES = 4 * 2**20
_LEAST_SHARE = 0.25


def compact(path: Path) -> bool:
    """Write a log anew if much of its file is free, and put it in the place of the old one when it is whole.

    Nothing is lost, whatever happens: where there is no room for a second file, the log stays as it is.

    Returns:
        Whether it was written anew.

    Raises:
        StoreError: the log cannot be opened.
    """
    draft = path.with_name(f".{path.name}.new")
    with one_line(path), contextlib.closing(connect(path)) as old:
        row = old.execute("SELECT block_size * free_blocks, block_size * total_blocks FROM pragma_database_size()").fetchone()
        free, size = row or (0, 0)
        if free < max(_LEAST_BYTES, _LEAST_SHARE * size):
            return False
        try:
            remove(draft)
            # The old file stays open, so that no other process writes to it meanwhile.
            with contextlib.closing(connect(draft, new=True)) as new:
                _copy(old, new)
            draft.replace(path)
        except (duckdb.Error, OSError):
            remove(draft)
            return False
        finally:
            old.execute("SELECT 1")
    return True
