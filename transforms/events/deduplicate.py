"""Deduplicate events: exact for a bounded input, exact within a horizon for a stream."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.errors import OptionError
from schemas.events import EVENT_BATCH, REPEATED
from stores.encoded_texts import encode_columns
from transforms.events.deduplicate_stream import DeduplicateStream
from transforms.events.duplicates import BatchId, RowNumbers, drop_rows, find_copies, keys_of, split_keys
from transforms.metrics import count
from transforms.tables import PackedTable, ShardedTable, TableCoder, at_earliest, at_the_end
from transforms.work_ahead import WorkAhead

NamedBatch = tuple[BatchId, PackedTable]
NamedRows = tuple[BatchId, RowNumbers]
"""Rows to drop from a batch."""

Output = Any
"""An element, or one with a tag."""

_NO_MORE = encode_columns(EVENT_BATCH.empty(), REPEATED)
"""The last table of a bundle; see `Gathered.add`."""
_KEYS = "keys"
_CELLS_TO_KEYS = 4
"""How many times fewer shards the keys get than the cells of sessions: a shard has fewer bytes of keys."""
_GATHERED_KEYS = 300_000
"""Number of keys that are split at a time: each piece has a fixed overhead of about a millisecond."""


@dataclass(eq=False)
class Deduplicate(beam.PTransform):
    """Tables of EVENT_BATCH → tables of EVENT_BATCH in which each (device_id, event_id) occurs once.

    The copy that arrived first is kept.

    For a bounded input, only keys are grouped, by shard of their digests. The batches wait for the result and then pass
    on, in no order, without the rows that are copies and with the columns of REPEATED dictionary-encoded. A table
    without rows follows the last one of a bundle (see `Gathered`).

    A stream is keyed by shard of devices. An event passes on with its bundle unless a copy was passed before. The
    digests of passed events are kept in buckets of client time. A bucket expires when no on-time copy can arrive any
    more; events of an expired bucket are looked up in the lake.

    Counters: ``duplicates``, ``events_unique``.

    Attributes:
        shards: Number of shards of devices; a bounded input uses a quarter as many, of digests.
        gap: The sessions' inactivity gap, microseconds.
        allowed_lateness: How far behind the watermark an event is still on time, microseconds.
        tick: The sessions' cell, microseconds.
        lake: For a stream, the lake that the events are written to; None for no lookup.
        stable_input: For a stream, see `WriteLake`.
        keying_worker: For a stream, the worker that emits the events and also keys them; see `in_worker`.
    """

    shards: int
    gap: int
    allowed_lateness: int
    tick: int
    lake: str | None = None
    stable_input: bool = False
    keying_worker: str | None = None

    def __post_init__(self) -> None:
        if self.shards < 1 or min(self.gap, self.allowed_lateness, self.tick) < 0:
            raise OptionError("deduplication needs at least one shard and no negative duration")

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Expand by the boundedness of the input."""
        if events.is_bounded:
            return self._bounded(events)
        keep = self.allowed_lateness + self.gap + 2 * self.tick
        return events | "OfStream" >> DeduplicateStream(
            self.shards, keep, self.lake, self.stable_input, self.keying_worker
        )

    def _bounded(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Group keys to find the copies, and batches by id, so that a batch that was read twice passes on once.

        The rows to drop are a side input, which each batch looks up by its id. If they were flattened into the grouping
        of batches instead, the runner would encode every batch twice.
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

    def start_bundle(self) -> None:
        self._keys: dict[BatchId, pa.Table] = {}

    def process(self, events: pa.Table) -> Iterator[Output]:
        if events.num_rows:
            batch, keys = keys_of(events)
            # Takes half the memory and a third of the bytes to move; and later steps need not hash each text again
            yield batch, self._coder.encode(encode_columns(events, REPEATED))
            self._keys[batch] = keys
            if sum(map(len, self._keys.values())) >= _GATHERED_KEYS:
                yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[Output]:
        for piece in split_keys(self._keys.values(), self._shards):
            yield beam.pvalue.TaggedOutput(_KEYS, at_the_end(piece))
        self._keys = {}


class _FindCopies(beam.DoFn):
    def process(self, shard: tuple[int, Iterable[pa.Table]]) -> Iterator[NamedRows]:
        return find_copies(shard[1])


class _DropCopies(WorkAhead):
    workers = 1  # several such steps run in parallel

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

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from super().finish_bundle()
        yield at_the_end(_NO_MORE)
