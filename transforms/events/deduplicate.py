"""Let each event through once: exact for a bounded input, exact within a horizon for a stream."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.durations import HOUR
from schemas.errors import OptionError
from schemas.events import REPEATED
from stores.encoded_texts import encode_columns
from transforms.background import WorkAhead
from transforms.events.deduplicate_stream import DeduplicateStream
from transforms.events.duplicates import BatchId, RowNumbers, drop_rows, find_copies, keys_of, split_keys
from transforms.metrics import count
from transforms.tables import PackedTable, ShardedTable, TableCoder, at_earliest

NamedBatch = tuple[BatchId, PackedTable]
NamedRows = tuple[BatchId, RowNumbers]
"""Rows to drop from a batch."""

Output = Any
"""An element, or one with a tag."""

_KEYS = "keys"
_CELLS_TO_KEYS = 4
"""The keys of a shard are few bytes beside its sessions, and each piece of a batch has a frame of its own."""


@dataclass(eq=False)
class Deduplicate(beam.PTransform):
    """Tables of EVENT_BATCH → tables of EVENT_BATCH in which each (device_id, event_id) occurs once.

    The copy that arrived first counts. Of a bounded input only keys are grouped, by shard of their digests; the batches
    wait and then go on as they came, in no order, less the rows that are copies, the columns of REPEATED
    dictionary-encoded. A stream is keyed by shard, and an event goes on with its bundle, unless a copy went before.
    What went is remembered by hour of client time; an hour is forgotten when no copy that is in time can come, and its
    events that come later are looked up in the lake. Counters: ``duplicates``, ``events_unique``.

    Attributes:
        shards: Number of shards of devices; of a bounded input a part as many, of digests.
        gap: The sessions' inactivity gap, microseconds.
        allowed_lateness: How far behind the watermark an event is still in time, microseconds.
        tick: The sessions' cell, microseconds.
        bucket: Length of a bucket of client time, microseconds.
        lake: Of a stream, the lake that its events go to; None for none.
        stable_input: Of a stream, as of `WriteLake`.
        keying_worker: Of a stream, the worker that gave its events, which keys them too; see `in_worker`.
    """

    shards: int
    gap: int
    allowed_lateness: int
    tick: int
    bucket: int = HOUR
    lake: str | None = None
    stable_input: bool = False
    keying_worker: str | None = None

    def __post_init__(self) -> None:
        if self.shards < 1 or self.bucket < 1 or min(self.gap, self.allowed_lateness, self.tick) < 0:
            raise OptionError("deduplication needs at least one shard, a bucket, and no negative duration")

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Choose by the boundedness of the input."""
        if events.is_bounded:
            return self._bounded(events)
        keep = self.allowed_lateness + self.gap + 2 * self.tick
        return events | "OfStream" >> DeduplicateStream(
            self.shards, self.bucket, keep, self.lake, self.stable_input, self.keying_worker
        )

    def _bounded(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Group batches by id too: two readings of one batch meet there, and it goes on once.

        The rows to drop are asked for by id as each batch passes. Flattened into that grouping instead, the runner
        would encode every batch twice.
        """
        named = events | "NameBatches" >> (
            beam.ParDo(_NameBatch(-(-self.shards // _CELLS_TO_KEYS)))
            .with_output_types(NamedBatch, **{_KEYS: ShardedTable})
            .with_outputs(_KEYS, main="batches")
        )
        copies = (
            named[_KEYS]
            | "GroupByShard" >> beam.GroupByKey()
            | "FindCopies" >> beam.ParDo(_FindCopies()).with_output_types(NamedRows)
        )
        drop = beam.ParDo(_DropCopies(), beam.pvalue.AsMultiMap(copies)).with_output_types(pa.Table)
        return named["batches"] | "GroupByBatch" >> beam.GroupByKey() | "DropCopies" >> drop


class _NameBatch(beam.DoFn):
    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._coder = TableCoder()

    def process(self, events: pa.Table) -> Iterator[Output]:
        if events.num_rows:
            batch, keys = keys_of(events)
            # Half the bytes to hold, a third to move; and each text is hashed here once for all steps to come
            yield batch, self._coder.encode(encode_columns(events, REPEATED))
            for piece in split_keys(keys, self._shards):
                yield beam.pvalue.TaggedOutput(_KEYS, piece)


class _FindCopies(beam.DoFn):
    def process(self, shard: tuple[int, Iterable[pa.Table]]) -> Iterator[NamedRows]:
        return find_copies(shard[1])


class _DropCopies(WorkAhead):
    workers = 1  # as one of several steps that work side by side

    def __init__(self) -> None:
        self._coder = TableCoder()

    def process(
        self, batch: tuple[BatchId, Iterable[PackedTable]], copies: Mapping[BatchId, Iterable[RowNumbers]]
    ) -> Iterator[WindowedValue]:
        name, readings = batch
        yield from super().process(list(readings), list(copies[name]))

    def work(self, readings: list[PackedTable], copies: list[RowNumbers]) -> tuple[pa.Table, int]:
        events = self._coder.decode(readings[0])
        return drop_rows(events, copies), len(readings) * events.num_rows

    def tell(self, result: tuple[pa.Table, int]) -> Iterator[WindowedValue]:
        unique, read = result
        count("duplicates", read - unique.num_rows)
        count("events_unique", unique.num_rows)
        if unique.num_rows:
            yield WindowedValue(unique, at_earliest(unique).timestamp, [GlobalWindow()])
