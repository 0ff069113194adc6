"""Which copy of an event counts: of one (device_id, event_id), the one that arrived first.

The same id on another device is another event. In a bounded input all copies are compared: by keys of some forty
bytes that leave their batches, so that only the numbers of the rows to drop come back (`keys_of`, `split_keys`,
`find_copies`, `drop_rows`). In a stream a copy that has been let through cannot be called back, so there the first to
be accepted counts (`transforms.events.seen_events`).

Identities are compared by their MD5. That some two of a trillion events collide by chance has odds of 2 in 10^15. Known
attacks make two new ids collide, so a client can lose an event of its own; none meets the id of another client's event.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import whole, without_rows
from schemas.table_query import TableQuery

Digests = npt.NDArray[np.uint64]
"""Identities of n events: an array of shape (2, n), column by column the 128 bits of an MD5."""

BatchId = bytes
"""Derived from what is in a batch: its identities, their positions and their order. Two batches with one id are one
batch that was read twice."""

RowNumbers = bytes
"""Numbers of rows in a batch, in no order, four bytes each: a few of each shard and batch, so that a table would be
more of its frame than of them."""

_IDENTITY = ["device_id", "event_id"]
_LAST = np.iinfo(np.int64).max
_BATCH = b"batch"
_ID_BYTES = 16
_NUMBER = np.dtype("<i4")
# the length in front keeps the two ids apart, whatever they contain
_DIGESTS = TableQuery("""
    SELECT CAST(digest >> 64 AS UBIGINT) AS high, CAST(digest & 18446744073709551615 AS UBIGINT) AS low
    FROM (SELECT md5_number(concat(strlen(device_id), ':', device_id, event_id)) AS digest FROM given)
""")


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


def find_copies(pieces: Iterable[pa.Table]) -> Iterator[tuple[BatchId, RowNumbers]]:
    """The rows that are not the first copy of their event.

    Args:
        pieces: All keys of a shard, of `split_keys`, in any order. A batch that was read twice counts once.

    Returns:
        Of each batch with such rows its id and their numbers. Copies that are equal in all of DEDUPLICATION_ORDER
        were read from one place and are the same: one of them stays.
    """
    by_batch = {piece.schema.metadata[_BATCH]: piece for piece in pieces}
    batches = sorted(by_batch)
    keys = pa.concat_tables([by_batch[batch].replace_schema_metadata() for batch in batches])
    batch_of = np.repeat(np.arange(len(batches)), [by_batch[batch].num_rows for batch in batches])
    # half of the digest parts nearly all events from one another; the whole rule is for the few that are left
    suspects = np.flatnonzero(occurs_again(keys.column("high").to_numpy()))
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
        yield batches[batch], row[copies[start:end]].astype(_NUMBER).tobytes()


def drop_rows(events: pa.Table, rows: Iterable[RowNumbers]) -> pa.Table:
    """The table without some of its rows; the table itself where there are none."""
    numbers = np.frombuffer(b"".join(rows), _NUMBER)
    return without_rows(events, numbers) if len(numbers) else events


def digests_of(events: pa.Table) -> Digests:
    """The identity of each event, stable across processes and versions: it rests in a runner's state."""
    words = _DIGESTS.run(events.select(_IDENTITY))
    return np.stack([words.column("high").to_numpy(), words.column("low").to_numpy()])


def occurs_again(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
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
