"""The transform from event batches to session panes, with one expansion for bounded and one for unbounded inputs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.errors import OptionError
from schemas.records import Record
from schemas.sessions import SESSION_PANE, PaneTiming
from transforms.metrics import count
from transforms.sessions.cells import CELL, EVENT_COLUMNS, cells_of, merge_cells
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.session_state import (
    Kept,
    Marks,
    accept,
    expect,
    fire,
    idle,
    is_scattered,
    look_ahead,
    needs_cold,
)
from transforms.sessions.sessions import last_panes_of_bounded
from transforms.tables import ShardedTable, TableCoder, at_earliest, at_the_end, split_by_shard
from transforms.work_ahead import WorkAhead
from transforms.work_gathered import WorkGathered


@dataclass(eq=False)
class Sessionize(beam.PTransform):
    """Turns event batches into session panes.

    Input elements: rows of EVENT_BATCH, stamped with their earliest event time. Output elements: rows of SESSION_PANE
    in the global window. Elements come in no defined order; `pane_index` orders the panes of a session.

    A bounded input needs neither state nor timers: its panes are computed from its cells in closed form, and no event
    is late. Of each session the last pane is emitted; the early ones that it replaces are only counted.

    An unbounded input uses a timer at each tick; `transforms.sessions.session_state` defines when panes fire and which
    events are too late.

    Counters: ``panes_early``, ``panes_on_time``, ``panes_late``, ``retractions``; for an unbounded input also
    ``events_late`` (older than the last tick but accepted) and ``events_too_late`` (they change no session).

    Attributes:
        policy: The rules.
        shards: Number of keys that the devices are spread over; an upper bound of the parallelism.

    Raises:
        OptionError: `shards` is not positive.
    """

    policy: SessionPolicy
    shards: int = 16

    def __post_init__(self) -> None:
        super().__init__()
        if self.shards < 1:
            raise OptionError(f"the number of shards must be at least 1, not {self.shards}")

    def expand(self, pcoll: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Aggregate events into cells before the shuffle: fewer rows to move, and cells merge in any order after it."""
        to_cells = beam.ParDo(_ToCells(self.policy, self.shards)).with_output_types(ShardedTable)
        cells = pcoll | "SummarizeIntoCells" >> to_cells
        if not pcoll.is_bounded:
            return cells | "TickSessions" >> beam.ParDo(_Tick(self.policy)).with_output_types(pa.Table)
        shards = cells | "GroupByShard" >> beam.GroupByKey()
        return shards | "ChainSessions" >> beam.ParDo(_ChainBounded(self.policy)).with_output_types(pa.Table)


class _ToCells(WorkGathered):
    """Aggregates the events of a bundle into the cells of each shard.

    The batches are small if earlier steps have split them by key, and their cells would be even smaller.
    """

    gathered_rows = 150_000

    def __init__(self, policy: SessionPolicy, shards: int) -> None:
        self._policy = policy
        self._shards = shards

    def process(self, events: pa.Table) -> Iterator[WindowedValue]:
        yield from super().process(events.select(EVENT_COLUMNS))

    def work(self, events: pa.Table) -> Iterator[WindowedValue]:
        for shard, cells in split_by_shard(cells_of(events, self._policy), self._shards):
            stamped = at_earliest(cells, "first_time")
            yield WindowedValue((shard, cells), stamped.timestamp, [beam.window.GlobalWindow()])


class _ChainBounded(WorkAhead):
    """Computes the last panes of a shard from all of its cells."""

    def __init__(self, policy: SessionPolicy) -> None:
        self._policy = policy

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[WindowedValue]:
        yield from super().process(list(element[1]))

    def work(self, cells: list[pa.Table]) -> tuple[pa.Table, int]:
        merged = merge_cells(cells)
        cells.clear()  # the task holds its arguments until it ends
        return last_panes_of_bounded(merged, self._policy)

    def tell(self, result: tuple[pa.Table, int]) -> Iterator[WindowedValue]:
        panes, early = result
        count("panes_early", early)
        count_panes(panes)
        yield at_the_end(panes)


# A few numbers per shard, never cleared: they tell that an event is too late even if all other state is empty.
_MARKS = beam.DoFn.StateParam(ReadModifyWriteStateSpec("marks", FastPrimitivesCoder()))
# Cells that no tick has used yet; each tick with work leaves only those whose slot has not ended.
_PENDING = beam.DoFn.StateParam(BagStateSpec("pending", TableCoder()))
# Devices with an open session; each tick with work rewrites them, without the devices whose session has closed.
_HOT_CELLS = beam.DoFn.StateParam(ReadModifyWriteStateSpec("hot_cells", TableCoder()))
_HOT_PANES = beam.DoFn.StateParam(ReadModifyWriteStateSpec("hot_panes", TableCoder()))
# All other devices; the tick of `Marks.sweep` drops expired sessions, at most a gap after they expire.
_COLD_CELLS = beam.DoFn.StateParam(BagStateSpec("cold_cells", TableCoder()))
_COLD_PANES = beam.DoFn.StateParam(BagStateSpec("cold_panes", TableCoder()))
_TICK = TimerSpec("tick", TimeDomain.WATERMARK)
_TIMER = beam.DoFn.TimerParam(_TICK)


class _Tick(beam.DoFn):
    """Computes the panes of a shard from its cells, tick by tick; the rules are in `transforms.sessions.session_state`.

    A shard has one next tick, `Marks.armed`. Each tick sets the timer of the following one as long as there is state,
    and then stops, so that a drained input ends. An element may only move the next tick to an earlier time: if elements
    could postpone it, it might never fire. The timer of each tick has its own tag; a timer for any tick other than
    the next one does nothing.
    """

    def __init__(self, policy: SessionPolicy) -> None:
        self._policy = policy

    def process(
        self,
        element: ShardedTable,
        marks: Any = _MARKS,
        pending: Any = _PENDING,
        timer: Any = _TIMER,
    ) -> None:
        before = Marks(*(marks.read() or ()))
        accepted = accept(element[1], before, self._policy)
        count("events_late", accepted.late_events)
        count("events_too_late", accepted.too_late_events)
        if accepted.cells.num_rows == 0:
            return
        pending.add(accepted.cells)
        after = expect(accepted.cells, before, self._policy)
        if is_scattered(after):
            merged = merge_cells(pending.read())
            _replace(pending, merged)
            after = after._replace(merged=merged.num_rows, unmerged=0)
        _write_marks(marks, timer, after, before)

    @on_timer(_TICK)
    def tick(
        self,
        now: Any = beam.DoFn.TimestampParam,
        marks: Any = _MARKS,
        pending: Any = _PENDING,
        hot_cells: Any = _HOT_CELLS,
        hot_panes: Any = _HOT_PANES,
        cold_cells: Any = _COLD_CELLS,
        cold_panes: Any = _COLD_PANES,
        timer: Any = _TIMER,
    ) -> Iterator[pa.Table]:
        before = Marks(*marks.read())
        tick = before.armed
        if tick is None or tick != now.micros:
            return
        if before.due is None or tick < before.due:
            _write_marks(marks, timer, idle(tick, before, self._policy), before)
            return
        waiting = _read(pending, CELL)
        hot = Kept(hot_cells.read() or CELL.empty(), hot_panes.read() or SESSION_PANE.empty())
        cold = None
        if needs_cold(tick, waiting, before):
            cold = Kept(_read(cold_cells, CELL), _read(cold_panes, SESSION_PANE))
        fired = fire(tick, waiting, hot, cold, before, self._policy)
        # A device is hot exactly as long as it has an open session, and it has at most one
        count("sessions_open", _devices(fired.hot) - _devices(hot))
        _replace(pending, fired.pending)
        if fired.hot.cells.num_rows:
            hot_cells.write(fired.hot.cells)
            hot_panes.write(fired.hot.panes)
        else:
            hot_cells.clear()
            hot_panes.clear()
        if fired.cold is not None:
            _replace(cold_cells, fired.cold.cells)
            _replace(cold_panes, fired.cold.panes)
        if fired.frozen.panes.num_rows:
            cold_cells.add(fired.frozen.cells)
            cold_panes.add(fired.frozen.panes)
        ahead, after = look_ahead(fired.pending, fired.marks, self._policy)
        for later in ahead:
            _set(timer, later)
        _write_marks(marks, timer, after, before)
        if fired.panes.num_rows:
            count_panes(fired.panes)
            yield fired.panes


def _write_marks(state: Any, timer: Any, marks: Marks, before: Marks) -> None:
    """Write the marks, and set the timer unless it is already set."""
    state.write(tuple(marks))
    if marks.armed is not None and marks.armed != before.armed:
        _set(timer, marks.armed)


def _set(timer: Any, tick: int) -> None:
    timer.set(Timestamp(micros=tick), dynamic_timer_tag=str(tick))


def _devices(kept: Kept) -> int:
    return int(pa.compute.count_distinct(kept.cells.column("device_id")).as_py())


def _read(bag: Any, record: Record) -> pa.Table:
    return pa.concat_tables([record.empty(), *bag.read()])


def _replace(bag: Any, table: pa.Table) -> None:
    bag.clear()
    if table.num_rows:
        bag.add(table)


def count_panes(panes: pa.Table) -> None:
    """Count panes by their timing, and retractions separately."""
    retracted = panes.column("is_retraction")
    count("retractions", retracted.combine_chunks().true_count)
    standing = panes.column("pane_timing").filter(pa.compute.invert(retracted))
    for timing in PaneTiming:
        total = pa.compute.sum(pa.compute.equal(standing, timing.value)).as_py()
        count(f"panes_{timing.value.lower()}", total or 0)
