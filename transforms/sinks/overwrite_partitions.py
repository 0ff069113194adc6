"""Overwrites partitions of the lake, only those whose rows have changed."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from schemas.columns import to_polars
from schemas.records import Record
from stores.lake import LiveFile, table_uri
from stores.lake_commit import NamedWrite, PartitionWrite, fingerprint
from stores.lake_files import Partition, Place, parse_partition, write_files
from stores.lake_read import read_files
from transforms.metrics import count
from transforms.sinks.group_by_partition import GroupByPartition, unpack
from transforms.tables import PackedTable

LivePartitions = Mapping[Partition, list[LiveFile]]
"""The files of some partitions in one version of their table; the list is empty for a partition without files."""


@dataclass(eq=False)
class OverwritePartitions(beam.PTransform):
    """Tables of a record → one write per partition, with which a commit replaces the partition's rows.

    A partition that receives no rows is emptied. A partition whose rows are unchanged is left as it is; its write then
    only records the files that it was compared with. Nothing is visible before the commit. Commit in merge mode: the
    commit fails if another run has changed one of the partitions since `live` was read.

    Output element: (the table's name, its `PartitionWrite`).

    Attributes:
        record: The table's record.
        lake: The lake's root, a path or URI.
        live: All partitions to overwrite, with their current files. The input has rows of these partitions only.
    """

    record: Record
    lake: str
    live: LivePartitions

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[NamedWrite]:
        """Group the rows by partition, with a group for every partition of `live`, and write the changed ones."""
        return (
            tables
            | "GroupByPartition" >> GroupByPartition(self.record, every=tuple(self.live))
            | "WriteWhatChanged" >> beam.ParDo(_WriteChanged(self.record, self.lake, self.live))
        )


@beam.typehints.with_output_types(NamedWrite)
class _WriteChanged(beam.DoFn):
    """Writes all rows of a partition to files, unless the partition already holds exactly these rows."""

    def __init__(self, record: Record, lake: str, live: LivePartitions) -> None:
        self._record, self._lake, self._live = record, lake, dict(live)

    def process(self, group: tuple[str, Iterable[PackedTable]]) -> Iterator[NamedWrite]:
        folder, packed = group
        place = Place(table_uri(self._lake, self._record.name), self._record, parse_partition(folder))
        live = self._live[place.partition]
        seen = fingerprint(live)
        there = (read_files(place, [file.path]) for file in live)
        # decoded one at a time, and a second time for writing, so that a partition is never in memory as a whole
        if sum_of_rows(unpack(packed)) == sum_of_rows(there):
            yield self._record.name, PartitionWrite(place.partition, (), seen=seen)
            return
        written = write_files(place, unpack(packed))
        count(f"changed_{self._record.name}_partitions")
        yield self._record.name, PartitionWrite(place.partition, tuple(written), tuple(f.path for f in live), seen)


_SEEDS = (secrets.randbits(64), secrets.randbits(64))
"""Random in each process, so that nobody can construct two sets of rows with the same sum."""


def sum_of_rows(tables: Iterable[pa.Table]) -> tuple[int, int, int]:
    """A checksum of a set of rows, independent of their order and of how they are split: a count and 128 bits.

    Only sums of the same process can be compared.

    >>> one, two = pa.table({"a": [1]}), pa.table({"a": [2]})
    >>> sum_of_rows([one, two]) == sum_of_rows([pa.concat_tables([two, one])]) != sum_of_rows([one])
    True
    """
    rows, high, low = 0, 0, 0
    for table in tables:
        frame = to_polars(table)
        rows += frame.height
        high += int(frame.hash_rows(_SEEDS[0]).sum() or 0)
        low += int(frame.hash_rows(_SEEDS[1]).sum() or 0)
    return rows, high % 2**64, low % 2**64
