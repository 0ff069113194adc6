"""Vectorised questions about runs: groups of rows, each a stretch of one ordering of the table."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NONE = -1
"""A row number that stands for no row."""

_EXTREME = np.iinfo(np.int64).max


@dataclass(frozen=True)
class EventIds:
    """The event id that orders rows of one time, a row: `own` where it is not null, else `shared`."""

    shared: pl.Series
    own: pl.Series | None = None

    def of(self, rows: Integers) -> pl.Series:
        """The ids of some rows; no other row is touched."""
        shared = self.shared[rows]
        if self.own is None or len(rows) == 0:
            return shared
        own = self.own[rows]
        return own.zip_with(own.is_not_null(), shared)


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

    def first(self, times: Integers, ids: EventIds, valid: Flags | None = None) -> Integers:
        """The row of each run that is first by (time, id) among the valid ones, `NONE` where none is."""
        return self._decide(times, ids, valid, np.minimum, _EXTREME)

    def last(self, times: Integers, ids: EventIds, valid: Flags | None = None) -> Integers:
        """The row of each run that is last by (time, id) among the valid ones, `NONE` where none is."""
        return self._decide(times, ids, valid, np.maximum, -_EXTREME)

    def _decide(self, times: Integers, ids: EventIds, valid: Flags | None, extreme: np.ufunc, never: int) -> Integers:
        times = times[self.order]
        if valid is not None:
            times = np.where(valid[self.order], times, never)
        best = extreme.reduceat(times, self.starts)
        hit = times == best[self.of_place]
        if valid is not None:
            hit &= times != never
        places = np.flatnonzero(hit)
        runs, rows = self.of_place[places], self.order[places]
        found = np.full(len(self.starts), NONE)
        found[runs] = rows
        tied = np.zeros(len(rows), dtype=bool)
        tied[1:] = runs[1:] == runs[:-1]
        tied[:-1] |= tied[1:]
        if tied.any():  # ids are compared only where the time alone does not decide, which is rare
            among = pl.DataFrame({"run": runs[tied], "row": rows[tied], "id": ids.of(rows[tied])})
            among = among.sort("run", "id", descending=[False, extreme is np.maximum])
            among = among.unique("run", keep="first", maintain_order=True)
            found[among["run"].to_numpy()] = among["row"].to_numpy()
        return found


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
    """The rank of each string among the distinct ones; sorts the distinct ones alone."""
    encoded = values.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order))
    return found[encoded.indices.to_numpy()]


def first_true(flags: Flags, starts: Integers, ends: Integers) -> Integers:
    """The first true place of each stretch, `NONE` where there is none.

    >>> first_true(np.array([False, True, True, False]), np.array([0, 2, 3]), np.array([2, 4, 4])).tolist()
    [1, 2, -1]
    """
    places = np.arange(len(flags))
    following = np.minimum.accumulate(np.where(flags, places, len(flags))[::-1])[::-1]
    found = following[starts]
    return np.where(found < ends, found, NONE)


def last_true(flags: Flags, starts: Integers, ends: Integers) -> Integers:
    """The last true place of each stretch, `NONE` where there is none.

    >>> last_true(np.array([False, True, True, False]), np.array([0, 2, 3]), np.array([2, 4, 4])).tolist()
    [1, 2, -1]
    """
    preceding = np.maximum.accumulate(np.where(flags, np.arange(len(flags)), NONE))
    found = preceding[ends - 1]
    return np.where(found >= starts, found, NONE)
