"""The sessions of events written onto fact_events: only the files that hold an event whose session is another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import apache_beam as beam
import pyarrow as pa

from schemas.events import FACT_EVENT
from schemas.session_dimension import EVENT_SESSIONS
from stores.lake import table_uri
from stores.lake_commit import PartitionWrite
from stores.lake_files import Place, parse_partition, partition_folder, split_by_partition
from stores.lake_rewrite import rewrite_changed
from transforms.session_dimension.session_dates import StartDates
from transforms.session_dimension.session_dimension import STAMP_COLUMNS, stamp_events
from transforms.sinks.overwrite_partitions import LivePartitions
from transforms.tables import TableCoder

_BY_EVENT_DATE = replace(EVENT_SESSIONS, partition_by=FACT_EVENT.partition_by)


@dataclass(eq=False)
class StampEvents(beam.PTransform):
    """Tables of EVENT_SESSIONS in, one write a partition of fact_events out.

    An event that came since `live` was read is in another file and stays without a session until the next run.
    Output element: (the table's name, its `PartitionWrite`); it is committed in merge mode.

    Attributes:
        lake: The lake's root, a path or URI.
        live: The files that may hold an event of the dates, or one that had a session and has none any more.
        dates: The start dates that the input is all of.
    """

    lake: str
    live: LivePartitions
    dates: StartDates

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, places: beam.PCollection[pa.Table]) -> beam.PCollection[tuple[str, PartitionWrite]]:
        """Group by the events' date, rewrite."""
        folders = [(partition_folder(FACT_EVENT, partition), b"") for partition in self.live]
        every = places.pipeline | "NameEveryDate" >> beam.Create(folders, reshuffle=False).with_output_types(
            tuple[str, bytes]
        )
        return (
            (every, places | "SplitByEventDate" >> beam.ParDo(_Split()))
            | "WithEmptyOnes" >> beam.Flatten()
            | "GroupByEventDate" >> beam.GroupByKey()
            | "Stamp" >> beam.ParDo(_Stamp(self.lake, self.live, self.dates))
        )


@beam.typehints.with_output_types(tuple[str, bytes])
class _Split(beam.DoFn):
    """A table to one packed table a date of events, keyed by the partition's folder."""

    def __init__(self) -> None:
        self._coder = TableCoder()

    def process(self, table: pa.Table) -> Iterator[tuple[str, bytes]]:
        for partition, part in split_by_partition(table, _BY_EVENT_DATE):
            yield partition_folder(_BY_EVENT_DATE, partition), self._coder.encode(part)


@beam.typehints.with_output_types(tuple[str, PartitionWrite])
class _Stamp(beam.DoFn):
    """The sessions of a date's events into its files."""

    def __init__(self, lake: str, live: LivePartitions, dates: StartDates) -> None:
        self._lake, self._live, self._dates = lake, dict(live), dates
        self._coder = TableCoder()

    def process(self, group: tuple[str, Iterable[bytes]]) -> Iterator[tuple[str, PartitionWrite]]:
        folder, packed = group
        place = Place(table_uri(self._lake, FACT_EVENT.name), FACT_EVENT, parse_partition(folder))
        tables = [EVENT_SESSIONS.empty(), *(self._coder.decode(table) for table in packed if table)]
        stamp = partial(stamp_events, places=pa.concat_tables(tables), dates=self._dates)
        files = dict.fromkeys(self._live[place.partition])
        yield FACT_EVENT.name, rewrite_changed(place, files, STAMP_COLUMNS, stamp)
