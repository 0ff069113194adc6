"""Rows of dim_devices and dim_users: in any order, cut and repeated, what plain Python makes of the events."""

import itertools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dimensions import DEVICE, KEYS_KEPT, PUBLIC_DEVICE_USERS, USER
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.identity.devices import device_rows, merge_devices
from transforms.identity.dimensions import deciding_events
from transforms.identity.users import merge_users, user_rows

Row = dict[str, Any]
ATTRIBUTES = ("country", "device_type", "os", "app_version")
DECIDED_BY = ("device_id", "user_key", *ATTRIBUTES)


def events() -> st.SearchStrategy[list[Row]]:
    """Events of few devices, users and ids, crowded on few instants, with many nulls."""
    event = st.builds(
        lambda time, number, device, **columns: click(at(micros=time), device, f"e{number:02d}", **columns),
        time=st.integers(0, 4),
        number=st.integers(0, 12),  # an id is unique on its device alone
        device=st.sampled_from(["d1", "d2", "d3"]),
        user_key=st.sampled_from([None, None, "u1", "u2", "u3"]),
        country=st.sampled_from([None, "DE", "US"]),
        os=st.sampled_from([None, "ios", "android"]),
        app_version=st.sampled_from([None, "1", "2"]),
    )
    once = st.lists(event, min_size=1, max_size=25, unique_by=lambda row: (row["device_id"], row["event_id"]))
    return once.map(lambda rows: [row | {"user_id": row["user_key"] and f"id of {row['user_key']}"} for row in rows])


def value_of(rows: list[Row], name: str, keep: str) -> Any:
    """By time, id and value: a user can have events of one time and id on several devices."""
    known = sorted((row["event_time"], row["event_id"], row[name]) for row in rows if row[name] is not None)
    return known[0 if keep == "first" else -1][2] if known else None


def expected_device(rows: list[Row]) -> Row:
    times = [row["event_time"] for row in rows]
    logins = [row["event_time"] for row in rows if row["user_key"]]
    users = {row["user_key"] for row in rows if row["user_key"]}
    return {
        "device_id": rows[0]["device_id"],
        "first_seen_at": min(times),
        "last_seen_at": max(times),
        "first_login_at": min(logins, default=None),
        "last_login_at": max(logins, default=None),
        "last_login_user_key": value_of(rows, "user_key", "last"),
        "resolved_user_key": value_of(rows, "user_key", "last"),
        "resolution_reason": [None, "one_user", "last_login"][min(len(users), 2)],
        "users_seen": len(users),
        "user_keys": ",".join(sorted(users)) or None,
        **{f"first_{name}": value_of(rows, name, "first") for name in ATTRIBUTES},
        **{f"latest_{name}": value_of(rows, name, "last") for name in ATTRIBUTES},
    }


def expected_user(rows: list[Row]) -> Row:
    times = [row["event_time"] for row in rows]
    return {
        "user_key": rows[0]["user_key"],
        "user_id": f"id of {rows[0]['user_key']}",
        "first_seen_at": min(times),
        "last_seen_at": max(times),
        "devices_seen": len({row["device_id"] for row in rows}),
        **{f"latest_{name}": value_of(rows, name, "last") for name in ("country", "device_type", "os")},
    }


def shown(table: pa.Table, names: list[str]) -> list[Row]:
    """The rows with times as numbers."""
    plain = [pa.field(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(plain)).select(names).to_pylist()


def ordered(rows: pa.Table) -> pa.Table:
    """Rows of a dimension by key: they come in no order."""
    return rows.sort_by(rows.column_names[0]).combine_chunks()


def grouped(rows: list[Row], key: str, expected: Callable[[list[Row]], Row]) -> list[Row]:
    keys = sorted({row[key] for row in rows if row[key] is not None})
    return [expected([row for row in rows if row[key] == one]) for one in keys]


@settings(max_examples=80)
@given(rows=events(), draw=st.data())
def test_any_order_cut_and_repeat_of_events_comes_to_what_plain_python_finds(
    rows: list[Row], draw: st.DataObject
) -> None:
    parts = draw.draw(st.lists(st.lists(st.sampled_from(rows), min_size=1, max_size=12), max_size=4))
    left = draw.draw(st.permutations(rows))
    cut = draw.draw(st.integers(0, len(left)))
    tables = [batch(part) for part in (*parts, left[:cut], left[cut:]) if part]
    devices, users = None, None
    for table in tables:
        deciding = deciding_events(table, DECIDED_BY)
        new_devices, new_users = device_rows(deciding), user_rows(deciding)
        # one after the other onto what is there, as commits do
        devices = new_devices if devices is None else merge_devices(pa.concat_tables([devices, new_devices]))
        users = new_users if users is None else merge_users(pa.concat_tables([users, new_users]))
    assert devices is not None
    assert users is not None
    wanted = grouped(rows, "device_id", expected_device)
    assert shown(ordered(devices), list(wanted[0])) == wanted
    wanted = grouped(rows, "user_key", expected_user)
    assert shown(ordered(users), list(wanted[0]) if wanted else ["user_key"]) == wanted
    # all columns, bookkeeping among them, are those of one batch
    whole = batch(rows)
    assert ordered(devices).equals(ordered(device_rows(whole)))
    assert ordered(users).equals(ordered(user_rows(whole)))


SAME = at()
TIED = [  # one time and one id, but three events: each is on its own device
    click(SAME, "d2", "e", user_key="u", user_id="ann", os="ios", country="DE"),
    click(SAME, "d1", "e", user_key="u", user_id="ann", os="android", country="US"),
    click(SAME, "d3", "e", user_key="u", user_id="ann", device_type="tablet"),
]


@pytest.mark.parametrize("rows", [*itertools.permutations(TIED)])
def test_tie_between_devices_of_a_user_goes_to_the_greatest_value_in_any_order(rows: tuple[Row, ...]) -> None:
    wanted = {
        "user_key": "u",
        "user_id": "ann",
        "first_seen_at": SAME,
        "first_event_id": "e",
        "last_seen_at": SAME,
        "last_event_id": "e",
        "devices_seen": 3,
        "latest_os": "ios",
        "latest_country": "US",
        "latest_device_type": "tablet",
        # by time and id, the event that decided is the last one
        **{f"latest_{name}_{part}": None for name in ("os", "country", "device_type") for part in ("at", "event_id")},
    }
    one, two, three = (user_rows(batch([row])) for row in rows)
    for users in (
        user_rows(batch(rows)),
        merge_users(pa.concat_tables([one, two, three])),
        merge_users(pa.concat_tables([merge_users(pa.concat_tables([one, two])), three, one])),
        merge_users(pa.concat_tables([user_rows(batch(rows[:2])), user_rows(batch(rows[1:]))])),
    ):
        assert shown(users, list(wanted)) == [wanted]


@pytest.mark.parametrize("rows", [*itertools.permutations(TIED)])
def test_tie_before_a_users_last_event_goes_to_the_greatest_value_too(rows: tuple[Row, ...]) -> None:
    later = click(at(1), "d1", "f", user_key="u", user_id="ann", country="FR")
    one, two, three, last = (user_rows(batch([row])) for row in (*rows, later))
    wanted = {
        **{"latest_os": "ios", "latest_os_at": SAME, "latest_os_event_id": "e"},
        **{"latest_country": "FR", "latest_country_at": None, "latest_country_event_id": None},
    }
    for users in (
        user_rows(batch([later, *rows])),
        merge_users(pa.concat_tables([last, one, two, three])),
        merge_users(pa.concat_tables([one, merge_users(pa.concat_tables([two, last])), three])),
    ):
        assert shown(users, list(wanted)) == [wanted]


def test_stored_row_in_which_order_decided_a_tie_comes_right_when_its_events_come_again() -> None:
    users = user_rows(batch(TIED))
    left = {"latest_os": "android", "latest_os_at": users["last_seen_at"][0].as_py(), "latest_os_event_id": "e"}
    stored = pa.Table.from_pylist([users.to_pylist()[0] | left], USER.record.schema)
    assert merge_users(pa.concat_tables([stored, users])).equals(users)


@pytest.mark.parametrize(("rows_of", "merge"), [(device_rows, merge_devices), (user_rows, merge_users)])
@settings(max_examples=40)
@given(parts=st.lists(events(), min_size=3, max_size=3))
def test_merge_is_associative_commutative_and_idempotent(
    rows_of: Callable[[pa.Table], pa.Table], merge: Callable[[pa.Table], pa.Table], parts: list[list[Row]]
) -> None:
    # the same event has one content wherever it comes
    contents = {(row["device_id"], row["event_id"]): row for part in parts for row in part}
    one, two, three = (rows_of(batch([contents[row["device_id"], row["event_id"]] for row in part])) for part in parts)

    def merged(*tables: pa.Table) -> pa.Table:
        return ordered(merge(pa.concat_tables(tables)))

    assert merged(merged(one, two), three).equals(merged(one, merged(two, three)))
    assert merged(one, two).equals(merged(two, one))
    assert merged(one, one).equals(ordered(one))
    assert merged(one, merged(one, two)).equals(merged(one, two))


def test_events_that_decide_are_few_and_enough() -> None:
    rows = [click(at(seconds=n), f"d{n % 3}", country="DE") for n in range(3_000)]
    deciding = deciding_events(batch(rows), DECIDED_BY)
    assert len(deciding) == 6
    assert ordered(device_rows(deciding)).equals(ordered(device_rows(batch(rows))))


def test_a_device_of_many_users_counts_them_and_belongs_to_nobody() -> None:
    rows = [click(at(seconds=n), "kiosk", user_key=f"u{n:03d}") for n in range(40)]
    (kiosk,) = device_rows(batch(rows)).to_pylist()
    assert (kiosk["users_seen"], kiosk["last_login_user_key"]) == (40, "u039")
    assert (kiosk["resolved_user_key"], kiosk["resolution_reason"]) == (None, "public_device")


@pytest.mark.parametrize(
    ("users", "reason"), [(PUBLIC_DEVICE_USERS, "last_login"), (PUBLIC_DEVICE_USERS + 1, "public_device")]
)
def test_a_device_is_public_from_one_user_more_than_the_cap(users: int, reason: str) -> None:
    rows = [click(at(seconds=n), user_key=f"u{n:03d}") for n in range(users)]
    assert device_rows(batch(rows)).column("resolution_reason").to_pylist() == [reason]


def test_more_users_than_are_kept_come_to_the_same_in_any_order() -> None:
    rows = [click(at(seconds=n), user_key=f"u{n * 37 % 250:03d}") for n in range(250)]
    whole = device_rows(batch(rows))
    halves = [device_rows(batch(rows[200:])), device_rows(batch(rows[:120])), device_rows(batch(rows[90:210]))]
    assert merge_devices(pa.concat_tables(halves)).equals(whole)
    assert whole.column("users_seen").to_pylist() == [KEYS_KEPT]


def test_a_user_of_many_devices_counts_them() -> None:
    rows = [click(at(seconds=n), f"d,{n % 40}", user_key="u", user_id="alice", country=f"C{n}") for n in range(80)]
    (user,) = user_rows(batch(rows)).to_pylist()
    assert (user["devices_seen"], user["user_id"], user["latest_country"]) == (40, "alice", "C79")


def test_what_stitching_left_on_a_device_stays_when_events_come() -> None:
    row = device_rows(batch([click(at(), user_key="u")])).to_pylist()[0]
    left = {"identity_key": "p", "identity_reason": "shared_devices", "stitched_user_key": "u"}
    existing = pa.Table.from_pylist([row | left], DEVICE.record.schema)
    more = device_rows(batch([click(at(1), user_key="v")]))
    (both,) = merge_devices(pa.concat_tables([existing, more])).to_pylist()
    assert {name: both[name] for name in left} == left
    assert both["resolved_user_key"] == "v"


def test_no_events_give_no_rows() -> None:
    assert device_rows(batch([])).equals(DEVICE.record.empty())
    assert user_rows(batch([click(at())])).equals(USER.record.empty())
