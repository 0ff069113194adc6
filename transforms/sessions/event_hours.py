"""Which hours of the lake's events have been read, so that what was found in them is known to be whole or cut off."""

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
    """Hours since 1970 of the dates that the lake has rows of, in order, apart in two.

    Attributes:
        read: Those that have been read.
        unread: The others.
    """

    read: Integers
    unread: Integers

    @classmethod
    def around(cls, hours: Iterable[int], dates: Iterable[date], reach: int) -> "EventHours":
        """The hours to read first: some, and those that begin or end no further from them than `reach` microseconds.

        >>> EventHours.around([25], [date(1970, 1, 1), date(1970, 1, 2)], 2 * HOUR).read.tolist()
        [23, 24, 25, 26, 27]
        """
        beside = -(-reach // HOUR)
        asked = np.fromiter(hours, np.int64)
        wanted = np.unique(asked[:, None] + np.arange(-beside, beside + 1))
        there = hours_of(days_of(dates))
        return cls(np.intersect1d(there, wanted), np.setdiff1d(there, wanted))

    def cut_off(self, first: Integers, last: Integers) -> Flags:
        """Whether an unread hour lies between two times, both included; microseconds since 1970."""
        ends = np.searchsorted(self.unread, last // HOUR, "right")
        return np.asarray(np.searchsorted(self.unread, first // HOUR, "left") < ends)

    def unread_between(self, first: Integers, last: Integers) -> Integers:
        """The unread hours that lie between any of the pairs of times."""
        begins = np.searchsorted(self.unread, first // HOUR, "left")
        ends = np.searchsorted(self.unread, last // HOUR, "right")
        depth = np.zeros(len(self.unread) + 1, np.int64)
        np.add.at(depth, begins, 1)
        np.subtract.at(depth, ends, 1)
        return self.unread[np.cumsum(depth)[:-1] > 0]

    def having_read(self, hours: Integers) -> "EventHours":
        """The same, once these hours have been read too."""
        return EventHours(np.union1d(self.read, hours), np.setdiff1d(self.unread, hours))


def days_of(dates: Iterable[date]) -> Integers:
    """Some dates as days since 1970, in order."""
    return np.unique(np.fromiter((day.toordinal() - _EPOCH for day in dates), np.int64))


def hours_of(days: Integers) -> Integers:
    """The hours of some days since 1970, in the days' order."""
    return np.asarray((days[:, None] * _HOURS + np.arange(_HOURS)).ravel())


def dates_of(hours: Integers) -> list[date]:
    """The dates that some hours lie on, in order."""
    return [date.fromordinal(int(day) + _EPOCH) for day in np.unique(hours // _HOURS)]
