"""Whose sessions, activities and devices are, from JSON lines through the main job and a stitch; worked out by hand."""

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.stitch import stitch
from schemas.durations import DAY
from tests.pipelines.shop import MORNING, Shop, on_day

MICRO = timedelta(microseconds=1)
GAP, CAP = timedelta(minutes=30), timedelta(hours=4)
AT_TWO_PAST = MORNING + timedelta(minutes=2)

Visit = tuple[str, datetime, str | None]


def every_twenty_minutes(device: str, start: datetime) -> list[Visit]:
    """Anonymous page views until four hours are over, the last after three hours and forty minutes."""
    return [(device, start + n * timedelta(minutes=20), None) for n in range(12)]


EVENTS: list[Visit] = [
    # a user on one device, in several events of one session
    ("often", on_day(1), None), ("often", on_day(2), "ann"), ("often", on_day(2, minutes=5), "ann"),
    ("often", on_day(2, minutes=9), "ann"),
    # one person with two accounts, on a phone and a desktop; the desktop has seen one of them
    ("phone", on_day(1), None), ("phone", on_day(2), "bea"), ("phone", on_day(3), "bea at work"),
    ("desktop", on_day(1), None), ("desktop", on_day(4), "bea at work"),
    # a tablet of two: who was last has the anonymous sessions, before and after; a session changes hands inside
    ("tablet", on_day(1), None), ("tablet", on_day(2), "cy"), ("tablet", on_day(3), None),
    ("tablet", on_day(4), "dee"), ("tablet", on_day(5), None),
    ("tablet", on_day(6), "dee"), ("tablet", on_day(6, minutes=20), "cy"), ("tablet", on_day(6, minutes=40), "dee"),
    # a login just within the gap, and just beyond it
    ("at the gap", MORNING, None), ("at the gap", MORNING + GAP, "eve"),
    ("after the gap", MORNING, None), ("after the gap", MORNING + GAP + MICRO, "fay"),
    # a session is cut at the first mark of five minutes that is four hours or more after its start
    *every_twenty_minutes("before the cap", MORNING), ("before the cap", MORNING + CAP - MICRO, "gil"),
    *every_twenty_minutes("at the cap", MORNING), ("at the cap", MORNING + CAP, "hal"),
    *every_twenty_minutes("before the mark", AT_TWO_PAST),
    ("before the mark", MORNING + timedelta(hours=4, minutes=5) - MICRO, "ida"),
    *every_twenty_minutes("at the mark", AT_TWO_PAST), ("at the mark", MORNING + timedelta(hours=4, minutes=5), "jo"),
    # nobody has ever logged in
    ("stranger", on_day(3), None),
]  # fmt: skip
KIOSK = [("kiosk", on_day(1), None), *(("kiosk", on_day(2, minutes=n), f"user {n:02d}") for n in range(40))]
HOMES = [(f"home {n:02d}", on_day(2), f"user {n:02d}") for n in range(40)]
SOFA = [("sofa", on_day(3), "user 00"), ("sofa", on_day(3, hours=2), "user 01"), ("sofa", on_day(1), None)]
COLLECTOR = [(f"shelf {n:02d}", on_day(2), "collector") for n in range(40)]
SHELVES = [("shelf 00", on_day(1), None), ("shelf 39", on_day(1), None)]

WHOSE = {
    ("often", on_day(1)): (1, None, "ann"),
    ("often", on_day(2)): (3, "ann", None),
    ("phone", on_day(1)): (1, None, "bea at work"),
    ("phone", on_day(2)): (1, "bea", None),
    ("phone", on_day(3)): (1, "bea at work", None),
    ("desktop", on_day(1)): (1, None, "bea at work"),
    ("desktop", on_day(4)): (1, "bea at work", None),
    ("tablet", on_day(1)): (1, None, "dee"),
    ("tablet", on_day(2)): (1, "cy", None),
    ("tablet", on_day(3)): (1, None, "dee"),
    ("tablet", on_day(4)): (1, "dee", None),
    ("tablet", on_day(5)): (1, None, "dee"),
    ("tablet", on_day(6)): (3, "dee", None),
    ("at the gap", MORNING): (2, "eve", None),
    ("after the gap", MORNING): (1, None, "fay"),
    ("after the gap", MORNING + GAP + MICRO): (1, "fay", None),
    ("before the cap", MORNING): (13, "gil", None),
    ("at the cap", MORNING): (12, None, "hal"),
    ("at the cap", MORNING + CAP): (1, "hal", None),
    ("before the mark", AT_TWO_PAST): (13, "ida", None),
    ("at the mark", AT_TWO_PAST): (12, None, "jo"),
    ("at the mark", MORNING + timedelta(hours=4, minutes=5)): (1, "jo", None),
    ("stranger", on_day(3)): (1, None, None),
    ("kiosk", on_day(1)): (1, None, None),
    ("kiosk", on_day(2)): (40, "user 39", None),
    **{(device, time): (1, user, None) for device, time, user in [*HOMES, *COLLECTOR]},
    ("sofa", on_day(1)): (1, None, "user 01"),
    ("sofa", on_day(3)): (1, "user 00", None),
    ("sofa", on_day(3, hours=2)): (1, "user 01", None),
    ("shelf 00", on_day(1)): (1, None, "collector"),
    ("shelf 39", on_day(1)): (1, None, "collector"),
}
"""Of each session how many events it has, whose login is in it, and whom it is given to."""

CHANGES_HANDS = [(on_day(6), "dee"), (on_day(6, minutes=20), "cy"), (on_day(6, minutes=40), "dee")]


def command(*arguments: object) -> SimpleNamespace:
    """Run a command in a process of its own: a module's fixture has no other."""
    line = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    done = subprocess.run(line, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    return SimpleNamespace(code=done.returncode, err=done.stderr)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The events in two deliveries, many of them in both, some twice in one; and a stitch after each."""
    every = [*EVENTS, *KIOSK, *HOMES, *SOFA, *COLLECTOR, *SHELVES]
    shop = Shop(tmp_path_factory.mktemp("shop"), command)
    for events in (every[1::2] + every[5::10], every):
        shop.visit(*events)
        stitch(shop.lake, 30 * DAY)
    return shop


def test_sessions_are_their_logins_or_given_to_whom_the_device_belongs_to(shop: Shop) -> None:
    sql = """
        SELECT device_id, session_start, event_count, o.user_id AS own, r.user_id AS given FROM fact_sessions s
        LEFT JOIN dim_users o ON o.user_key = s.user_key LEFT JOIN dim_users r ON r.user_key = s.resolved_user_key"""
    rows = shop.rows(sql)
    found = {(row["device_id"], row["session_start"]): (row["event_count"], row["own"], row["given"]) for row in rows}
    assert len(found) == len(rows)
    assert found == WHOSE
    cut = "SELECT device_id, session_start FROM fact_sessions WHERE cut_reason = 'cap' ORDER BY ALL"
    assert [tuple(row.values()) for row in shop.rows(cut)] == [("at the cap", MORNING), ("at the mark", AT_TWO_PAST)]


def test_activities_are_their_own_users_or_those_of_their_sessions(shop: Shop) -> None:
    rows = shop.rows("""
        SELECT anonymous_customer_id AS device, ts, user_id FROM user_stream
        LEFT JOIN dim_users ON user_key = customer""")
    starts = {device: sorted(start for other, start in WHOSE if other == device) for device, _ in WHOSE}

    def owner(device: str, time: datetime, user: str | None) -> str | None:
        session = max(start for start in starts[device] if start <= time)
        return user or WHOSE[device, session][1] or WHOSE[device, session][2]

    every = [*EVENTS, *KIOSK, *HOMES, *SOFA, *COLLECTOR, *SHELVES]
    assert {(row["device"], row["ts"]): row["user_id"] for row in rows} == {e[:2]: owner(*e) for e in every}
    assert len(rows) == len(every)
    tablet = [(row["ts"], row["user_id"]) for row in rows if row["device"] == "tablet" and row["ts"] >= on_day(6)]
    assert sorted(tablet) == CHANGES_HANDS


@pytest.mark.parametrize(
    ("device", "users", "resolved", "reason"),
    [
        ("often", 1, "ann", "one_user"),
        ("phone", 2, "bea at work", "last_login"),
        ("tablet", 2, "dee", "last_login"),
        ("kiosk", 40, None, "public_device"),
        ("shelf 17", 1, "collector", "one_user"),
        ("stranger", 0, None, None),
    ],
)
def test_device_says_whose_it_is_and_why(
    shop: Shop, device: str, users: int, resolved: str | None, reason: str | None
) -> None:
    (row,) = shop.rows(f"""
        SELECT users_seen, user_id, resolution_reason FROM dim_devices
        LEFT JOIN dim_users ON user_key = resolved_user_key WHERE device_id = '{device}'""")
    assert tuple(row.values()) == (users, resolved, reason)


def test_users_of_a_common_device_are_one_person_and_a_kiosk_makes_none(shop: Shop) -> None:
    rows = shop.rows(
        "SELECT device_id, identity_key, identity_reason FROM dim_devices WHERE identity_reason IS NOT NULL"
    )
    persons: dict[str, set[str]] = {}
    for row in rows:
        assert row["identity_reason"] == "shared_devices"
        persons.setdefault(row["identity_key"], set()).add(row["device_id"])
    couple = {"sofa", "home 00", "home 01"}
    assert sorted(map(sorted, persons.values())) == [["desktop", "phone"], sorted(couple), ["tablet"]]
    users = {row["user_key"]: row["user_id"] for row in shop.rows("SELECT user_key, user_id FROM dim_users")}
    for key, devices in persons.items():
        ids = {"phone": {"bea", "bea at work"}, "sofa": {"user 00", "user 01"}, "tablet": {"cy", "dee"}}
        (of_person,) = (ids[device] for device in devices & ids.keys())
        assert key == min(user for user, name in users.items() if name in of_person)


def test_each_user_is_known_once_with_the_devices_used(shop: Shop) -> None:
    rows = shop.rows("SELECT user_id, devices_seen FROM dim_users")
    devices: dict[str, set[str]] = {}
    for device, _, user in [*EVENTS, *KIOSK, *HOMES, *SOFA, *COLLECTOR, *SHELVES]:
        if user:
            devices.setdefault(user, set()).add(device)
    assert len(rows) == len(devices)
    assert {row["user_id"]: row["devices_seen"] for row in rows} == {user: len(of) for user, of in devices.items()}


def test_journey_of_a_person_goes_over_both_accounts_and_devices(shop: Shop) -> None:
    rows: list[dict[str, Any]] = shop.rows("""
        SELECT device_id, session_start FROM journeys
        WHERE person_key = (SELECT min(person_key) FROM sessions_resolved WHERE device_id = 'desktop')
        ORDER BY step""")
    found = [(row["device_id"], row["session_start"].day) for row in rows]
    assert sorted(found[:2]) == [("desktop", 1), ("phone", 1)]
    assert found[2:] == [("phone", 2), ("phone", 3), ("desktop", 4)]
