"""Deduplication state of a stream: it passes the first copy of each event that arrives. No Beam here.

State is kept per shard of devices and per *bucket*, a stretch of raw client time, for as long as an on-time copy can
still arrive. Buckets use the raw client time because all copies share it; the corrected event_time varies with the
network delay.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from schemas.columns import to_polars
from schemas.events import DEDUPLICATION_ORDER
from transforms.events.duplicates import Digests, digests_of, occurs_again

_BUCKET = struct.Struct("<q")


class Seen:
    """The digests of a bucket's passed events, 16 bytes each.

    They are kept as sorted runs, each at least twice as long as the next, so that an addition takes few merges and a
    lookup few searches.
    """

    def __init__(self, digests: Digests | None = None) -> None:
        self._runs: list[Digests] = []
        if digests is not None:
            self.add(digests)

    def __len__(self) -> int:
        return sum(run.shape[1] for run in self._runs)

    def holds(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Whether each digest was added before."""
        # A run is larger than the CPU cache: in sorted order, each search stays near the previous one
        order = np.argsort(digests[0], kind="stable")
        held = np.empty(len(order), bool)
        held[order] = self._holds_sorted(digests[:, order])
        return held

    def _holds_sorted(self, digests: Digests) -> npt.NDArray[np.bool_]:
        found = np.zeros(digests.shape[1], bool)
        for run in self._runs:
            at = np.searchsorted(run[0], digests[0])
            # Takes more than one step only where two digests share their first 64 bits
            while (same := (at < run.shape[1]) & (run[0].take(at, mode="clip") == digests[0])).any():
                found |= same & (run[1].take(at, mode="clip") == digests[1])
                if not (same & ~found).any():
                    break
                at = at + (same & ~found)
                at[found] = run.shape[1]
        return found

    def add(self, digests: Digests) -> None:
        """Add digests, none of which may be held yet."""
        if not digests.shape[1]:
            return
        self._runs.append(_sorted(digests))
        while len(self._runs) > 1 and self._runs[-2].shape[1] < 2 * self._runs[-1].shape[1]:
            last = self._runs.pop()
            self._runs[-1] = _sorted(np.concatenate([self._runs[-1], last], axis=1))


class Fresh(NamedTuple):
    """Events of one bucket that are passed for the first time.

    Attributes:
        bucket: The bucket's number, counted from 1970.
        digests: The digests of the events.
        latest: The latest event_time among them, microseconds.
    """

    bucket: int
    digests: Digests
    latest: int


def drop_seen(events: pa.Table, seen: Mapping[int, Seen], length: int) -> tuple[pa.Table, list[Fresh]]:
    """Drop the events that were passed before. Among copies within the table, keep the first to arrive.

    Args:
        events: A table with EVENT_BATCH's columns.
        seen: The digests of each bucket; not changed.
        length: Length of a bucket, microseconds.

    Returns:
        The events to pass, in their original order; and for each of their buckets, what to add to `seen`.
    """
    digests = digests_of(events)
    buckets = events.column("client_time").cast(pa.int64()).to_numpy() // length
    times = events.column("event_time").cast(pa.int64()).to_numpy()
    first = _first_copies(events, digests, buckets)
    passes = np.zeros(len(first), bool)
    fresh = []
    for bucket in np.unique(buckets).tolist():
        rows = np.flatnonzero(first & (buckets == bucket))
        if bucket in seen:
            rows = rows[~seen[bucket].holds(digests[:, rows])]
        if len(rows):
            passes[rows] = True
            fresh.append(Fresh(bucket, digests[:, rows], int(times[rows].max())))
    return events if passes.all() else events.filter(pa.array(passes)), fresh


class Expiries(NamedTuple):
    """When each bucket expires; microseconds of event time.

    Attributes:
        length: Length of a bucket, microseconds. A shard keeps the length that its state began with.
        of: The expiry time of each bucket in state: from then on, no on-time copy can arrive.
        passed: The latest time that event time is known to have reached; None before the first timer.
    """

    length: int
    of: dict[int, int] = {}  # noqa: RUF012
    passed: int | None = None

    def with_fresh(self, fresh: Iterable[Fresh], keep: int) -> Self:
        """Add the buckets of fresh events, except those that would expire at once.

        If the client's clock is right, the end of its bucket decides the expiry. If the clock is behind, that end has
        long passed, and the bucket that the corrected event_time falls into decides.

        Args:
            fresh: The events passed for the first time.
            keep: How long after its end a bucket is kept, microseconds.
        """
        length = self.length
        ends = {part.bucket: (max(part.bucket, part.latest // length) + 1) * length + keep for part in fresh}
        lasting = {bucket: end for bucket, end in ends.items() if self.passed is None or end > self.passed}
        return self._replace(of=self.of | {b: max(end, self.of.get(b, end)) for b, end in lasting.items()})

    def at(self, now: int) -> Self:
        """The expiries that remain once event time has reached `now`."""
        return self._replace(of={bucket: end for bucket, end in self.of.items() if end > now}, passed=now)

    @property
    def next(self) -> int | None:
        """When the first bucket expires; None if there is no bucket."""
        return min(self.of.values(), default=None)


def split_forgotten(events: pa.Table, expiries: Expiries) -> tuple[pa.Table, pa.Table]:
    """Split events into those whose bucket is in state, and those whose bucket has expired.

    Args:
        events: A table with EVENT_BATCH's columns.
        expiries: The buckets in state.
    """
    buckets = events.column("client_time").cast(pa.int64()).to_numpy() // expiries.length
    known = np.isin(buckets, np.fromiter(expiries.of, np.int64))
    return events.filter(pa.array(known)), events.filter(pa.array(~known))


def without_seen(events: pa.Table, seen: Mapping[int, Seen]) -> pa.Table:
    """The events of expired buckets that no bucket holds a copy of; `seen_late` explains why one may.

    Args:
        events: A table with EVENT_BATCH's columns.
        seen: The digests of each bucket.
    """
    digests = digests_of(events)
    known = np.zeros(events.num_rows, bool)
    for remembered in seen.values():
        known |= remembered.holds(digests)
    return events.filter(pa.array(~known)) if known.any() else events


def seen_late(events: pa.Table, now: int, length: int) -> Fresh:
    """Put events of expired buckets into the current bucket; by the time that expires, the lake has the events.

    Args:
        events: A table with EVENT_BATCH's columns.
        now: The latest time that event time is known to have reached, microseconds.
        length: Length of a bucket, microseconds.
    """
    return Fresh(now // length, digests_of(events), now)


def pack(bucket: int, digests: Digests) -> bytes:
    """Encode a bucket's digests for a runner's state: 8 bytes for the bucket number, 16 for each digest."""
    return _BUCKET.pack(bucket) + digests.astype("<u8", copy=False).tobytes()


def bucket_of(piece: bytes) -> int:
    """The bucket number in a piece made by `pack`."""
    return int(_BUCKET.unpack_from(piece)[0])


def unpack(pieces: Iterable[bytes]) -> dict[int, Seen]:
    """Decode pieces made by `pack` into the digests of each bucket."""
    found: dict[int, list[Digests]] = {}
    for piece in pieces:
        words = np.frombuffer(piece, "<u8", offset=_BUCKET.size)
        found.setdefault(bucket_of(piece), []).append(words.reshape(2, len(words) // 2))
    return {bucket: Seen(np.concatenate(digests, axis=1)) for bucket, digests in found.items()}


def _first_copies(events: pa.Table, digests: Digests, buckets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """A flag for each row: whether it is the first copy of its event in the table."""
    first = np.ones(len(buckets), bool)
    suspects = np.flatnonzero(occurs_again(digests[0]))
    if len(suspects):
        few = to_polars(events.select(DEDUPLICATION_ORDER).take(pa.array(suspects)))
        identity = {"high": digests[0, suspects], "low": digests[1, suspects], "bucket": buckets[suspects]}
        few = few.with_columns(pl.Series(name, values) for name, values in identity.items()).with_row_index("nth")
        kept = few.sort(DEDUPLICATION_ORDER, nulls_last=True).unique([*identity], keep="first", maintain_order=True)
        first[suspects] = False
        first[suspects[kept["nth"].to_numpy()]] = True
    return first


def _sorted(digests: Digests) -> Digests:
    return digests[:, np.argsort(digests[0], kind="stable")]
