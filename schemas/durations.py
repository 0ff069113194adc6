"""Parsing and formatting of durations and times. They are parsed once, at the edge, into integer microseconds."""

import re
from datetime import UTC, datetime, timedelta

from schemas.errors import OptionError

MICROSECOND = 1
MILLISECOND = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_UNITS = {"us": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_PART = re.compile(r"(\d+)(us|ms|s|m|h|d)")
_WHOLE = re.compile(r"(?:\d+(?:us|ms|s|m|h|d))+")
_OFF = re.compile(r"off|0+(?:us|ms|s|m|h|d)?")
_LONGEST = 36_500 * DAY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str) -> int:
    """Parse a duration such as ``30m`` or ``1h30m``.

    Args:
        text: One or more ``<integer><unit>`` parts; units are us, ms, s, m, h, d.

    Returns:
        Microseconds, more than zero and at most a hundred years.

    Raises:
        OptionError: The text is not a duration, or the duration is zero or too long.

    >>> parse_duration("30m")
    1800000000
    >>> parse_duration("1h30m") == 90 * MINUTE
    True
    """
    compact = text.strip().lower()
    if not _WHOLE.fullmatch(compact):
        raise OptionError(f"{text!r} is not a duration: write it like 90s, 30m, 4h or 1d")
    micros = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(compact))
    if micros == 0:
        raise OptionError(f"{text!r}: a duration must be more than zero")
    if micros > _LONGEST:
        raise OptionError(f"{text!r}: a duration is at most {format_duration(_LONGEST)}")
    return micros


def parse_optional_duration(text: str) -> int | None:
    """Parse a duration; ``off`` or zero, for a disabled rule, gives None.

    >>> parse_optional_duration("off") is None
    True
    """
    return None if _OFF.fullmatch(text.strip().lower()) else parse_duration(text)


def format_duration(micros: int | None) -> str:
    """Format microseconds in the form that `parse_duration` parses.

    >>> format_duration(90 * MINUTE)
    '1h30m'
    >>> format_duration(None)
    'off'
    """
    if micros is None:
        return "off"
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, micros = divmod(micros, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time, or a date as its midnight. A time without an offset is in UTC.

    Raises:
        OptionError: The text is not a time, or the time is before the year 1 or after 9999 in UTC.

    >>> parse_time("2026-04-12T02:00:00+02:00").isoformat()
    '2026-04-12T00:00:00+00:00'
    """
    try:
        value = datetime.fromisoformat(text.strip())
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise OptionError(f"{text!r} is not a time: write it like 2026-04-12T09:30:00Z") from error


def format_time(value: datetime) -> str:
    """Format a time as RFC 3339, with Z for UTC.

    >>> format_time(parse_time("2026-04-12T02:00:00+02:00"))
    '2026-04-12T00:00:00Z'
    """
    return value.isoformat().replace("+00:00", "Z")


def micros_of(time: datetime) -> int:
    """Microseconds of a time since 1970, UTC. Exact, unlike `datetime.timestamp`, which is a double.

    >>> micros_of(parse_time("0001-01-01T00:00:00.000001Z"))
    -62135596799999999
    """
    return (time - _EPOCH) // timedelta(microseconds=1)
