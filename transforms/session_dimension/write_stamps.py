"""Write the sessions of events onto fact_events. Only files with an event whose session changes are rewritten."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import apache_beam as beam
import pyarrow as pa

from schemas.events import FACT_EVENT
from schemas.session_dimension import EVENT_SESSIONS
from stores.lake import table_uri
from stores.lake_commit import NamedWrite
from stores.lake_files import Place, parse_partition
from stores.lake_rewrite import rewrite_changed
from transforms.session_dimension.session_dates import StartDates
from transforms.session_dimension.session_dimension import STAMP_COLUMNS, stamp_events
from transforms.sinks.group_by_partition import GroupByPartition, unpack
from transforms.sinks.overwrite_partitions import LivePartitions
from transforms.tables import PackedTable

_BY_EVENT_DATE = replace(EVENT_SESSIONS, partition_by=FACT_EVENT.partition_by)


@dataclass(eq=False)
class StampEvents(beam.PTransform):
    """Tables of EVENT_SESSIONS → one write per partition of fact_events.

    An event that was stored after `live` was read is in another file, and has no session until the next run. Output
    element: (the table's name, its `PartitionWrite`), to be committed in merge mode.

    Attributes:
        lake: The lake's root, a path or URI.
        live: The files that may have an event of the dates, or an event that has lost its session.
        dates: The start dates that the input covers completely.
    """

    lake: str
    live: LivePartitions
    dates: StartDates

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, places: beam.PCollection[pa.Table]) -> beam.PCollection[NamedWrite]:
        """Group by event_date, and rewrite the files."""
        return (
            places
            | "GroupByEventDate" >> GroupByPartition(_BY_EVENT_DATE, every=tuple(self.live))
            | "Stamp" >> beam.ParDo(_Stamp(self.lake, self.live, self.dates))
        )


@beam.typehints.with_output_types(NamedWrite)
class _Stamp(beam.DoFn):
    """Writes the sessions of a date's events into the date's files."""

    def __init__(self, lake: str, live: LivePartitions, dates: StartDates) -> None:
        self._lake, self._live, self._dates = lake, dict(live), dates

    def process(self, group: tuple[str, Iterable[PackedTable]]) -> Iterator[NamedWrite]:
        folder, packed = group
        place = Place(table_uri(self._lake, FACT_EVENT.name), FACT_EVENT, parse_partition(folder))
        places = pa.concat_tables([EVENT_SESSIONS.empty(), *unpack(packed)])
        stamp = partial(stamp_events, places=places, dates=self._dates)
        files = dict.fromkeys(self._live[place.partition])
        yield FACT_EVENT.name, rewrite_changed(place, files, STAMP_COLUMNS, stamp)
