"""The rules of the session dimension as functions: user, date, gap, attributes, numbers, places."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import EVENT
from transforms.session_dimension.session_dates import StartDates
from transforms.session_dimension.session_dimension import (
    BEFORE_SCHEMA,
    USER_EVENT_SCHEMA,
    number_sessions,
    place_events,
    resolve_users,
    sessions_before,
    user_cells,
    user_events,
)
from transforms.sessions.cells import EVENT_COLUMNS
from transforms.tables import split_by_shard

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
GAP = timedelta(minutes=30)
SCHEMA = pa.schema([EVENT.schema.field(name) for name in EVENT_COLUMNS])
NOBODY = BEFORE_SCHEMA.empty_table()


def event(event_id: str, time: datetime, device: str = "d", user: str | None = "u", **columns: Any) -> dict[str, Any]:
    return {"event_id": event_id, "event_type": "click", "event_time": time, "device_id": device, "user_key": user} | (
        columns
    )


def build(
    rows: list[dict[str, Any]], before: pa.Table = NOBODY, zone: str = "UTC"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sessions and places of all events, at whatever date."""
    dates = StartDates(date(2020, 1, 1), date(2030, 1, 1), ZoneInfo(zone))
    events = user_events(pa.Table.from_pylist(rows, schema=SCHEMA), dates)
    sessions = number_sessions([user_cells(events)], before, zone)
    places = place_events([events.select(USER_EVENT_SCHEMA.names).cast(USER_EVENT_SCHEMA)], sessions)
    return sessions.to_pylist(), places.to_pylist()


def test_silence_of_exactly_thirty_minutes_continues_and_a_microsecond_more_does_not() -> None:
    second = NOON + GAP
    third = second + GAP + timedelta(microseconds=1)
    sessions, _ = build([event("1", NOON), event("2", second), event("3", third)])
    assert [(s["session_id"], s["session_start"], s["session_end"]) for s in sessions] == [
        (1, NOON, second),
        (2, third, third),
    ]


def test_events_of_one_user_on_two_devices_are_one_session_and_those_of_two_users_on_one_device_two() -> None:
    sessions, _ = build([event("1", NOON, "phone"), event("2", NOON + GAP, "laptop")])
    assert [s["event_count"] for s in sessions] == [2]
    sessions, _ = build([event("1", NOON, user="u"), event("2", NOON, user="v")])
    assert [(s["user_key"], s["event_count"]) for s in sessions] == [("u", 1), ("v", 1)]


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [
        ("UTC", "2026-03-29T00:00:00+00:00"),
        ("Europe/Berlin", "2026-03-28T23:00:00+00:00"),
        ("Europe/Berlin", "2026-03-29T22:00:00+00:00"),  # of a day of 23 hours
        ("Asia/Kathmandu", "2026-03-28T18:15:00+00:00"),
    ],
)
def test_session_ends_with_its_date_in_the_zone(zone: str, midnight: str) -> None:
    new_day = datetime.fromisoformat(midnight)
    last = new_day - timedelta(microseconds=1)
    sessions, places = build([event("1", last), event("2", new_day)], zone=zone)
    assert [(s["session_id"], s["session_start"], s["end_date"]) for s in sessions] == [
        (1, last, last.astimezone(ZoneInfo(zone)).date()),
        (2, new_day, new_day.astimezone(ZoneInfo(zone)).date()),
    ]
    assert [(p["event_date"], p["start_date"]) for p in places] == [
        (last.date(), sessions[0]["start_date"]),
        (new_day.date(), sessions[1]["start_date"]),
    ]


def test_hour_that_the_clocks_skip_is_no_silence() -> None:
    # 02:59 summer time does not exist in Berlin on that night: these are two minutes apart
    one, two = (datetime(2026, 3, 29, hour, minute, tzinfo=UTC) for hour, minute in ((0, 59), (1, 1)))
    assert [s["event_count"] for s in build([event("1", one), event("2", two)], zone="Europe/Berlin")[0]] == [2]


def test_attributes_are_the_first_that_are_known_and_stay() -> None:
    rows = [
        event("1", NOON),
        event("2", NOON + GAP, country="DE", os="iOS"),
        event("3", NOON + 2 * GAP, country="US", device_type="mobile"),
    ]
    (session,), _ = build(rows)
    assert (session["country"], session["os"], session["device_type"]) == ("DE", "iOS", "mobile")


def test_login_at_the_exact_end_of_the_silence_belongs_to_the_user_it_names() -> None:
    rows = [event("1", NOON, user=None), event("2", NOON + GAP, user="u")]
    alone, _ = build(rows)
    assert [(s["user_key"], s["event_count"]) for s in alone] == [("device:d", 1), ("u", 1)]
    devices = pa.table({"device_id": ["d", "e"], "resolved_user_key": ["u", "v"]})
    resolved = resolve_users(pa.Table.from_pylist(rows, schema=SCHEMA), devices).to_pylist()
    stitched, _ = build(resolved)
    assert [(s["user_key"], s["event_count"]) for s in stitched] == [("u", 2)]


def test_own_user_of_an_event_is_never_replaced_by_the_devices() -> None:
    rows = pa.Table.from_pylist([event("1", NOON, user="v"), event("2", NOON, "x", user=None)], schema=SCHEMA)
    devices = pa.table({"device_id": ["d"], "resolved_user_key": ["u"]})
    assert resolve_users(rows, devices).column("user_key").to_pylist() == ["v", None]


def test_numbers_go_on_from_the_sessions_before() -> None:
    rows = [event("1", NOON), event("2", NOON + 3 * GAP), event("3", NOON, user="new")]
    counts = [
        pa.table([["u", "gone"], [5, 2]], schema=BEFORE_SCHEMA),
        pa.table([["u", "gone"], [-1, -2]], schema=BEFORE_SCHEMA),
    ]
    before = sessions_before(counts)
    assert before.to_pylist() == [{"user_key": "u", "sessions": 4}]
    sessions, places = build(rows, before)
    assert [(s["user_key"], s["session_id"]) for s in sessions] == [("new", 1), ("u", 5), ("u", 6)]
    assert [(p["user_key"], p["session_id"], p["session_position"]) for p in places] == [
        ("new", 1, 1),
        ("u", 5, 1),
        ("u", 6, 1),
    ]


def test_users_whose_names_end_in_dates_are_kept_apart() -> None:
    rows = [event("1", NOON, user="a"), event("2", NOON, user="a2026-03-28"), event("3", NOON, "ü\0", user=None)]
    sessions, _ = build(rows)
    assert [(s["user_key"], s["start_date"]) for s in sessions] == [
        (user, NOON.date()) for user in ("a", "a2026-03-28", "device:ü\0")
    ]


def test_events_that_are_not_those_of_the_sessions_are_an_error() -> None:
    rows = pa.Table.from_pylist([event("1", NOON)], schema=SCHEMA)
    events = user_events(rows, StartDates(NOON.date(), NOON.date(), ZoneInfo("UTC")))
    sessions = number_sessions([user_cells(events)], NOBODY, "UTC")
    with pytest.raises(ValueError, match="0 events for sessions that hold 1"):
        place_events([], sessions)


def test_event_outside_of_the_dates_is_left_out() -> None:
    rows = pa.Table.from_pylist([event("1", NOON), event("2", NOON - timedelta(days=1))], schema=SCHEMA)
    events = user_events(rows, StartDates(NOON.date(), NOON.date(), ZoneInfo("UTC")))
    assert events.column("event_id").to_pylist() == ["1"]


EVENTS = st.lists(
    st.builds(
        event,
        st.integers(0, 3).map(str),
        st.integers(0, 200).map(lambda n: NOON + timedelta(hours=10) + n * GAP / 3),
        st.sampled_from(["d1", "d2"]),
        st.sampled_from(["u", "v", None]),
        country=st.sampled_from([None, "DE", "US"]),
    ),
    max_size=25,
    unique_by=lambda row: (row["device_id"], row["event_id"], row["event_time"]),
)


@settings(max_examples=40)
@given(EVENTS, st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_and_grouping_of_the_events_do_not_matter(rows: list[dict[str, Any]], pick: Any, parts: int) -> None:
    expected = build(rows)
    shuffled = list(rows)
    pick.shuffle(shuffled)
    dates = StartDates(date(2020, 1, 1), date(2030, 1, 1), ZoneInfo("UTC"))
    tables = [user_events(pa.Table.from_pylist(shuffled[n::parts], schema=SCHEMA), dates) for n in range(parts)]
    sessions = number_sessions([user_cells(table) for table in tables], NOBODY, "UTC")
    narrow = [table.select(USER_EVENT_SCHEMA.names).cast(USER_EVENT_SCHEMA) for table in tables]
    assert (sessions.to_pylist(), place_events(narrow, sessions).to_pylist()) == expected


@settings(max_examples=40)
@given(EVENTS, st.integers(1, 5))
def test_shards_hold_each_row_once_and_a_user_in_one(rows: list[dict[str, Any]], shards: int) -> None:
    dates = StartDates(date(2020, 1, 1), date(2030, 1, 1), ZoneInfo("UTC"))
    table = user_events(pa.Table.from_pylist(rows, schema=SCHEMA), dates)
    parts = dict(split_by_shard(table, shards, "user_key"))
    assert sum(part.num_rows for part in parts.values()) == len(rows)
    assert all(0 <= shard < shards and part.schema == table.schema for shard, part in parts.items())
    users = [user for part in parts.values() for user in set(part.column("user_key").to_pylist())]
    assert len(users) == len(set(users))
