"""Partitions of the lake put in the place of what they hold, those whose rows have changed and no others."""

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
"""The files of some partitions in one version of their table; a partition without any has an empty list."""


@dataclass(eq=False)
class OverwritePartitions(beam.PTransform):
    """Tables of a record in, one write a partition out: what a commit needs to put the rows in the place of the old.

    A partition that gets no row is emptied. One whose rows are those it holds is left as it is: the write then
    says only what it was worked out from. Nothing is visible before it is committed, in merge mode: a partition that
    another run has changed since `live` was read fails the commit.

    Output element: (the table's name, its `PartitionWrite`).

    Attributes:
        record: Names the table.
        lake: The lake's root, a path or URI.
        live: All partitions to overwrite, with the files they have. The input's rows are of no other.
    """

    record: Record
    lake: str
    live: LivePartitions

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[NamedWrite]:
        """Group by partition, each of which is there even without a row."""
        return (
            tables
            | "GroupByPartition" >> GroupByPartition(self.record, every=tuple(self.live))
            | "WriteWhatChanged" >> beam.ParDo(_WriteChanged(self.record, self.lake, self.live))
        )


@beam.typehints.with_output_types(NamedWrite)
class _WriteChanged(beam.DoFn):
    """All rows of a partition to files, unless it holds just these rows."""

    def __init__(self, record: Record, lake: str, live: LivePartitions) -> None:
        self._record, self._lake, self._live = record, lake, dict(live)

    def process(self, group: tuple[str, Iterable[PackedTable]]) -> Iterator[NamedWrite]:
        folder, packed = group
        place = Place(table_uri(self._lake, self._record.name), self._record, parse_partition(folder))
        live = self._live[place.partition]
        seen = fingerprint(live)
        there = (read_files(place, [file.path]) for file in live)
        # unpacked one at a time, and once more to be written: a partition is never in memory as a whole
        if sum_of_rows(unpack(packed)) == sum_of_rows(there):
            yield self._record.name, PartitionWrite(place.partition, (), seen=seen)
            return
        written = write_files(place, unpack(packed))
        count(f"changed_{self._record.name}_partitions")
        yield self._record.name, PartitionWrite(place.partition, tuple(written), tuple(f.path for f in live), seen)


_SEEDS = (secrets.randbits(64), secrets.randbits(64))
"""Of this process: nobody can make two sets of rows of one sum."""


def sum_of_rows(tables: Iterable[pa.Table]) -> tuple[int, int, int]:
    """What tells two sets of rows apart, whatever their order and however they are cut: a count and 128 bits.

    Only sums of one process can be compared.

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
