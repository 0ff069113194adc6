"""Buffers of rows to be written to the lake, held by partition until they fill a file."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from schemas.records import Record
from stores.encoded_texts import plain
from stores.lake_files import (
    BUFFER_BYTES,
    EXPECTED_RATIO,
    TARGET_FILE_BYTES,
    Partition,
    encode_rows,
    split_by_partition,
)

HELD_BYTES = 48 << 20
"""Limit on the bytes held for all partitions together, some 300,000 events. Writing a file takes twice `BUFFER_BYTES`
on top. A higher limit gives larger files if the input is not in time order."""

_STRAGGLERS = 8
"""A partition that gets less than an eighth of a table's rows counts as ended: these are late rows."""

Part = tuple[Partition, pa.Table]
Filled = tuple[Partition, list[pa.Table]]
"""A partition, and its rows to be written."""


def split_rows(table: pa.Table, record: Record) -> list[Part]:
    """Split a table by partition and encode the rows for buffering.

    Args:
        table: A table with at least the record's columns.
        record: The record, which names the columns and the partitions.
    """
    parts = split_by_partition(table.select(record.names), record)
    return [(partition, to_hold(part, table.num_rows, record)) for partition, part in parts]


def to_hold(part: pa.Table, table_rows: int, record: Record) -> pa.Table:
    """Encode a part of a table for buffering, so that it does not keep the table in memory.

    Args:
        part: Rows of one partition.
        table_rows: Number of rows of the table that it is a part of.
        record: The record.
    """
    # a part keeps the dictionaries of the whole table, which may be much larger than its rows
    rows = encode_rows(plain(part) if 2 * part.num_rows < table_rows else part, record)
    # a slice keeps the whole table that it was cut from
    sliced = rows.get_total_buffer_size() > 2 * rows.nbytes
    return rows.take(pa.array(range(rows.num_rows), pa.int64())) if sliced else rows


class PartitionBuffer:
    """Holds rows by partition. Releases a partition when it fills a file, or when all together exceed the limit.

    If the input is in time order, one partition ends as the next begins; a partition that has ended is released before
    one that still grows. If the input is in no order, all partitions grow, and the largest is released.

    Attributes:
        held_bytes: Arrow bytes held, with repeated texts dictionary-encoded.
        file_bytes: Bytes of a partition that fill a file.
    """

    def __init__(
        self, record: Record, target_file_bytes: int = TARGET_FILE_BYTES, most_bytes: int = HELD_BYTES
    ) -> None:
        self.held_bytes = 0
        self._record = record
        self.file_bytes = min(target_file_bytes * EXPECTED_RATIO, BUFFER_BYTES)
        self._most_bytes = most_bytes
        self._held: dict[Partition, _Held] = {}
        self._tables_added = 0

    def add(self, table: pa.Table) -> Iterator[Filled]:
        """Add rows; yields the partitions to write now."""
        return self.hold(split_rows(table, self._record))

    def hold(self, parts: list[Part]) -> Iterator[Filled]:
        """As `add`, for the output of `split_rows`."""
        self._tables_added += 1
        most = sum(rows.num_rows for _, rows in parts)
        for partition, rows in parts:
            held = self._held.setdefault(partition, _Held())
            self.held_bytes += held.add(rows)
            if rows.num_rows * _STRAGGLERS >= most:
                held.grown_at = self._tables_added
            if held.bytes >= self.file_bytes:
                yield self._release(partition)
        while self.held_bytes > self._most_bytes:
            yield self.release_heaviest()

    def release_heaviest(self) -> Filled:
        """Release the partition to write first when the limit is exceeded. The buffer must not be empty."""
        return self._release(max(self._held, key=self._weight))

    def drain(self) -> Iterator[Filled]:
        """Release all partitions."""
        while self._held:
            yield self._release(next(iter(self._held)))

    def _weight(self, partition: Partition) -> int:
        held = self._held[partition]
        return held.bytes * (1 + self._tables_added - held.grown_at)

    def _release(self, partition: Partition) -> Filled:
        held = self._held.pop(partition)
        self.held_bytes -= held.bytes
        return partition, held.tables


class TableBuffers:
    """Holds rows of several tables by partition, within one limit for all. Releases as `PartitionBuffer` does."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._buffers = {record.name: (record, PartitionBuffer(record)) for record in records}

    def add(self, name: str, table: pa.Table) -> Iterator[tuple[Record, Filled]]:
        """Add rows of a table; yields the partitions to write now."""
        record, buffer = self._buffers[name]
        for filled in buffer.add(table):
            yield record, filled
        while sum(buffer.held_bytes for _, buffer in self._buffers.values()) > HELD_BYTES:
            record, buffer = max(self._buffers.values(), key=lambda item: item[1].held_bytes)
            yield record, buffer.release_heaviest()

    def drain(self) -> Iterator[tuple[Record, Filled]]:
        """Release all partitions of all tables."""
        for record, buffer in self._buffers.values():
            for filled in buffer.drain():
                yield record, filled


class _Held:
    """Tables of a partition, their bytes, and the number of the last input table that added more than late rows."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.bytes = 0
        self.grown_at = 0

    def add(self, rows: pa.Table) -> int:
        """Add a table; returns its bytes."""
        size = int(rows.nbytes)
        self.tables.append(rows)
        # the same measure as in `write_files`, so that a full buffer becomes one file
        self.bytes += size
        return size
