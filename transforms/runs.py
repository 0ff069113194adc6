"""Vectorised aggregation over runs: groups of rows that are contiguous in one ordering of the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import whole

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NONE = -1
"""The row number that means no row."""


@dataclass(frozen=True)
class Runs:
    """Groups of rows, without moving the rows: row ``order[i]`` has place i, and a run is a range of places.

    Attributes:
        order: A permutation of the row numbers.
        starts: The place where each run begins; a run ends where the next one begins.

    >>> Runs(np.array([2, 0, 1]), np.array([0, 2])).sum(np.array([10, 20, 30])).tolist()
    [40, 20]
    """

    order: Integers
    starts: Integers

    @cached_property
    def ends(self) -> Integers:
        """The place after the last row of each run."""
        return np.append(self.starts[1:], len(self.order))

    @cached_property
    def of_place(self) -> Integers:
        """The run that each place belongs to."""
        return np.repeat(np.arange(len(self.starts)), self.ends - self.starts)

    def sum(self, values: npt.NDArray[np.generic]) -> Integers:
        """The sum of integers over each run."""
        return np.add.reduceat(values[self.order], self.starts, dtype=np.int64)

    def any(self, values: Flags) -> Flags:
        """Whether the flag of any row in each run is true."""
        return np.logical_or.reduceat(values[self.order], self.starts)

    def first(self, times: Integers, *texts: pa.ChunkedArray, valid: Flags | None = None) -> Integers:
        """The first valid row of each run by (time, texts in turn); `NONE` if no row is valid."""
        runs, rows = self._by_time(times, texts, valid)
        found = np.full(len(self.starts), NONE)
        found[runs[::-1]] = rows[::-1]  # the last assignment to a run wins
        return found

    def last(self, times: Integers, *texts: pa.ChunkedArray, valid: Flags | None = None) -> Integers:
        """The last valid row of each run by (time, texts in turn); `NONE` if no row is valid."""
        runs, rows = self._by_time(times, texts, valid)
        found = np.full(len(self.starts), NONE)
        found[runs] = rows
        return found

    def _by_time(
        self, times: Integers, texts: Sequence[pa.ChunkedArray], valid: Flags | None
    ) -> tuple[Integers, Integers]:
        """The run of each valid row and the valid rows, sorted by (run, time, texts in turn)."""
        runs, rows = self.of_place, self.order
        if valid is not None:
            inside = valid[rows]
            runs, rows = runs[inside], rows[inside]
        ordered = in_order(runs, times[rows], *(text.take(rows) for text in texts))
        return runs[ordered], rows[ordered]


def runs_of(order: Integers, *keys: Integers) -> Runs:
    """The runs of rows with equal keys; `order` must make such rows contiguous."""
    begins = np.zeros(len(order), dtype=bool)
    begins[:1] = True
    for key in keys:
        ordered = key[order]
        begins[1:] |= ordered[1:] != ordered[:-1]
    return Runs(order, np.flatnonzero(begins))


def in_order(groups: Integers, times: Integers, *texts: pa.ChunkedArray) -> Integers:
    """The row numbers sorted by (group, time, texts in turn); no text of rows with equal times is null."""
    order = np.lexsort((times, groups))
    groups, times = groups[order], times[order]
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] = (groups[1:] == groups[:-1]) & (times[1:] == times[:-1])
    tied[:-1] |= tied[1:]
    if tied.any():  # texts are compared only where times are equal, which is rare
        rows = order[tied]
        last_first = [ranks(text.take(rows)) for text in reversed(texts)]
        order[tied] = rows[np.lexsort((*last_first, times[tied], groups[tied]))]
    return order


def repeats(order: Integers, groups: Integers, times: Integers, ids: pa.ChunkedArray) -> Flags:
    """For each place in `in_order`'s order, whether the row has the group, time and id of the row before it."""
    groups, times = groups[order], times[order]
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (groups[1:] == groups[:-1]) & (times[1:] == times[:-1])
    places = np.flatnonzero(same)
    if len(places):
        same[places] = pc.equal(ids.take(order[places]), ids.take(order[places - 1])).to_numpy()
    return same


def ranks(values: pa.ChunkedArray) -> Integers:
    """The rank of each string among the distinct strings; only these are sorted. Its type is that of `codes`."""
    encoded = whole(values).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    found = np.empty(len(order), dtype=np.min_scalar_type(len(order)))
    found[order] = np.arange(len(order))
    return found[encoded.indices.to_numpy()]


def first_true(flags: Flags, starts: Integers, ends: Integers) -> Integers:
    """The first place in each range whose flag is true; `NONE` if there is none.

    >>> first_true(np.array([False, True, True, False]), np.array([0, 2, 3]), np.array([2, 4, 4])).tolist()
    [1, 2, -1]
    """
    found, unsettled = starts.copy(), np.flatnonzero(~flags[starts])
    places = np.append(np.flatnonzero(flags), len(flags))
    following = places[np.searchsorted(places, starts[unsettled])]
    found[unsettled] = np.where(following < ends[unsettled], following, NONE)
    return found


def last_true(flags: Flags, starts: Integers, ends: Integers) -> Integers:
    """The last place in each range whose flag is true; `NONE` if there is none.

    >>> last_true(np.array([False, True, True, False]), np.array([0, 2, 3]), np.array([2, 4, 4])).tolist()
    [1, 2, -1]
    """
    found, unsettled = ends - 1, np.flatnonzero(~flags[ends - 1])
    places = np.append(NONE, np.flatnonzero(flags))
    preceding = places[np.searchsorted(places, ends[unsettled]) - 1]
    found[unsettled] = np.where(preceding >= starts[unsettled], preceding, NONE)
    return found


def take(values: pa.ChunkedArray, rows: Integers) -> pa.ChunkedArray:
    """The values at some rows, null where the row is `NONE`.

    >>> take(pa.chunked_array([["a", "b"]]), np.array([1, NONE])).to_pylist()
    ['b', None]
    """
    missing = rows == NONE
    if missing.all():
        return pa.chunked_array([pa.nulls(len(rows), values.type)])
    return values.take(pa.array(rows, mask=missing) if missing.any() else rows)
