"""Concatenates small tables, so that downstream steps pay their fixed costs per table less often."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

GATHERED_BYTES = 32 << 20
"""Some 100,000 events of the usual size."""


class Gathered:
    """A buffer of tables of one schema, to concatenate them.

    Args:
        rows: Number of rows at which the buffer is full.
        size: Number of bytes at which it is full, however few the rows, so that large events cannot exhaust memory.
    """

    def __init__(self, rows: int, size: int = GATHERED_BYTES) -> None:
        self._most_rows, self._most_bytes = rows, size
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, table: pa.Table) -> bool:
        """Add a table; returns whether it is time to `take` the tables: the buffer is full, or the table has no rows.

        A table without rows says that no more follow, so that the steps that it reaches do their last work side by side
        in their threads, instead of one after the other when the bundle ends.
        """
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        return table.num_rows == 0 or self._rows >= self._most_rows or self._bytes >= self._most_bytes

    def take(self) -> Iterator[pa.Table]:
        """Empty the buffer; yields its tables as one table, if they have any rows."""
        tables, self._tables, self._rows, self._bytes = self._tables, [], 0, 0
        if any(table.num_rows for table in tables):
            yield pa.concat_tables(tables)


def put_together(tables: Iterable[pa.Table], rows: int, size: int = GATHERED_BYTES) -> Iterator[pa.Table]:
    """Concatenate tables of one schema into larger ones of at least `rows` rows or `size` bytes, except the last.

    >>> [len(table) for table in put_together([pa.table({"n": [n]}) for n in range(5)], 2)]
    [2, 2, 1]
    """
    gathered = Gathered(rows, size)
    for table in tables:
        if gathered.add(table):
            yield from gathered.take()
    yield from gathered.take()
