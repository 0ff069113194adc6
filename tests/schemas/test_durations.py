"""Durations and times as people write them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.durations import DAY, format_duration, micros_of, parse_duration, parse_optional_duration, parse_time
from schemas.errors import OptionError


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1us", 1),
        ("250ms", 250_000),
        ("90s", 90_000_000),
        ("30m", 1_800_000_000),
        ("4h", 14_400_000_000),
        ("1d", 86_400_000_000),
        ("1h30m", 5_400_000_000),
        ("1m1ms", 60_001_000),
        ("  30M ", 1_800_000_000),
    ],
)
def test_duration_of_known_units_is_microseconds(text: str, micros: int) -> None:
    assert parse_duration(text) == micros


@pytest.mark.parametrize(
    "text", ["", "30", "m", "-5m", "1.5h", "5 m", "5x", "m30", "1h-30m", "off", "0s", "0h0m", "36501d"]
)
def test_text_that_is_no_duration_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(OptionError) as refusal:
        parse_duration(text)
    assert repr(text) in str(refusal.value)


@given(st.integers(1, 36_500 * DAY))
def test_written_duration_reads_back_as_the_same(micros: int) -> None:
    assert parse_duration(format_duration(micros)) == micros


def test_off_is_no_duration_and_back() -> None:
    assert parse_optional_duration(" Off ") is None
    assert [parse_optional_duration(text) for text in ("0", "0s", "00M")] == [None, None, None]
    assert parse_optional_duration("5m") == 300_000_000
    assert format_duration(None) == "off"
    assert format_duration(0) == "0s"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-04-12", datetime(2026, 4, 12, tzinfo=UTC)),
        ("2026-04-12T09:30:00", datetime(2026, 4, 12, 9, 30, tzinfo=UTC)),
        ("2026-04-12T09:30:00.5Z", datetime(2026, 4, 12, 9, 30, 0, 500_000, tzinfo=UTC)),
        ("2026-04-12T00:30:00+02:00", datetime(2026, 4, 11, 22, 30, tzinfo=UTC)),
    ],
)
def test_time_without_an_offset_is_utc(text: str, time: datetime) -> None:
    found = parse_time(text)
    assert (found, found.tzinfo) == (time, UTC)


@pytest.mark.parametrize(
    "text", ["", "now", "12:30", "2026-13-01", "2026-02-30", "0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00"]
)
def test_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not a time"):
        parse_time(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_microseconds_of_any_time_are_exact(time: datetime) -> None:
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros_of(time)) == time
