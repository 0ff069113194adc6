"""Which start dates a run of the session dimension computes, in the reporting time zone, and what it reads for them."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from schemas.errors import OptionError

_DAY = timedelta(days=1)


def parse_zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name.

    Raises:
        OptionError: There is none of that name.

    >>> parse_zone("Europe/Berlin").key
    'Europe/Berlin'
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # a folder of zones is an OSError
        raise OptionError(f"{name!r} is no time zone: write it like UTC or Europe/Berlin") from error


def local_dates(times: pl.Expr, zone: str) -> pl.Expr:
    """The dates of some times, in UTC, on the calendars of a zone."""
    return times.dt.convert_time_zone(zone).dt.date()


@dataclass(frozen=True)
class StartDates:
    """Consecutive start dates, both ends included.

    Attributes:
        first: The first date.
        last: The last date.
        zone: The time zone whose dates they are.

    >>> date_of_new_york = StartDates(date(2026, 4, 12), date(2026, 4, 12), ZoneInfo("America/New_York"))
    >>> [f"{day:%d}" for day in date_of_new_york.utc_span()]
    ['12', '13']
    """

    first: date
    last: date
    zone: ZoneInfo

    def utc_span(self) -> tuple[date, date]:
        """The first and the last UTC date that their events lie on: they begin or end up to a day apart."""
        end = _midnight(self.last + _DAY, self.zone).astimezone(UTC)
        # before the year 1 there is no date
        first = _midnight(self.first, self.zone).astimezone(UTC).date() if self.first > date.min else self.first
        return first, (end - timedelta(microseconds=1)).date()


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def closed_date(now: datetime, zone: ZoneInfo) -> date:
    """The last date that has ended in a zone."""
    return now.astimezone(zone).date() - _DAY


def dates_to_build(
    days: int | None, as_of: date, zone: ZoneInfo, events_from: date, built: tuple[date, date] | None
) -> StartDates | None:
    """The start dates to compute, none left out between those that are built and the last.

    Numbers depend on all that goes before them, so the dates always reach the last one that is built, and
    begin no later than the day after it.

    Args:
        days: How many start dates up to `as_of`; None for all.
        as_of: The last date asked for.
        zone: The reporting time zone.
        events_from: The first UTC date that has events; they may be of the date before in the zone.
        built: The first and last start date of the table; None while it is empty, which takes all dates.

    Returns:
        The dates; None where no event can lie on one.
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
