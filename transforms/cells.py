"""Cells: what one device did in one slot of the time grid, as a commutative summary of its events.

Sessions are computed from cells, never from events. A cell keeps beside each attribute the (event_time,
event_id) it was seen at, so that partial cells of the same device and slot merge in any order into the same
cell.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.records import Field, Record
from transforms.policy import SessionPolicy
from transforms.runs import NONE, EventIds, Flags, Integers, Runs

MONEY_SUM = pa.decimal128(38, 4)
"""Revenue of a cell: wide enough that no number of events can overflow it."""


class Attribute(NamedTuple):
    """A column of a cell that one of its events decides."""

    name: str
    source: str
    """The event's column."""
    keep: str
    """``first`` or ``last``: which non-null value, in order of (event_time, event_id)."""


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
"""The columns of an event batch that a cell is made of."""


def cells_of(events: pa.Table, policy: SessionPolicy) -> pa.Table:
    """The cells of some events: an event alone is a cell of one, and those are merged.

    Args:
        events: Rows of EVENT_BATCH, any order; only `EVENT_COLUMNS` are read.
        policy: Its `cell` is the grid.

    Returns:
        Rows of CELL by (device_id, slot).
    """
    rows = events.num_rows
    times = events.column("event_time").cast(pa.int64()).combine_chunks()
    slots = pa.array(times.to_numpy() // policy.cell * policy.cell)
    kinds = events.column("event_type")
    columns = {
        "device_id": events.column("device_id"),
        "slot": slots,
        "first_time": times,
        "first_id": events.column("event_id"),
        "last_time": times,
        "last_id": events.column("event_id"),
        "event_count": pa.array(np.ones(rows, dtype=np.int64)),
        "page_view_count": pc.equal(kinds, "page_view").cast(pa.int64()),
        "had_purchase": pc.equal(kinds, "purchase"),
        "revenue": pc.fill_null(events.column("revenue").cast(MONEY_SUM), pa.scalar(0, MONEY_SUM)),
    }
    no_time, no_id = pa.nulls(rows, pa.int64()), pa.nulls(rows, pa.string())
    for attribute in ATTRIBUTES:
        columns[attribute.name] = events.column(attribute.source)
        columns[f"{attribute.name}_time"] = no_time
        columns[f"{attribute.name}_id"] = no_id
    return merge_cells([pa.table(columns, CELL.schema)])


def merge_cells(tables: Iterable[pa.Table]) -> pa.Table:
    """Merge cells of the same device and slot; their order and grouping do not matter.

    Args:
        tables: Rows of CELL, any order.

    Returns:
        Rows of CELL, one a (device_id, slot), ordered by them.
    """
    merged = pa.concat_tables([CELL.empty(), *tables])
    if merged.num_rows == 0:
        return merged
    frame = pl.DataFrame(pl.from_arrow(merged))
    devices = _ranks(merged.column("device_id"))
    slots = frame["slot"].to_numpy()
    order = np.lexsort((slots, devices))
    devices, slots = devices[order], slots[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (devices[1:] != devices[:-1]) | (slots[1:] != slots[:-1])
    return to_arrow(_reduce(frame, Runs(order, np.flatnonzero(begins))), CELL.schema)


def fold_cells(cells: pa.Table, begins: Flags) -> pa.Table:
    """Merge consecutive cells of one session into one, where no event between them can come any more.

    Args:
        cells: Rows of CELL by (device_id, slot).
        begins: A flag a row: true where a row starts a new cell, false where it joins the row before.

    Returns:
        Rows of CELL, each in the slot of its first part.
    """
    if begins.all():
        return cells
    frame = pl.DataFrame(pl.from_arrow(cells))
    return to_arrow(_reduce(frame, Runs(np.arange(len(begins)), np.flatnonzero(begins))), CELL.schema)


def _reduce(cells: pl.DataFrame, runs: Runs) -> pl.DataFrame:
    """One cell for each run of partial cells, whose order within their run does not matter."""
    if len(runs.starts) == len(runs.order):
        return cells[runs.order]
    heads = runs.order[runs.starts]
    first_times, last_times = cells["first_time"].to_numpy(), cells["last_time"].to_numpy()
    first = runs.first(first_times, EventIds(cells["first_id"]))
    last = runs.last(last_times, EventIds(cells["last_id"]))
    revenue = cells["revenue"][runs.order].cum_sum()[runs.ends - 1]
    columns = {
        "device_id": cells["device_id"][heads],
        "slot": cells["slot"][heads],
        "first_time": pl.Series(first_times[first]),
        "first_id": cells["first_id"][first],
        "last_time": pl.Series(last_times[last]),
        "last_id": cells["last_id"][last],
        "event_count": pl.Series(runs.sum(cells["event_count"].to_numpy())),
        "page_view_count": pl.Series(runs.sum(cells["page_view_count"].to_numpy())),
        "had_purchase": pl.Series(runs.any(cells["had_purchase"].to_numpy())),
        "revenue": revenue - revenue.shift(1, fill_value=0),
    }
    for attribute in ATTRIBUTES:
        columns |= _reduce_attribute(cells, runs, attribute, first if attribute.keep == "first" else last)
    return pl.DataFrame(columns)


def _reduce_attribute(cells: pl.DataFrame, runs: Runs, attribute: Attribute, decided: Integers) -> dict[str, pl.Series]:
    """The attribute's value and event; `decided` are the rows of each run's own first or last event."""
    name, _, keep = attribute
    values, own_times, own_ids = cells[name], cells[f"{name}_time"], cells[f"{name}_id"]
    times, ids = cells[f"{keep}_time"].to_numpy(), EventIds(cells[f"{keep}_id"])
    own = own_times.is_not_null().to_numpy()
    if own.any():
        times = np.where(own, own_times.fill_null(0).to_numpy(), times)
        ids = EventIds(cells[f"{keep}_id"], own_ids)
    if values.null_count() == 0 and not own.any():
        found = decided
    else:
        find = runs.first if keep == "first" else runs.last
        found = find(times, ids, values.is_not_null().to_numpy())
    # The event need not be written where it is the run's own first or last: nearly always.
    apart = (found != NONE) & ((found != decided) | own[found])
    rows = found[apart]
    places = np.full(len(found), NONE)
    places[apart] = np.arange(len(rows))
    return {
        name: gather(values, found),
        f"{name}_time": gather(pl.Series(times[rows], dtype=pl.Int64), places),
        f"{name}_id": gather(ids.of(rows), places),
    }


def gather(values: pl.Series, rows: Integers) -> pl.Series:
    """The values at some rows, null where the row is `NONE`."""
    missing = rows == NONE
    if not missing.any():
        return values[rows]
    if missing.all():
        return pl.repeat(None, len(rows), dtype=values.dtype, eager=True)
    return values.gather(pl.Series(pl.from_arrow(pa.array(rows, mask=missing))))


def to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """A frame as an Arrow table of exactly this schema."""
    names = schema.names
    return frame.select(names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def _ranks(values: pa.ChunkedArray) -> Integers:
    """The rank of each string among the distinct ones; sorts the distinct ones alone."""
    encoded = values.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[encoded.indices.to_numpy()]
