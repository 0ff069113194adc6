"""Write the dimensions in the main graph: aggregate the events of each bundle, and merge them into the lake's rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue

from schemas.dimensions import DEVICE, EVENT_COLUMNS, PAGE, USER
from schemas.records import Record
from stores.encoded_texts import plain
from stores.lake import table_uri
from stores.lake_commit import CommitResult, WriteMode
from stores.lake_stream import STAGING, Changes
from transforms.events.pages import PageRules, merge_pages
from transforms.gathered import GATHERED_BYTES, Gathered
from transforms.identity.devices import merge_devices
from transforms.identity.merge_dimensions import (
    GATHERED_ROWS,
    Merge,
    MergeDimensions,
    Rows,
    deciding,
    into_existing,
    rows_of,
)
from transforms.identity.users import merge_users
from transforms.sinks.hold_back import HoldBack, Worked
from transforms.sinks.stream_lake import count_commit
from transforms.sinks.write_lake import WriteLake
from transforms.tables import at_the_end
from transforms.work_ahead import WorkAhead

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
        summed = events | "SumUp" >> beam.ParDo(_SumUp()).with_output_types(pa.Table).with_outputs(
            USER.record.name, PAGE.name, main=DEVICE.record.name
        )
        merge_pages_here = partial(merge_pages, rules=self.page_rules)
        commits = [
            summed[DEVICE.record.name] | "DevicesToLake" >> self._write(DEVICE.record, merge_devices),
            summed[USER.record.name] | "UsersToLake" >> self._write(USER.record, merge_users),
            summed[PAGE.name] | "PagesToLake" >> self._write(PAGE, merge_pages_here),
        ]
        return commits | "AllCommits" >> beam.Flatten()

    def _write(self, record: Record, merge: Merge) -> WriteLake:
        return WriteLake(
            record,
            self.lake,
            WriteMode.MERGE,
            changes=Changes(record, partial(_fold, merge), partial(into_existing, merge)),
        )


def _fold(merge: Merge, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    return merge(rows), rows.slice(0, 0)


@beam.typehints.with_output_types(pa.Table)
class _SumUp(WorkAhead):
    """Aggregates the events of a bundle into a few small tables per dimension, before any shuffle."""

    workers = 1  # its thread holds the events that have decided so far

    def start_bundle(self) -> None:
        super().start_bundle()
        self._gathered = Gathered(GATHERED_ROWS)
        self._held = Gathered(_HELD_ROWS, _HELD_BYTES)

    def process(self, events: pa.Table) -> Iterator[WindowedValue]:
        if self._gathered.add(events.select(EVENT_COLUMNS)):
            yield from self._select()

    def work(self, events: pa.Table) -> list[Rows]:
        """Keep what decides among these events and those held; once that is too much, aggregate it instead."""
        self._held.add(events)
        full = [self._held.add(deciding(together)) for together in self._held.take()]
        return self._sum_up() if any(full) else []

    def tell(self, summed: list[Rows]) -> Iterator[WindowedValue]:
        for rows_of_each in summed:
            for name, rows in rows_of_each.items():
                if rows.num_rows:
                    # At the end of time: a dimension is never late and must not hold back the watermark
                    value = at_the_end(rows)
                    yield value if name == DEVICE.record.name else beam.pvalue.TaggedOutput(name, value)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from self._select()
        yield from super().finish_bundle()
        yield from self.tell(self._sum_up())

    def _select(self) -> Iterator[WindowedValue]:
        for gathered in self._gathered.take():
            yield from super().process(gathered)

    def _sum_up(self) -> list[Rows]:
        return [rows_of(plain(events)) for events in self._held.take()]


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
