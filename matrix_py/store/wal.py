"""DuckDB's write-ahead log, as far as it must be known here: where transactions end, and whether it was damaged or only cut.

A file begins with a header, then entries: a size, a checksum (8 bytes each, little-endian) and a payload; an entry `flush` ends each
transaction. DuckDB compares every checksum, but takes a size that reaches beyond the end of the file for a write that was cut, and a
header that it does not know for no log at all: both open without a word, and without the transactions that follow.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from matrix_py.errors import StoreError

# The header of storage version 1.2.0, which logs have. A later storage version has more fields after its number.
HEADER = bytes.fromhex("640062650002ffff")
_LATER_HEADERS = tuple(HEADER[:5] + bytes([version]) + b"\x66\x00" for version in (3, 4, 5))
_ENTRY = struct.Struct("<QQ")
# Checksum and payload of `flush`, which has no fields: the same everywhere.
FLUSH_END = bytes.fromhex("e7fe7d722fed3d5e640064ffff")
_FLUSH = struct.pack("<Q", 5) + FLUSH_END


@dataclass(frozen=True, slots=True)
class Wal:
    """What a write-ahead log holds, going by the sizes of its entries.

    Attributes:
        ends: where whole transactions end, as offsets in the file, ascending.
        stop: where the entries end: the size of the file, or where an entry begins that reaches beyond it.
        size: of the file.
        num_after: transactions that end after `stop`: a write that was cut has none.
        header_damaged: whether it does not begin as write-ahead logs do.
    """

    ends: tuple[int, ...]
    stop: int
    size: int
    num_after: int
    header_damaged: bool

    @property
    def damage(self) -> int | None:
        """Where the file is damaged, so far as sizes tell; None for one that is whole, or was cut as a killed process leaves it."""
        return 0 if self.header_damaged else self.stop if self.num_after else None

    def num_whole(self, end: int) -> int:
        """Return how many transactions end at `end` or before."""
        return sum(each <= end for each in self.ends)


def wal_files(path: Path) -> list[Path]:
    """Return the names of a database's write-ahead logs in the order of reading: while a checkpoint runs, there is a second."""
    return [path.with_name(f"{path.name}.wal"), path.with_name(f"{path.name}.wal.checkpoint")]


def read_wal(path: Path) -> Wal:
    """Go through a write-ahead log from entry to entry. Checksums are left to DuckDB.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    ends = []
    with path.open("rb") as file:
        header = file.read(len(HEADER))
        if header in _LATER_HEADERS:
            return Wal((), size, size, 0, header_damaged=False)
        at = len(header)
        while at + _ENTRY.size <= size:
            file.seek(at)
            entry = file.read(len(_FLUSH))
            [length, _] = _ENTRY.unpack_from(entry)
            if at + _ENTRY.size + length > size:
                break
            at += _ENTRY.size + length
            if entry == _FLUSH:
                ends.append(at)
        file.seek(at)
        return Wal(tuple(ends), at, size, file.read().count(FLUSH_END), header_damaged=not HEADER.startswith(header))


def check_wal(path: Path) -> None:
    """Refuse a database whose write-ahead log DuckDB would pass over in silence, from the damage on.

    Raises:
        StoreError: the write-ahead log is damaged.
        OSError: it cannot be read.
    """
    for file in wal_files(path):
        damage = read_wal(file).damage if file.is_file() else None
        if damage is not None:
            raise StoreError(
                f"log {path}: its write-ahead log {file.name} is damaged at byte {damage}: recover what is whole with "
                f"matrix log salvage {path} --out NEW.duckdb"
            )
