"""Let each event through once: exact for a bounded input, exact within a horizon for a stream."""

import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import BytesCoder, VarIntCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.durations import HOUR
from schemas.errors import OptionError
from transforms.duplicates import (
    BatchId,
    Bucket,
    Seen,
    drop_rows,
    drop_seen,
    find_copies,
    keys_of,
    split_by_bucket,
    split_keys,
)
from transforms.metrics import count
from transforms.tables import ShardedTable, at_earliest

NamedTable = tuple[BatchId, pa.Table]
"""A batch of events, or rows to drop from it."""

Output = Any
"""An element, or one with a tag."""

_KEYS = "keys"
_DIGEST_BYTES = 16
# a batch of this size is worth its way through the runner; a larger one only waits
_GATHERED_ROWS = 100_000


@dataclass(eq=False)
class Deduplicate(beam.PTransform):
    """Tables of EVENT_BATCH → tables of EVENT_BATCH in which each (device_id, event_id) occurs once.

    The copy that arrived first counts. Of a bounded input only keys are grouped, by shard of their digests; the batches
    wait and then go on as they came, in no order, less the rows that are copies. A stream is keyed by shard and hour
    of client time, and an event goes on at once, unless a copy went before. A bucket forgets when no copy that is in
    time can come; copies that come later are the lake's to merge. Counters: ``duplicates``, ``events_unique``.

    Attributes:
        shards: Number of shards: of digests where the input is bounded, else of devices.
        gap: The sessions' inactivity gap, microseconds.
        allowed_lateness: How far behind the watermark an event is still in time, microseconds.
        tick: The sessions' cell, microseconds.
        bucket: Length of a bucket of client time, microseconds.
    """

    shards: int
    gap: int
    allowed_lateness: int
    tick: int
    bucket: int = HOUR

    def __post_init__(self) -> None:
        if self.shards < 1 or self.bucket < 1 or min(self.gap, self.allowed_lateness, self.tick) < 0:
            raise OptionError("deduplication needs at least one shard, a bucket, and no negative duration")

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Choose by the boundedness of the input."""
        if events.is_bounded:
            return self._bounded(events)
        split = beam.ParDo(_SplitByBucket(self.shards, self.bucket))
        keep = self.allowed_lateness + self.gap + 2 * self.tick
        return (
            events
            | "SplitByBucket" >> split.with_output_types(tuple[Bucket, pa.Table])
            | "DropSeen" >> beam.ParDo(_DropSeen(self.bucket, keep)).with_output_types(pa.Table)
        )

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
            yield batch, events
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
        _count(read, unique.num_rows)
        if unique.num_rows:
            yield at_earliest(unique)


class _SplitByBucket(beam.DoFn):
    """Gathers a bundle, then cuts it: state is read once a bundle and key, and its copies are compared."""

    def __init__(self, shards: int, length: int) -> None:
        self._shards = shards
        self._length = length
        self._gathered: list[pa.Table] = []

    def start_bundle(self) -> None:
        self._gathered = []

    def process(self, events: pa.Table) -> Iterator[WindowedValue]:
        self._gathered.append(events)
        if sum(table.num_rows for table in self._gathered) >= _GATHERED_ROWS:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        gathered, self._gathered = self._gathered, []
        if gathered:
            for bucket, events in split_by_bucket(pa.concat_tables(gathered), self._shards, self._length):
                stamped = at_earliest(events)
                yield WindowedValue((bucket, events), stamped.timestamp, [beam.window.GlobalWindow()])


_EXPIRY_TIMER = TimerSpec("expiry", TimeDomain.WATERMARK)
_EXPIRY = beam.DoFn.TimerParam(_EXPIRY_TIMER)
# Digests let through, 16 bytes each, one piece a change. Cleared by the expiry timer.
_SEEN = beam.DoFn.StateParam(BagStateSpec("seen", BytesCoder()))
# Names the current contents of the state above. Cleared by the expiry timer.
_TOKEN = beam.DoFn.StateParam(ReadModifyWriteStateSpec("token", BytesCoder()))
# What the expiry timer is set to, microseconds, so that it is not set again for every element. Cleared by it.
_ARMED = beam.DoFn.StateParam(ReadModifyWriteStateSpec("armed", VarIntCoder()))


class _DropSeen(beam.DoFn):
    """Keyed by bucket; lets through what the bucket has not seen.

    Reading a bucket's digests for every bundle would cost more with each event in it. So they are kept
    decoded here too, under a token that is written anew with every change of the state: where state and
    memory carry the same token they are the same, whatever was restarted, retried or restored in between.
    """

    def __init__(self, length: int, keep: int) -> None:
        self._length = length
        self._keep = keep
        self._decoded = _Decoded()

    def process(
        self,
        element: tuple[Bucket, pa.Table],
        state: Any = _SEEN,
        token: Any = _TOKEN,
        armed: Any = _ARMED,
        expiry: Any = _EXPIRY,
    ) -> Iterator[beam.window.TimestampedValue]:
        bucket, events = element
        named = token.read()
        seen = self._decoded.get(bucket, named)
        if seen is None:
            pieces = [_unpack(piece) for piece in state.read()] if named else []
            seen = Seen(np.concatenate(pieces, axis=1) if pieces else None)
        unique, digests = drop_seen(events, seen)
        _count(events.num_rows, unique.num_rows)
        if unique.num_rows:
            seen.add(digests)
            state.add(_pack(digests))
            named = uuid.uuid4().bytes
            token.write(named)
            expires = self._expires(bucket, events)
            if (current := armed.read()) is None or expires > current:
                armed.write(expires)
                expiry.set(Timestamp(micros=expires))
            yield at_earliest(unique)
        self._decoded.put(bucket, named, seen)

    @on_timer(_EXPIRY_TIMER)
    def expire(
        self,
        bucket: Any = beam.DoFn.KeyParam,
        state: Any = _SEEN,
        token: Any = _TOKEN,
        armed: Any = _ARMED,
    ) -> None:
        state.clear()
        token.clear()
        armed.clear()
        self._decoded.drop(bucket)

    def _expires(self, bucket: Bucket, events: pa.Table) -> int:
        """When no copy in time can follow.

        Where the client's clock is right its bucket's end decides. Where it is behind, that has long passed,
        and the hour of the corrected time decides.
        """
        latest = pc.max(events.column("event_time")).cast(pa.int64()).as_py()
        return (max(bucket[1], latest // self._length) + 1) * self._length + self._keep


class _Decoded:
    """Decoded buckets, the least recently used dropped beyond a bound of 16 million events (256 MB)."""

    _BOUND = 16_000_000

    def __init__(self) -> None:
        self._buckets: OrderedDict[Bucket, tuple[bytes | None, Seen]] = OrderedDict()

    def get(self, bucket: Bucket, token: bytes | None) -> Seen | None:
        held = self._buckets.pop(bucket, None)
        return held[1] if held is not None and token is not None and held[0] == token else None

    def put(self, bucket: Bucket, token: bytes | None, seen: Seen) -> None:
        self._buckets[bucket] = token, seen
        while len(self._buckets) > 1 and sum(len(held) for _, held in self._buckets.values()) > self._BOUND:
            self._buckets.popitem(last=False)

    def drop(self, bucket: Bucket) -> None:
        self._buckets.pop(bucket, None)


def _pack(digests: np.ndarray) -> bytes:
    return digests.astype("<u8", copy=False).tobytes()


def _unpack(piece: bytes) -> np.ndarray:
    return np.frombuffer(piece, "<u8").reshape(2, len(piece) // _DIGEST_BYTES)


def _count(read: int, unique: int) -> None:
    count("duplicates", read - unique)
    count("events_unique", unique)
