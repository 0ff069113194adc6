"""Small tables put together: every step behind pays its fixed costs once for all of them."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

GATHERED_BYTES = 32 << 20
"""Some 100,000 events of the usual size."""


class Gathered:
    """Tables of one schema that wait to be one.

    Args:
        rows: How many rows are enough.
        size: How many bytes are enough, however few the rows: what waits is bounded whatever an event weighs.
    """

    def __init__(self, rows: int, size: int = GATHERED_BYTES) -> None:
        self._most_rows, self._most_bytes = rows, size
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, table: pa.Table) -> bool:
        """Hold a table; whether it is time to `take` them all."""
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        return self._rows >= self._most_rows or self._bytes >= self._most_bytes

    def take(self) -> Iterator[pa.Table]:
        """What waits as one table, if it has any rows."""
        if self._rows:
            yield pa.concat_tables(self._tables)
        self._tables, self._rows, self._bytes = [], 0, 0


def put_together(tables: Iterable[pa.Table], rows: int, size: int = GATHERED_BYTES) -> Iterator[pa.Table]:
    """Tables of one schema as larger ones of at least so many rows or bytes, but for the last.

    >>> [len(table) for table in put_together([pa.table({"n": [n]}) for n in range(5)], 2)]
    [2, 2, 1]
    """
    gathered = Gathered(rows, size)
    for table in tables:
        if gathered.add(table):
            yield from gathered.take()
    yield from gathered.take()
