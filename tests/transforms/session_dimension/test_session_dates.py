"""Dates of a reporting time zone: which are computed, and which UTC dates hold their events."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from schemas.errors import OptionError
from transforms.session_dimension.session_dates import StartDates, closed_date, dates_to_build, local_dates, parse_zone

ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Kiritimati", "America/Sao_Paulo"]
UTC_ZONE = ZoneInfo("UTC")


def day(text: str) -> date:
    return date.fromisoformat(f"2026-{text}")


@pytest.mark.parametrize("zone", ZONES)
def test_every_hour_of_a_year_lies_on_a_utc_date_that_is_read_for_its_date(zone: str) -> None:
    start = datetime(2018, 1, 1, tzinfo=UTC)  # Sao Paulo still changed its clocks, at midnight
    times = [start + timedelta(hours=n, microseconds=-1) for n in range(24 * 366)]
    found = pl.DataFrame({"time": times}).select(local_dates(pl.col("time"), zone))["time"].to_list()
    assert found == [time.astimezone(ZoneInfo(zone)).date() for time in times]
    read = {on: StartDates(on, on, ZoneInfo(zone)).utc_span() for on in set(found)}
    for time, on in zip(times, found, strict=True):
        assert read[on][0] <= time.date() <= read[on][1]
    assert max(last - first for first, last in read.values()) <= timedelta(days=1)


@pytest.mark.parametrize(
    ("days", "as_of", "built", "expected"),
    [
        (7, "03-30", None, ("03-01", "03-30")),  # a first run takes all
        (7, "03-30", ("03-01", "03-29"), ("03-24", "03-30")),
        (2, "03-30", ("03-01", "03-10"), ("03-11", "03-30")),  # no date is left out
        (3, "03-20", ("03-01", "03-30"), ("03-18", "03-30")),  # numbers after it may move
        (99, "03-30", ("03-01", "03-30"), ("03-01", "03-30")),
        (5_000_000_000, "03-30", ("03-01", "03-30"), ("03-01", "03-30")),
        (None, "03-30", ("03-05", "03-30"), ("03-01", "03-30")),
        (None, "03-30", ("02-20", "03-30"), ("02-20", "03-30")),  # its events are gone, so are its sessions
        (7, "02-20", None, None),
    ],
)
def test_dates_to_build_leave_no_hole_and_reach_the_last_one_built(
    days: int | None, as_of: str, built: tuple[str, str] | None, expected: tuple[str, str] | None
) -> None:
    span = (day(built[0]), day(built[1])) if built else None
    found = dates_to_build(days, day(as_of), UTC_ZONE, day("03-01"), span)
    assert (found and (found.first, found.last)) == (expected and (day(expected[0]), day(expected[1])))


def test_first_events_of_a_utc_date_may_lie_on_the_date_before_in_the_zone() -> None:
    found = dates_to_build(7, day("03-05"), ZoneInfo("America/New_York"), day("03-01"), None)
    assert found is not None
    assert found.first == day("02-28")


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Seoul"])
def test_first_date_of_the_calendar_has_none_before_it(zone: str) -> None:
    found = dates_to_build(None, date(1, 1, 5), ZoneInfo(zone), date.min, None)
    assert found is not None
    assert (found.first, found.utc_span()[0]) == (date.min, date.min)


def test_closed_date_is_yesterday_by_the_clocks_of_the_zone() -> None:
    now = datetime(2026, 3, 2, 3, tzinfo=UTC)
    assert [closed_date(now, ZoneInfo(zone)) for zone in ("UTC", "America/New_York", "Asia/Seoul")] == [
        day("03-01"),
        day("02-28"),
        day("03-01"),
    ]


@pytest.mark.parametrize("name", ["", "Berlin", "../etc/passwd", "Europe", "Europe/Berlin\0"])
def test_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="is no time zone"):
        parse_zone(name)
