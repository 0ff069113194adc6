"""Write the dimensions in the main graph: aggregate the events of each bundle, and merge them into the lake's rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue

from schemas.dimensions import DEVICE, EVENT_COLUMNS
from stores.encoded_texts import plain
from stores.lake import find_files, table_uri
from stores.lake_commit import CommitResult, NamedWrite, WriteMode
from stores.lake_files import Place
from stores.lake_stream import STAGING, Changes
from transforms.events.pages import PageRules
from transforms.gathered import GATHERED_BYTES, Gathered
from transforms.identity.merge_dimensions import (
    GATHERED_ROWS,
    Merge,
    MergeDimensions,
    deciding,
    into_existing,
    merges,
    rows_of,
)
from transforms.sinks.group_by_partition import unpack
from transforms.sinks.hold_back import HoldBack, Worked
from transforms.sinks.stream_lake import count_commit
from transforms.sinks.write_lake import CommitOnce
from transforms.tables import PackedTable, TableCoder, at_the_end
from transforms.work_ahead import WorkAhead

NamedRows = tuple[str, PackedTable]
"""A dimension's name, and some rows of it."""

_HELD_ROWS, _HELD_BYTES = 200_000, GATHERED_BYTES // 2
"""The most deciding events that a bundle holds. Beyond that they are aggregated and emitted, which is possible at any
time because rows merge in any grouping."""
COMMIT_SECONDS = 30
"""Time between two commits of a dimension for an unbounded input: each commit reads the keys of the whole table."""


@dataclass(eq=False)
class WriteDimensions(beam.PTransform):
    """Merges events into dim_devices, dim_users and dim_pages.

    Input elements: tables with the columns of `EVENT_COLUMNS`. Events may be repeated, because the merge is idempotent.
    Output: one `CommitResult` per committed transaction.

    Attributes:
        lake: The lake's root, a path or URI.
        page_rules: The categories of pages.
        stable_input: See `WriteLake`.
        commit_seconds: For an unbounded input, the time between two commits of a table.
    """

    lake: str
    page_rules: PageRules
    stable_input: bool = False
    commit_seconds: int = COMMIT_SECONDS

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Aggregate, merge and commit each table; for an unbounded input, every `commit_seconds` outside bundles."""
        if not events.is_bounded:
            # Each commit reads the tables, so the deciding events of `commit_seconds` are held back for one commit
            folder = f"{table_uri(self.lake, DEVICE.record.name)}/{STAGING}"
            work = MergeDimensions(self.lake, self.page_rules)
            return (
                events
                | "KeepDeciding" >> beam.ParDo(_KeepDeciding())
                | "HoldBack" >> HoldBack(folder, self.commit_seconds, work, self.stable_input)
                | "TellCommits" >> beam.ParDo(_TellCommits())
            )
        merged = (
            events
            | "SumUp" >> beam.ParDo(_SumUp())
            | "GroupByTable" >> beam.GroupByKey()
            | "MergeRows" >> beam.ParDo(_MergeRows(self))
        )
        records = tuple(record for record, _ in merges(self.page_rules).values())
        return merged | "CommitOnce" >> CommitOnce(records, self.lake, WriteMode.MERGE)


@beam.typehints.with_output_types(NamedRows)
class _SumUp(WorkAhead):
    """Aggregates the events of a bundle into a few small tables, keyed by dimension, before any shuffle."""

    workers = 1  # its thread holds the events that have decided so far

    def setup(self) -> None:
        super().setup()
        self._coder = TableCoder()

    def start_bundle(self) -> None:
        super().start_bundle()
        self._gathered = Gathered(GATHERED_ROWS)
        self._held = Gathered(_HELD_ROWS, _HELD_BYTES)

    def process(self, events: pa.Table) -> Iterator[WindowedValue]:
        if self._gathered.add(events.select(EVENT_COLUMNS)):
            yield from self._select(last=not events.num_rows)

    def work(self, events: pa.Table, last: bool) -> list[NamedRows]:
        """Keep what decides among these events and those held; at the last, or once it is too much, aggregate it."""
        self._held.add(events)
        full = [self._held.add(deciding(together)) for together in self._held.take()]
        return self._sum_up() if last or any(full) else []

    def tell(self, summed: list[NamedRows]) -> Iterator[WindowedValue]:
        return map(at_the_end, summed)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from self._select(last=True)
        yield from super().finish_bundle()
        yield from self.tell(self._sum_up())

    def _select(self, last: bool) -> Iterator[WindowedValue]:
        for gathered in self._gathered.take():
            yield from super().process(gathered, last)

    def _sum_up(self) -> list[NamedRows]:
        return [
            (name, self._coder.encode(rows))
            for events in self._held.take()
            for name, rows in rows_of(plain(events)).items()
            if rows.num_rows
        ]


@beam.typehints.with_output_types(NamedWrite)
class _MergeRows(WorkAhead):
    """Merges all rows of a dimension into its table's files; emits their description for the commit, keyed by table."""

    def __init__(self, write: WriteDimensions) -> None:
        self._lake = write.lake
        self._changes = {
            name: Changes(record, partial(_fold, merge), partial(into_existing, merge))
            for name, (record, merge) in merges(write.page_rules).items()
        }

    def process(self, group: tuple[str, Iterable[PackedTable]]) -> Iterator[WindowedValue]:
        name, packed = group
        yield from super().process(name, list(packed))

    def work(self, name: str, packed: list[PackedTable]) -> NamedWrite:
        changes = self._changes[name]
        place, live = Place(table_uri(self._lake, name), changes.record, ()), find_files(self._lake, name).get((), [])
        return name, changes.merge_into(place, live, pa.concat_tables(unpack(packed)))

    def tell(self, described: NamedWrite) -> Iterator[WindowedValue]:
        yield at_the_end(described)


def _fold(merge: Merge, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    return merge(rows), rows.slice(0, 0)


@beam.typehints.with_output_types(pa.Table)
class _KeepDeciding(beam.DoFn):
    """Selects the events of a batch that decide a row of a dimension."""

    def process(self, events: pa.Table) -> Iterator[pa.Table]:
        yield deciding(events.select(EVENT_COLUMNS))


@beam.typehints.with_output_types(CommitResult)
class _TellCommits(beam.DoFn):
    """Counts and emits the commits made outside the bundles."""

    def process(self, worked: Worked) -> Iterator[CommitResult]:
        for result in worked.result:
            count_commit(result)
            yield result
