"""Reading a table that is damaged in places: by ranges of rows, halved where a range cannot be read."""

from dataclasses import dataclass

import duckdb

# DuckDB reads vectors of up to 2,048 rows as one, even where a single row is asked for. They need not begin at a multiple of that, so what
# is tried by itself is smaller; not much, for each attempt takes a millisecond or two.
_SMALLEST = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """What was read of a table.

    Attributes:
        num_read: rows that were read.
        num_lost: rows that were not; None where not even their number could be.
        first_lost: place of the first of them; None if there are none.
    """

    num_read: int
    num_lost: int | None
    first_lost: int | None


def read_rows(connection: duckdb.DuckDBPyConnection, table: str, columns: str) -> Rows:
    """Copy what can be read of `damaged.table` to `found.table`, with each row's place.

    Args:
        connection: has the databases `damaged` and `found` attached.
        table: one of a log's tables.
        columns: of it, those that the damaged log has, as in a statement.
    """
    try:
        [(num_rows,)] = connection.execute(f"SELECT count(*) FROM damaged.{table}").fetchall()
    except duckdb.Error:
        return Rows(0, None, 0)
    num_read = 0
    first_lost: int | None = None
    waiting = [(0, num_rows)]
    while waiting:
        low, high = waiting.pop()
        try:
            connection.execute(
                f"INSERT INTO found.{table} (place, {columns}) SELECT rowid, {columns} FROM damaged.{table} WHERE rowid >= ? AND rowid < ?",
                [low, high],
            )
        except duckdb.FatalException:
            raise
        except duckdb.Error:
            if high - low > _SMALLEST:
                middle = (low + high) // 2
                # The last is the next: rows stay in order.
                waiting += [(middle, high), (low, middle)]
                continue
            first_lost = low if first_lost is None else first_lost
        else:
            num_read += high - low
    return Rows(num_read, num_rows - num_read, first_lost)
