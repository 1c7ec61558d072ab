"""Cutting a damaged write-ahead log behind the last transaction before the damage."""

from pathlib import Path

import duckdb

from matrix_py.errors import StoreError
from matrix_py.store.connection import connect, first_line
from matrix_py.store.wal import FLUSH_END, HEADER, read_wal, wal_files


def trim(path: Path, run: Path) -> list[str]:
    """Make a copied database one that opens, with every whole transaction before the first damage of its write-ahead logs.

    DuckDB is the judge: of the places where transactions end, the last is looked for up to which it replays. It reads in order and
    compares every checksum, so that up to the damage it replays all, and beyond it nothing: halving finds the place.

    Args:
        path: the copy, which is changed.
        run: of which it is one: errors speak of that.

    Returns:
        What was lost, a line a file; nothing where they were whole, or cut as a killed process leaves them.

    Raises:
        StoreError: it does not open without its write-ahead logs either.
    """
    files = [file for file in wal_files(path) if file.is_file()]
    for file in files:
        if read_wal(file).header_damaged:
            # The header is the same in all logs, and entries have checksums of their own: nothing is guessed.
            with file.open("r+b") as opened:
                opened.write(HEADER)
    read = [read_wal(file) for file in files]
    if all(each.damage is None for each in read) and _refusal(path) is None:
        return []
    contents = [file.read_bytes() for file in files]
    cuts = [(0, 0)]  # which file, and how much of it; those before it whole, those after it not at all
    for number, each in enumerate(read):
        cuts += [(number, end) for end in each.ends]
        if each.damage is not None:
            break

    def kept(number: int, cut: tuple[int, int]) -> int:
        return len(contents[number]) if number < cut[0] else cut[1] if number == cut[0] else 0

    def try_cut(cut: tuple[int, int]) -> str | None:
        for number, file in enumerate(files):
            file.unlink(missing_ok=True)
            if kept(number, cut):
                file.write_bytes(contents[number][: kept(number, cut)])
        return _refusal(path)

    low, high = 0, len(cuts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if try_cut(cuts[middle]) is None else (low, middle)
    refusal = try_cut(cuts[low])
    if refusal is not None:
        raise StoreError(f"log {run} cannot be salvaged: what says where its tables are is damaged ({refusal})")
    lost = []
    for number, content in enumerate(contents):
        end = kept(number, cuts[low])
        if end < len(content):
            num_lost = content.count(FLUSH_END, end)
            lost.append(
                f"write-ahead log: {read[number].num_whole(end)} transactions recovered; lost from byte {end} on: "
                f"{len(content) - end} bytes, in which {num_lost} transactions ended"
            )
    return lost


def _refusal(path: Path) -> str | None:
    """Return what DuckDB says against a database; None if it opens."""
    try:
        connect(path, read_only=True).close()
    except duckdb.Error as error:
        return first_line(error)
    return None
