"""Which copy of an event counts: of one (device_id, event_id), the one that arrived first.

The same id on another device is another event. In a bounded input all copies are compared: by keys of some forty
bytes that leave their batches, so that only the numbers of the rows to drop come back (`keys_of`, `split_keys`,
`find_copies`, `drop_rows`). In a stream a copy that has been let through cannot be called back, so there the first to
be accepted counts (`split_by_bucket`, `drop_seen`).

Identities are compared by their MD5. That some two of a trillion events collide by chance has odds of 2 in 10^15. Known
attacks make two new ids collide, so a client can lose an event of its own; none meets the id of another client's event.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.events import DEDUPLICATION_ORDER, EVENT
from schemas.keys import shards_of

Digests = npt.NDArray[np.uint64]
"""Identities of n events: an array of shape (2, n), column by column the 128 bits of an MD5."""

Bucket = tuple[int, int]
"""A shard, and a stretch of client time counted from 1970."""

BatchId = bytes
"""Derived from what is in a batch: its identities, their positions and their order. Two batches with one id are one
batch that was read twice."""

ROWS = pa.schema([pa.field("row", pa.int32(), nullable=False)])
"""Numbers of rows in a batch, in no order."""

_IDENTITY = ["device_id", "event_id"]
_LAST = np.iinfo(np.int64).max
_BATCH = b"batch"
_ID_BYTES = 16
# a column of strings holds at most 2 GiB a chunk; so many events stay far below it
_CHUNK_ROWS = 250_000
# the length in front keeps the two ids apart, whatever they contain
_DIGESTS = """
    SELECT CAST(digest >> 64 AS UBIGINT) AS high, CAST(digest & 18446744073709551615 AS UBIGINT) AS low
    FROM (SELECT md5_number(concat(strlen(device_id), ':', device_id, event_id)) AS digest FROM batch)
"""
# opening a connection takes longer than hashing a batch of some thousand events
_local = threading.local()


def drop_duplicates(events: pa.Table) -> pa.Table:
    """Keep of each (device_id, event_id) the copy that arrived first, whatever the order of the rows.

    Args:
        events: A table with EVENT_BATCH's columns. Copies compare by DEDUPLICATION_ORDER, null last; those
            equal in all of it were read from one place, and are the same.

    Returns:
        A table of the same columns, sorted by device_id, event_time and event_id.
    """
    # Polars sorts and gathers on all cores: a third of the time of pyarrow's take
    frame = pl.DataFrame(events)
    copied = frame.select(pl.struct(_IDENTITY).is_duplicated()).to_series()
    order = frame.select(*EVENT.sort_by).with_row_index()
    if copied.any():
        copies = frame.select(*_IDENTITY, *DEDUPLICATION_ORDER).with_row_index().filter(copied)
        first = copies.sort(DEDUPLICATION_ORDER, nulls_last=True).unique(_IDENTITY, keep="first", maintain_order=True)
        order = order.filter((~copied).scatter(first["index"], True))
    return _to_arrow(frame[order.select(pl.col("index").sort_by(EVENT.sort_by)).to_series()], events.schema)


def keys_of(events: pa.Table) -> tuple[BatchId, pa.Table]:
    """What tells which rows of a batch are copies and which copy is first, without the rest of it.

    Args:
        events: A table with EVENT_BATCH's columns.

    Returns:
        The batch's id, and a row for each of its rows: the digest in two halves, DEDUPLICATION_ORDER (a null
        arrival_time as the latest there is), and the row's number. The id is in the schema's metadata too.
    """
    high, low = digests_of(events)
    arrival = events.column("arrival_time").cast(pa.int64()).fill_null(_LAST).to_numpy()
    # a batch comes from one source or a few: their names are moved once
    source = events.column("source").combine_chunks().dictionary_encode()
    partition, offset = events.column("partition").to_numpy(), events.column("offset").to_numpy()
    content = hashlib.sha256("\0".join([str(len(high)), *source.dictionary.to_pylist()]).encode())
    for values in (high, low, arrival, source.indices.to_numpy(), partition, offset):
        content.update(np.ascontiguousarray(values).data)
    batch = content.digest()[:_ID_BYTES]
    columns = {
        "high": high,
        "low": low,
        "arrival_time": arrival,
        "source": source,
        "partition": partition,
        "offset": offset,
        "row": np.arange(len(high), dtype=np.int32),
    }
    return batch, pa.table(columns, metadata={_BATCH: batch})


def split_keys(keys: pa.Table, shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Cut the keys of a batch by shard of their digests, so that copies meet; each piece still names the batch."""
    shard = (keys.column("low").to_numpy() % np.uint64(shards)).astype(np.int32)
    order = np.argsort(shard, kind="stable")
    ordered = keys.take(pa.array(order))
    for key, (start, end) in _stretches(shard[order]):
        yield key, ordered.slice(start, end - start)


def find_copies(pieces: Iterable[pa.Table]) -> Iterator[tuple[BatchId, pa.Table]]:
    """The rows that are not the first copy of their event.

    Args:
        pieces: All keys of a shard, of `split_keys`, in any order. A batch that was read twice counts once.

    Returns:
        Of each batch with such rows its id and a table of ROWS. Copies that are equal in all of DEDUPLICATION_ORDER
        were read from one place and are the same: one of them stays.
    """
    by_batch = {piece.schema.metadata[_BATCH]: piece for piece in pieces}
    batches = sorted(by_batch)
    keys = pa.concat_tables([by_batch[batch].replace_schema_metadata() for batch in batches])
    batch_of = np.repeat(np.arange(len(batches)), [by_batch[batch].num_rows for batch in batches])
    # half of the digest parts nearly all events from one another; the whole rule is for the few that are left
    suspects = np.flatnonzero(_occurs_again(keys.column("high").to_numpy()))
    if not len(suspects):
        return
    keys, batch_of = keys.take(pa.array(suspects)), batch_of[suspects]
    source = keys.unify_dictionaries().column("source").combine_chunks()
    rank_of = np.argsort(pc.sort_indices(source.dictionary).to_numpy())
    high, low, row = (keys.column(name).to_numpy() for name in ("high", "low", "row"))
    arrival, partition, offset = (keys.column(name).to_numpy() for name in ("arrival_time", "partition", "offset"))
    place = (row, batch_of, offset, partition, rank_of[source.indices.to_numpy()], arrival)
    order = np.lexsort((*place, low, high))
    high, low = high[order], low[order]
    copies = order[1:][(high[1:] == high[:-1]) & (low[1:] == low[:-1])]
    copies = copies[np.argsort(batch_of[copies], kind="stable")]
    for batch, (start, end) in _stretches(batch_of[copies]):
        yield batches[batch], pa.table([row[copies[start:end]]], schema=ROWS)


def drop_rows(events: pa.Table, rows: Iterable[pa.Table]) -> pa.Table:
    """The table without some of its rows, given as tables of ROWS; the table itself where there are none."""
    numbers = [table.column("row").to_numpy() for table in rows]
    if not numbers:
        return events
    kept = np.ones(events.num_rows, bool)
    kept[np.concatenate(numbers)] = False
    return events.filter(pa.array(kept))


def split_by_bucket(events: pa.Table, shards: int, length: int) -> Iterator[tuple[Bucket, pa.Table]]:
    """Cut a table by shard of the device and stretch of client_time.

    The raw client time of two copies is the same; a corrected event_time moves with the delay of the network.

    Args:
        events: A table with EVENT_BATCH's columns.
        shards: Number of shards.
        length: Length of a stretch, microseconds.
    """
    shard = shards_of(events.column("device_id"), shards)
    bucket = events.column("client_time").cast(pa.int64()).to_numpy() // length
    order = np.lexsort((bucket, shard))
    if not len(order):
        return
    shard, bucket = shard[order], bucket[order]
    ordered = _to_arrow(pl.DataFrame(events)[order], events.schema)
    starts = np.flatnonzero(np.r_[True, (np.diff(shard) != 0) | (np.diff(bucket) != 0)])
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        yield (int(shard[start]), int(bucket[start])), ordered.slice(start, end - start)


def digests_of(events: pa.Table) -> Digests:
    """The identity of each event, stable across processes and versions: it rests in a runner's state."""
    if not hasattr(_local, "connection"):
        _local.connection = duckdb.connect()
    connection: duckdb.DuckDBPyConnection = _local.connection
    connection.register("batch", events.select(_IDENTITY))
    try:
        words = connection.sql(_DIGESTS).to_arrow_table()
    finally:
        connection.unregister("batch")
    return np.stack([words.column("high").to_numpy(), words.column("low").to_numpy()])


class Seen:
    """The events of a bucket that were let through, by their digests, 16 bytes each.

    Sorted runs, each at least twice as long as the next: adding costs few merges, looking up few searches.
    """

    def __init__(self, digests: Digests | None = None) -> None:
        self._runs: list[Digests] = []
        if digests is not None:
            self.add(digests)

    def __len__(self) -> int:
        return sum(run.shape[1] for run in self._runs)

    def holds(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Whether each digest was added before."""
        found = np.zeros(digests.shape[1], bool)
        for run in self._runs:
            at = np.searchsorted(run[0], digests[0])
            # more than one step only where two digests share their first 64 bits
            while (same := (at < run.shape[1]) & (run[0].take(at, mode="clip") == digests[0])).any():
                found |= same & (run[1].take(at, mode="clip") == digests[1])
                if not (same & ~found).any():
                    break
                at = at + (same & ~found)
                at[found] = run.shape[1]
        return found

    def add(self, digests: Digests) -> None:
        """Remember digests, none of which is held yet."""
        if not digests.shape[1]:
            return
        self._runs.append(_sorted(digests))
        while len(self._runs) > 1 and self._runs[-2].shape[1] < 2 * self._runs[-1].shape[1]:
            last = self._runs.pop()
            self._runs[-1] = _sorted(np.concatenate([self._runs[-1], last], axis=1))


def drop_seen(events: pa.Table, seen: Seen) -> tuple[pa.Table, Digests]:
    """Keep the events that were not let through before; of copies within the table, the first to arrive.

    Args:
        events: A table with EVENT_BATCH's columns, of one bucket.
        seen: What the bucket remembers; it is not changed.

    Returns:
        The events to let through, sorted as by `drop_duplicates`, and their digests, to be added to `seen`.
    """
    unique = drop_duplicates(events)
    digests = digests_of(unique)
    fresh = ~seen.holds(digests)
    return unique.filter(pa.array(fresh)), digests[:, fresh]


def _occurs_again(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether each value stands more than once among them."""
    order = np.argsort(values)
    ordered = values[order]
    same = ordered[1:] == ordered[:-1]
    found = np.zeros(len(values), bool)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return found


def _stretches(ordered: npt.NDArray[Any]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Each value of a sorted array, and where it begins and ends."""
    values, starts = np.unique(ordered, return_index=True)
    return zip(values.tolist(), pairwise([*starts.tolist(), len(ordered)]), strict=True)


def _sorted(digests: Digests) -> Digests:
    return digests[:, np.argsort(digests[0], kind="stable")]


def _to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    oldest = pl.CompatLevel.oldest()
    chunks = [chunk.to_arrow(compat_level=oldest).cast(schema) for chunk in frame.iter_slices(_CHUNK_ROWS)]
    return pa.concat_tables(chunks) if chunks else schema.empty_table()
