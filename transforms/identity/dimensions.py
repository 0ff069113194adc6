"""Aggregate events into rows of dim_devices and dim_users, and merge rows of the same key.

The merge is associative, commutative and idempotent: rows of a key give the same result in any order, any grouping, and
however often each is merged. The first and the last value are therefore those by (event_time, event_id, value): an
event_id is unique only on its device, so events of a user can have the same time and id.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import codes, whole
from schemas.dimensions import KEYS_KEPT, Dimension
from schemas.records import TIMESTAMP, Record
from transforms.runs import NONE, Flags, Integers, Runs, first_true, in_order, last_true, ranks, repeats, runs_of, take

_SEPARATOR = ","


def deciding_events(events: pa.Table, *combinations: Sequence[str]) -> pa.Table:
    """Select the events that decide the rows of dimensions: the first and the last of each combination of values.

    All events with the same first or last event_time are kept. In a large batch, a tenth of the events remain.

    Args:
        events: A table with event_time and the columns, in any order.
        combinations: Groups of text columns. The events with the same values in a group are one combination.
    """
    events = events.combine_chunks()
    times = events.column("event_time").cast(pa.int64()).to_numpy()
    order = np.argsort(times, kind="stable")
    decides = np.zeros(len(times), bool)
    for names in combinations:
        combined = pa.array(_combined(events, names)).dictionary_encode()
        numbers, bound = combined.indices.to_numpy(), np.empty(len(combined.dictionary), np.int64)
        for rows in (order, order[::-1]):
            bound[numbers[rows]] = times[rows]  # among several rows with one number, the last assignment wins
            decides |= times == bound[numbers]
    return events.filter(pa.array(decides))


def _combined(events: pa.Table, names: Sequence[str]) -> Integers:
    """A number for each combination of values."""
    combined, distinct = np.zeros(events.num_rows, np.int64), 1
    for name in names:
        encoded = whole(events.column(name)).dictionary_encode()
        count = len(encoded.dictionary) + 1
        if distinct * count > np.iinfo(np.int64).max:
            combined = np.unique(combined, return_inverse=True)[1]
            distinct = int(combined.max(initial=0)) + 1
        combined = combined * count + pc.fill_null(encoded.indices, count - 1).to_numpy()
        distinct *= count
    return combined


def merge_rows(rows: pa.Table, dimension: Dimension) -> pa.Table:
    """Merge the rows of each key into one; their order and grouping do not matter.

    Args:
        rows: Rows of the dimension's record, any order.
        dimension: How they merge.

    Returns:
        Rows of the record, one per key, in no order.
    """
    rows = rows.combine_chunks()
    if rows.num_rows == 0:
        return rows
    keys, _ = codes(rows.column(dimension.record.key[0]))
    runs = runs_of(np.argsort(keys, kind="stable"), keys)
    chosen, lengths = runs.order[runs.starts], runs.ends - runs.starts
    several = lengths > 1
    if several.any():
        # Compute only the keys with more than one row, which are few
        parts = rows.take(runs.order[np.repeat(several, lengths)]).combine_chunks()
        ends = np.cumsum(lengths[several])
        merged = _reduce(parts, Runs(np.arange(len(parts)), ends - lengths[several]), dimension)
        chosen[several] = len(rows) + np.arange(len(merged))
        rows = pa.concat_tables([rows, merged]).combine_chunks()
    return rows.take(chosen)


def sum_up(events: pa.Table, key: str, keys: pa.ChunkedArray, dimension: Dimension) -> pa.Table:
    """Aggregate events into rows of a dimension.

    Args:
        events: A table with the columns of events that the dimension observes, at least one row.
        key: The column that is the record's key, never null.
        keys: For each event, the key to add to the row's set of keys; null for none.
        dimension: The dimension. Its `given` columns are null in the result unless the events have them.

    Returns:
        Rows of the record, one per key, in no order.
    """
    events = events.combine_chunks()
    group, ids = codes(events.column(key))[0], events.column("event_id")
    times = events.column("event_time").cast(pa.int64()).to_numpy()
    order = in_order(group, times, ids)
    runs = runs_of(order, group)
    first, last = order[runs.starts], order[runs.ends - 1]
    when = events.column("event_time")
    again = repeats(order, group, times, ids)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(~again)  # equal for rows with the same key, time and id
    columns: dict[str, Any] = {
        key: events.column(key).take(first),
        "first_seen_at": when.take(first),
        "first_event_id": ids.take(first),
        "last_seen_at": when.take(last),
        "last_event_id": ids.take(last),
    }
    for column in dimension.observed:
        values, own = events.column(column.source), first if column.keep == "first" else last
        found = _deciding(values, Runs(_by_value(values, order, again, numbers), runs.starts), column.keep)
        columns[column.name] = take(values, found)
        apart = np.where(numbers[found] == numbers[own], NONE, found) if column.brief else found
        columns[column.at], columns[column.event] = take(when, apart), take(ids, apart)
    for name in {*dimension.given} & {*events.column_names}:
        columns[name] = events.column(name).take(first)
    for name in dimension.least:
        columns[name] = take(when, _deciding(keys, runs, "first"))
    columns[dimension.keys.name], columns[dimension.keys.number] = _union(keys, runs)
    return _table(columns, dimension.record, len(runs.starts))


def _by_value(values: pa.ChunkedArray, order: Integers, again: Flags, numbers: Integers) -> Integers:
    """The order in which events with the same number, if they are of several devices, are ordered by value."""
    if not again.any():
        return order
    tied = again.copy()
    tied[:-1] |= again[1:]
    rows, order = order[tied], order.copy()
    order[tied] = rows[np.lexsort((ranks(pc.fill_null(values.take(rows), "")), numbers[rows]))]
    return order


def _deciding(values: pa.ChunkedArray, runs: Runs, keep: str) -> Integers:
    """The first or last row of each run that has a value; `NONE` if none has."""
    if values.null_count == 0:
        return runs.order[runs.starts] if keep == "first" else runs.order[runs.ends - 1]
    known = values.is_valid().to_numpy()[runs.order]
    places = (first_true if keep == "first" else last_true)(known, runs.starts, runs.ends)
    return np.where(places == NONE, NONE, runs.order[places])


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
        find = runs.first if column.keep == "first" else runs.last
        found = find(micros, ids, rows.column(column.name), valid=valid)
        columns[column.name] = take(rows.column(column.name), found)
        at, event = take(times, found), take(ids, found)
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
        columns[name] = take(rows.column(name), _any_valid(rows.column(name).is_valid().to_numpy(), runs))
    keys, counts = _union(rows.column(dimension.keys.name), runs)
    columns |= {dimension.keys.name: keys, dimension.keys.number: counts}
    return _table(columns, record, len(runs.starts))


def _found(rows: pa.Table, runs: Runs, keep: str, at: str, event: str) -> Integers:
    times = rows.column(at).cast(pa.int64()).to_numpy()
    return (runs.first if keep == "first" else runs.last)(times, rows.column(event))


def _any_valid(valid: Flags, runs: Runs) -> Integers:
    """A row with a value for each run, `NONE` if the run has none."""
    rows = np.where(valid, np.arange(len(valid)), NONE)
    return np.asarray(np.maximum.reduceat(rows[runs.order], runs.starts), np.int64)


def _union(keys: pa.ChunkedArray, runs: Runs) -> tuple[pa.Array, pa.Array]:
    """The union of the sets of each run: the keys joined into a text, and their number."""
    encoded = whole(keys).dictionary_encode()
    texts, sets = encoded.dictionary, pc.fill_null(encoded.indices, NONE).to_numpy()[runs.order]
    known = sets != NONE
    distinct = max(len(texts), 1)
    # sorted without np.unique, which hashes integers and takes several times as long
    members = np.sort(runs.of_place[known] * distinct + sets[known])
    of_run, sets = np.divmod(members[np.diff(members, prepend=NONE) != 0], distinct)
    several = np.zeros(len(of_run), bool)
    several[1:] = of_run[1:] == of_run[:-1]
    several[:-1] |= several[1:]
    found = np.full(len(runs.starts), NONE)
    found[of_run[~several]] = sets[~several]  # most runs have one set, which is their union
    united = _united(pl.DataFrame({"run": of_run[several], "keys": pl.from_arrow(texts.take(sets[several]))}))
    found[united["run"].to_numpy()] = len(texts) + np.arange(len(united))
    joined = whole(take(pa.chunked_array([texts, united["keys"].to_arrow().cast(pa.string())]), found))
    return joined, pc.fill_null(pc.add(pc.count_substring(joined, _SEPARATOR), 1), 0)


def _united(sets: pl.DataFrame) -> pl.DataFrame:
    """The union of the sets of each run; columns run and keys."""
    each = sets.with_columns(pl.col("keys").str.split(_SEPARATOR)).explode("keys").unique().sort("run", "keys")
    # The least keys of a union are among the least keys of its parts, so truncated sets merge the same in any order
    least = each.group_by("run", maintain_order=True).head(KEYS_KEPT)
    return least.group_by("run").agg(pl.col("keys").str.join(_SEPARATOR))


def _table(columns: Mapping[str, Any], record: Record, rows: int) -> pa.Table:
    """A table of the record from columns; missing columns are null."""
    all_columns = {f.name: columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in record}
    return pa.table(all_columns, schema=record.schema)
