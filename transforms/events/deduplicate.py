"""Let each event through once: exact for a bounded input, exact within a horizon for a stream."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from schemas.durations import HOUR
from schemas.errors import OptionError
from schemas.events import REPEATED
from stores.encoded_texts import encode_columns
from transforms.events.deduplicate_stream import DeduplicateStream
from transforms.events.duplicates import BatchId, drop_rows, find_copies, keys_of, split_keys
from transforms.metrics import count
from transforms.tables import ShardedTable, at_earliest

NamedTable = tuple[BatchId, pa.Table]
"""A batch of events, or rows to drop from it."""

Output = Any
"""An element, or one with a tag."""

_KEYS = "keys"


@dataclass(eq=False)
class Deduplicate(beam.PTransform):
    """Tables of EVENT_BATCH → tables of EVENT_BATCH in which each (device_id, event_id) occurs once.

    The copy that arrived first counts. Of a bounded input only keys are grouped, by shard of their digests; the batches
    wait and then go on as they came, in no order, less the rows that are copies, the columns of REPEATED
    dictionary-encoded. A stream is keyed by shard, and an event goes on with its bundle, unless a copy went before.
    What went is remembered by hour of client time; an hour is forgotten when no copy that is in time can come, and its
    events that come later are looked up in the lake. Counters: ``duplicates``, ``events_unique``.

    Attributes:
        shards: Number of shards: of digests where the input is bounded, else of devices.
        gap: The sessions' inactivity gap, microseconds.
        allowed_lateness: How far behind the watermark an event is still in time, microseconds.
        tick: The sessions' cell, microseconds.
        bucket: Length of a bucket of client time, microseconds.
        lake: Of a stream, the lake that its events go to; None for none.
        stable_input: Of a stream, as of `WriteLake`.
    """

    shards: int
    gap: int
    allowed_lateness: int
    tick: int
    bucket: int = HOUR
    lake: str | None = None
    stable_input: bool = False

    def __post_init__(self) -> None:
        if self.shards < 1 or self.bucket < 1 or min(self.gap, self.allowed_lateness, self.tick) < 0:
            raise OptionError("deduplication needs at least one shard, a bucket, and no negative duration")

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Choose by the boundedness of the input."""
        if events.is_bounded:
            return self._bounded(events)
        keep = self.allowed_lateness + self.gap + 2 * self.tick
        return events | "OfStream" >> DeduplicateStream(self.shards, self.bucket, keep, self.lake, self.stable_input)

    def _bounded(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Group batches by id too: two readings of one batch meet there, and it goes on once.

        The rows to drop are asked for by id as each batch passes. Flattened into that grouping instead, the runner
        would encode every batch twice.
        """
        named = events | "NameBatches" >> (
            beam.ParDo(_NameBatch(self.shards))
            .with_output_types(NamedTable, **{_KEYS: ShardedTable})
            .with_outputs(_KEYS, main="batches")
        )
        copies = (
            named[_KEYS]
            | "GroupByShard" >> beam.GroupByKey()
            | "FindCopies" >> beam.ParDo(_FindCopies()).with_output_types(NamedTable)
        )
        drop = beam.ParDo(_DropCopies(), beam.pvalue.AsMultiMap(copies)).with_output_types(pa.Table)
        return named["batches"] | "GroupByBatch" >> beam.GroupByKey() | "DropCopies" >> drop


class _NameBatch(beam.DoFn):
    def __init__(self, shards: int) -> None:
        self._shards = shards

    def process(self, events: pa.Table) -> Iterator[Output]:
        if events.num_rows:
            batch, keys = keys_of(events)
            # Half the bytes to hold, a third to move; and each text is hashed here once for all steps to come
            yield batch, encode_columns(events, REPEATED)
            for piece in split_keys(keys, self._shards):
                yield beam.pvalue.TaggedOutput(_KEYS, piece)


class _FindCopies(beam.DoFn):
    def process(self, shard: tuple[int, Iterable[pa.Table]]) -> Iterator[NamedTable]:
        return find_copies(shard[1])


class _DropCopies(beam.DoFn):
    def process(
        self, batch: tuple[BatchId, Iterable[pa.Table]], copies: Mapping[BatchId, Iterable[pa.Table]]
    ) -> Iterator[beam.window.TimestampedValue]:
        name, readings = batch
        first, read = None, 0
        for events in readings:
            first = events if first is None else first
            read += events.num_rows
        assert first is not None
        unique = drop_rows(first, copies[name])
        count("duplicates", read - unique.num_rows)
        count("events_unique", unique.num_rows)
        if unique.num_rows:
            yield at_earliest(unique)
