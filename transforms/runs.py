"""Vectorised questions about runs: groups of rows, each a stretch of one ordering of the table."""

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
"""A row number that stands for no row."""


@dataclass(frozen=True)
class Runs:
    """Groups of rows that stay put: row ``order[i]`` has place i, and a run is a stretch of places.

    Attributes:
        order: A permutation of the row numbers.
        starts: The place where each run begins; it ends where the next begins.

    >>> Runs(np.array([2, 0, 1]), np.array([0, 2])).sum(np.array([10, 20, 30])).tolist()
    [40, 20]
    """

    order: Integers
    starts: Integers

    @cached_property
    def ends(self) -> Integers:
        """The place after the last of each run."""
        return np.append(self.starts[1:], len(self.order))

    @cached_property
    def of_place(self) -> Integers:
        """The run that each place is in."""
        return np.repeat(np.arange(len(self.starts)), self.ends - self.starts)

    def sum(self, values: npt.NDArray[np.generic]) -> Integers:
        """Sum of whole numbers over each run."""
        return np.add.reduceat(values[self.order], self.starts, dtype=np.int64)

    def any(self, values: Flags) -> Flags:
        """Whether any row of each run is true."""
        return np.logical_or.reduceat(values[self.order], self.starts)

    def first(self, times: Integers, ids: pa.ChunkedArray, valid: Flags | None = None) -> Integers:
        """The row of each run that is first by (time, id) among the valid ones, `NONE` where none is."""
        runs, rows = self._by_time(times, ids, valid)
        found = np.full(len(self.starts), NONE)
        found[runs[::-1]] = rows[::-1]  # of several rows for one run the last that is assigned stays
        return found

    def last(self, times: Integers, ids: pa.ChunkedArray, valid: Flags | None = None) -> Integers:
        """The row of each run that is last by (time, id) among the valid ones, `NONE` where none is."""
        runs, rows = self._by_time(times, ids, valid)
        found = np.full(len(self.starts), NONE)
        found[runs] = rows
        return found

    def _by_time(self, times: Integers, ids: pa.ChunkedArray, valid: Flags | None) -> tuple[Integers, Integers]:
        """The valid rows by (run, time, id), and the run of each."""
        runs, rows = self.of_place, self.order
        if valid is not None:
            inside = valid[rows]
            runs, rows = runs[inside], rows[inside]
        ordered = in_order(runs, times[rows], ids.take(rows))
        return runs[ordered], rows[ordered]


def runs_of(order: Integers, *keys: Integers) -> Runs:
    """The runs of rows that agree in all keys, which `order` puts beside each other."""
    begins = np.zeros(len(order), dtype=bool)
    begins[:1] = True
    for key in keys:
        ordered = key[order]
        begins[1:] |= ordered[1:] != ordered[:-1]
    return Runs(order, np.flatnonzero(begins))


def in_order(groups: Integers, times: Integers, ids: pa.ChunkedArray) -> Integers:
    """The row numbers by (group, time, id)."""
    order = np.lexsort((times, groups))
    groups, times = groups[order], times[order]
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] = (groups[1:] == groups[:-1]) & (times[1:] == times[:-1])
    tied[:-1] |= tied[1:]
    if tied.any():  # ids are compared only where the time alone does not decide, which is rare
        rows = order[tied]
        order[tied] = rows[np.lexsort((ranks(ids.take(rows)), times[tied], groups[tied]))]
    return order


def ranks(values: pa.ChunkedArray) -> Integers:
    """The rank of each string among the distinct ones; sorts the distinct ones alone.

    In the smallest type that holds them: NumPy sorts 16 bits by counting, in a quarter of the time.
    """
    encoded = whole(values).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    found = np.empty(len(order), dtype=np.min_scalar_type(len(order)))
    found[order] = np.arange(len(order))
    return found[encoded.indices.to_numpy()]


def first_true(flags: Flags, starts: Integers, ends: Integers) -> Integers:
    """The first true place of each stretch, `NONE` where there is none.

    >>> first_true(np.array([False, True, True, False]), np.array([0, 2, 3]), np.array([2, 4, 4])).tolist()
    [1, 2, -1]
    """
    found, unsettled = starts.copy(), np.flatnonzero(~flags[starts])
    places = np.append(np.flatnonzero(flags), len(flags))
    following = places[np.searchsorted(places, starts[unsettled])]
    found[unsettled] = np.where(following < ends[unsettled], following, NONE)
    return found


def last_true(flags: Flags, starts: Integers, ends: Integers) -> Integers:
    """The last true place of each stretch, `NONE` where there is none.

    >>> last_true(np.array([False, True, True, False]), np.array([0, 2, 3]), np.array([2, 4, 4])).tolist()
    [1, 2, -1]
    """
    found, unsettled = ends - 1, np.flatnonzero(~flags[ends - 1])
    places = np.append(NONE, np.flatnonzero(flags))
    preceding = places[np.searchsorted(places, ends[unsettled]) - 1]
    found[unsettled] = np.where(preceding >= starts[unsettled], preceding, NONE)
    return found
