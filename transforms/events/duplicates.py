"""Find duplicates: of all events with the same (device_id, event_id), the copy that arrived first is kept.

The same event_id on another device is another event. In a bounded input all copies are compared. Keys of some forty
bytes are extracted from the batches, and only the numbers of the rows to drop are returned to them (`keys_of`,
`split_keys`, `find_copies`, `drop_rows`). In a stream a copy that was passed on cannot be withdrawn, so the first copy
to be accepted is kept (`transforms.events.seen_events`).

Identities are compared by their MD5. The probability that any two of a trillion events collide by chance is 2 in 10^15.
Known attacks can make two new ids collide, so a client can lose one of its own events; no known attack can match the
id of another client's event.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import whole, without_rows
from schemas.table_query import TableQuery

Digests = npt.NDArray[np.uint64]
"""Identities of n events: an array of shape (2, n), in which each column is the 128 bits of an MD5."""

BatchId = bytes
"""The id of a batch, derived from the identities of its events, their positions in the source, and their order. Two
batches with the same id are one batch that was read twice."""

RowNumbers = bytes
"""Numbers of rows in a batch, in no order, four bytes each. They are bytes because each shard finds only a few rows per
batch, for which the fixed size of an Arrow table would be larger than its content."""

_IDENTITY = ["device_id", "event_id"]
_LAST = np.iinfo(np.int64).max
_ID_BYTES = 16
_NUMBER = np.dtype("<i4")
# The length prefix separates the two ids, whatever they contain
_DIGESTS = TableQuery("""
    SELECT CAST(digest >> 64 AS UBIGINT) AS high, CAST(digest & 18446744073709551615 AS UBIGINT) AS low
    FROM (SELECT md5_number(concat(strlen(device_id), ':', device_id, event_id)) AS digest FROM given)
""")


def keys_of(events: pa.Table) -> tuple[BatchId, pa.Table]:
    """Extract the keys of a batch: the columns that tell which rows are copies, and which copy is first.

    Args:
        events: A table with EVENT_BATCH's columns.

    Returns:
        The batch's id; and one row per row of the batch: the digest in two halves, DEDUPLICATION_ORDER (with a null
        arrival_time as the latest possible time), the batch's id, and the row number.
    """
    high, low = digests_of(events)
    arrival = events.column("arrival_time").cast(pa.int64()).fill_null(_LAST).to_numpy()
    # A batch comes from one or a few sources, so each name is stored once
    source = whole(events.column("source")).dictionary_encode()
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
        "batch": pa.DictionaryArray.from_arrays(np.zeros(len(high), np.int32), pa.array([batch])),
        "row": np.arange(len(high), dtype=np.int32),
    }
    return batch, pa.table(columns)


def split_keys(batches: Collection[pa.Table], shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Split the keys of different batches by shard of their digests, so that copies meet."""
    if not batches:
        return
    keys = pa.concat_tables(batches).unify_dictionaries().combine_chunks()
    shard = (keys.column("low").to_numpy() % np.uint64(shards)).astype(np.int32)
    order = np.argsort(shard, kind="stable")
    ordered = keys.take(pa.array(order))
    for key, (start, end) in _stretches(shard[order]):
        yield key, ordered.slice(start, end - start)


def find_copies(pieces: Iterable[pa.Table]) -> Iterator[tuple[BatchId, RowNumbers]]:
    """Find the rows that are not the first copy of their event.

    Args:
        pieces: All keys of a shard, as `split_keys` returns them, in any order. A batch that was read twice counts
            once.

    Returns:
        The id of each batch with such rows, and their numbers. Copies that are equal in all columns of
        DEDUPLICATION_ORDER were read from the same place and are identical: any one of them is kept.
    """
    keys = pa.concat_tables(_each_batch_once(pieces))
    # Half of the digest tells nearly all events apart; only the few that are left need the whole rule
    suspects = np.flatnonzero(occurs_again(keys.column("high").to_numpy()))
    if not len(suspects):
        return
    keys = keys.take(pa.array(suspects)).unify_dictionaries().combine_chunks()
    source, _ = _ranked(whole(keys.column("source")))
    batch, batches = _ranked(whole(keys.column("batch")))
    high, low, row = (keys.column(name).to_numpy() for name in ("high", "low", "row"))
    arrival, partition, offset = (keys.column(name).to_numpy() for name in ("arrival_time", "partition", "offset"))
    order = np.lexsort((row, batch, offset, partition, source, arrival, low, high))
    high, low = high[order], low[order]
    copies = order[1:][(high[1:] == high[:-1]) & (low[1:] == low[:-1])]
    copies = copies[np.argsort(batch[copies], kind="stable")]
    for rank, (start, end) in _stretches(batch[copies]):
        yield batches[rank].as_py(), row[copies[start:end]].astype(_NUMBER).tobytes()


def _each_batch_once(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The pieces without the rows of a batch of which another piece had the rows already."""
    seen: set[BatchId] = set()
    for piece in pieces:
        batches = whole(piece.column("batch"))
        fresh = np.array([batch not in seen for batch in batches.dictionary.to_pylist()])
        seen.update(batches.dictionary.to_pylist())
        yield piece if fresh.all() else piece.filter(pa.array(fresh[batches.indices.to_numpy()]))


def _ranked(column: pa.DictionaryArray) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """The rank of each row's value, and the values in their order."""
    order = pc.sort_indices(column.dictionary)
    return np.argsort(order.to_numpy())[column.indices.to_numpy()], column.dictionary.take(order)


def drop_rows(events: pa.Table, rows: Iterable[RowNumbers]) -> pa.Table:
    """The table without some of its rows; the same table if there are no rows to drop."""
    numbers = np.frombuffer(b"".join(rows), _NUMBER)
    return without_rows(events, numbers) if len(numbers) else events


def digests_of(events: pa.Table) -> Digests:
    """The identity of each event. It is kept in runners' state, so it must not change between processes or versions."""
    words = _DIGESTS.run(events.select(_IDENTITY))
    return np.stack([words.column("high").to_numpy(), words.column("low").to_numpy()])


def occurs_again(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """A flag for each value: whether it occurs more than once."""
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
