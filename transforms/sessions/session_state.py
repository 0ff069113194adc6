"""Sessions tick by tick: what a shard of devices keeps, and which panes a tick fires. No Beam here.

Time moves in ticks on the grid of cells. At tick T only cells whose slot has ended by T exist; the sessions are chained
anew from the cells that are kept, compared with the last pane of each, and the difference fires. That makes the
panes independent of how events were bundled.

Most devices are silent at any tick. Those with an open session are *hot* and rewritten by each tick that has work;
the others are *cold*: appended to when they fall silent, read only when an event older than the last tick arrives
for the shard, or to sweep out what no accepted event can reach any more.
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
"""Ticks after the next one that a shard has timers for at most while it catches up."""
_MERGED_ROWS = 10_000
KEY = ["device_id", "session_start"]
"""What tells sessions apart; their id is a hash of it."""


class Kept(NamedTuple):
    """What is kept of some devices."""

    cells: pa.Table
    """Rows of CELL."""
    panes: pa.Table
    """Rows of SESSION_PANE: the last one of each session, a retraction too."""


EMPTY = Kept(CELL.empty(), SESSION_PANE.empty())


class Marks(NamedTuple):
    """The small part of the state, written at every tick. Ticks are microseconds since the epoch."""

    last: int | None = None
    """The last tick that fired; acceptance and retention go by it. Stale, it is only more lenient."""
    armed: int | None = None
    """The tick that is asked for; None while nothing is kept."""
    due: int | None = None
    """The first tick that has work to do; those before it only move `last`."""
    sweep: int | None = None
    """When the cold part is next swept; None while it is empty."""
    ahead: int | None = None
    """The last tick that a timer was set for ahead of its turn."""
    merged: int = 0
    """Pending cells that are one a device and slot."""
    unmerged: int = 0
    """Pending cells that came after those."""


class Accepted(NamedTuple):
    """Cells that came in, less those that came too late."""

    cells: pa.Table
    late_events: int
    """Accepted behind the last tick."""
    too_late_events: int
    """Refused: they change no session."""


class Fired(NamedTuple):
    """What a tick leaves."""

    panes: pa.Table
    """Rows of SESSION_PANE."""
    pending: pa.Table
    """Cells whose slot has not ended."""
    hot: Kept
    """Replaces the hot part."""
    frozen: Kept
    """To be appended to the cold part."""
    cold: Kept | None
    """Replaces the cold part where that was read, before `frozen` is appended."""
    marks: Marks


def accept(cells: pa.Table, marks: Marks, policy: SessionPolicy) -> Accepted:
    """Refuse cells that lie too far behind the last tick, whether or not their session is still kept."""
    if marks.last is None:
        return Accepted(cells, 0, 0)
    slot, events = cells.column("slot").to_numpy(), cells.column("event_count").to_numpy()
    reached = slot >= policy.reach(marks.last)
    late = int(events[reached & (slot < marks.last)].sum())
    refused = int(events[~reached].sum())
    return Accepted(cells.filter(pa.array(reached)) if refused else cells, late, refused)


def expect(cells: pa.Table, marks: Marks, policy: SessionPolicy) -> Marks:
    """The marks once some accepted cells are pending: their slot's end is due, or the next tick where it is past."""
    if cells.num_rows == 0:
        return marks
    slot = pc.min(cells.column("slot")).as_py()
    shown = (slot if marks.last is None else max(slot, marks.last)) + policy.cell
    due = shown if marks.due is None else min(marks.due, shown)
    armed = shown if marks.armed is None else min(marks.armed, shown)
    return marks._replace(due=due, armed=armed, unmerged=marks.unmerged + cells.num_rows)


def is_scattered(marks: Marks) -> bool:
    """Whether to merge the pending cells before the tick comes, which would else have all of it to do at once.

    They are merged anew each time they have doubled, so that a cell is merged a few times at most.
    """
    return marks.unmerged > max(_MERGED_ROWS, marks.merged)


def idle(tick: int, marks: Marks, policy: SessionPolicy) -> Marks:
    """The marks after a tick before the due one: nothing but the time has changed.

    The longer nothing is due, the further apart such ticks are: a shard that catches up with hours in which it has
    nothing to do is through in a few steps. What `last` is behind by meanwhile only makes it more lenient.
    """
    step = policy.cell if marks.last is None else 2 * (tick - marks.last)
    following = tick + step if marks.due is None else min(tick + step, marks.due)
    return marks._replace(last=tick, armed=following)


def look_ahead(pending: pa.Table, marks: Marks, policy: SessionPolicy) -> tuple[range, Marks]:
    """The ticks to set timers for ahead of their turn, where cells show that time has come further than the last tick.

    A timer that a tick sets fires with the next bundle at the earliest. So catching up would take a bundle a tick.

    Args:
        pending: The cells whose slot has not ended.
        marks: The marks after the tick.
        policy: The rules.

    Returns:
        The ticks after the one that is armed, up to the newest cell's and without those asked for before; and the marks
        that say so.
    """
    if marks.armed is None or pending.num_rows == 0:
        return range(0), marks
    newest = min(pc.max(pending.column("slot")).as_py(), marks.armed + TICKS_AHEAD * policy.cell)
    first = max(marks.armed, marks.ahead or marks.armed) + policy.cell
    ticks = range(first, newest + 1, policy.cell)
    return ticks, marks._replace(ahead=ticks[-1]) if ticks else marks


def needs_cold(tick: int, pending: pa.Table, marks: Marks) -> bool:
    """Whether the tick must read the cold part: to sweep it, or because a cell from before the last tick came."""
    if marks.sweep is None or marks.last is None:
        return False
    return tick >= marks.sweep or bool(pc.any(pc.less(pending.column("slot"), marks.last)).as_py())


def fire(tick: int, pending: pa.Table, hot: Kept, cold: Kept | None, marks: Marks, policy: SessionPolicy) -> Fired:
    """Fire a tick.

    Args:
        tick: The tick, on the grid and after `marks.last`.
        pending: Every accepted cell that no tick has shown yet.
        hot: The hot part.
        cold: The cold part where `needs_cold`, else None.
        marks: The marks before the tick.
        policy: The rules.

    Returns:
        The panes, and what replaces the state.
    """
    ended = pc.less_equal(pending.column("slot"), tick - policy.cell)
    shown, pending = pending.filter(ended), pending.filter(pc.invert(ended))
    thawed = EMPTY
    if cold is not None:
        late = shown.filter(pc.less(shown.column("slot"), marks.last))
        thawed, cold = _split(cold, late.column("device_id"))
        cold = _sweep(tick, cold, policy)

    cells = merge_cells([hot.cells, thawed.cells, shown])
    frame = to_polars(cells)
    spans = spans_of(frame, policy)
    told = to_polars(pa.concat_tables([hot.panes, thawed.panes]))
    sessions = _compare(frame, spans, told)
    withdrawn = told.join(sessions, on=KEY, how="anti").filter(~pl.col("is_retraction"))
    sessions = _decide(tick, sessions, withdrawn, marks, policy)
    panes = _panes(tick, frame, spans, sessions, withdrawn)
    told = pl.concat([told.join(panes, on=KEY, how="anti"), panes])

    kept = _unexpired(tick, cells, spans, to_arrow(told, SESSION_PANE.schema), policy)
    open_sessions = sessions.filter(~pl.col("closed"))
    hot, frozen = _split(kept, open_sessions["device_id"].to_arrow().cast(pa.string()))
    hot = hot._replace(cells=_fold(tick, hot.cells, policy))
    dues = [_shown_at(pending, tick, policy), *_dues(tick, open_sessions, policy)]
    sweep = _next_sweep(frozen, cold, marks, policy)
    due = min((mark for mark in [*dues, sweep] if mark is not None), default=None)
    keeps = hot.cells.num_rows > 0 or sweep is not None
    marks = Marks(tick, tick + policy.cell if keeps else due, due, sweep, marks.ahead, merged=pending.num_rows)
    return Fired(to_arrow(panes, SESSION_PANE.schema), pending, hot, frozen, cold, marks)


def _split(kept: Kept, devices: pa.Array | pa.ChunkedArray) -> tuple[Kept, Kept]:
    """The part of some devices, and the part of all others."""
    chosen = pc.unique(devices)
    inside = Kept(*(table.filter(pc.is_in(table.column("device_id"), chosen)) for table in kept))
    outside = Kept(*(table.filter(pc.invert(pc.is_in(table.column("device_id"), chosen))) for table in kept))
    return inside, outside


def _compare(cells: pl.DataFrame, spans: Spans, told: pl.DataFrame) -> pl.DataFrame:
    """The sessions there are, a row each, beside what was last told of them."""
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
        told.select(*KEY, *columns), on=KEY, how="left", maintain_order="left", validate="1:1"
    ).with_columns(
        # Events are only ever added to a session of one start: equal counts are equal sessions.
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
        sessions.join(_heirs(sessions, withdrawn), on=KEY, how="left", maintain_order="left")
        .with_columns(closed=silence_ends < tick)
        .with_columns(
            timing=pl.when(pl.col("fired"))
            .then(pl.when(pl.col("changed")).then(late))
            .when(pl.col("closed"))
            .then(pl.when(silence_ends >= before).then(on_time).otherwise(late))
            # A retraction never goes alone: what holds its events now goes out beside it.
            .when(pl.col("inherits_fired"))
            .then(late)
            .when(pl.col("inherits_fired").is_not_null() | (pl.col("changed") & early_mark))
            .then(early)
        )
    )


def _heirs(sessions: pl.DataFrame, withdrawn: pl.DataFrame) -> pl.DataFrame:
    """The sessions that now hold the events of withdrawn ones, and whether any of those had fired."""
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
    """What accepted events can still reach. A session goes whole: its cells and its last pane together.

    Dropping single cells would move the start of what is left; dropping at the end of Beam's retention (one gap
    sooner) would let an accepted event start a twin of a forgotten session.
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
    # A retraction has no session any more and goes by its own end.
    told = to_polars(panes).join(sessions, on=KEY, how="left", maintain_order="left")
    by_itself = pl.col("session_end").cast(pl.Int64) + policy.retention >= tick
    stays = told.select(pl.coalesce("live", by_itself)).to_series()
    if live.all() and stays.all():
        return Kept(cells, panes)
    return Kept(cells.filter(pa.array(np.repeat(live, spans.ends - spans.starts))), panes.filter(stays.to_arrow()))


def _sweep(tick: int, cold: Kept, policy: SessionPolicy) -> Kept:
    cells = merge_cells([cold.cells])
    return _unexpired(tick, cells, spans_of(to_polars(cells), policy), cold.panes, policy)


def _fold(tick: int, cells: pa.Table, policy: SessionPolicy) -> pa.Table:
    """Merge the settled cells of each session, so that a device that never pauses keeps a few cells only.

    Settled is a cell that no accepted event can fall into or before: the session's start and cut stand. It is put
    off until a quarter of the rows would go, so that not every tick rewrites the cells for one of them.
    """
    settled = cells.column("slot").to_numpy() < policy.reach(tick)
    if not settled.any():
        return cells
    begins = ~settled
    begins[spans_of(to_polars(cells), policy).starts] = True
    worth_it = 4 * np.count_nonzero(begins) <= 3 * len(begins)
    return fold_cells(cells, begins) if worth_it else cells


def _shown_at(pending: pa.Table, tick: int, policy: SessionPolicy) -> int | None:
    """The tick after `tick` that shows the first of the pending cells."""
    if pending.num_rows == 0:
        return None
    return max(pc.min(pending.column("slot")).as_py(), tick) + policy.cell


def _dues(tick: int, open_sessions: pl.DataFrame, policy: SessionPolicy) -> list[int]:
    """When the open sessions next have a pane to fire if nothing more comes."""
    dues = []
    if open_sessions.height:
        dues.append(int(closing_ticks(open_sessions["last"].to_numpy(), policy).min()))
    if policy.early_firing is not None:
        owed = open_sessions.select((pl.col("changed") & ~pl.col("fired") & pl.col("timing").is_null()).any())
        if owed.item():
            dues.append((tick // policy.early_firing + 1) * policy.early_firing)
    return dues


def _next_sweep(frozen: Kept, cold: Kept | None, marks: Marks, policy: SessionPolicy) -> int | None:
    """When to look for expired sessions in the cold part next: a gap after the first expires, so not too often."""
    panes = frozen.panes if cold is None else pa.concat_tables([frozen.panes, cold.panes])
    if cold is None and marks.sweep is not None:
        return marks.sweep
    if panes.num_rows == 0:
        return None
    ends = pc.min(panes.column("session_end")).cast(pa.int64()).as_py()
    return (ends + policy.retention + policy.gap) // policy.cell * policy.cell + policy.cell
