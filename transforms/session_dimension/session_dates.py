"""The start dates that a run of the session dimension computes, in the reporting time zone, and the dates it reads."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from schemas.errors import OptionError

_DAY = timedelta(days=1)


def parse_zone(name: str) -> ZoneInfo:
    """Find a time zone by its IANA name.

    Raises:
        OptionError: No time zone has this name.

    >>> parse_zone("Europe/Berlin").key
    'Europe/Berlin'
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # the name of a folder of zones gives an OSError
        raise OptionError(f"{name!r} is no time zone: write it like UTC or Europe/Berlin") from error


def local_dates(times: pl.Expr, zone: str) -> pl.Expr:
    """The dates, in a time zone, of times in UTC."""
    return times.dt.convert_time_zone(zone).dt.date()


@dataclass(frozen=True)
class StartDates:
    """Consecutive start dates, both ends inclusive.

    Attributes:
        first: The first date.
        last: The last date.
        zone: The time zone of the dates.

    >>> date_of_new_york = StartDates(date(2026, 4, 12), date(2026, 4, 12), ZoneInfo("America/New_York"))
    >>> [f"{day:%d}" for day in date_of_new_york.utc_span()]
    ['12', '13']
    """

    first: date
    last: date
    zone: ZoneInfo

    def utc_span(self) -> tuple[date, date]:
        """The first and the last UTC date of events on these dates; each may be a day off the date in the zone."""
        end = _midnight(self.last + _DAY, self.zone).astimezone(UTC)
        # No date is before the year 1
        first = _midnight(self.first, self.zone).astimezone(UTC).date() if self.first > date.min else self.first
        return first, (end - timedelta(microseconds=1)).date()


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def closed_date(now: datetime, zone: ZoneInfo) -> date:
    """The last date that has ended in the zone."""
    return now.astimezone(zone).date() - _DAY


def dates_to_build(
    days: int | None, as_of: date, zone: ZoneInfo, events_from: date, built: tuple[date, date] | None
) -> StartDates | None:
    """The start dates to compute, without a gap after the dates in the table.

    A session's number depends on all sessions before it. So the dates always extend to the last date in the table, and
    begin no later than the day after it.

    Args:
        days: Number of start dates up to `as_of`; None for all.
        as_of: The last requested date.
        zone: The reporting time zone.
        events_from: The first UTC date with events, which may be on the date before in the zone.
        built: The first and last start date in the table; None if it is empty, in which case all dates are computed.

    Returns:
        The dates; None if no event can be on any of them.
    """
    earliest = events_from
    if events_from > date.min:
        earliest = _midnight(events_from, ZoneInfo("UTC")).astimezone(zone).date()
    last = as_of
    first = earliest
    if built is not None:
        earliest = min(earliest, built[0])
        last = max(as_of, built[1])
        back = _DAY * min((days or 1) - 1, (as_of - date.min).days)
        first = earliest if days is None else max(earliest, min(as_of - back, built[1] + _DAY))
    return StartDates(first, last, zone) if first <= last else None
