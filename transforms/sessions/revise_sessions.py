"""Recompute sessions from the events in the lake, and emit the differences from the stored sessions as panes.

A run that adds to a lake with events uses this, because a session's events may come from several runs. A rebuild of
dates uses it too. The rules are in `transforms.sessions.revision`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.util import WaitOn

from schemas.durations import DAY, HOUR
from schemas.events import FACT_EVENT
from schemas.records import Record
from schemas.sessions import FACT_SESSION, SESSION
from stores.lake import LiveFile, find_files, table_uri
from stores.lake_files import Place, date_of, partition_of
from stores.lake_read import read_files
from transforms.metrics import count
from transforms.runs import Integers
from transforms.sessions.cells import CELL, EVENT_COLUMNS, cells_of
from transforms.sessions.event_hours import EventHours, dates_of, hours_of
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.revision import TOUCHED, Revised, Scope, revise, touched_slots
from transforms.sessions.sessionize import count_panes
from transforms.tables import ShardedTable, TableCoder, at_the_end, split_by_shard
from transforms.work_gathered import WorkGathered

_REACH = 2 * HOUR
"""How far to read around the revised hours, in addition to the gap. Few sessions extend further; `read_more` reads the
rest of them."""
_FEW_DEVICES = 2_000
_Paths = Mapping[date, tuple[str, ...]]


@dataclass(frozen=True)
class RevisionPlan:
    """What a revision reads, from one version of the lake's tables.

    Attributes:
        lake: The lake's root.
        events: Files of fact_events by date.
        sessions: Files of fact_sessions by date.
        hours: The hours to read first.
        days: See `Scope`.
        devices: The devices in scope if they are few; None to read all devices.
        settled_before: See `Scope`.
        rows: Number of events on the dates that are read first.
    """

    lake: str
    events: _Paths
    sessions: _Paths
    hours: EventHours
    days: Integers
    devices: tuple[str, ...] | None = None
    settled_before: int | None = None
    rows: int = 0


@dataclass(eq=False)
class ReviseTouched(beam.PTransform):
    """Turns the events of a run into panes of the sessions that they touch.

    Output elements: rows of SESSION_PANE: every session of a chain that has one of the events, computed from all events
    in the lake; and a retraction of each stored session that no longer exists. A chain without a stored session gives
    the same panes as `Sessionize`.

    Attributes:
        stored: A collection that is complete once the events are in the lake.
        lake: The lake's root.
        policy: The rules.
        shards: Number of keys that the devices are spread over.
        whole_dates: Whether the run has replaced all events of the dates.
    """

    stored: beam.PCollection[Any]
    lake: str
    policy: SessionPolicy
    shards: int
    whole_dates: bool = False

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Wait until the events are in the lake, plan from the hours and devices that they touch, and revise."""
        touched = events | "FindTouched" >> beam.ParDo(_FindTouched(self.policy, self.shards))
        plans = (
            touched
            | "SumUp" >> beam.CombineGlobally(_SumUpTouched())
            | "AfterEvents" >> WaitOn(self.stored)
            | "Plan" >> beam.ParDo(_Plan(self.lake, self.policy, self.whole_dates))
        )
        return plans | "Revise" >> ReviseSessions(touched, self.policy, self.shards, changes_only=False)


@dataclass(eq=False)
class ReviseSessions(beam.PTransform):
    """Carries out a plan: a `RevisionPlan` → tables of SESSION_PANE.

    Counters: those of the panes; ``sessions_examined``, ``sessions_added``, ``sessions_replaced``.

    Attributes:
        touched: Tables of `TOUCHED` by shard: in scope in addition to the plan's days.
        policy: The rules.
        shards: Number of keys that the devices are spread over.
        changes_only: Whether to leave out sessions that are equal to their stored rows.
    """

    touched: beam.PCollection[ShardedTable]
    policy: SessionPolicy
    shards: int
    changes_only: bool

    def expand(self, plans: beam.PCollection[RevisionPlan]) -> beam.PCollection[pa.Table]:
        """Read events as cells, read stored sessions, group both by shard of devices, and compare."""
        plan = beam.pvalue.AsSingleton(plans)
        parts = [self.touched | "TouchedByShard" >> beam.ParDo(_Pack())]
        for kind, record in ((_CELLS, FACT_EVENT), (_STORED, FACT_SESSION)):
            parts.append(
                plans
                | f"List_{record.name}" >> beam.ParDo(_List(record))
                | f"Spread_{record.name}" >> beam.Reshuffle()
                | f"Read_{record.name}" >> beam.ParDo(_Read(kind, self.policy, self.shards), plan)
            )
        return (
            parts
            | "TouchedCellsAndStored" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "Compare" >> beam.ParDo(_Revise(self.policy, self.changes_only), plan)
        )


def plan_revision(
    lake: str,
    hours: Iterable[int],
    days: Integers,
    policy: SessionPolicy,
    devices: tuple[str, ...] | None = None,
    settled_before: int | None = None,
) -> RevisionPlan:
    """Plan what to read in order to revise the sessions of some hours and days.

    Args:
        lake: The lake's root.
        hours: Hours since 1970, in addition to those of the days.
        days: Days since 1970, in ascending order.
        policy: The rules.
        devices: See `RevisionPlan`.
        settled_before: See `RevisionPlan`.

    Raises:
        StoreError: A table cannot be read.
    """
    events, sessions = _live(lake, FACT_EVENT), _live(lake, FACT_SESSION)
    around = EventHours.around([*hours, *hours_of(days)], {*events, *sessions}, policy.gap + _REACH)
    rows = sum(file.rows for day in dates_of(around.read) for file in events.get(day, ()))
    return RevisionPlan(lake, _paths(events), _paths(sessions), around, days, devices, settled_before, rows)


_Live = dict[date, list[LiveFile]]


def _live(lake: str, record: Record) -> _Live:
    return {date_of(partition): files for partition, files in find_files(lake, record.name).items()}


def _paths(live: _Live) -> _Paths:
    return {day: tuple(file.path for file in files) for day, files in live.items()}


_Tagged = tuple[str, bytes]
"""A kind of table, and an encoded table of this kind. Tables are decoded only when their shard is processed."""
_TOUCHED, _CELLS, _STORED = "touched", "cells", "stored"
_DatedPath = tuple[date, str]


@beam.typehints.with_output_types(ShardedTable)
class _FindTouched(WorkGathered):
    """Finds the slots that the events of a bundle touch, by shard of devices."""

    gathered_rows = 150_000

    def __init__(self, policy: SessionPolicy, shards: int) -> None:
        self._policy, self._shards = policy, shards

    def process(self, events: pa.Table) -> Iterator[beam.utils.windowed_value.WindowedValue]:
        yield from super().process(events.select(["device_id", "event_time"]))

    def work(self, events: pa.Table) -> Iterator[beam.utils.windowed_value.WindowedValue]:
        return map(at_the_end, split_by_shard(touched_slots(events, self._policy), self._shards))


_Sum = tuple[frozenset[int], frozenset[str] | None]
"""Hours; and devices if they are few, else None."""


class _SumUpTouched(beam.CombineFn):
    """Collects the hours and the devices of touched slots."""

    def create_accumulator(self) -> _Sum:
        return frozenset(), frozenset()

    def add_input(self, accumulator: _Sum, sharded: ShardedTable) -> _Sum:
        table = sharded[1]
        hours = np.unique(table["slot"].to_numpy() // HOUR).tolist()
        devices = frozenset(table["device_id"].unique().to_pylist()) if accumulator[1] is not None else None
        return self.merge_accumulators([accumulator, (frozenset(hours), devices)])

    def merge_accumulators(self, accumulators: Iterable[_Sum]) -> _Sum:
        hours: frozenset[int] = frozenset()
        devices: frozenset[str] | None = frozenset()
        for more_hours, more_devices in accumulators:
            hours |= more_hours
            devices = None if devices is None or more_devices is None else devices | more_devices
            devices = None if devices is None or len(devices) > _FEW_DEVICES else devices
        return hours, devices

    def extract_output(self, accumulator: _Sum) -> _Sum:
        return accumulator


@beam.typehints.with_output_types(RevisionPlan)
class _Plan(beam.DoFn):
    def __init__(self, lake: str, policy: SessionPolicy, whole_dates: bool) -> None:
        self._lake, self._policy, self._whole_dates = lake, policy, whole_dates

    def process(self, touched: _Sum) -> Iterator[RevisionPlan]:
        hours, devices = touched
        days = np.unique(np.fromiter(hours, np.int64) // (DAY // HOUR)) if self._whole_dates else np.empty(0, np.int64)
        few = None if devices is None or self._whole_dates else tuple(sorted(devices))
        yield plan_revision(self._lake, hours, days, self._policy, few)


@beam.typehints.with_output_types(tuple[int, _Tagged])
class _Pack(beam.DoFn):
    def __init__(self) -> None:
        self._coder = TableCoder()

    def process(self, sharded: ShardedTable) -> Iterator[tuple[int, _Tagged]]:
        yield sharded[0], (_TOUCHED, self._coder.encode(sharded[1]))


@beam.typehints.with_output_types(_DatedPath)
class _List(beam.DoFn):
    """Lists the files of a table that the plan reads."""

    def __init__(self, record: Record) -> None:
        self._events = record is FACT_EVENT

    def process(self, plan: RevisionPlan) -> Iterator[_DatedPath]:
        files = plan.events if self._events else plan.sessions
        for day in dates_of(plan.hours.read):
            for path in files.get(day, ()):
                yield day, path


@beam.typehints.with_output_types(tuple[int, _Tagged])
class _Read(beam.DoFn):
    """Reads a file of events as cells, or a file of sessions, by shard of devices."""

    def __init__(self, kind: str, policy: SessionPolicy, shards: int) -> None:
        self._kind, self._policy, self._shards = kind, policy, shards
        self._coder = TableCoder()

    def process(self, dated: _DatedPath, plan: RevisionPlan) -> Iterator[tuple[int, _Tagged]]:
        devices = None if plan.devices is None else pa.array(plan.devices, pa.string())
        if self._kind == _CELLS:
            table = _cells(plan.lake, *dated, plan.hours.read, devices, self._policy)
        else:
            table = _sessions(plan.lake, *dated, devices)
        for shard, part in split_by_shard(table, self._shards):
            yield shard, (self._kind, self._coder.encode(part))


@beam.typehints.with_output_types(pa.Table)
class _Revise(beam.DoFn):
    """Computes panes from the touched slots, cells and stored sessions of a shard of devices."""

    def __init__(self, policy: SessionPolicy, changes_only: bool) -> None:
        self._policy, self._changes_only = policy, changes_only
        self._coder = TableCoder()

    def process(self, group: tuple[int, Iterable[_Tagged]], plan: RevisionPlan) -> Iterator[pa.Table]:
        tables = {_TOUCHED: [TOUCHED.empty_table()], _CELLS: [CELL.empty()], _STORED: [SESSION.empty()]}
        for kind, packed in group[1]:
            tables[kind].append(self._coder.decode(packed))
        touched, cells, stored = (pa.concat_tables(tables[kind]) for kind in (_TOUCHED, _CELLS, _STORED))
        scope = Scope(touched, plan.days, plan.settled_before)
        read_more = partial(_read_more, plan, self._policy)
        revised = revise(cells, stored, scope, plan.hours, read_more, self._policy)
        _count(revised, stored)
        panes = revised.changes if self._changes_only else pa.concat_tables([revised.changes, revised.kept])
        if panes.num_rows:
            yield panes


def _count(revised: Revised, stored: pa.Table) -> None:
    count_panes(revised.changes)
    standing = revised.changes.filter(pc.invert(revised.changes["is_retraction"]))["session_id"].unique()
    replaced = pc.sum(pc.is_in(standing, stored["session_id"].combine_chunks())).as_py() or 0
    count("sessions_examined", len(standing) + revised.kept.num_rows)
    count("sessions_added", len(standing) - replaced)
    count("sessions_replaced", replaced)


def _read_more(
    plan: RevisionPlan, policy: SessionPolicy, read: EventHours, more: Integers, devices: pa.Array
) -> tuple[pa.Table, pa.Table]:
    cells, sessions = [CELL.empty()], [SESSION.empty()]
    known = set(dates_of(read.read))
    for day in dates_of(more):
        cells += [_cells(plan.lake, day, path, more, devices, policy) for path in plan.events.get(day, ())]
        if day not in known:
            sessions += [_sessions(plan.lake, day, path, devices) for path in plan.sessions.get(day, ())]
    return pa.concat_tables(cells), pa.concat_tables(sessions)


def _cells(
    lake: str, day: date, path: str, hours: Integers, devices: pa.Array | None, policy: SessionPolicy
) -> pa.Table:
    """The cells of a file of events, for some hours and for some or all devices."""
    events = read_files(_place(lake, FACT_EVENT, day), [path], EVENT_COLUMNS)
    inside = pa.array(np.isin(pc.cast(events["event_time"], pa.int64()).to_numpy() // HOUR, hours))
    if devices is not None:
        inside = pc.and_(inside, pc.is_in(events["device_id"], devices))
    return cells_of(events.filter(inside), policy)


def _sessions(lake: str, day: date, path: str, devices: pa.Array | None) -> pa.Table:
    """The sessions of a file, for some or all devices."""
    sessions = read_files(_place(lake, FACT_SESSION, day), [path], SESSION.names)
    return sessions if devices is None else sessions.filter(pc.is_in(sessions["device_id"], devices))


def _place(lake: str, record: Record, day: date) -> Place:
    return Place(table_uri(lake, record.name), record, partition_of(day))
