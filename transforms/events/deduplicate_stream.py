"""Deduplication of a stream: state and timers around the rules of transforms/events/seen_events.py."""

import time
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

from schemas.durations import SECOND
from schemas.events import FACT_EVENT
from stores.lake_lookup import StoredRows
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
from transforms.metrics import count
from transforms.tables import Gathered, ShardedTable, TableCoder, at_earliest, split_by_shard

# a batch of this size is worth its way through the runner; a larger one only waits
_GATHERED_ROWS = 100_000
_LOOK_UP_SECONDS = 10.0
_LOOK_UP_SHARE = 0.05
"""Of an event that comes hours late it does not matter when it is looked up in the lake: this often, and for no more
than this share of the time, as the look-up reads files of the whole date."""


@dataclass(eq=False)
class DeduplicateStream(beam.PTransform):
    """Tables of EVENT_BATCH → a table a bundle in which each (device_id, event_id) occurs that had not before.

    Attributes:
        shards: Number of shards of devices.
        length: The stretch of client time that is forgotten at once, microseconds.
        keep: How long after its end a stretch is remembered, microseconds.
        lake: The lake that the events go to: those of a forgotten stretch are looked up there too. None: they are not.
    """

    shards: int
    length: int
    keep: int
    lake: str | None = None

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Key by shard, and ask its state."""
        return (
            events
            | "SplitByShard" >> beam.ParDo(_SplitByShard(self.shards)).with_output_types(ShardedTable)
            | "DropSeen" >> beam.ParDo(_DropSeen(self)).with_output_types(pa.Table)
        )


class _SplitByShard(beam.DoFn):
    """Tables of a bundle → a table a shard: state is read once a bundle and key."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    def start_bundle(self) -> None:
        self._gathered = Gathered(_GATHERED_ROWS)

    def process(self, events: pa.Table) -> Iterator[WindowedValue]:
        if self._gathered.add(events):
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for gathered in self._gathered.take():
            for shard, events in split_by_shard(gathered, self._shards):
                yield WindowedValue((shard, events), at_earliest(events).timestamp, [GlobalWindow()])


_EXPIRY = TimerSpec("expiry", TimeDomain.WATERMARK)
_TIMER = beam.DoFn.TimerParam(_EXPIRY)
# Pieces of `pack`, one a change and bucket. Bucket n is in the cell n mod 4: to forget it the expiry timer empties the
# cell, or reads no more than that.
_SEEN_0 = beam.DoFn.StateParam(BagStateSpec("seen_0", BytesCoder()))
_SEEN_1 = beam.DoFn.StateParam(BagStateSpec("seen_1", BytesCoder()))
_SEEN_2 = beam.DoFn.StateParam(BagStateSpec("seen_2", BytesCoder()))
_SEEN_3 = beam.DoFn.StateParam(BagStateSpec("seen_3", BytesCoder()))
# Names the current contents of the cells above; the expiry timer clears it with the last of them.
_TOKEN = beam.DoFn.StateParam(ReadModifyWriteStateSpec("token", BytesCoder()))
# Late events that are to be looked up in the lake; the look-up clears it, or the expiry of a bucket.
_WAITING = beam.DoFn.StateParam(BagStateSpec("waiting", TableCoder()))
_LOOK_UP = TimerSpec("look_up", TimeDomain.REAL_TIME)
_LOOK_UP_TIMER = beam.DoFn.TimerParam(_LOOK_UP)
# Expiries, a few numbers. Never cleared: by them a copy that comes too late is not remembered for nothing.
_EXPIRIES = beam.DoFn.StateParam(ReadModifyWriteStateSpec("expiries", FastPrimitivesCoder()))


class _DropSeen(beam.DoFn):
    """Tables of a shard → when the bundle ends, one table of the events that had not been let through.

    Reading a shard's digests for every bundle would cost more with each event in it. So they are kept
    decoded here too, under a token that is written anew with every change of the state: where state and
    memory carry the same token they are the same, whatever was restarted, retried or restored in between.
    """

    def __init__(self, step: DeduplicateStream) -> None:
        self._length, self._keep, self._lake = step.length, step.keep, step.lake
        # the shards are looked up one after another
        self._rests = step.shards / _LOOK_UP_SHARE
        self._look_up_seconds = _LOOK_UP_SECONDS
        self._decoded = _Decoded()

    def setup(self) -> None:
        self._stored = StoredRows(self._lake, FACT_EVENT, "client_time") if self._lake else None

    def start_bundle(self) -> None:
        self._gathered = Gathered(_GATHERED_ROWS)

    def process(
        self,
        element: ShardedTable,
        seen_0: Any = _SEEN_0,
        seen_1: Any = _SEEN_1,
        seen_2: Any = _SEEN_2,
        seen_3: Any = _SEEN_3,
        token: Any = _TOKEN,
        waiting: Any = _WAITING,
        expiries: Any = _EXPIRIES,
        timer: Any = _TIMER,
        look_up_timer: Any = _LOOK_UP_TIMER,
    ) -> Iterator[WindowedValue]:
        shard, events = element
        cells = (seen_0, seen_1, seen_2, seen_3)
        named = token.read()
        seen = self._decoded.get(shard, named)
        if seen is None:
            seen = unpack(piece for cell in cells for piece in cell.read()) if named else {}
        unique, fresh = drop_seen(events, seen, self._length)
        held = 0
        before = Expiries(*(expiries.read() or ()))
        after = before.with_fresh(fresh, self._length, self._keep)
        remembered = [part for part in fresh if part.bucket in after.of]
        if len(remembered) < len(fresh):
            in_time, late = split_forgotten(unique, after, self._length)
            late = without_seen(late, seen)
            if late.num_rows:
                # what is committed, and when the lake shows it, is not known here: they count as seen just now
                now = max(after.passed or 0, *(part.latest for part in fresh))
                remembered.append(seen_late(late, now, self._length))
                after = after.with_fresh(remembered[-1:], self._length, self._keep)
            if self._stored is None:
                unique = pa.concat_tables([in_time, late])
            elif late.num_rows:
                unique, held = in_time, late.num_rows
                waiting.add(late)
                if after.look_up is None:
                    after = after._replace(look_up=round((time.time() + self._look_up_seconds) * SECOND))
                    look_up_timer.set(Timestamp(micros=after.look_up))
            else:
                unique = in_time
        count("duplicates", events.num_rows - unique.num_rows - held)
        count("events_unique", unique.num_rows)
        for part in remembered:
            seen.setdefault(part.bucket, Seen()).add(part.digests)
            cells[part.bucket % len(cells)].add(pack(part.bucket, part.digests))
        if remembered:
            named = _name_anew(token)
        _set(expiries, timer, after, before)
        self._decoded.put(shard, named, seen)
        if unique.num_rows and self._gathered.add(unique):
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for unique in self._gathered.take():
            yield WindowedValue(unique, at_earliest(unique).timestamp, [GlobalWindow()])

    @on_timer(_LOOK_UP)
    def look_up(
        self,
        waiting: Any = _WAITING,
        expiries: Any = _EXPIRIES,
    ) -> Iterator[WindowedValue]:
        before = Expiries(*(expiries.read() or ()))
        # a runner may deliver the timer after the expiry has done its work
        if before.look_up is not None:
            yield from self._look_up(waiting)
            expiries.write(tuple(before._replace(look_up=None)))

    def _look_up(self, waiting: Any) -> Iterator[WindowedValue]:
        """The events that wait, without those that the lake has."""
        late = pa.concat_tables(waiting.read())
        waiting.clear()
        began = time.monotonic()
        unique = self._stored.without_stored(late) if self._stored is not None else late
        self._look_up_seconds = max(_LOOK_UP_SECONDS, self._rests * (time.monotonic() - began))
        count("duplicates", late.num_rows - unique.num_rows)
        count("events_unique", unique.num_rows)
        if unique.num_rows and self._gathered.add(unique):
            yield from self.finish_bundle()

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
        waiting: Any = _WAITING,
        expiries: Any = _EXPIRIES,
        timer: Any = _TIMER,
    ) -> Iterator[WindowedValue]:
        before = Expiries(*(expiries.read() or ()))
        if before.look_up is not None:
            yield from self._look_up(waiting)
        after = before.at(now.micros)._replace(look_up=None)
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
            self._decoded.put(shard, _name_anew(token), left)
        _set(expiries, timer, after, before)


def _name_anew(token: Any) -> bytes:
    name = uuid.uuid4().bytes
    token.write(name)
    return name


def _set(state: Any, timer: Any, expiries: Expiries, before: Expiries) -> None:
    """Keep the expiries, and set the timer where it is not set for then already."""
    if expiries != before:
        state.write(tuple(expiries))
    if expiries.next is not None and (expiries.next != before.next or expiries.passed != before.passed):
        timer.set(Timestamp(micros=expiries.next))


class _Decoded:
    """Decoded shards, the least recently used dropped beyond a bound of 64 million events (1 GB)."""

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
