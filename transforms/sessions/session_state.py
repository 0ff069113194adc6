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

from schemas.columns import to_polars
from schemas.sessions import SESSION_PANE, PaneTiming
from transforms.frames import to_arrow
from transforms.sessions.cells import CELL, fold_cells, merge_cells
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessions import CUT_REASONS, UTC, Spans, closing_ticks, describe, spans_of

TICKS_AHEAD = 24
"""How many ticks beyond the next one a shard may set timers for while it catches up."""
_MERGED_ROWS = 10_000
KEY = ["device_id", "session_start"]
"""The columns that identify a session; its id is a hash of them."""


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
    frame = to_polars(cells)
    spans = spans_of(frame, policy)
    emitted = to_polars(pa.concat_tables([hot.panes, thawed.panes]))
    sessions = _compare(frame, spans, emitted)
    withdrawn = emitted.join(sessions, on=KEY, how="anti").filter(~pl.col("is_retraction"))
    sessions = _decide(tick, sessions, withdrawn, marks, policy)
    panes = _panes(tick, frame, spans, sessions, withdrawn)
    emitted = pl.concat([emitted.join(panes, on=KEY, how="anti"), panes])

    kept = _unexpired(tick, cells, spans, to_arrow(emitted, SESSION_PANE.schema), policy)
    open_sessions = sessions.filter(~pl.col("closed"))
    hot, frozen = _split(kept, open_sessions["device_id"].to_arrow().cast(pa.string()))
    hot = hot._replace(cells=_fold(tick, hot.cells, policy))
    dues = [_tick_of_pending(pending, tick, policy), *_dues(tick, open_sessions, policy)]
    sweep = _next_sweep(frozen, cold, marks, policy)
    due = min((mark for mark in [*dues, sweep] if mark is not None), default=None)
    keeps = hot.cells.num_rows > 0 or sweep is not None
    marks = Marks(tick, tick + policy.cell if keeps else due, due, sweep, marks.ahead, merged=pending.num_rows)
    return Fired(to_arrow(panes, SESSION_PANE.schema), pending, hot, frozen, cold, marks)


def _split(kept: Kept, devices: pa.Array | pa.ChunkedArray) -> tuple[Kept, Kept]:
    """The state of some devices, and that of all others."""
    chosen = pc.unique(devices)
    inside = Kept(*(table.filter(pc.is_in(table.column("device_id"), chosen)) for table in kept))
    outside = Kept(*(table.filter(pc.invert(pc.is_in(table.column("device_id"), chosen))) for table in kept))
    return inside, outside


def _compare(cells: pl.DataFrame, spans: Spans, emitted: pl.DataFrame) -> pl.DataFrame:
    """The current sessions, one row each, joined with the last pane emitted for them."""
    final = spans.ends - 1
    total = cells["event_count"].cum_sum()
    sessions = pl.DataFrame(
        {
            "device_id": cells["device_id"][spans.starts],
            "session_start": cells["first_time"][spans.starts].cast(UTC),
            "last": cells["last_time"][final],
            "events": total[final] - total[spans.starts] + cells["event_count"][spans.starts],
            "cut": CUT_REASONS[spans.cuts.astype(np.int64)],
        }
    )
    columns = ("event_count", "cut_reason", "pane_timing", "pane_index", "is_retraction")
    return sessions.join(
        emitted.select(*KEY, *columns), on=KEY, how="left", maintain_order="left", validate="1:1"
    ).with_columns(
        # A session with the same start only ever gains events, so equal counts mean equal sessions.
        changed=pl.col("event_count").is_null()
        | pl.col("is_retraction")
        | (pl.col("events") != pl.col("event_count"))
        | pl.col("cut").ne_missing(pl.col("cut_reason")),
        fired=(pl.col("pane_timing") != PaneTiming.EARLY.value).fill_null(value=False),
    )


def _decide(
    tick: int, sessions: pl.DataFrame, withdrawn: pl.DataFrame, marks: Marks, policy: SessionPolicy
) -> pl.DataFrame:
    """Which pane each session fires at this tick: column `timing`, null for none."""
    silence_ends = pl.col("last") + policy.gap
    before = marks.last if marks.last is not None else tick - policy.cell
    early_mark = policy.early_firing is not None and tick % policy.early_firing == 0
    early, on_time, late = (pl.lit(timing.value) for timing in PaneTiming)
    return (
        sessions.join(_inheriting(sessions, withdrawn), on=KEY, how="left", maintain_order="left")
        .with_columns(closed=silence_ends < tick)
        .with_columns(
            timing=pl.when(pl.col("fired"))
            .then(pl.when(pl.col("changed")).then(late))
            .when(pl.col("closed"))
            .then(pl.when(silence_ends >= before).then(on_time).otherwise(late))
            # A retraction is never emitted alone: the sessions that now hold its events fire at the same tick.
            .when(pl.col("inherits_fired"))
            .then(late)
            .when(pl.col("inherits_fired").is_not_null() | (pl.col("changed") & early_mark))
            .then(early)
        )
    )


def _inheriting(sessions: pl.DataFrame, withdrawn: pl.DataFrame) -> pl.DataFrame:
    """The sessions that now hold events of withdrawn sessions, and whether any of the withdrawn ones had fired."""
    lost = withdrawn.select(
        "device_id",
        lost_start="session_start",
        lost_end="session_end",
        inherits_fired=pl.col("pane_timing") != PaneTiming.EARLY.value,
    )
    return (
        sessions.join(lost, on="device_id")
        .filter(pl.col("session_start") <= pl.col("lost_end"), pl.col("last").cast(UTC) >= pl.col("lost_start"))
        .group_by(KEY)
        .agg(pl.col("inherits_fired").any())
    )


def _panes(
    tick: int, cells: pl.DataFrame, spans: Spans, sessions: pl.DataFrame, withdrawn: pl.DataFrame
) -> pl.DataFrame:
    """The panes of a tick, retractions first."""
    fires = sessions["timing"].is_not_null()
    firing = sessions.filter(fires)
    panes = describe(cells, spans.pick(fires.to_numpy())).with_columns(
        pane_timing=firing["timing"],
        pane_index=firing["pane_index"].fill_null(-1) + 1,
        is_retraction=pl.lit(value=False),
    )
    retractions = withdrawn.with_columns(
        pane_timing=pl.lit(PaneTiming.LATE.value),  # only a late event withdraws a session
        pane_index=pl.col("pane_index") + 1,
        is_retraction=pl.lit(value=True),
    )
    columns = [name for name in SESSION_PANE.names if name != "fired_at"]
    both = pl.concat([retractions.select(columns), panes.select(columns)])
    return both.with_columns(fired_at=pl.lit(tick).cast(UTC))


def _unexpired(tick: int, cells: pa.Table, spans: Spans, panes: pa.Table, policy: SessionPolicy) -> Kept:
    """The sessions that accepted events can still reach. A session's cells and its last pane expire together.

    Dropping single cells would move the session's start. Dropping sessions one gap sooner, as Beam does, would let an
    accepted event start a second session beside the forgotten one.
    """
    frame = to_polars(cells)
    last = frame["last_time"].to_numpy()[spans.ends - 1]
    live = last + policy.retention >= tick
    sessions = pl.DataFrame(
        {
            "device_id": frame["device_id"][spans.starts],
            "session_start": frame["first_time"][spans.starts].cast(UTC),
            "live": live,
        }
    )
    # A retracted session has no cells: its retraction expires by its own session_end.
    emitted = to_polars(panes).join(sessions, on=KEY, how="left", maintain_order="left")
    retraction_lives = pl.col("session_end").cast(pl.Int64) + policy.retention >= tick
    unexpired = emitted.select(pl.coalesce("live", retraction_lives)).to_series()
    if live.all() and unexpired.all():
        return Kept(cells, panes)
    return Kept(cells.filter(pa.array(np.repeat(live, spans.ends - spans.starts))), panes.filter(unexpired.to_arrow()))


def _sweep(tick: int, cold: Kept, policy: SessionPolicy) -> Kept:
    cells = merge_cells([cold.cells])
    return _unexpired(tick, cells, spans_of(to_polars(cells), policy), cold.panes, policy)


def _fold(tick: int, cells: pa.Table, policy: SessionPolicy) -> pa.Table:
    """Merge the settled cells of each session, so that a device that never pauses keeps only a few cells.

    A cell is settled if no accepted event can fall into it or before it, so the session's start and cut are final.
    Merging waits until it removes at least a quarter of the rows, so that a tick does not rewrite all cells for one.
    """
    settled = cells.column("slot").to_numpy() < policy.reach(tick)
    if not settled.any():
        return cells
    begins = ~settled
    begins[spans_of(to_polars(cells), policy).starts] = True
    worth_it = 4 * np.count_nonzero(begins) <= 3 * len(begins)
    return fold_cells(cells, begins) if worth_it else cells


def _tick_of_pending(pending: pa.Table, tick: int, policy: SessionPolicy) -> int | None:
    """The first tick after `tick` that uses a pending cell; None if none is pending."""
    if pending.num_rows == 0:
        return None
    return max(pc.min(pending.column("slot")).as_py(), tick) + policy.cell


def _dues(tick: int, open_sessions: pl.DataFrame, policy: SessionPolicy) -> list[int]:
    """The ticks at which open sessions next fire a pane if no more events come."""
    dues = []
    if open_sessions.height:
        dues.append(int(closing_ticks(open_sessions["last"].to_numpy(), policy).min()))
    if policy.early_firing is not None:
        owed = open_sessions.select((pl.col("changed") & ~pl.col("fired") & pl.col("timing").is_null()).any())
        if owed.item():
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
