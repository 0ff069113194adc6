"""Sessions computed from cells in closed form: where each begins and ends, its columns, and its panes."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import whole
from schemas.durations import DAY, SECOND
from schemas.keys import session_ids
from schemas.sessions import SESSION, SESSION_PANE, CutReason, PaneTiming
from transforms.runs import NONE, Integers, first_true, last_true, take
from transforms.sessions.cells import ATTRIBUTES
from transforms.sessions.policy import SessionPolicy

SESSION_STATE = pa.schema([f for f in SESSION.schema if f.name not in {"pane_timing", "pane_index"}])
"""SESSION without the columns of the pane."""

_NEVER = np.iinfo(np.int64).max
_CUT_REASONS = pa.array([None, CutReason.CAP.value, CutReason.MIDNIGHT.value])
_NO_CUT, _CAP, _MIDNIGHT = 0, 1, 2
EARLY, ON_TIME, LATE = range(3)
TIMINGS = pa.array([PaneTiming.EARLY.value, PaneTiming.ON_TIME.value, PaneTiming.LATE.value])
"""The timings of panes by number."""
_MOST_MONEY = pl.Series(["99999999999999.9999"]).cast(pl.Decimal(38, 4))[0]


class Spans(NamedTuple):
    """Sessions as row ranges of a table of cells: session i is the rows from starts[i] to ends[i], exclusive."""

    starts: Integers
    ends: Integers
    cuts: npt.NDArray[np.int8]
    """Why the session was cut although its device went on: 0 not cut, 1 cap, 2 midnight."""

    @property
    def cut_reasons(self) -> pa.Array:
        """Why each session was cut, as in SESSION."""
        return _CUT_REASONS.take(pa.array(self.cuts))

    def pick(self, chosen: npt.NDArray[np.generic]) -> "Spans":
        """A selection of the sessions, by flags or by indices."""
        return Spans(self.starts[chosen], self.ends[chosen], self.cuts[chosen])


def chain(cells: pa.Table, policy: SessionPolicy) -> pa.Table:
    """Compute sessions from cells.

    Args:
        cells: Rows of CELL as `merge_cells` returns them.
        policy: Gap, cap and cut.

    Returns:
        Rows of SESSION without the pane columns, ordered by (device_id, session_start).
    """
    return describe(cells, spans_of(cells, policy))


def spans_of(cells: pa.Table, policy: SessionPolicy) -> Spans:
    """Find where sessions begin and end among rows of CELL ordered by (device_id, slot).

    A session continues while the silence between events is at most the gap. A cell is no longer than the gap, so no
    session ends inside a cell. A session is cut at the first cell boundary at or after its start + cap, or at the next
    midnight, whichever is earlier. The events after the cut form a new session with its own cap.
    """
    rows = cells.num_rows
    if rows == 0:
        nothing = np.empty(0, dtype=np.int64)
        return Spans(nothing, nothing, nothing.astype(np.int8))
    device = whole(cells["device_id"])
    first, last = cells["first_time"].to_numpy(), cells["last_time"].to_numpy()
    begins = np.ones(rows, dtype=bool)
    begins[1:] = pc.not_equal(device[1:], device[:-1]).to_numpy(zero_copy_only=False)
    begins[1:] |= first[1:] - last[:-1] > policy.gap
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], rows)
    return _cut(Spans(starts, ends, np.zeros(len(starts), dtype=np.int8)), cells, policy)


def _cut(chains: Spans, cells: pa.Table, policy: SessionPolicy) -> Spans:
    """Cut the chains that reach their mark. Each round cuts all of them once: rounds = longest chain / cap."""
    if policy.cap is None and not policy.cut_at_midnight:
        return chains
    slot, first = cells["slot"].to_numpy(), cells["first_time"].to_numpy()
    done = []
    left = chains
    while len(left.starts):
        marks, reasons = _marks(first[left.starts], policy)
        reached = slot[left.ends - 1] >= marks
        done.append(left.pick(~reached))
        left, marks, reasons = left.pick(reached), marks[reached], reasons[reached]
        heads = _first_at_or_after(slot, left, marks)
        done.append(Spans(left.starts, heads, reasons))
        left = Spans(heads, left.ends, left.cuts)
    starts, ends, cuts = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.argsort(starts)
    return Spans(starts[order], ends[order], cuts[order])


def _marks(starts: Integers, policy: SessionPolicy) -> tuple[Integers, npt.NDArray[np.int8]]:
    """For a session that begins at each start: the time at which it is cut if it is still open, and the reason."""
    marks = np.full(len(starts), _NEVER)
    reasons = np.full(len(starts), _NO_CUT, dtype=np.int8)
    if policy.cap is not None:
        marks = -(-(starts + policy.cap) // policy.cell) * policy.cell
        reasons[:] = _CAP
    if policy.cut_at_midnight:
        midnights = (starts // DAY + 1) * DAY
        reasons[midnights <= marks] = _MIDNIGHT
        marks = np.minimum(marks, midnights)
    return marks, reasons


def _first_at_or_after(slot: Integers, spans: Spans, marks: Integers) -> Integers:
    """The first cell of each span whose slot is at or after its mark. Each span must have one."""
    low, high = spans.starts.copy(), spans.ends - 1
    while (searching := low < high).any():  # one binary search over all spans at once
        middle = (low + high) // 2
        before = slot[middle] < marks
        low = np.where(searching & before, middle + 1, low)
        high = np.where(searching & ~before, middle, high)
    return low


def cuts_of(reasons: pa.ChunkedArray) -> npt.NDArray[np.int8]:
    """`Spans.cuts` from the cut_reason of SESSION."""
    return pc.index_in(reasons, _CUT_REASONS).to_numpy().astype(np.int8)


def describe(cells: pa.Table, spans: Spans) -> pa.Table:
    """Compute SESSION's columns for each span, without the pane columns.

    Spans may overlap: an early pane covers the first few cells of a session.
    """
    if len(spans.starts) == 0:
        return SESSION_STATE.empty_table()  # as at most ticks of a quiet shard
    starts, final = spans.starts, spans.ends - 1
    start, end = cells["first_time"].to_numpy()[starts], cells["last_time"].to_numpy()[final]
    device = cells["device_id"].take(pa.array(starts))
    columns = {
        "session_id": _session_ids(device, start, starts),
        "device_id": device,
        "session_start": pa.array(start),
        "session_end": pa.array(end),
        "start_date": (start // DAY).astype(np.int32),
        "end_date": (end // DAY).astype(np.int32),
        "duration_secs": (end - start) / SECOND,
        "event_count": range_sum(cells["event_count"], spans),
        "page_view_count": range_sum(cells["page_view_count"], spans),
        "had_purchase": range_sum(cells["had_purchase"], spans) > 0,
        "revenue": _revenue(cells["revenue"], spans),
        "cut_reason": spans.cut_reasons,
    }
    for name, _, keep in ATTRIBUTES:
        columns[name] = take(cells[name], _decided(cells[name], spans, keep))
    # Stitching may resolve the user of an anonymous session days later
    columns["resolved_user_key"] = pa.nulls(len(starts), pa.string())
    return pa.table([columns[name] for name in SESSION_STATE.names], SESSION_STATE.names).cast(SESSION_STATE)


def _session_ids(devices: pa.ChunkedArray, starts: Integers, heads: Integers) -> pa.Array:
    """The session id of each span, computed once for consecutive spans that begin with the same cell."""
    anew = np.ones(len(heads), bool)
    anew[1:] = heads[1:] != heads[:-1]
    if anew.all():
        return session_ids(devices, pa.array(starts))
    ids = session_ids(devices.filter(pa.array(anew)), pa.array(starts[anew]))
    return ids.take(pa.array(np.cumsum(anew) - 1))


def range_sum(values: pa.ChunkedArray, spans: Spans) -> Integers:
    """Sum of a column of integers or flags over each span."""
    numbers = values.to_numpy()
    total = np.cumsum(numbers, dtype=np.int64)
    return np.asarray(total[spans.ends - 1] - total[spans.starts] + numbers[spans.starts])


def _revenue(amounts: pa.ChunkedArray, spans: Spans) -> pa.Array:
    """Sum of money over each span.

    Money has 18 digits. A larger sum comes from a broken producer and must not fail the job.
    """
    values = pl.Series(pl.from_arrow(amounts))
    total = values.cum_sum()
    sums = total[spans.ends - 1] - total[spans.starts] + values[spans.starts]
    return sums.clip(-_MOST_MONEY, _MOST_MONEY).cast(pl.Decimal(18, 4)).to_arrow()


def _decided(values: pa.ChunkedArray, spans: Spans, keep: str) -> Integers:
    """The first (or last) cell of each span with a non-null value, `NONE` if the span has none."""
    if values.null_count == 0:
        return spans.starts if keep == "first" else spans.ends - 1
    if values.null_count == len(values):
        return np.full(len(spans.starts), NONE)
    known = values.is_valid().to_numpy()
    return (first_true if keep == "first" else last_true)(known, spans.starts, spans.ends)


def panes_of_bounded(cells: pa.Table, policy: SessionPolicy) -> pa.Table:
    """Compute the panes of a bounded input: those that ticking would fire if every event were on time.

    Args:
        cells: Rows of CELL as `merge_cells` returns them: all the activity of some devices.
        policy: The rules.

    Returns:
        Rows of SESSION_PANE: for each session its EARLY panes and its ON_TIME pane, numbered from 0.
    """
    if cells.num_rows == 0:
        return SESSION_PANE.empty()
    spans = spans_of(cells, policy)
    early, marks, of_early = _early(cells, spans, policy)
    # The panes of one session are already in the order of their marks, the final one last.
    owner = np.append(of_early, np.arange(len(spans.starts)))
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    every = Spans(
        np.append(early.starts, spans.starts)[order],
        np.append(early.ends, spans.ends)[order],
        np.append(early.cuts, spans.cuts)[order],
    )
    index = np.arange(len(owner)) - np.searchsorted(owner, owner)
    fired_at = np.append(marks, _closing(cells, spans, policy))[order]
    timing = TIMINGS.take(pa.array(np.where(order < len(of_early), EARLY, ON_TIME)))
    return as_panes(describe(cells, every), timing, index, fired_at)


def last_panes_of_bounded(cells: pa.Table, policy: SessionPolicy) -> tuple[pa.Table, int]:
    """Compute the last pane of each session of a bounded input, without the rows of the panes that it replaces.

    Args:
        cells: See `panes_of_bounded`.
        policy: The rules.

    Returns:
        The ON_TIME panes that `panes_of_bounded` returns, and the number of its EARLY panes.
    """
    if cells.num_rows == 0:
        return SESSION_PANE.empty(), 0
    spans = spans_of(cells, policy)
    _, _, of_early = _early(cells, spans, policy)
    index = np.bincount(of_early, minlength=len(spans.starts))
    timing = pa.repeat(PaneTiming.ON_TIME.value, len(index))
    return as_panes(describe(cells, spans), timing, index, _closing(cells, spans, policy)), len(of_early)


def _closing(cells: pa.Table, spans: Spans, policy: SessionPolicy) -> Integers:
    return closing_ticks(cells["last_time"].to_numpy()[spans.ends - 1], policy)


def closing_ticks(last: Integers, policy: SessionPolicy) -> Integers:
    """The tick at which a session with this last event closes: the first one after last + gap."""
    return ((last + policy.gap) // policy.cell + 1) * policy.cell


def _early(cells: pa.Table, spans: Spans, policy: SessionPolicy) -> tuple[Spans, Integers, Integers]:
    """The state of each session at each early mark where it is open and changed; the marks; the session numbers."""
    if policy.early_firing is None:
        none = np.empty(0, dtype=np.int64)
        return spans.pick(none), none, none
    slot, last = cells["slot"].to_numpy(), cells["last_time"].to_numpy()
    owner = np.repeat(np.arange(len(spans.starts)), spans.ends - spans.starts)
    marks = _next_early(slot + policy.cell, policy)
    # The pane of a mark ends with the last cell before it.
    has_pane = np.ones(len(slot), dtype=bool)
    has_pane[:-1] = (marks[1:] != marks[:-1]) | (owner[1:] != owner[:-1])
    has_pane &= last + policy.gap >= marks
    ends = np.flatnonzero(has_pane) + 1
    owner, marks = owner[has_pane], marks[has_pane]
    # A cut is a change too. It is known once the slot of the next session's first cell has ended.
    cut = np.flatnonzero(spans.cuts != _NO_CUT)
    known = _next_early(slot[spans.ends[cut]] + policy.cell, policy)
    whole = ends == spans.ends[owner]
    cuts = np.zeros(len(ends), dtype=np.int8)
    known_of = np.full(len(spans.starts), _NEVER)
    known_of[cut] = known
    cut_known = whole & (marks >= known_of[owner])
    cuts[cut_known] = spans.cuts[owner[cut_known]]
    # A cut that none of these panes shows fires a pane of its own if the session is still open.
    alone = np.ones(len(cut), dtype=bool)
    alone[np.isin(cut, owner[cut_known])] = False
    alone &= last[spans.ends[cut] - 1] + policy.gap >= known
    cut, known = cut[alone], known[alone]
    early = Spans(
        np.append(spans.starts[owner], spans.starts[cut]),
        np.append(ends, spans.ends[cut]),
        np.append(cuts, spans.cuts[cut]),
    )
    return early, np.append(marks, known), np.append(owner, cut)


def _next_early(times: Integers, policy: SessionPolicy) -> Integers:
    assert policy.early_firing is not None
    return -(-times // policy.early_firing) * policy.early_firing


def as_panes(
    sessions: pa.Table,
    timing: pa.Array | pa.ChunkedArray,
    index: Integers | pa.ChunkedArray,
    fired_at: Integers,
    *,
    is_retraction: bool = False,
) -> pa.Table:
    """Rows of SESSION_PANE from sessions, with or without columns of a former pane, and the columns of the pane."""
    columns = dict(zip(sessions.column_names, sessions.columns, strict=True)) | {
        "pane_timing": timing,
        "pane_index": index,
        "is_retraction": np.full(len(sessions), is_retraction),
        "fired_at": pa.array(fired_at),
    }
    return pa.table([columns[name] for name in SESSION_PANE.names], SESSION_PANE.names).cast(SESSION_PANE.schema)
