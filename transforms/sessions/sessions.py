"""Sessions as a closed form of cells: where each begins and ends, what it holds, what panes it fires."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from schemas.columns import to_polars
from schemas.durations import DAY, SECOND
from schemas.keys import session_ids
from schemas.sessions import SESSION, SESSION_PANE, CutReason, PaneTiming
from transforms.frames import to_arrow
from transforms.runs import Integers, first_true, last_true
from transforms.sessions.cells import ATTRIBUTES, gather
from transforms.sessions.policy import SessionPolicy

SESSION_STATE = pa.schema([f for f in SESSION.schema if f.name not in {"pane_timing", "pane_index"}])
"""What a session is, without the pane that told of it."""

_OWN_COLUMNS = (
    "device_id",
    "slot",
    "first_time",
    "last_time",
    "event_count",
    "page_view_count",
    "had_purchase",
    "revenue",
)
_SHOWN = [*_OWN_COLUMNS, *(attribute.name for attribute in ATTRIBUTES)]
"""The columns of a cell that a session is made of; the others tell how cells merge."""
_NEVER = np.iinfo(np.int64).max
UTC = pl.Datetime("us", "UTC")
CUT_REASONS = pl.Series([None, CutReason.CAP.value, CutReason.MIDNIGHT.value], dtype=pl.String)
_NO_CUT, _CAP, _MIDNIGHT = 0, 1, 2
_MOST_MONEY = pl.Series(["99999999999999.9999"]).cast(pl.Decimal(38, 4))[0]


class Spans(NamedTuple):
    """Sessions as stretches of a table of cells: session i holds the cells from starts[i] up to ends[i]."""

    starts: Integers
    ends: Integers
    cuts: npt.NDArray[np.int8]
    """Why the session was ended while its device went on: 0 not at all, 1 cap, 2 midnight."""

    def pick(self, chosen: npt.NDArray[np.generic]) -> "Spans":
        """Some of the sessions, by flags or numbers."""
        return Spans(self.starts[chosen], self.ends[chosen], self.cuts[chosen])


def chain(cells: pa.Table, policy: SessionPolicy) -> pa.Table:
    """The sessions of some cells.

    Args:
        cells: Rows of CELL as `merge_cells` leaves them.
        policy: Gap, cap and cut.

    Returns:
        Rows of SESSION without the pane columns, by (device_id, session_start).
    """
    frame = to_polars(cells)
    return to_arrow(describe(frame, spans_of(frame, policy)), SESSION_STATE)


def spans_of(cells: pl.DataFrame, policy: SessionPolicy) -> Spans:
    """Where sessions begin and end among cells ordered by (device_id, slot).

    A session goes on while the silence is at most the gap. Because a cell is no longer than the gap, there is
    no such silence inside one. A cut falls on the first cell boundary at or after the session's start + cap,
    or on the next midnight, whichever is earlier; what follows is a new session with its own cap.
    """
    rows = cells.height
    if rows == 0:
        nothing = np.empty(0, dtype=np.int64)
        return Spans(nothing, nothing, nothing.astype(np.int8))
    device = cells["device_id"]
    first, last = cells["first_time"].to_numpy(), cells["last_time"].to_numpy()
    begins = np.ones(rows, dtype=bool)
    begins[1:] = (device.slice(1) != device.slice(0, rows - 1)).to_numpy() | (first[1:] - last[:-1] > policy.gap)
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], rows)
    return _cut(Spans(starts, ends, np.zeros(len(starts), dtype=np.int8)), cells, policy)


def _cut(chains: Spans, cells: pl.DataFrame, policy: SessionPolicy) -> Spans:
    """Cut the chains that reach their mark, all of them at once a round: rounds = longest chain / cap."""
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
    """The boundary at which a session that began at each start is cut if it is still going on, and why."""
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
    """The first cell of each span whose slot is at or after its mark; there is one."""
    low, high = spans.starts.copy(), spans.ends - 1
    while (searching := low < high).any():  # all spans are halved together
        middle = (low + high) // 2
        before = slot[middle] < marks
        low = np.where(searching & before, middle + 1, low)
        high = np.where(searching & ~before, middle, high)
    return low


def describe(cells: pl.DataFrame, spans: Spans) -> pl.DataFrame:
    """What each session holds: SESSION's columns without the pane's.

    Spans may overlap: an early pane is the state of a session's first few cells.
    """
    starts, final = spans.starts, spans.ends - 1
    device = cells["device_id"][starts]
    start, end = cells["first_time"][starts], cells["last_time"][final]
    columns = {
        "session_id": _session_ids(device, start),
        "device_id": device,
        "session_start": start.cast(UTC),
        "session_end": end.cast(UTC),
        "start_date": start.cast(UTC).dt.date(),
        "end_date": end.cast(UTC).dt.date(),
        "duration_secs": pl.Series((end - start).to_numpy() / SECOND),
        "event_count": _range_sum(cells["event_count"], spans),
        "page_view_count": _range_sum(cells["page_view_count"], spans),
        "had_purchase": _range_sum(cells["had_purchase"].cast(pl.Int64), spans) > 0,
        # Money has 18 digits; a sum beyond them is a broken producer, and must not stop the rest.
        "revenue": _range_sum(cells["revenue"], spans).clip(-_MOST_MONEY, _MOST_MONEY).cast(pl.Decimal(18, 4)),
        "cut_reason": CUT_REASONS[spans.cuts.astype(np.int64)],
    }
    for name, _, keep in ATTRIBUTES:
        columns[name] = gather(cells[name], _decided(cells[name], spans, keep))
    # whose an anonymous session is may be known days later
    columns["resolved_user_key"] = pl.repeat(None, len(starts), dtype=pl.String, eager=True)
    return pl.DataFrame(columns)


def _session_ids(devices: pl.Series, starts: pl.Series) -> pl.Series:
    """The session id of each row, computed once where the rows before it are of the same session."""
    anew = (devices.ne(devices.shift()) | starts.ne(starts.shift())).fill_null(value=True)
    ids = session_ids(devices.filter(anew).to_arrow(), starts.filter(anew).to_arrow())
    return pl.Series(pl.from_arrow(ids))[anew.cast(pl.UInt32).cum_sum() - 1]


def _range_sum(values: pl.Series, spans: Spans) -> pl.Series:
    """Sum of a column over each span."""
    total = values.cum_sum()
    return total[spans.ends - 1] - total[spans.starts] + values[spans.starts]


def _decided(values: pl.Series, spans: Spans, keep: str) -> Integers:
    """The first (or last) cell of each span where the value is known, `NONE` where there is none."""
    if values.null_count() == 0:
        return spans.starts if keep == "first" else spans.ends - 1
    known = values.is_not_null().to_numpy()
    return (first_true if keep == "first" else last_true)(known, spans.starts, spans.ends)


def panes_of_bounded(cells: pa.Table, policy: SessionPolicy) -> pa.Table:
    """The panes that the ticks would fire were every event on time, without ticking.

    Args:
        cells: Rows of CELL as `merge_cells` leaves them: the whole of some devices' activity.
        policy: The rules.

    Returns:
        Rows of SESSION_PANE: of each session its EARLY panes and its ON_TIME pane, numbered from 0.
    """
    if cells.num_rows == 0:
        return SESSION_PANE.empty()
    frame = to_polars(cells.select(_SHOWN))
    spans = spans_of(frame, policy)
    closed = closing_ticks(frame["last_time"].to_numpy()[spans.ends - 1], policy)
    session = np.arange(len(spans.starts))
    if policy.early_firing is None:
        return _as_panes(describe(frame, spans), closed, np.zeros(len(session), dtype=np.int64), final=True)
    early, marks, of_early = _early(frame, spans, policy)
    # The panes of one session come in the order of their marks already, the final one last.
    order = np.argsort(np.append(of_early, session), kind="stable")
    every = Spans(
        np.append(early.starts, spans.starts)[order],
        np.append(early.ends, spans.ends)[order],
        np.append(early.cuts, spans.cuts)[order],
    )
    owner = np.append(of_early, session)[order]
    index = np.arange(len(owner)) - np.searchsorted(owner, owner)
    return _as_panes(describe(frame, every), np.append(marks, closed)[order], index, final=order >= len(of_early))


def closing_ticks(last: Integers, policy: SessionPolicy) -> Integers:
    """The first tick after last + gap: where a session with this last event closes."""
    return ((last + policy.gap) // policy.cell + 1) * policy.cell


def _early(cells: pl.DataFrame, spans: Spans, policy: SessionPolicy) -> tuple[Spans, Integers, Integers]:
    """Each session as it is at each early mark where it is open and changed; the marks; their sessions."""
    slot, last = cells["slot"].to_numpy(), cells["last_time"].to_numpy()
    owner = np.repeat(np.arange(len(spans.starts)), spans.ends - spans.starts)
    marks = _next_early(slot + policy.cell, policy)
    # The last cell before a mark is the one that shows there.
    shows = np.ones(len(slot), dtype=bool)
    shows[:-1] = (marks[1:] != marks[:-1]) | (owner[1:] != owner[:-1])
    shows &= last + policy.gap >= marks
    ends = np.flatnonzero(shows) + 1
    owner, marks = owner[shows], marks[shows]
    # A cut is a change too: it is known once the next session's first cell is there.
    cut = np.flatnonzero(spans.cuts != _NO_CUT)
    known = _next_early(slot[spans.ends[cut]] + policy.cell, policy)
    whole = ends == spans.ends[owner]
    cuts = np.zeros(len(ends), dtype=np.int8)
    known_of = np.full(len(spans.starts), _NEVER)
    known_of[cut] = known
    told = whole & (marks >= known_of[owner])
    cuts[told] = spans.cuts[owner[told]]
    alone = np.ones(len(cut), dtype=bool)
    alone[np.isin(cut, owner[told])] = False
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


def _as_panes(
    sessions: pl.DataFrame, fired_at: Integers, index: Integers, *, final: bool | npt.NDArray[np.bool_]
) -> pa.Table:
    timing = pl.Series([PaneTiming.EARLY.value, PaneTiming.ON_TIME.value])
    panes = sessions.with_columns(
        pl.Series("pane_timing", timing[np.broadcast_to(final, len(index)).astype(np.int64)]),
        pl.Series("pane_index", index, dtype=pl.Int32),
        pl.lit(value=False).alias("is_retraction"),
        pl.Series("fired_at", fired_at).cast(UTC),
    )
    return to_arrow(panes, SESSION_PANE.schema)
