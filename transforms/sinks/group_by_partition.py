"""Groups tables by partition, so that one step sees all rows of a partition."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue

from schemas.records import Record
from stores.lake_files import Partition, partition_folder, split_by_partition
from transforms.tables import PackedTable, TableCoder, at_the_end
from transforms.work_gathered import WorkGathered


@dataclass(eq=False)
class GroupByPartition(beam.PTransform):
    """Tables → (folder, packed tables). The folder identifies a partition; `unpack` decodes its tables.

    Attributes:
        record: Defines the partition columns.
        every: Partitions that are in the output even if the input has no rows in them.
    """

    record: Record
    every: Iterable[Partition] = ()

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[tuple[str, Iterable[PackedTable]]]:
        """Split each table by partition, add an empty table for each partition of `every`, and group them."""
        parts = tables | "SplitByPartition" >> beam.ParDo(_Split(self.record))
        empty = [(partition_folder(self.record, partition), b"") for partition in self.every]
        if empty:
            named = tables.pipeline | "NameEveryPartition" >> beam.Create(empty, reshuffle=False).with_output_types(
                tuple[str, PackedTable]
            )
            parts = (named, parts) | "WithEmptyOnes" >> beam.Flatten()
        return parts | "Group" >> beam.GroupByKey()


def unpack(packed: Iterable[PackedTable]) -> Iterator[pa.Table]:
    """Decode the tables of a partition, one at a time."""
    coder = TableCoder()
    return (coder.decode(table) for table in packed if table)


@beam.typehints.with_output_types(tuple[str, PackedTable])
class _Split(WorkGathered):
    """Tables of a bundle, each with a few rows of many partitions → one packed table per partition, keyed by folder."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._coder = TableCoder()

    def work(self, table: pa.Table) -> Iterator[WindowedValue]:
        for partition, part in split_by_partition(table, self._record):
            packed = partition_folder(self._record, partition), self._coder.encode(part)
            yield at_the_end(packed)
