"""The session dimension as a graph: events in; sessions, the place of each event in them, and the next bridge out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.windowed_value import WindowedValue

from schemas.session_dimension import SESSION_BRIDGE
from stores.lake_files import Place
from stores.lake_read import read_files
from transforms.metrics import count
from transforms.session_dimension.session_dates import StartDates
from transforms.session_dimension.session_dimension import (
    BEFORE_SCHEMA,
    USER_EVENT_SCHEMA,
    number_sessions,
    place_events,
    resolve_users,
    sessions_before,
    user_cells,
    user_events,
)
from transforms.sessions.cells import EVENT_COLUMNS
from transforms.tables import TableCoder, at_the_end, split_by_shard
from transforms.work_gathered import WorkGathered

DEVICE_COLUMNS = ("device_id", "resolved_user_key")
"""The columns that are read from dim_devices."""


class Files(NamedTuple):
    """Files of one partition of a table that one worker reads one after the other."""

    place: Place
    paths: tuple[str, ...]


class Counted(NamedTuple):
    """Files whose sessions are added (or subtracted, with a sign of -1) to count how many a user had before."""

    files: Files
    sign: int


class SessionTables(NamedTuple):
    """The rows computed for the dates: tables of DIM_SESSIONS, EVENT_SESSIONS and SESSION_BRIDGE."""

    sessions: beam.PCollection[pa.Table]
    places: beam.PCollection[pa.Table]
    bridge: beam.PCollection[pa.Table]


_Tagged = tuple[str, bytes]
"""A kind of table, and an encoded table of this kind. The tables of a group are decoded one at a time."""
_EVENTS, _DEVICES, _CELLS, _BEFORE = "events", "devices", "cells", "before"


@dataclass(eq=False)
class BuildSessionDimension(beam.PTransform):
    """Computes the sessions of some start dates from all events on them.

    Applied to a pipeline; the outputs are `SessionTables`. The bridge is as of the first of the dates. One worker
    computes all sessions of a user and holds the rows of a shard of users in memory.

    Counters: ``events_placed``, ``sessions_numbered``.

    Attributes:
        dates: The start dates.
        events: All files of fact_events that may have an event of the dates.
        devices: Files of dim_devices; empty if the table does not exist.
        before: The counts that the numbering continues from.
        shards: Number of keys that users, and devices, are spread over.
    """

    dates: StartDates
    events: tuple[Files, ...]
    devices: tuple[Files, ...]
    before: tuple[Counted, ...]
    shards: int

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, begin: beam.pvalue.PBegin) -> SessionTables:
        """Resolve the user of each event, keyed by device; then number the sessions, keyed by user."""
        events = (
            begin
            | "ListEvents" >> beam.Create(self.events).with_output_types(Files)
            | "ReadEvents" >> beam.ParDo(_Read(EVENT_COLUMNS))
        )
        if self.devices:
            devices = (
                begin
                | "ListDevices" >> beam.Create(self.devices).with_output_types(Files)
                | "ReadDevices" >> beam.ParDo(_Read(DEVICE_COLUMNS))
            )
            by_device = (
                events | "EventsByDevice" >> beam.ParDo(_ByDevice(_EVENTS, self.shards)),
                devices | "DevicesByDevice" >> beam.ParDo(_ByDevice(_DEVICES, self.shards)),
            )
            events = (
                by_device
                | "EventsAndDevices" >> beam.Flatten()
                | "GroupByDevice" >> beam.GroupByKey()
                | "ResolveUsers" >> beam.ParDo(_Resolve())
            )
        by_user = (
            events | "SummarizeByUser" >> beam.ParDo(_ByUser(self.dates, self.shards)),
            begin
            | "ListBefore" >> beam.Create(self.before).with_output_types(Counted)
            | "CountBefore" >> beam.ParDo(_CountBefore(self.shards)),
        )
        built = (
            by_user
            | "EventsAndBefore" >> beam.Flatten()
            | "GroupByUser" >> beam.GroupByKey()
            | "NumberSessions" >> beam.ParDo(_Number(self.dates)).with_outputs(*SessionTables._fields)
        )
        return SessionTables(*(built[name] for name in SessionTables._fields))


@beam.typehints.with_output_types(pa.Table)
class _Read(beam.DoFn):
    """Reads the files of a group, one table per file."""

    def __init__(self, columns: Iterable[str]) -> None:
        self._columns = tuple(columns)

    def process(self, files: Files) -> Iterator[pa.Table]:
        for path in files.paths:
            yield read_files(files.place, [path], self._columns)


@beam.typehints.with_output_types(tuple[int, _Tagged])
class _ByDevice(WorkGathered):
    """Splits tables with a device_id into one encoded table per shard."""

    def __init__(self, tag: str, shards: int) -> None:
        self._tag, self._shards = tag, shards
        self._coder = TableCoder()

    def work(self, table: pa.Table) -> Iterator[WindowedValue]:
        for shard, part in split_by_shard(table, self._shards):
            yield at_the_end((shard, (self._tag, self._coder.encode(part))))


@beam.typehints.with_output_types(pa.Table)
class _Resolve(beam.DoFn):
    """Adds to the events of a shard of devices the users that their devices resolve to."""

    def process(self, group: tuple[int, Iterable[_Tagged]]) -> Iterator[pa.Table]:
        tables = _Unpacked(group[1])
        devices = list(tables.of(_DEVICES))
        known = pa.concat_tables(devices).filter(pc.field("resolved_user_key").is_valid()) if devices else None
        for events in tables.of(_EVENTS):
            yield events if known is None else resolve_users(events, known)


@beam.typehints.with_output_types(tuple[int, _Tagged])
class _ByUser(WorkGathered):
    """Turns events into the tables that a shard of users needs: cells for the sessions, and times and ids of events."""

    def __init__(self, dates: StartDates, shards: int) -> None:
        self._dates, self._shards = dates, shards
        self._coder = TableCoder()

    def work(self, events: pa.Table) -> Iterator[WindowedValue]:
        wanted = user_events(events, self._dates)
        for tag, table in (
            (_CELLS, user_cells(wanted)),
            (_EVENTS, wanted.select(USER_EVENT_SCHEMA.names).cast(USER_EVENT_SCHEMA)),
        ):
            for shard, part in split_by_shard(table, self._shards, "user_key"):
                yield at_the_end((shard, (tag, self._coder.encode(part))))


@beam.typehints.with_output_types(tuple[int, _Tagged])
class _CountBefore(WorkGathered):
    """Counts the sessions of each user in the files, by shard of users."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._coder = TableCoder()

    def process(self, counted: Counted) -> Iterator[WindowedValue]:
        (place, paths), sign = counted
        if place.record.name == SESSION_BRIDGE.name:
            rows = read_files(place, paths, ["user_key", "highest_session_id"])
            table = pa.table(list(rows.columns), schema=BEFORE_SCHEMA)
        else:
            users = read_files(place, paths, ["user_key"])
            counts = users.group_by("user_key", use_threads=False).aggregate([([], "count_all")])
            signed = pc.multiply(counts.column("count_all"), sign)
            table = pa.table([counts.column("user_key"), signed], schema=BEFORE_SCHEMA)
        yield from super().process(table)

    def work(self, counts: pa.Table) -> Iterator[WindowedValue]:
        for shard, part in split_by_shard(counts, self._shards, "user_key"):
            yield at_the_end((shard, (_BEFORE, self._coder.encode(part))))


class _Number(beam.DoFn):
    """Computes the rows of a shard of users from their events on the dates and their numbers of earlier sessions."""

    def __init__(self, dates: StartDates) -> None:
        self._dates = dates

    def process(self, group: tuple[int, Iterable[_Tagged]]) -> Iterator[Any]:
        tables = _Unpacked(group[1])
        before = sessions_before(tables.of(_BEFORE))
        sessions = number_sessions(tables.of(_CELLS), before, self._dates.zone.key)
        places = place_events(tables.of(_EVENTS), sessions)
        count("sessions_numbered", sessions.num_rows)
        count("events_placed", places.num_rows)
        yield beam.pvalue.TaggedOutput("sessions", sessions)
        yield beam.pvalue.TaggedOutput("places", places)
        yield beam.pvalue.TaggedOutput("bridge", bridge_rows(before, self._dates.first))


def bridge_rows(before: pa.Table, before_date: date) -> pa.Table:
    """Make rows of SESSION_BRIDGE from the number of sessions that users had before a date."""
    dates = pa.repeat(pa.scalar(before_date, pa.date32()), before.num_rows)
    return pa.table([*before.columns, dates], schema=SESSION_BRIDGE.schema)


class _Unpacked:
    """Encoded tables of several kinds, decoded on demand."""

    def __init__(self, tagged: Iterable[_Tagged]) -> None:
        self._packed: dict[str, list[bytes]] = {}
        for tag, packed in tagged:
            self._packed.setdefault(tag, []).append(packed)
        self._coder = TableCoder()

    def of(self, tag: str) -> Iterator[pa.Table]:
        return map(self._coder.decode, self._packed.get(tag, ()))
