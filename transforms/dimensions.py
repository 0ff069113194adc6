"""Rows of dim_devices and dim_users from events, and their merge: associative, commutative, idempotent.

An event is a row of its own at first; whatever order and however often rows of a key are merged, they come to the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dimensions import KEYS_KEPT, Dimension
from schemas.records import TIMESTAMP, Record
from transforms.runs import NONE, Flags, Integers, Runs, ranks, runs_of

_SEPARATOR = ","


def deciding_events(events: pa.Table, by: Sequence[str]) -> pa.Table:
    """Of each combination of some columns' values the first and the last event, those of the same instant all.

    They alone decide what a dimension's rows are; of a batch they are a tenth.

    Args:
        events: A table with event_time and the columns, in any order.
        by: Text columns.
    """
    events = events.combine_chunks()
    combination = np.zeros(events.num_rows, np.int64)
    distinct = 1
    for name in by:
        codes, count = _codes(events.column(name))
        if distinct * count > np.iinfo(np.int64).max:
            combination = np.unique(combination, return_inverse=True)[1]
            distinct = int(combination.max(initial=0)) + 1
        combination, distinct = combination * count + codes, distinct * count
    times = events.column("event_time").cast(pa.int64()).to_numpy()
    time = pl.col("time")
    first, last = time.min().over("combination"), time.max().over("combination")
    frame = pl.DataFrame({"combination": combination, "time": times})
    return events.take(frame.select(pl.arg_where((time == first) | (time == last))).to_series().to_arrow())


def merge_rows(rows: pa.Table, dimension: Dimension) -> pa.Table:
    """Merge the rows of each key into one; their order and grouping do not matter.

    Args:
        rows: Rows of the dimension's record, any order.
        dimension: How they merge.

    Returns:
        Rows of the record, one a key, ordered by it.
    """
    rows = rows.combine_chunks()
    if rows.num_rows == 0:
        return rows
    keys = ranks(rows.column(dimension.record.key[0]))
    runs = runs_of(np.argsort(keys, kind="stable"), keys)
    chosen, lengths = runs.order[runs.starts], runs.ends - runs.starts
    several = lengths > 1
    if several.any():
        # Few keys have more than one row: those alone are computed
        parts = rows.take(runs.order[np.repeat(several, lengths)]).combine_chunks()
        ends = np.cumsum(lengths[several])
        merged = _reduce(parts, Runs(np.arange(len(parts)), ends - lengths[several]), dimension)
        chosen[several] = len(rows) + np.arange(len(merged))
        rows = pa.concat_tables([rows, merged]).combine_chunks()
    return rows.take(chosen)


def rows_of_events(events: pa.Table, dimension: Dimension, columns: Mapping[str, Any]) -> pa.Table:
    """Each event as a row of the dimension.

    Args:
        events: A table with the columns of events that the dimension observes.
        dimension: The dimension.
        columns: The record's columns that are no observation: its key, its set of keys, what is given.
    """
    times, ids = events.column("event_time"), events.column("event_id")
    own = {"first_seen_at": times, "last_seen_at": times, "first_event_id": ids, "last_event_id": ids}
    found: dict[str, Any] = {**own, **columns}
    for column in dimension.observed:
        values = events.column(column.source)
        found[column.name] = values
        if not column.brief:
            found[column.at] = pc.if_else(values.is_valid(), times, pa.scalar(None, TIMESTAMP))
            found[column.event] = pc.if_else(values.is_valid(), ids, pa.scalar(None, pa.string()))
    return _table(found, dimension.record, events.num_rows)


def _reduce(rows: pa.Table, runs: Runs, dimension: Dimension) -> pa.Table:
    """One row for each run of rows."""
    record = dimension.record
    first = _found(rows, runs, "first", "first_seen_at", "first_event_id")
    last = _found(rows, runs, "last", "last_seen_at", "last_event_id")
    columns: dict[str, Any] = {
        name: rows.column(name).take(which)
        for which, names in (
            (runs.order[runs.starts], record.key),
            (first, ("first_seen_at", "first_event_id")),
            (last, ("last_seen_at", "last_event_id")),
        )
        for name in names
    }
    for column in dimension.observed:
        own = f"{column.keep}_seen_at", f"{column.keep}_event_id"
        valid = rows.column(column.name).is_valid().to_numpy()
        times, ids = rows.column(column.at), rows.column(column.event)
        if column.brief:
            times, ids = pc.coalesce(times, rows.column(own[0])), pc.coalesce(ids, rows.column(own[1]))
        micros = times.cast(pa.int64()).fill_null(0).to_numpy()
        found = (runs.first if column.keep == "first" else runs.last)(micros, ids, valid)
        columns[column.name] = _take(rows.column(column.name), found)
        at, event = _take(times, found), _take(ids, found)
        if column.brief:
            is_own = pc.and_(pc.equal(at, columns[own[0]]), pc.equal(event, columns[own[1]]))
            at = pc.if_else(is_own, pa.scalar(None, TIMESTAMP), at)
            event = pc.if_else(is_own, pa.scalar(None, pa.string()), event)
        columns[column.at], columns[column.event] = at, event
    for name in dimension.least:
        values = rows.column(name)
        micros = values.cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
        least = np.minimum.reduceat(micros[runs.order], runs.starts)
        columns[name] = pa.array(least, mask=least == np.iinfo(np.int64).max).cast(values.type)
    for name in dimension.given:
        columns[name] = _take(rows.column(name), _any_valid(rows.column(name).is_valid().to_numpy(), runs))
    keys, counts = _union(rows.column(dimension.keys.name), runs)
    columns |= {dimension.keys.name: keys, dimension.keys.number: counts}
    return _table(columns, record, len(runs.starts))


def _found(rows: pa.Table, runs: Runs, keep: str, at: str, event: str) -> Integers:
    times = rows.column(at).cast(pa.int64()).to_numpy()
    return (runs.first if keep == "first" else runs.last)(times, rows.column(event))


def _any_valid(valid: Flags, runs: Runs) -> Integers:
    """A row of each run that has a value, `NONE` where none has."""
    rows = np.where(valid, np.arange(len(valid)), NONE)
    return np.asarray(np.maximum.reduceat(rows[runs.order], runs.starts), np.int64)


def _union(keys: pa.ChunkedArray, runs: Runs) -> tuple[pa.Array, pa.Array]:
    """The union of the sets of each run, as text and number."""
    # The keys with the least hash are a sample of all, and the least of a union are those of its parts' least
    frame = pl.DataFrame({"run": runs.of_place, "key": pl.Series(pl.from_arrow(keys.take(pa.array(runs.order))))})
    each = (
        frame.drop_nulls().with_columns(pl.col("key").str.split(_SEPARATOR)).explode("key").unique().sort("run", "key")
    )
    least = each.group_by("run", maintain_order=True).head(KEYS_KEPT).group_by("run").agg("key")
    sets = pl.DataFrame({"run": np.arange(len(runs.starts))}).join(least, on="run", how="left", maintain_order="left")
    count = sets["key"].list.len().fill_null(0).cast(pl.Int32)
    return sets["key"].list.join(_SEPARATOR).to_arrow().cast(pa.string()), count.to_arrow()


def _take(values: pa.ChunkedArray, rows: Integers) -> pa.ChunkedArray:
    """The values at some rows, null where the row is `NONE`."""
    missing = rows == NONE
    return values.take(pa.array(rows, mask=missing) if missing.any() else rows)


def _table(columns: Mapping[str, Any], record: Record, rows: int) -> pa.Table:
    """The columns as a table of the record; those that are not named are null."""
    return pa.table({f.name: columns.get(f.name, pa.nulls(rows, f.type)) for f in record}, schema=record.schema)


def _codes(values: pa.ChunkedArray) -> tuple[Integers, int]:
    """A number for each text, null the highest; and how many there are."""
    encoded = values.combine_chunks().dictionary_encode()
    count = len(encoded.dictionary) + 1
    return pc.fill_null(encoded.indices, count - 1).to_numpy().astype(np.int64), count
