"""What a stream has let through: of one event the first copy that came. No Beam here.

Events are remembered by shard of the device and stretch of client time, as long as a copy that is in time can come. The
raw client time is the same in two copies; a corrected event_time moves with the delay of the network.
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
        # in order, so that one search begins where the last ended: a run is larger than the processor's cache
        order = np.argsort(digests[0], kind="stable")
        held = np.empty(len(order), bool)
        held[order] = self._holds_sorted(digests[:, order])
        return held

    def _holds_sorted(self, digests: Digests) -> npt.NDArray[np.bool_]:
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


class Fresh(NamedTuple):
    """Events of one stretch of client time that are let through.

    Attributes:
        bucket: The stretch, counted from 1970.
        digests: Their identities.
        latest: The latest event_time among them, microseconds.
    """

    bucket: int
    digests: Digests
    latest: int


def drop_seen(events: pa.Table, seen: Mapping[int, Seen], length: int) -> tuple[pa.Table, list[Fresh]]:
    """Keep the events that were not let through before; of copies within the table, the first to arrive.

    Args:
        events: A table with EVENT_BATCH's columns.
        seen: What each bucket remembers; it is not changed.
        length: Length of a bucket, microseconds.

    Returns:
        The events to let through, in their order, and of each of their buckets what is to be added to `seen`.
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
    """When each bucket is forgotten; microseconds of event time.

    Attributes:
        of: For each bucket that is remembered, when no copy that is in time can follow any more.
        passed: The latest time that is known to have passed; None before the first.
    """

    of: dict[int, int] = {}  # noqa: RUF012
    passed: int | None = None

    def with_fresh(self, fresh: Iterable[Fresh], length: int, keep: int) -> Self:
        """With the buckets of fresh events, save those that would be forgotten at once.

        Where the client's clock is right its bucket's end decides. Where it is behind, that has long passed, and the
        stretch of the corrected time decides.

        Args:
            fresh: What was let through.
            length: Length of a bucket, microseconds.
            keep: How long after its end a bucket is kept.
        """
        ends = {part.bucket: (max(part.bucket, part.latest // length) + 1) * length + keep for part in fresh}
        lasting = {bucket: end for bucket, end in ends.items() if self.passed is None or end > self.passed}
        return self._replace(of=self.of | {b: max(end, self.of.get(b, end)) for b, end in lasting.items()})

    def at(self, now: int) -> Self:
        """What is left once it is so late."""
        return type(self)({bucket: end for bucket, end in self.of.items() if end > now}, now)

    @property
    def next(self) -> int | None:
        """When the first bucket is forgotten; None where there is none."""
        return min(self.of.values(), default=None)


def split_forgotten(events: pa.Table, expiries: Expiries, length: int) -> tuple[pa.Table, pa.Table]:
    """The events of buckets that are remembered, and those of which no copy is known any more.

    Args:
        events: A table with EVENT_BATCH's columns.
        expiries: The buckets that are remembered.
        length: Length of a bucket, microseconds.
    """
    buckets = events.column("client_time").cast(pa.int64()).to_numpy() // length
    known = np.isin(buckets, np.fromiter(expiries.of, np.int64))
    return events.filter(pa.array(known)), events.filter(pa.array(~known))


def without_seen(events: pa.Table, seen: Mapping[int, Seen]) -> pa.Table:
    """The events of forgotten buckets of which no bucket remembers a copy, see `seen_late`.

    Args:
        events: A table with EVENT_BATCH's columns.
        seen: What each bucket remembers.
    """
    digests = digests_of(events)
    known = np.zeros(events.num_rows, bool)
    for remembered in seen.values():
        known |= remembered.holds(digests)
    return events.filter(pa.array(~known)) if known.any() else events


def seen_late(events: pa.Table, now: int, length: int) -> Fresh:
    """Events of forgotten buckets, to be remembered in the bucket of now: once that is forgotten the lake has them.

    Args:
        events: A table with EVENT_BATCH's columns.
        now: How far event time is known to have come, microseconds.
        length: Length of a bucket, microseconds.
    """
    return Fresh(now // length, digests_of(events), now)


def pack(bucket: int, digests: Digests) -> bytes:
    """Digests of a bucket as bytes for a runner's state: 8 for the bucket, 16 for each of them."""
    return _BUCKET.pack(bucket) + digests.astype("<u8", copy=False).tobytes()


def bucket_of(piece: bytes) -> int:
    """The bucket that `pack` was given."""
    return int(_BUCKET.unpack_from(piece)[0])


def unpack(pieces: Iterable[bytes]) -> dict[int, Seen]:
    """What all the pieces of some buckets remember."""
    found: dict[int, list[Digests]] = {}
    for piece in pieces:
        words = np.frombuffer(piece, "<u8", offset=_BUCKET.size)
        found.setdefault(bucket_of(piece), []).append(words.reshape(2, len(words) // 2))
    return {bucket: Seen(np.concatenate(digests, axis=1)) for bucket, digests in found.items()}


def _first_copies(events: pa.Table, digests: Digests, buckets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rows are the first of their copies in the table."""
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
