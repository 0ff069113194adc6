"""Tracks which hours of the lake's events have been read, to tell whether a cluster of sessions was read as a whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np

from schemas.durations import HOUR
from transforms.runs import Flags, Integers

_EPOCH = date(1970, 1, 1).toordinal()
_HOURS = 24


@dataclass(frozen=True)
class EventHours:
    """The hours of all dates in the lake, as hours since 1970 in ascending order.

    Attributes:
        read: The hours that have been read.
        unread: All other hours.
    """

    read: Integers
    unread: Integers

    @classmethod
    def around(cls, hours: Iterable[int], dates: Iterable[date], reach: int) -> "EventHours":
        """Plan to read some hours first, and the hours that begin or end within `reach` microseconds of them.

        >>> EventHours.around([25], [date(1970, 1, 1), date(1970, 1, 2)], 2 * HOUR).read.tolist()
        [23, 24, 25, 26, 27]
        """
        beside = -(-reach // HOUR)
        asked = np.fromiter(hours, np.int64)
        wanted = np.unique(asked[:, None] + np.arange(-beside, beside + 1))
        existing = hours_of(days_of(dates))
        return cls(np.intersect1d(existing, wanted), np.setdiff1d(existing, wanted))

    def cut_off(self, first: Integers, last: Integers) -> Flags:
        """Whether an unread hour lies between two times, both inclusive; microseconds since 1970."""
        ends = np.searchsorted(self.unread, last // HOUR, "right")
        return np.asarray(np.searchsorted(self.unread, first // HOUR, "left") < ends)

    def unread_between(self, first: Integers, last: Integers) -> Integers:
        """The unread hours between any of the pairs of times, microseconds since 1970."""
        begins = np.searchsorted(self.unread, first // HOUR, "left")
        ends = np.searchsorted(self.unread, last // HOUR, "right")
        depth = np.zeros(len(self.unread) + 1, np.int64)
        np.add.at(depth, begins, 1)
        np.subtract.at(depth, ends, 1)
        return self.unread[np.cumsum(depth)[:-1] > 0]

    def having_read(self, hours: Integers) -> "EventHours":
        """A copy in which these hours are read too."""
        return EventHours(np.union1d(self.read, hours), np.setdiff1d(self.unread, hours))


def days_of(dates: Iterable[date]) -> Integers:
    """Dates as days since 1970, in ascending order without duplicates."""
    return np.unique(np.fromiter((day.toordinal() - _EPOCH for day in dates), np.int64))


def hours_of(days: Integers) -> Integers:
    """All hours of the days, as hours since 1970, in the order of the days."""
    return np.asarray((days[:, None] * _HOURS + np.arange(_HOURS)).ravel())


def dates_of(hours: Integers) -> list[date]:
    """The dates of hours since 1970, in ascending order without duplicates."""
    return [date.fromordinal(int(day) + _EPOCH) for day in np.unique(hours // _HOURS)]
