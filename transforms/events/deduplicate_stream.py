"""Deduplication of a stream: state and timers around the rules of transforms/events/seen_events.py."""

import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import BytesCoder, FastPrimitivesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.events import FACT_EVENT
from stores.held_tables import read_held
from stores.lake import table_uri
from stores.lake_merge import without_keys
from stores.lake_stream import STAGING
from transforms.events.seen_events import (
    Expiries,
    Seen,
    bucket_of,
    drop_seen,
    pack,
    seen_late,
    split_forgotten,
    unpack,
    without_seen,
)
from transforms.events.stored_events import StoredKeys
from transforms.gathered import Gathered, put_together
from transforms.metrics import count
from transforms.sinks.hold_back import HoldBack, Worked
from transforms.tables import ShardedTable, at_earliest, at_the_end, split_by_shard
from transforms.work_gathered import WorkGathered
from transforms.workers import in_worker

# Large enough to amortize the runner's cost per element; a larger batch would only add latency
_GATHERED_ROWS = 100_000
_LATE = "late"
LOOK_UP_SECONDS = 30
"""How long an event of an expired bucket waits for its lookup in the lake. Such an event is hours late, and the lookup
reads the files of its whole date."""


@dataclass(eq=False)
class DeduplicateStream(beam.PTransform):
    """Tables of EVENT_BATCH → one table per bundle with the events whose (device_id, event_id) has not occurred before.

    Attributes:
        shards: Number of shards of devices.
        keep: How long after the end of its bucket of client time an event is kept in state, microseconds.
        lake: The lake that the events are written to. Events of expired buckets are looked up there; None for no
            lookup.
        stable_input: See `WriteLake`.
        keying_worker: See `Deduplicate`.
    """

    shards: int
    keep: int
    lake: str | None = None
    stable_input: bool = False
    keying_worker: str | None = None

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Key by shard and check the shard's state; look up in the lake what the state has already forgotten."""
        split = beam.ParDo(_SplitByShard(self.shards)).with_output_types(ShardedTable)
        dropped = (
            events
            | "SplitByShard" >> in_worker(split, self.keying_worker)
            | "DropSeen"
            >> beam.ParDo(_DropSeen(self.keep))
            .with_output_types(pa.Table, **{_LATE: pa.Table})
            .with_outputs(_LATE, main="unique")
        )
        late = dropped[_LATE]
        if self.lake is not None:
            folder = f"{table_uri(self.lake, FACT_EVENT.name)}/{STAGING}"
            found = late | "LookUp" >> HoldBack(folder, LOOK_UP_SECONDS, StoredKeys(self.lake), self.stable_input)
            late = found | "DropStored" >> beam.ParDo(_DropStored(folder)).with_output_types(pa.Table)
        late = late | "CountLate" >> beam.ParDo(_CountUnique()).with_output_types(pa.Table)
        return (dropped["unique"], late) | "Unique" >> beam.Flatten()


class _SplitByShard(WorkGathered):
    """Tables of a bundle → one table per shard, so that each bundle reads the state of a key only once."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    def work(self, table: pa.Table) -> Iterator[WindowedValue]:
        for shard, events in split_by_shard(table, self._shards):
            yield WindowedValue((shard, events), at_earliest(events).timestamp, [GlobalWindow()])


_EXPIRY = TimerSpec("expiry", TimeDomain.WATERMARK)
_TIMER = beam.DoFn.TimerParam(_EXPIRY)
# Pieces made by `pack`, one per change and bucket. Bucket n is in state cell n mod 4, so that to drop an expired bucket
# the expiry timer clears or reads a single cell.
_SEEN_0 = beam.DoFn.StateParam(BagStateSpec("seen_0", BytesCoder()))
_SEEN_1 = beam.DoFn.StateParam(BagStateSpec("seen_1", BytesCoder()))
_SEEN_2 = beam.DoFn.StateParam(BagStateSpec("seen_2", BytesCoder()))
_SEEN_3 = beam.DoFn.StateParam(BagStateSpec("seen_3", BytesCoder()))
# Identifies the current contents of the cells above; the expiry timer clears it with the last bucket.
_TOKEN = beam.DoFn.StateParam(ReadModifyWriteStateSpec("token", BytesCoder()))
# Expiries, a few numbers. Never cleared: they keep an event of an expired bucket from re-creating that bucket.
_EXPIRIES = beam.DoFn.StateParam(ReadModifyWriteStateSpec("expiries", FastPrimitivesCoder()))


class _DropSeen(beam.DoFn):
    """Tables of a shard → at the end of the bundle, one table of the events that were not passed before.

    The tagged output has the events whose bucket has expired: a copy may have been passed and forgotten.

    Reading a shard's digests in every bundle would cost more with each event in state. So the decoded digests are also
    cached here, under a token that is replaced with every change of the state. If the token in state equals the cached
    one, the digests are equal too, whatever was restarted, retried or restored in between.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._decoded = _Decoded()

    def start_bundle(self) -> None:
        self._gathered, self._late = Gathered(_GATHERED_ROWS), Gathered(_GATHERED_ROWS)

    def process(
        self,
        element: ShardedTable,
        seen_0: Any = _SEEN_0,
        seen_1: Any = _SEEN_1,
        seen_2: Any = _SEEN_2,
        seen_3: Any = _SEEN_3,
        token: Any = _TOKEN,
        expiries: Any = _EXPIRIES,
        timer: Any = _TIMER,
    ) -> Iterator[Any]:
        shard, events = element
        cells = (seen_0, seen_1, seen_2, seen_3)
        current = token.read()
        seen = self._decoded.get(shard, current)
        if seen is None:
            seen = unpack(piece for cell in cells for piece in cell.read()) if current else {}
        before = self._read(expiries)
        unique, fresh = drop_seen(events, seen, before.length)
        late = unique.slice(0, 0)
        after = before.with_fresh(fresh, self._keep)
        remembered = [part for part in fresh if part.bucket in after.of]
        if len(remembered) < len(fresh):
            unique, late = split_forgotten(unique, after)
            late = without_seen(late, seen)
            if late.num_rows:
                # When the lake will have these events is not known here, so they go into the current bucket
                now = max(after.passed or 0, *(part.latest for part in fresh))
                remembered.append(seen_late(late, now, after.length))
                after = after.with_fresh(remembered[-1:], self._keep)
                self._late.add(late)
        count("duplicates", events.num_rows - unique.num_rows - late.num_rows)
        count("events_unique", unique.num_rows)
        for part in remembered:
            seen.setdefault(part.bucket, Seen()).add(part.digests)
            cells[part.bucket % len(cells)].add(pack(part.bucket, part.digests))
        if remembered:
            current = _replace_token(token)
        _write_expiries(expiries, timer, after, before)
        self._decoded.put(shard, current, seen)
        if unique.num_rows and self._gathered.add(unique):
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[Any]:
        for unique in self._gathered.take():
            yield WindowedValue(unique, at_earliest(unique).timestamp, [GlobalWindow()])
        for late in self._late.take():
            # The watermark has passed these events hours ago
            yield beam.pvalue.TaggedOutput(_LATE, at_the_end(late))

    @on_timer(_EXPIRY)
    def expire(
        self,
        shard: Any = beam.DoFn.KeyParam,
        now: Any = beam.DoFn.TimestampParam,
        seen_0: Any = _SEEN_0,
        seen_1: Any = _SEEN_1,
        seen_2: Any = _SEEN_2,
        seen_3: Any = _SEEN_3,
        token: Any = _TOKEN,
        expiries: Any = _EXPIRIES,
        timer: Any = _TIMER,
    ) -> None:
        before = self._read(expiries)
        after = before.at(now.micros)
        cells = (seen_0, seen_1, seen_2, seen_3)
        seen = self._decoded.get(shard, token.read())
        for number in {bucket % len(cells) for bucket in before.of.keys() - after.of.keys()}:
            shared = any(bucket % len(cells) == number for bucket in after.of)
            kept = [piece for piece in cells[number].read() if bucket_of(piece) in after.of] if shared else []
            cells[number].clear()
            for piece in kept:
                cells[number].add(piece)
        if not after.of:
            token.clear()
            self._decoded.drop(shard)
        elif seen is not None:
            left = {bucket: known for bucket, known in seen.items() if bucket in after.of}
            self._decoded.put(shard, _replace_token(token), left)
        _write_expiries(expiries, timer, after, before)

    def _read(self, state: Any) -> Expiries:
        # Buckets of half the time that they are kept: up to four exist at a time, one for each cell
        return Expiries(*(state.read() or (max(self._keep // 2, 1),)))


class _DropStored(beam.DoFn):
    """The result of the lookup and the names of the held tables' files → the events that the lake does not have."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, looked_up: Worked) -> Iterator[pa.Table]:
        tables = (read_held(self._folder, name) for name in looked_up.names)
        # Each file has the few rows of one bundle, and every later step has a fixed cost per table
        for events in put_together(tables, _GATHERED_ROWS):
            unique = without_keys(events, looked_up.result, FACT_EVENT.key)
            count("duplicates", events.num_rows - unique.num_rows)
            if unique.num_rows:
                yield unique


class _CountUnique(beam.DoFn):
    """Counts the events of tables and passes the tables on."""

    def process(self, events: pa.Table) -> Iterator[pa.Table]:
        count("events_unique", events.num_rows)
        yield events


def _replace_token(token: Any) -> bytes:
    name = uuid.uuid4().bytes
    token.write(name)
    return name


def _write_expiries(state: Any, timer: Any, expiries: Expiries, before: Expiries) -> None:
    """Write the expiries if they changed, and set the timer unless it is already set to the same time."""
    if expiries != before:
        state.write(tuple(expiries))
    if expiries.next is not None and (expiries.next != before.next or expiries.passed != before.passed):
        timer.set(Timestamp(micros=expiries.next))


class _Decoded:
    """An LRU cache of decoded shards, bounded to 64 million events (1 GB)."""

    _BOUND = 64_000_000

    def __init__(self) -> None:
        self._shards: OrderedDict[int, tuple[bytes | None, dict[int, Seen]]] = OrderedDict()

    def get(self, shard: int, token: bytes | None) -> dict[int, Seen] | None:
        held = self._shards.pop(shard, None)
        return held[1] if held is not None and token is not None and held[0] == token else None

    def put(self, shard: int, token: bytes | None, seen: dict[int, Seen]) -> None:
        self._shards[shard] = token, seen
        while len(self._shards) > 1 and self._events() > self._BOUND:
            self._shards.popitem(last=False)

    def drop(self, shard: int) -> None:
        self._shards.pop(shard, None)

    def _events(self) -> int:
        return sum(len(known) for _, seen in self._shards.values() for known in seen.values())
