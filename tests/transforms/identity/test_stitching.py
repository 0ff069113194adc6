"""Whose an anonymous session was, and which users are one person: the rules, without a lake."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dimensions import DEVICE
from schemas.durations import DAY
from schemas.sessions import SESSION
from schemas.user_stream import USER_STREAM
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.identity.devices import device_rows
from transforms.identity.stitching import (
    ACTIVITY_COLUMNS,
    OWNER_COLUMNS,
    Caps,
    apply_stitched,
    changes_of,
    components_of,
    keep_resolution,
    stitched_activities,
    stitched_devices,
    stitched_sessions,
)

LOGIN = datetime(2026, 4, 12, 10, tzinfo=UTC)


def devices_of(logins: dict[str, list[str]]) -> pa.Table:
    """Devices and the users that log in on them, one after the other from LOGIN on."""
    rows = [
        click(at(seconds=n), device, f"{device}{n:03d}", user_key=user)
        for device, users in logins.items()
        for n, user in enumerate(users)
    ]
    return device_rows(batch(rows))


def sessions_of(*rows: tuple[str, datetime, str | None]) -> pa.Table:
    """Sessions by device, start and own login."""
    columns = [
        {
            "session_id": f"s{n}",
            "device_id": device,
            "session_start": start,
            "user_key": user,
            "resolved_user_key": None,
        }
        for n, (device, start, user) in enumerate(rows)
    ]
    names = ("session_id", "device_id", "session_start", "user_key", "resolved_user_key")
    return pa.Table.from_pylist(columns, pa.schema([SESSION.schema.field(name) for name in names]))


def resolved(sessions: pa.Table, devices: pa.Table, lookback: int | None = 30 * DAY) -> list[str | None]:
    found = stitched_sessions(sessions, stitched_devices(devices, lookback))
    return (sessions if found is None else found).column("resolved_user_key").to_pylist()


def identities(logins: dict[str, list[str]], caps: Caps | None = None) -> dict[str, tuple[str | None, str | None]]:
    rows = stitched_devices(devices_of(logins), None, caps or Caps()).to_pylist()
    return {row["device_id"]: (row["identity_key"], row["identity_reason"]) for row in rows}


def test_anonymous_session_goes_to_the_last_login_and_one_with_its_own_to_nobody_else() -> None:
    devices = devices_of({"shared": ["ann", "bob"], "anns": ["ann"]})
    sessions = sessions_of(
        ("shared", LOGIN - timedelta(days=3), None),
        ("shared", LOGIN, "ann"),
        ("shared", LOGIN + timedelta(days=9), None),
        ("anns", LOGIN - timedelta(days=1), None),
        ("unknown", LOGIN, None),
    )
    assert resolved(sessions, devices) == ["bob", None, "bob", "ann", None]


def test_lookback_reaches_exactly_as_far_as_it_says() -> None:
    devices = devices_of({"d": ["ann"]})
    edge = LOGIN - timedelta(days=30)
    sessions = sessions_of(("d", edge, None), ("d", edge - timedelta(microseconds=1), None))
    assert resolved(sessions, devices) == ["ann", None]
    assert resolved(sessions, devices, None) == ["ann", "ann"]
    assert resolved(sessions, devices, DAY) == [None, None]


def test_sessions_that_are_as_they_are_to_be_are_not_changed() -> None:
    devices = stitched_devices(devices_of({"d": ["ann"]}), None)
    first = stitched_sessions(sessions_of(("d", LOGIN, None)), devices)
    assert first is not None
    assert stitched_sessions(first, devices) is None
    assert stitched_sessions(sessions_of(("d", LOGIN, "ann")), devices) is None


def test_session_of_a_device_that_became_public_is_taken_back() -> None:
    before = stitched_sessions(sessions_of(("d", LOGIN, None)), stitched_devices(devices_of({"d": ["ann"]}), None))
    assert before is not None
    assert resolved(before, devices_of({"d": [f"u{n:02d}" for n in range(40)]})) == [None]


def test_new_state_of_an_anonymous_session_keeps_its_user_and_a_login_takes_it_away() -> None:
    given_away = sessions_of(("d", LOGIN, None), ("d", LOGIN, None), ("d", LOGIN, None))
    there = given_away.set_column(4, "resolved_user_key", pa.array(["ann", "ann", None], pa.string()))
    new = given_away.set_column(3, "user_key", pa.array([None, "bob", None], pa.string()))
    assert keep_resolution(there.slice(0, 2), new).column("resolved_user_key").to_pylist() == ["ann", None, None]


def test_chain_over_devices_is_one_person_named_by_the_least_user() -> None:
    logins = {"d1": ["b", "a"], "d2": ["b"], "d3": ["c", "b"], "alone": ["x"]}
    person = ("a", "shared_devices")
    assert identities(logins) == {"d1": person, "d2": person, "d3": person, "alone": (None, None)}


def test_kiosk_welds_nobody_and_leaves_the_persons_behind_it() -> None:
    strangers = {f"own{n:02d}": [f"u{n:02d}"] for n in range(40)}
    couple = {"sofa": ["u00", "u01"]}
    found = identities(strangers | couple | {"kiosk": [f"u{n:02d}" for n in range(40)]})
    assert found["kiosk"] == (None, None)
    assert found["sofa"] == found["own00"] == found["own01"] == ("u00", "shared_devices")
    assert {found[f"own{n:02d}"] for n in range(2, 40)} == {(None, None)}


def test_component_of_too_many_users_stays_apart_with_the_reason() -> None:
    chain = {f"d{n:02d}": [f"u{n:02d}", f"u{n + 1:02d}"] for n in range(10)}
    assert set(identities(chain).values()) == {(None, "too_many_users")}
    del chain["d09"]
    assert set(identities(chain).values()) == {("u00", "shared_devices")}


def test_user_of_forty_devices_is_one_person_and_a_bot_of_more_than_the_cap_welds_nothing() -> None:
    many = {f"d{n:02d}": ["u"] for n in range(40)}
    assert set(identities(many | {"pair": ["u", "v"]}).values()) == {("u", "shared_devices")}
    found = identities(many | {"pair": ["u", "v"], "vs": ["v"]}, Caps(users=10, devices=20))
    assert found["pair"] == (None, "too_many_devices")
    assert found["vs"] == found["d00"] == (None, None)


def test_component_of_too_many_devices_stays_apart_with_the_reason() -> None:
    logins = {f"a{n}": ["a"] for n in range(4)} | {f"b{n}": ["b"] for n in range(4)} | {"both": ["a", "b"]}
    assert set(identities(logins, Caps(users=10, devices=8)).values()) == {(None, "too_many_devices")}
    assert set(identities(logins, Caps(users=10, devices=9)).values()) == {("a", "shared_devices")}


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30))
def test_components_are_those_that_a_walk_from_each_user_finds(pairs: list[tuple[int, int]]) -> None:
    def reached(user: int) -> set[int]:
        found, left = {user}, [user]
        while left:
            one = left.pop()
            devices = {device for device, other in pairs if other == one}
            left += sorted({other for device, other in pairs if device in devices} - found)
            found |= set(left)
        return found

    devices, users = (np.array([pair[n] for pair in pairs], np.int64) for n in (0, 1))
    assert components_of(devices, users).tolist() == [min(reached(user)) for _, user in pairs]


def test_only_devices_that_changed_are_written_and_others_keep_what_they_have() -> None:
    before = devices_of({"a": ["ann"], "b": ["bob"], "c": ["cy"]})
    after = stitched_devices(before, 30 * DAY)
    assert changes_of(before, after).to_pylist() == [True] * 3
    assert not any(changes_of(after, stitched_devices(after, 30 * DAY)).to_pylist())
    only_b = after.filter(pa.compute.equal(after["device_id"], "b"))
    written = apply_stitched(before, only_b)
    assert written is not None
    assert written.column("stitched_user_key").to_pylist() == [None, "bob", None]
    assert apply_stitched(written, only_b) is None
    assert written.schema.equals(DEVICE.record.schema)


@pytest.mark.parametrize("lookback", [None, DAY])
def test_no_rows_give_no_rows(lookback: int | None) -> None:
    nothing: Any = stitched_devices(DEVICE.record.empty(), lookback)
    assert nothing.num_rows == 0
    assert stitched_sessions(sessions_of(), nothing) is None
    assert keep_resolution(SESSION.empty(), SESSION.empty()).num_rows == 0


_MINUTES = st.integers(0, 40)
_USERS = st.sampled_from([None, "ann", "bob"])


@settings(max_examples=60)
@given(
    activities=st.lists(st.tuples(st.sampled_from("xyz"), _MINUTES, _USERS, st.booleans()), max_size=12),
    sessions=st.lists(
        st.tuples(st.sampled_from("xy"), st.integers(0, 3), st.integers(0, 8), _USERS, _USERS), max_size=6
    ),
)
def test_activity_is_its_own_customers_else_that_of_the_session_around_it(
    activities: list[tuple[str, int, str | None, bool]],
    sessions: list[tuple[str, int, int, str | None, str | None]],
) -> None:
    # sessions of a device do not overlap: each begins in a stretch of ten minutes of its own
    unique = {(device, place): rest for device, place, *rest in sessions}
    spans = [
        {
            "device_id": device,
            "session_start": at(minutes=10 * place),
            "session_end": at(minutes=10 * place + length),
            "user_key": own,
            "resolved_user_key": None if own else given_to,
        }
        for (device, place), (length, own, given_to) in unique.items()
    ]
    rows = [
        {
            "anonymous_customer_id": device,
            "ts": at(minutes=minute),
            "customer": customer,
            "customer_is_stitched": stitched and customer is not None,
        }
        for device, minute, customer, stitched in activities
    ]

    def expected(row: dict[str, Any]) -> tuple[str | None, bool]:
        if row["customer"] is not None and not row["customer_is_stitched"]:
            return row["customer"], False
        for span in spans:
            same = span["device_id"] == row["anonymous_customer_id"]
            if same and span["session_start"] <= row["ts"] <= span["session_end"]:
                owner = span["user_key"] or span["resolved_user_key"]
                return owner, owner is not None
        return None, False

    table = pa.Table.from_pylist(rows, pa.schema([USER_STREAM.schema.field(name) for name in ACTIVITY_COLUMNS]))
    owners = pa.Table.from_pylist(spans, pa.schema([SESSION.schema.field(name) for name in OWNER_COLUMNS]))
    found = stitched_activities(table, owners)
    pairs = [expected(row) for row in rows]
    assert (found is None) == (pairs == [(row["customer"], row["customer_is_stitched"]) for row in rows])
    if found is not None:
        assert (
            list(zip(*(found[name].to_pylist() for name in ("customer", "customer_is_stitched")), strict=True)) == pairs
        )
        assert found["ts"].equals(table["ts"])
