"""Arrow tables as Beam elements: their coder, their timestamps, and the split by shard."""

import os
import tempfile
import threading
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import Coder, registry
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.errors import StoreError
from schemas.keys import shards_of

Table = pa.Table
ShardedTable = tuple[int, pa.Table]
PackedTable = bytes
"""A table as encoded by `TableCoder`. The consumer decides when and in which thread it is decoded."""


class TableCoder(Coder):
    """Encodes a table as one Arrow IPC stream.

    A runner that keeps its shuffles in memory (DirectRunner) would hold the whole input in memory. While `spill` is
    set in this process, the encoded form is a reference into that file, and memory stays bounded.
    """

    spill: "Spill | None" = None

    def encode(self, value: pa.Table) -> bytes:
        """Encode a table as a marker byte, followed by the stream or its place in the spill file."""
        sink = pa.BufferOutputStream()
        # Compresses to a third; this costs less than copying the bytes, even into the page cache
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        with pa.ipc.new_stream(sink, value.schema, options=options) as writer:
            writer.write_table(value)
        buffer = sink.getvalue()
        if TableCoder.spill is None:
            return b"\0" + buffer.to_pybytes()
        return b"\1" + TableCoder.spill.write(buffer)

    def decode(self, encoded: bytes) -> pa.Table:
        """Decode the result of `encode`; a spilled table can be decoded only in the process that encoded it."""
        if encoded[:1] == b"\0":
            source = pa.py_buffer(memoryview(encoded)[1:])
        elif TableCoder.spill is None:
            raise RuntimeError("a spilled table was read after its spill was closed or in another process")
        else:
            source = TableCoder.spill.read(encoded[1:])
        # Most tables are small, and Arrow's tasks for their columns would cost more than the work
        with pa.ipc.open_stream(source, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            return reader.read_all()

    def estimate_size(self, value: pa.Table) -> int:
        """The table's bytes in memory. Beam samples sizes at every step; its default would encode the table for it."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """Not deterministic; tables are never keys."""
        return False

    def to_type_hint(self) -> type:
        """The type of the decoded elements."""
        return pa.Table


registry.register_coder(pa.Table, TableCoder)


class Spill:
    """An append-only temporary file without a name: the system deletes it however the process ends."""

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory or tempfile.gettempdir()
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()
        self._end = 0

    def write(self, buffer: pa.Buffer) -> bytes:
        """Append a buffer; returns its place, 16 bytes."""
        with self._lock:
            start = self._end
            self._end += buffer.size
        view, done = memoryview(buffer), 0
        try:
            while done < buffer.size:
                done += os.pwrite(self._file.fileno(), view[done:], start + done)
        except OSError as error:
            raise StoreError(f"cannot write the shuffle's temporary file in {self._directory}: {error}") from error
        return start.to_bytes(8, "big") + buffer.size.to_bytes(8, "big")

    def read(self, place: bytes) -> pa.Buffer:
        """Read back the buffer at a place that `write` returned."""
        start, size = int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big")
        buffer = pa.allocate_buffer(size)
        view, done = memoryview(buffer), 0
        while done < size:
            # One call reads at most 2 GiB, and less if a signal interrupts it
            read = os.preadv(self._file.fileno(), [view[done:]], start + done)
            if read == 0:
                raise StoreError(f"the shuffle's temporary file in {self._directory} is shorter than what was written")
            done += read
        return buffer

    def __enter__(self) -> "Spill":
        TableCoder.spill = self
        return self

    def __exit__(self, *_: object) -> None:
        TableCoder.spill = None
        self._file.close()


def at_earliest(table: pa.Table, column: str = "event_time") -> beam.window.TimestampedValue:
    """Timestamp a table with the minimum of a time column, so that the watermark does not pass its rows."""
    earliest = pa.compute.min(table.column(column)).cast(pa.int64()).as_py()
    return beam.window.TimestampedValue(table, Timestamp(micros=earliest))


def at_the_end(value: object) -> WindowedValue:
    """Give a value the maximum timestamp, so that it is never late and does not hold the watermark back."""
    return WindowedValue(value, GlobalWindow().max_timestamp(), [GlobalWindow()])


def split_by_shard(table: pa.Table, shards: int, key: str = "device_id") -> Iterator[ShardedTable]:
    """Split a table into one table per shard of the values of a text column; the rows of a shard keep their order."""
    if table.num_rows == 0:
        return
    if shards == 1:
        yield 0, table
        return
    shard = shards_of(table.column(key), shards)
    order = np.argsort(shard, kind="stable")
    # To take from one chunk costs half of what it does from several
    ordered = table.combine_chunks().take(order)
    found, starts = np.unique(shard[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    for number, start, end in zip(found, starts, ends, strict=True):
        yield int(number), ordered.slice(start, end - start)
