"""Sessions of an unbounded input: the state of a shard of devices, and the panes that each tick fires. No Beam here.

A tick is a point on the cell grid. Tick T uses only the cells whose slot has ended by T. It recomputes the sessions
from the cells in state, compares them with the last pane emitted for each session, and emits the difference as panes.
So the panes do not depend on how events were bundled.

Most devices are silent at any tick. Devices with an open session are in the *hot* state, which every tick with work
rewrites. All others are in the *cold* state. A device is appended to it when its session closes. The cold state is read
only when an event older than the last tick arrives for the shard, or to sweep out expired sessions.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import codes, to_polars, without_rows
from schemas.sessions import SESSION_PANE, PaneTiming
from transforms.runs import NONE, Flags, Integers
from transforms.sessions.cells import CELL, fold_cells, merge_cells
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessions import (
    EARLY,
    LATE,
    ON_TIME,
    TIMINGS,
    Spans,
    as_panes,
    closing_ticks,
    cuts_of,
    describe,
    range_sum,
    spans_of,
)

TICKS_AHEAD = 24
"""How many ticks beyond the next one a shard may set timers for while it catches up."""
_MERGED_ROWS = 10_000


class Kept(NamedTuple):
    """The state of some devices."""

    cells: pa.Table
    """Rows of CELL."""
    panes: pa.Table
    """Rows of SESSION_PANE: the last pane emitted for each session, which may be a retraction."""


EMPTY = Kept(CELL.empty(), SESSION_PANE.empty())


class Marks(NamedTuple):
    """The small part of the state, written at every tick. Ticks are microseconds since the epoch."""

    last: int | None = None
    """The last tick that fired. It decides which events are accepted; a stale value only accepts more."""
    armed: int | None = None
    """The next tick, for which a timer is set; None while the state is empty."""
    due: int | None = None
    """The first tick that has work to do; earlier ticks only advance `last`."""
    sweep: int | None = None
    """The tick of the next sweep of the cold state; None while it is empty."""
    ahead: int | None = None
    """The latest tick that `look_ahead` set a timer for."""
    merged: int = 0
    """Number of pending cells already merged, one per device and slot."""
    unmerged: int = 0
    """Number of pending cells added since."""


class Accepted(NamedTuple):
    """The incoming cells without those that are too late."""

    cells: pa.Table
    late_events: int
    """Number of accepted events older than the last tick."""
    too_late_events: int
    """Number of refused events; they change no session."""


class Fired(NamedTuple):
    """The output of a tick and the new state."""

    panes: pa.Table
    """Rows of SESSION_PANE."""
    pending: pa.Table
    """Cells whose slot has not ended."""
    hot: Kept
    """Replaces the hot state."""
    frozen: Kept
    """To be appended to the cold state."""
    cold: Kept | None
    """Replaces the cold state before `frozen` is appended; None if the cold state was not read."""
    marks: Marks


def accept(cells: pa.Table, marks: Marks, policy: SessionPolicy) -> Accepted:
    """Refuse cells too far behind the last tick, whether or not their session is still in state."""
    if marks.last is None:
        return Accepted(cells, 0, 0)
    slot, events = cells.column("slot").to_numpy(), cells.column("event_count").to_numpy()
    reached = slot >= policy.reach(marks.last)
    late = int(events[reached & (slot < marks.last)].sum())
    refused = int(events[~reached].sum())
    return Accepted(cells.filter(pa.array(reached)) if refused else cells, late, refused)


def expect(cells: pa.Table, marks: Marks, policy: SessionPolicy) -> Marks:
    """The marks after accepted cells became pending: their slot's end is due, or the next tick if it has passed."""
    if cells.num_rows == 0:
        return marks
    slot = pc.min(cells.column("slot")).as_py()
    tick = (slot if marks.last is None else max(slot, marks.last)) + policy.cell
    due = tick if marks.due is None else min(marks.due, tick)
    armed = tick if marks.armed is None else min(marks.armed, tick)
    return marks._replace(due=due, armed=armed, unmerged=marks.unmerged + cells.num_rows)


def is_scattered(marks: Marks) -> bool:
    """Whether to merge the pending cells now, rather than leave all the merging to the tick.

    They are merged each time their number has doubled, so each cell is merged only a few times.
    """
    return marks.unmerged > max(_MERGED_ROWS, marks.merged)


def idle(tick: int, marks: Marks, policy: SessionPolicy) -> Marks:
    """The marks after a tick that is before `due`, and so only advances time.

    The interval to the next such tick doubles each time, so that a shard passes hours without work in a few ticks.
    Meanwhile `last` is stale, which only accepts more events.
    """
    step = policy.cell if marks.last is None else 2 * (tick - marks.last)
    following = tick + step if marks.due is None else min(tick + step, marks.due)
    return marks._replace(last=tick, armed=following)


def look_ahead(pending: pa.Table, marks: Marks, policy: SessionPolicy) -> tuple[range, Marks]:
    """The ticks to set timers for in advance, when pending cells show that event time is past the next tick.

    A timer set by a tick fires in the next bundle at the earliest. With one timer at a time, catching up would take
    one bundle per tick.

    Args:
        pending: The cells whose slot has not ended.
        marks: The marks after the tick.
        policy: The rules.

    Returns:
        The ticks after `marks.armed` up to the slot of the newest cell, without those that already have a timer; and
        the marks with `ahead` updated.
    """
    if marks.armed is None or pending.num_rows == 0:
        return range(0), marks
    newest = min(pc.max(pending.column("slot")).as_py(), marks.armed + TICKS_AHEAD * policy.cell)
    first = max(marks.armed, marks.ahead or marks.armed) + policy.cell
    ticks = range(first, newest + 1, policy.cell)
    return ticks, marks._replace(ahead=ticks[-1]) if ticks else marks


def needs_cold(tick: int, pending: pa.Table, marks: Marks) -> bool:
    """Whether the tick must read the cold state: to sweep it, or because a cell older than the last tick is pending."""
    if marks.sweep is None or marks.last is None:
        return False
    return tick >= marks.sweep or bool(pc.any(pc.less(pending.column("slot"), marks.last)).as_py())


def fire(tick: int, pending: pa.Table, hot: Kept, cold: Kept | None, marks: Marks, policy: SessionPolicy) -> Fired:
    """Fire a tick.

    Args:
        tick: The tick, on the grid and after `marks.last`.
        pending: Every accepted cell that no tick has used yet.
        hot: The hot state.
        cold: The cold state if `needs_cold`, else None.
        marks: The marks before the tick.
        policy: The rules.

    Returns:
        The panes and the new state.
    """
    ended = pc.less_equal(pending.column("slot"), tick - policy.cell)
    ended_cells, pending = pending.filter(ended), pending.filter(pc.invert(ended))
    thawed = EMPTY
    if cold is not None:
        late = ended_cells.filter(pc.less(ended_cells.column("slot"), marks.last))
        thawed, cold = _split(cold, late.column("device_id"))
        cold = _sweep(tick, cold, policy)

    cells = merge_cells([hot.cells, thawed.cells, ended_cells])
    spans = spans_of(cells, policy)
    emitted = pa.concat_tables([hot.panes, thawed.panes])
    decided = _decide(tick, cells, spans, emitted, marks, policy)
    panes = _panes(tick, cells, spans, emitted, decided)
    emitted = pa.concat_tables([without_rows(emitted, decided.replaced), panes])

    last = cells["last_time"].to_numpy()[spans.ends - 1]
    open_devices = cells["device_id"].take(pa.array(spans.starts[decided.open]))
    hot, frozen = _split(_unexpired(tick, cells, spans, emitted, policy), open_devices)
    hot = hot._replace(cells=_fold(tick, hot.cells, policy))
    dues = [_tick_of_pending(pending, tick, policy), *_dues(tick, last[decided.open], decided.owed, policy)]
    sweep = _next_sweep(frozen, cold, marks, policy)
    due = min((mark for mark in [*dues, sweep] if mark is not None), default=None)
    keeps = hot.cells.num_rows > 0 or sweep is not None
    marks = Marks(tick, tick + policy.cell if keeps else due, due, sweep, marks.ahead, merged=pending.num_rows)
    return Fired(panes, pending, hot, frozen, cold, marks)


def _split(kept: Kept, devices: pa.ChunkedArray) -> tuple[Kept, Kept]:
    """The state of some devices, and that of all others."""
    chosen = pc.unique(devices)
    inside = [pc.is_in(table["device_id"], chosen) for table in kept]
    if all(pc.all(rows).as_py() for rows in inside):
        return kept, EMPTY
    return (
        Kept(*(table.filter(rows) for table, rows in zip(kept, inside, strict=True))),
        Kept(*(table.filter(pc.invert(rows)) for table, rows in zip(kept, inside, strict=True))),
    )


class _Decided(NamedTuple):
    """What a tick does with each session; sessions and emitted panes are given by their row numbers."""

    firing: Integers
    """The sessions that fire a pane."""
    timing: pa.Array
    """The timing of each pane that fires."""
    pane_index: Integers
    """The index of each pane that fires."""
    withdrawn: Integers
    """The emitted panes that are retracted."""
    replaced: Integers
    """The emitted panes that are retracted, or replaced by a pane that fires."""
    open: Flags
    """By session, whether it is open."""
    owed: bool
    """Whether an open session changed since its last pane, and fires an early pane at the next early mark."""


def _decide(
    tick: int, cells: pa.Table, spans: Spans, emitted: pa.Table, marks: Marks, policy: SessionPolicy
) -> _Decided:
    """Compare the current sessions with the last pane emitted for each, and decide what fires at this tick."""
    pane = _pane_of(cells, spans, emitted)
    known = pane != NONE
    withdrawn = ~emitted["is_retraction"].to_numpy()
    withdrawn[pane[known]] = False

    # A session with the same start only ever gains events, so equal counts mean equal sessions.
    fired, changed = np.zeros(len(pane), bool), np.ones(len(pane), bool)
    pane_index = np.zeros(len(pane), np.int64)
    last_pane = emitted.take(pa.array(pane[known]))
    fired[known] = _has_fired(last_pane)
    changed[known] = (
        last_pane["is_retraction"].to_numpy()
        | (range_sum(cells["event_count"], spans)[known] != last_pane["event_count"].to_numpy())
        | (spans.cuts[known] != cuts_of(last_pane["cut_reason"]))
    )
    pane_index[known] = last_pane["pane_index"].to_numpy() + 1

    silence_ends = cells["last_time"].to_numpy()[spans.ends - 1] + policy.gap
    closed = silence_ends < tick
    before = marks.last if marks.last is not None else tick - policy.cell
    early_mark = policy.early_firing is not None and tick % policy.early_firing == 0
    inherits, inherits_fired = _inheriting(cells, spans, emitted.filter(pa.array(withdrawn)))
    rules = [
        (fired & changed, LATE),
        (fired, NONE),
        (closed & (silence_ends >= before), ON_TIME),
        (closed, LATE),
        # A retraction is never emitted alone: the sessions that now hold its events fire at the same tick.
        (inherits_fired, LATE),
        (inherits | (changed & early_mark), EARLY),
    ]
    timing = np.select([holds for holds, _ in rules], [timing for _, timing in rules], NONE)
    firing = np.flatnonzero(timing != NONE)
    retracted = np.flatnonzero(withdrawn)
    return _Decided(
        firing,
        TIMINGS.take(pa.array(timing[firing])),
        pane_index[firing],
        retracted,
        np.concatenate([retracted, pane[firing][known[firing]]]),
        ~closed,
        bool((changed & ~fired & ~closed & (timing == NONE)).any()),
    )


def _pane_of(cells: pa.Table, spans: Spans, emitted: pa.Table) -> Integers:
    """By session, the row of the last pane emitted for it; `NONE` if there is none."""
    sessions = len(spans.starts)
    devices = [cells["device_id"].take(pa.array(spans.starts)), emitted["device_id"]]
    numbers, _ = codes(pa.chunked_array([chunk for column in devices for chunk in column.chunks], pa.string()))
    starts = cells["first_time"].to_numpy()[spans.starts]
    times = np.concatenate([starts, emitted["session_start"].cast(pa.int64()).to_numpy()])
    order = np.lexsort((times, numbers))  # is stable: a session comes before its pane
    one, following = order[:-1], order[1:]
    same = (numbers[one] == numbers[following]) & (times[one] == times[following])
    found = np.full(sessions, NONE)
    found[one[same]] = following[same] - sessions
    return found


def _has_fired(panes: pa.Table) -> Flags:
    return pc.not_equal(panes["pane_timing"], PaneTiming.EARLY.value).to_numpy()


def _inheriting(cells: pa.Table, spans: Spans, withdrawn: pa.Table) -> tuple[Flags, Flags]:
    """By session, whether it now holds events of withdrawn sessions, and whether any of these had fired."""
    found = np.zeros((2, len(spans.starts)), bool)
    if withdrawn.num_rows:
        sessions = pa.table(
            {
                "device_id": cells["device_id"].take(pa.array(spans.starts)),
                "first": cells["first_time"].to_numpy()[spans.starts],
                "last": cells["last_time"].to_numpy()[spans.ends - 1],
            }
        )
        lost = to_polars(withdrawn.select(["device_id", "session_start", "session_end"])).with_columns(
            pl.col("session_start", "session_end").cast(pl.Int64), had_fired=_has_fired(withdrawn)
        )
        heirs = (
            to_polars(sessions)
            .with_row_index("session")
            .join(lost, on="device_id")
            .filter(pl.col("first") <= pl.col("session_end"), pl.col("last") >= pl.col("session_start"))
        )
        found[0, heirs["session"]] = True
        found[1, heirs.filter("had_fired")["session"]] = True
    return found[0], found[1]


def _panes(tick: int, cells: pa.Table, spans: Spans, emitted: pa.Table, decided: _Decided) -> pa.Table:
    """The panes of a tick, retractions first."""
    retractions = emitted.take(pa.array(decided.withdrawn))
    late = pa.repeat(PaneTiming.LATE.value, len(retractions))  # only a late event withdraws a session
    index = pc.add(retractions["pane_index"], 1)
    fired = describe(cells, spans.pick(decided.firing))
    return pa.concat_tables(
        [
            as_panes(retractions, late, index, np.full(len(retractions), tick), is_retraction=True),
            as_panes(fired, decided.timing, decided.pane_index, np.full(len(fired), tick)),
        ]
    )


def _unexpired(tick: int, cells: pa.Table, spans: Spans, panes: pa.Table, policy: SessionPolicy) -> Kept:
    """The sessions that accepted events can still reach. A session's cells and its last pane expire together.

    Dropping single cells would move the session's start. Dropping sessions one gap sooner, as Beam does, would let an
    accepted event start a second session beside the forgotten one.
    """
    live = cells["last_time"].to_numpy()[spans.ends - 1] + policy.retention >= tick
    pane_live = panes["session_end"].cast(pa.int64()).to_numpy() + policy.retention >= tick
    if live.all() and pane_live.all():
        return Kept(cells, panes)
    # A retracted session has no cells: its retraction expires by its own session_end. An open session's may be old.
    pane = _pane_of(cells, spans, panes)
    pane_live[pane[pane != NONE]] = live[pane != NONE]
    return Kept(
        cells.filter(pa.array(np.repeat(live, spans.ends - spans.starts))),
        panes.filter(pa.array(pane_live)),
    )


def _sweep(tick: int, cold: Kept, policy: SessionPolicy) -> Kept:
    cells = merge_cells([cold.cells])
    return _unexpired(tick, cells, spans_of(cells, policy), cold.panes, policy)


def _fold(tick: int, cells: pa.Table, policy: SessionPolicy) -> pa.Table:
    """Merge the settled cells of each session, so that a device that never pauses keeps only a few cells.

    A cell is settled if no accepted event can fall into it or before it, so the session's start and cut are final.
    Merging waits until it removes at least a quarter of the rows, so that a tick does not rewrite all cells for one.
    """
    settled = cells.column("slot").to_numpy() < policy.reach(tick)
    if not settled.any():
        return cells
    begins = ~settled
    begins[spans_of(cells, policy).starts] = True
    worth_it = 4 * np.count_nonzero(begins) <= 3 * len(begins)
    return fold_cells(cells, begins) if worth_it else cells


def _tick_of_pending(pending: pa.Table, tick: int, policy: SessionPolicy) -> int | None:
    """The first tick after `tick` that uses a pending cell; None if none is pending."""
    if pending.num_rows == 0:
        return None
    return max(pc.min(pending.column("slot")).as_py(), tick) + policy.cell


def _dues(tick: int, last: Integers, owed: bool, policy: SessionPolicy) -> list[int]:
    """The ticks at which open sessions next fire a pane if no more events come.

    Args:
        tick: This tick.
        last: The time of the last event of each open session.
        owed: See `_Decided`.
        policy: The rules.
    """
    dues = [int(closing_ticks(last, policy).min())] if len(last) else []
    if policy.early_firing is not None and owed:
        dues.append((tick // policy.early_firing + 1) * policy.early_firing)
    return dues


def _next_sweep(frozen: Kept, cold: Kept | None, marks: Marks, policy: SessionPolicy) -> int | None:
    """When to sweep the cold state next: a gap after its first session expires, so that sweeps are not too frequent."""
    panes = frozen.panes if cold is None else pa.concat_tables([frozen.panes, cold.panes])
    if cold is None and marks.sweep is not None:
        return marks.sweep
    if panes.num_rows == 0:
        return None
    ends = pc.min(panes.column("session_end")).cast(pa.int64()).as_py()
    return (ends + policy.retention + policy.gap) // policy.cell * policy.cell + policy.cell
