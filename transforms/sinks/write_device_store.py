"""Writes events and session panes to the device store."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from stores.device_store import DeviceStore, open_device_store
from transforms.background import Background
from transforms.gathered import Gathered
from transforms.metrics import count
from transforms.sinks.stable_input import BreakFusion, stable_par_do
from transforms.tables import ShardedTable, at_the_end, split_by_shard

# Small tables of a bounded input are written together: sorted once, in one batch. This bounds the buffered rows.
_GATHERED_ROWS = 50_000
# A table of an unbounded input holds a whole bundle already; to gather more would only delay reads of a device
_AT_ONCE = 1


@dataclass(eq=False)
class WriteDeviceEvents(beam.PTransform):
    """Tables with EVENT's columns → for each bundle, the number of events written durably.

    Writes are idempotent, so a retried bundle changes nothing. Counter: ``device_events_written``.

    Attributes:
        uri: The URI of the device store, for `open_device_store`.
    """

    uri: str

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        """Write the events in one step."""
        gathered = _GATHERED_ROWS if events.is_bounded else _AT_ONCE
        return events | "WriteEvents" >> beam.ParDo(_WriteEvents(self.uri, gathered)).with_output_types(int)


@dataclass(eq=False)
class WriteDeviceSessions(beam.PTransform):
    """Tables of SESSION_PANE → for each bundle, the number of sessions changed durably.

    The panes of a session must arrive in the order in which they fired, or in one table. Panes of an unbounded input
    are written once a checkpoint holds them. Before that, a restored run may fire other panes: if events arrive in
    another order, a session's first pane may have another id, and nothing would withdraw the id that the lost attempt
    had fired. Counter: ``device_sessions_written``.

    Attributes:
        uri: The URI of the device store, for `open_device_store`.
        shards: Number of keys that the panes of an unbounded input are spread over.
        stable_input: See `WriteLake`.
    """

    uri: str
    shards: int = 16
    stable_input: bool = False

    def expand(self, panes: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        """Write the sessions, those of an unbounded input after a break in fusion."""
        if panes.is_bounded:
            write = beam.ParDo(_WriteSessions(self.uri, _GATHERED_ROWS))
            return panes | "WriteSessions" >> write.with_output_types(int)
        by_shard = beam.ParDo(_SplitByShard(self.shards)).with_output_types(ShardedTable)
        write = stable_par_do(_WriteHeldSessions(self.uri, _GATHERED_ROWS), self.stable_input)
        return (
            panes
            | "SplitByShard" >> by_shard
            | "BreakFusion" >> BreakFusion()
            | "WriteSessions" >> write.with_output_types(int)
        )


class _SplitByShard(beam.DoFn):
    """Keys panes by shard, so that those of a session stay in order."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    def process(self, panes: pa.Table) -> Iterator[WindowedValue]:
        for sharded in split_by_shard(panes, self._shards):
            yield at_the_end(sharded)


class _Write(beam.DoFn):
    """Gathers rows, writes them in a background thread, and makes them durable before the bundle ends."""

    counter: str

    def __init__(self, uri: str, gathered_rows: int) -> None:
        self._uri, self._gathered_rows = uri, gathered_rows
        self._store: DeviceStore | None = None

    def write_to(self, store: DeviceStore) -> Callable[[pa.Table], int]:
        """The store's method that writes a table."""
        raise NotImplementedError

    def setup(self) -> None:
        self._store = open_device_store(self._uri)
        self._writer = Background[int]("write-devices")

    def start_bundle(self) -> None:
        self._writer.reset()
        self._gathered = Gathered(self._gathered_rows)

    def process(self, table: pa.Table) -> None:
        if self._gathered.add(table):
            self._write()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        assert self._store is not None
        self._write()
        written = sum(self._writer.finish())
        if written:
            self._store.flush()
            count(self.counter, written)
            yield WindowedValue(written, MIN_TIMESTAMP, [beam.window.GlobalWindow()])

    def teardown(self) -> None:
        if self._store is not None:
            self._writer.close()
            self._store.close()
            self._store = None

    def _write(self) -> None:
        assert self._store is not None
        for table in self._gathered.take():
            self._writer.start(self.write_to(self._store), table)


class _WriteEvents(_Write):
    counter = "device_events_written"

    def write_to(self, store: DeviceStore) -> Callable[[pa.Table], int]:
        return store.write_events


class _WriteSessions(_Write):
    counter = "device_sessions_written"

    def write_to(self, store: DeviceStore) -> Callable[[pa.Table], int]:
        return store.write_sessions


class _WriteHeldSessions(_WriteSessions):
    """Writes the panes of (shard, tables)."""

    def process(self, group: tuple[int, Iterable[pa.Table]]) -> None:
        for panes in group[1]:
            super().process(panes)
