"""Cells: a commutative summary of one device's events in one slot of the time grid.

Sessions are computed from cells, never from events. For each attribute a cell keeps the (event_time, event_id) of the
event that decided it, so that partial cells of the same device and slot merge into the same cell in any order.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import codes
from schemas.records import Field, Record
from stores.encoded_texts import plain
from transforms.runs import NONE, Flags, Integers, Runs, first_true, in_order, last_true, ranks, runs_of, take
from transforms.sessions.policy import SessionPolicy

MONEY_SUM = pa.decimal128(38, 4)
"""The type of a cell's revenue, wide enough that no number of events can overflow it."""


class Attribute(NamedTuple):
    """A column of a cell whose value comes from one of its events."""

    name: str
    source: str
    """The column of the event."""
    keep: str
    """``first`` or ``last``: which non-null value to keep, in order of (event_time, event_id)."""


ATTRIBUTES = (
    Attribute("entry_page", "page_url", "first"),
    Attribute("exit_page", "page_url", "last"),
    Attribute("user_key", "user_key", "last"),
    Attribute("country", "country", "first"),
    Attribute("device_type", "device_type", "first"),
    Attribute("os", "os", "first"),
    Attribute("app_version", "app_version", "first"),
)


def _attribute_fields() -> Iterable[Field]:
    for name, source, keep in ATTRIBUTES:
        yield Field(name, pa.string(), f"the {keep} non-null {source}")
        yield Field(f"{name}_time", pa.int64(), f"event_time it was seen at; null: the cell's {keep} event")
        yield Field(f"{name}_id", pa.string(), f"event_id it was seen at; null: the cell's {keep} event")


CELL = Record(
    name="cells",
    grain="one device in one slot of the time grid; times are microseconds since the epoch",
    fields=(
        Field("device_id", pa.string(), "the device", nullable=False),
        Field("slot", pa.int64(), "start of the slot; of a folded cell, its first slot", nullable=False),
        Field("first_time", pa.int64(), "event_time of the first event", nullable=False),
        Field("first_id", pa.string(), "event_id of the first event", nullable=False),
        Field("last_time", pa.int64(), "event_time of the last event", nullable=False),
        Field("last_id", pa.string(), "event_id of the last event", nullable=False),
        Field("event_count", pa.int64(), "events", nullable=False),
        Field("page_view_count", pa.int64(), "events of type page_view", nullable=False),
        Field("had_purchase", pa.bool_(), "whether any event was a purchase", nullable=False),
        Field("revenue", MONEY_SUM, "sum over the events; major currency units", nullable=False),
        *_attribute_fields(),
    ),
    sort_by=("device_id", "slot"),
    key=("device_id", "slot"),
)

EVENT_COLUMNS = (
    "event_id",
    "event_type",
    "event_time",
    "device_id",
    "user_key",
    "page_url",
    "revenue",
    "country",
    "device_type",
    "os",
    "app_version",
)
"""The columns of an event batch that cells are computed from."""


def cells_of(events: pa.Table, policy: SessionPolicy) -> pa.Table:
    """Aggregate events into cells.

    Args:
        events: Rows of EVENT_BATCH, any order; only `EVENT_COLUMNS` are read.
        policy: Its `cell` is the length of a slot.

    Returns:
        Rows of CELL; those of a device are together, ordered by slot.
    """
    if events.num_rows == 0:
        return CELL.empty()
    events = events.select(EVENT_COLUMNS).combine_chunks()
    devices, _ = codes(events.column("device_id"))
    ids = events.column("event_id")
    times = events.column("event_time").cast(pa.int64()).to_numpy()
    slots = times // policy.cell * policy.cell
    order = in_order(devices, times, ids)
    runs = runs_of(order, devices, slots)
    first, last = order[runs.starts], order[runs.ends - 1]
    kinds = events.column("event_type")
    columns = {
        "device_id": events.column("device_id").take(first),
        "slot": slots[first],
        "first_time": times[first],
        "first_id": ids.take(first),
        "last_time": times[last],
        "last_id": ids.take(last),
        "event_count": runs.ends - runs.starts,
        "page_view_count": runs.sum(pc.equal(kinds, "page_view").to_numpy()),
        "had_purchase": runs.any(pc.equal(kinds, "purchase").to_numpy()),
        "revenue": _total(events.column("revenue"), runs),
    }
    for attribute in ATTRIBUTES:
        values, decided = events.column(attribute.source), first if attribute.keep == "first" else last
        found = decided
        if values.null_count:
            known = values.is_valid().to_numpy()[order]
            places = (first_true if attribute.keep == "first" else last_true)(known, runs.starts, runs.ends)
            found = np.where(places == NONE, NONE, order[places])
        apart = np.where(found == decided, NONE, found)
        columns |= _attribute(attribute.name, values, found, times, ids, apart)
    return plain(pa.table(columns)).cast(CELL.schema)


def merge_cells(tables: Iterable[pa.Table]) -> pa.Table:
    """Merge cells of the same device and slot; their order and grouping do not matter.

    Args:
        tables: Rows of CELL, any order.

    Returns:
        Rows of CELL, one per (device_id, slot), in this order.
    """
    cells = pa.concat_tables([CELL.empty(), *tables]).combine_chunks()
    if cells.num_rows == 0:
        return cells
    devices, slots = ranks(cells.column("device_id")), cells.column("slot").to_numpy()
    return _merge_runs(cells, runs_of(np.lexsort((slots, devices)), devices, slots))


def fold_cells(cells: pa.Table, begins: Flags) -> pa.Table:
    """Merge consecutive cells of one session between which no more events can arrive.

    Args:
        cells: Rows of CELL, ordered by (device_id, slot).
        begins: A flag for each row: true if it starts a new cell, false if it joins the row before.

    Returns:
        Rows of CELL, each with the slot of its first part.
    """
    return _merge_runs(cells, Runs(np.arange(len(begins)), np.flatnonzero(begins)))


def _merge_runs(cells: pa.Table, runs: Runs) -> pa.Table:
    """One cell for each run of partial cells. Only runs of more than one cell, which are few, are computed."""
    chosen, lengths = runs.order[runs.starts], runs.ends - runs.starts
    several = lengths > 1
    if several.any():
        parts = cells.take(runs.order[np.repeat(several, lengths)])
        ends = np.cumsum(lengths[several])
        merged = _reduce(parts, Runs(np.arange(len(parts)), ends - lengths[several]))
        chosen[several] = len(cells) + np.arange(len(merged))
        cells = pa.concat_tables([cells, merged]).combine_chunks()
    return cells.take(chosen)


def _reduce(cells: pa.Table, runs: Runs) -> pa.Table:
    """One cell for each run of partial cells. The order within a run does not matter."""
    heads = runs.order[runs.starts]
    first_times, last_times = cells.column("first_time").to_numpy(), cells.column("last_time").to_numpy()
    first = runs.first(first_times, cells.column("first_id"))
    last = runs.last(last_times, cells.column("last_id"))
    columns = {
        "device_id": cells.column("device_id").take(heads),
        "slot": cells.column("slot").take(heads),
        "first_time": first_times[first],
        "first_id": cells.column("first_id").take(first),
        "last_time": last_times[last],
        "last_id": cells.column("last_id").take(last),
        "event_count": runs.sum(cells.column("event_count").to_numpy()),
        "page_view_count": runs.sum(cells.column("page_view_count").to_numpy()),
        "had_purchase": runs.any(cells.column("had_purchase").to_numpy()),
        "revenue": _total(cells.column("revenue"), runs),
    }
    for attribute in ATTRIBUTES:
        columns |= _reduce_attribute(cells, runs, attribute, first if attribute.keep == "first" else last)
    return pa.table(columns, CELL.schema)


def _reduce_attribute(cells: pa.Table, runs: Runs, attribute: Attribute, decided: Integers) -> dict[str, Any]:
    """The columns of an attribute; `decided` are the rows with each run's overall first or last event."""
    name, _, keep = attribute
    values, own = cells.column(name), cells.column(f"{name}_time").is_valid().to_numpy()
    times = pc.coalesce(cells.column(f"{name}_time"), cells.column(f"{keep}_time")).to_numpy()
    ids = pc.coalesce(cells.column(f"{name}_id"), cells.column(f"{keep}_id"))
    found = decided
    if values.null_count or own.any():
        find = runs.first if keep == "first" else runs.last
        found = find(times, ids, valid=values.is_valid().to_numpy())
    apart = np.where((found != decided) | own[found], found, NONE)
    return _attribute(name, values, found, times, ids, apart)


def _attribute(
    name: str, values: pa.ChunkedArray, found: Integers, times: Integers, ids: pa.ChunkedArray, apart: Integers
) -> dict[str, Any]:
    """The columns of an attribute: its value, and the time and id of the event that it comes from.

    Time and id are null if that event is the cell's own first or last event, as it nearly always is.
    """
    return {
        name: take(values, found),
        f"{name}_time": pa.array(times[apart], mask=apart == NONE),
        f"{name}_id": take(ids, apart),
    }


def _total(amounts: pa.ChunkedArray, runs: Runs) -> pa.Array | pa.ChunkedArray:
    """The exact sum of decimals over each run, 0 where all are null. Only the few non-null amounts are added up."""
    zeros = pa.repeat(pa.scalar(0, MONEY_SUM), len(runs.starts))
    paid = np.flatnonzero(amounts.is_valid().to_numpy()[runs.order])
    if len(paid) == 0:
        return zeros
    table = pa.table({"run": runs.of_place[paid], "paid": amounts.take(runs.order[paid]).cast(MONEY_SUM)})
    sums = table.group_by("run", use_threads=False).aggregate([("paid", "sum")])
    # Groups come in any order: each run takes its sum by the run's number
    places = np.full(len(zeros), len(sums))
    places[sums.column("run").to_numpy()] = np.arange(len(sums))
    return pa.concat_arrays([*sums.column("paid_sum").chunks, zeros[:1]]).take(pa.array(places))
