"""Writes rows of several tables to the lake in one step, with one bound on the buffered rows and one commit a table."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue

from schemas.records import Record
from stores.lake_buffer import TableBuffers
from stores.lake_commit import CommitResult, NamedWrite, PartitionWrite, WriteMode
from stores.lake_files import Partition
from transforms.background import Ahead, Background
from transforms.sinks.write_lake import CommitOnce, RowWriter, join_writes
from transforms.tables import Table, at_the_end

NamedTable = tuple[str, Table]
"""A table's name, and some of its rows."""


@dataclass(eq=False)
class WriteTables(beam.PTransform):
    """Writes rows to several tables, each named by its element, as `WriteLake` writes to one. The rows are not changes.

    Input elements: `NamedTable`, bounded. Output: one `CommitResult` a transaction. A table without rows has no commit.

    Attributes:
        records: The tables' records.
        lake: The lake's root, a path or URI.
        mode: merge, overwrite or append.
    """

    records: tuple[Record, ...]
    lake: str
    mode: WriteMode = WriteMode.MERGE

    def expand(self, tables: beam.PCollection[NamedTable]) -> beam.PCollection[CommitResult]:
        """Write the files, and commit those of each table."""
        written = tables | "WriteFiles" >> beam.ParDo(_WriteFiles(self))
        return written | "CommitOnce" >> CommitOnce(self.records, self.lake, self.mode)


@beam.typehints.with_output_types(NamedWrite)
class _WriteFiles(beam.DoFn):
    """Writes rows to files in a background thread; at the end of a bundle emits their descriptions, keyed by table.

    The files of the bundle's end are written in parallel, as no rows come in any more.
    """

    def __init__(self, write: WriteTables) -> None:
        self._lake, self._records, self._mode = write.lake, write.records, write.mode

    def setup(self) -> None:
        self._writer = Background[NamedWrite]("write-tables")
        self._last_writers = Ahead[NamedWrite]("write-last-tables")

    def start_bundle(self) -> None:
        self._writer.reset()
        self._last_writers.reset()
        self._buffers = TableBuffers(self._records)
        self._rows: dict[str, RowWriter] = {}
        self._creating = threading.Lock()

    def process(self, element: NamedTable) -> None:
        self._writer.check()
        for record, (partition, tables) in self._buffers.add(*element):
            self._writer.start(self._write, record, partition, tables)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        last: list[NamedWrite] = []
        for record, (partition, tables) in self._buffers.drain():
            last += self._last_writers.start(self._write, record, partition, tables)
        described: dict[str, list[PartitionWrite]] = {}
        for name, write in [*self._writer.finish(), *last, *self._last_writers.finish()]:
            described.setdefault(name, []).append(write)
        for name, writes in described.items():
            for write in join_writes(writes):
                # with the maximum timestamp a description is never late, and does not hold the watermark back
                yield at_the_end((name, write))

    def teardown(self) -> None:
        self._writer.close()
        self._last_writers.close()

    def _write(self, record: Record, partition: Partition, tables: list[pa.Table]) -> NamedWrite:
        with self._creating:
            if record.name not in self._rows:
                self._rows[record.name] = RowWriter(self._lake, record, self._mode)
        return record.name, self._rows[record.name].write(partition, tables)
