"""Files that are there whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matrix_py.errors import StoreError


@contextmanager
def draft(out: Path) -> Iterator[Path]:
    """Give a path beside `out` to write to, and put it in its place when that is done; after an error nothing is left of it.

    Raises:
        StoreError: it cannot be written, such as on a full disk.
    """
    path = out.with_name(f".{out.name}.draft")
    try:
        yield path
        path.replace(out)
    except OSError as error:
        msg = f"{out} cannot be written ({error.strerror or error}): free room, or write it elsewhere"
        raise StoreError(msg) from error
    finally:
        path.unlink(missing_ok=True)
