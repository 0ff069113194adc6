"""Revision: recompute sessions from the lake's events and compare them with the stored sessions. Rebuilds use it too.

A *chain* is a device's activity without a silence longer than the gap. Caps cut a chain into sessions, and the cuts
depend on the start of the chain, so a chain is recomputed either as a whole or not at all. A *cluster* is a set of
chains and stored sessions that overlap, so that a change in one of them can affect the others. If a cluster may extend
beyond the hours that were read, more hours are read.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.columns import to_polars
from schemas.durations import DAY
from schemas.sessions import SESSION, PaneTiming
from transforms.frames import to_arrow
from transforms.runs import Flags, Integers
from transforms.sessions.cells import merge_cells
from transforms.sessions.event_hours import EventHours
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessions import (
    SESSION_STATE,
    Spans,
    as_panes,
    closing_ticks,
    describe,
    panes_of_bounded,
    spans_of,
)

TOUCHED = pa.schema([("device_id", pa.string()), ("slot", pa.int64())])
"""Slots of the time grid in which a run has added events of a device."""

_COMPARED = [name for name in SESSION_STATE.names if name not in {"session_id", "resolved_user_key"}]
"""The columns in which a changed session differs. The user that stitching has resolved is not one of them."""

ReadMore = Callable[[EventHours, Integers, pa.Array], tuple[pa.Table, pa.Table]]
"""Takes the hours read so far, further hours to read, and devices. Returns the devices' cells in the further hours, and
their stored sessions on dates of which no hour had been read."""


class Scope(NamedTuple):
    """What to recompute: every cluster with a touched slot, or with an event or a stored session on one of the days.

    Attributes:
        touched: Rows of `TOUCHED`; duplicates are allowed.
        days: Days since 1970, in ascending order. A stored session counts if any part of it is on one of them.
        settled_before: Clusters with an event at or after this time (microseconds) are left unchanged; None to
            recompute all.
    """

    touched: pa.Table
    days: Integers
    settled_before: int | None = None


class Revised(NamedTuple):
    """The sessions in scope, rows of SESSION_PANE.

    Attributes:
        changes: The differences from the stored sessions: new and changed sessions, and retractions.
        kept: Sessions that are equal to their stored rows.
    """

    changes: pa.Table
    kept: pa.Table


class _Clusters(NamedTuple):
    """The clusters, and the cluster of each session."""

    table: pl.DataFrame
    """One row per cluster: device_id, first and last (microseconds), touched, and latest, the highest pane_index of its
    stored sessions, null if it has none."""
    of_span: Integers
    """The cluster of each span."""
    of_stored: Integers
    """The cluster of each stored session."""


def touched_slots(events: pa.Table, policy: SessionPolicy) -> pa.Table:
    """The slots that events touch: rows of `TOUCHED` without duplicates."""
    frame = to_polars(events.select(["device_id", "event_time"]))
    slot = pl.col("event_time").cast(pl.Int64) // policy.cell * policy.cell
    return to_arrow(frame.select("device_id", slot.alias("slot")).unique(), TOUCHED)


def revise(
    cells: pa.Table, stored: pa.Table, scope: Scope, hours: EventHours, read_more: ReadMore, policy: SessionPolicy
) -> Revised:
    """Compute the sessions in scope from the cells, and compare them with the stored sessions.

    Args:
        cells: Rows of CELL, any order, possibly partial: all cells in the hours that have been read.
        stored: Rows of SESSION: those that start on the dates of these hours.
        scope: What to recompute.
        hours: The hours that have been read.
        read_more: Reads further hours that a cluster extends into.
        policy: The rules.
    """
    reach = DAY
    while True:
        cells = merge_cells([cells])
        known, spans = to_polars(stored), spans_of(cells, policy)
        clusters = _clusters(to_polars(cells), spans, known, scope)
        first, last = (clusters.table[name].to_numpy() for name in ("first", "last"))
        short = clusters.table["touched"].to_numpy() & hours.cut_off(first - policy.gap, last + policy.gap)
        if not short.any():
            return _revised(cells, spans, known, clusters, scope, policy)
        # The reach doubles with each step, so that a device that never pauses takes few steps
        more = hours.unread_between(first[short] - policy.gap - reach, last[short] + policy.gap + reach)
        devices = clusters.table["device_id"].filter(pl.Series(short)).unique().to_arrow().cast(pa.string())
        more_cells, more_stored = read_more(hours, more, devices)
        cells, stored = pa.concat_tables([cells, more_cells]), pa.concat_tables([stored, more_stored])
        hours, reach = hours.having_read(more), 2 * reach


def _clusters(cells: pl.DataFrame, spans: Spans, stored: pl.DataFrame, scope: Scope) -> _Clusters:
    """Find the clusters, ordered by (device_id, first)."""
    begins = np.ones(len(spans.starts), bool)
    begins[1:] = spans.cuts[:-1] == 0
    heads = np.flatnonzero(begins)
    starts, ends = spans.starts[heads], spans.ends[np.append(heads[1:], len(begins))[: len(heads)] - 1]
    touched = _in_scope(cells, scope)
    nothing = pl.lit(None, pl.Int32)
    chains = pl.DataFrame(
        {
            "device_id": cells["device_id"][starts],
            "first": cells["first_time"][starts],
            "last": cells["last_time"][ends - 1],
            "touched": np.logical_or.reduceat(touched, starts) if len(starts) else touched,
        }
    ).with_columns(pane_index=nothing)
    reaching = _reaches_into(stored, scope.days)
    sessions = stored.select(
        "device_id",
        pl.col("session_start").cast(pl.Int64).alias("first"),
        pl.col("session_end").cast(pl.Int64).alias("last"),
        pl.Series("touched", reaching, pl.Boolean),
        "pane_index",
    )
    rows = pl.concat([chains, sessions]).with_row_index("row").sort("device_id", "first", "row")
    reached = pl.col("last").cum_max().shift(1).over("device_id")
    rows = rows.with_columns(cluster=((reached.is_null() | (pl.col("first") > reached)).cast(pl.Int64).cum_sum() - 1))
    table = (
        rows.group_by("cluster", maintain_order=True)
        .agg(
            pl.col("device_id", "first").first(),
            pl.col("last").max(),
            pl.col("touched").any(),
            pl.col("pane_index").max().alias("latest"),
        )
        .drop("cluster")
    )
    of_row = rows.sort("row")["cluster"].to_numpy()
    return _Clusters(table, of_row[: len(heads)][np.cumsum(begins) - 1], of_row[len(heads) :])


def _in_scope(cells: pl.DataFrame, scope: Scope) -> Flags:
    days = cells.select(pl.col("first_time", "last_time") // DAY)
    found = np.isin(days["first_time"], scope.days) | np.isin(days["last_time"], scope.days)
    touched = to_polars(scope.touched)
    rows = cells.select("device_id", "slot").with_row_index("row")
    found[rows.join(touched, on=["device_id", "slot"], how="semi")["row"].to_numpy()] = True
    return found


def _reaches_into(stored: pl.DataFrame, days: Integers) -> Flags:
    """A flag for each stored session: whether any part of it is on one of the days."""
    start, end = (stored[name].cast(pl.Int64).to_numpy() // DAY for name in ("session_start", "session_end"))
    return np.asarray(np.searchsorted(days, start, "left") < np.searchsorted(days, end, "right"))


def _revised(
    cells: pa.Table, spans: Spans, stored: pl.DataFrame, clusters: _Clusters, scope: Scope, policy: SessionPolicy
) -> Revised:
    chosen = clusters.table["touched"].to_numpy()
    if scope.settled_before is not None:
        chosen = chosen & (clusters.table["last"].to_numpy() < scope.settled_before)
    known = chosen & clusters.table["latest"].is_not_null().to_numpy()
    fresh = np.repeat((chosen & ~known)[clusters.of_span], spans.ends - spans.starts)
    new_panes = panes_of_bounded(cells.filter(pa.array(fresh)), policy)

    # One more than any in the cluster: the device store keeps the highest, so an id that was withdrawn can come back
    following = clusters.table["latest"] + 1
    of_span, of_stored = clusters.of_span[known[clusters.of_span]], clusters.of_stored[known[clusters.of_stored]]
    before = stored.filter(pl.Series(known[clusters.of_stored], dtype=pl.Boolean)).with_columns(
        following=following[of_stored]
    )
    now = to_polars(describe(cells, spans.pick(known[clusters.of_span]))).with_columns(following=following[of_span])
    compared = now.join(
        before.select("session_id", *(pl.col(name).alias(f"{name}__before") for name in _COMPARED), *_PANE),
        on="session_id",
        how="left",
        maintain_order="left",
    )
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}__before")) for name in _COMPARED)
    compared = compared.with_columns(same=same & pl.col("pane_index").is_not_null())
    late = pl.lit(PaneTiming.LATE.value).alias("pane_timing")
    changed = compared.filter(~pl.col("same")).with_columns(late, pane_index=pl.col("following"))
    gone = before.join(now, on="session_id", how="anti").with_columns(late, pane_index=pl.col("following"))
    return Revised(
        pa.concat_tables(
            [_panes(gone, policy, is_retraction=True), _panes(changed, policy, is_retraction=False), new_panes]
        ),
        _panes(compared.filter("same"), policy, is_retraction=False),
    )


_PANE = ("pane_timing", "pane_index")


def _panes(sessions: pl.DataFrame, policy: SessionPolicy, *, is_retraction: bool) -> pa.Table:
    table = to_arrow(sessions, SESSION.schema)
    fired_at = closing_ticks(table["session_end"].cast(pa.int64()).to_numpy(), policy)
    return as_panes(table, table["pane_timing"], table["pane_index"], fired_at, is_retraction=is_retraction)
