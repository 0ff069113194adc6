"""Stitching delivery by delivery ends where plain Python says that all of it at once does."""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake.transaction import Transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stitch import stitch
from schemas.dimensions import DEVICE
from schemas.durations import DAY, HOUR, MINUTE
from schemas.records import Record
from schemas.sessions import FACT_SESSION
from schemas.user_stream import USER_STREAM
from stores.lake import create_tables, live_files, open_table, read_table, table_uri
from stores.lake_commit import WriteMode, commit
from stores.lake_files import Place, split_by_partition
from stores.lake_merge import MergeRows, replace_changed
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.identity.devices import device_rows, merge_devices
from transforms.identity.stitching import keep_resolution

Event = tuple[str, int, int, str | None]
"""Device, visit, minute of the visit, user. Visits are 13 hours apart: each is a session, some go over midnight."""

LOOKBACKS = {None: None, DAY: timedelta(days=1), 30 * DAY: timedelta(days=30)}


def event_row(event: Event) -> dict[str, Any]:
    device, visit, minute, user = event
    return click(at(4) + visit * 13 * HOUR + minute * MINUTE, device, f"{visit}-{minute}", user_key=user)


def last_login(events: Iterable[Event]) -> str | None:
    return max(((event[1:3], event[3]) for event in events if event[3]), default=(None, None))[1]


def session_row(events: list[Event]) -> dict[str, Any]:
    """The session of a visit, of its events so far."""
    times = sorted(batch(map(event_row, events))["event_time"].to_pylist())
    return dict.fromkeys(FACT_SESSION.names) | {
        "session_id": f"{events[0][0]}/{events[0][1]}", "device_id": events[0][0], "user_key": last_login(events),
        "session_start": times[0], "session_end": times[-1], "start_date": times[0].date(),
        "end_date": times[-1].date(), "duration_secs": 0, "event_count": len(events), "page_view_count": 0,
        "had_purchase": False, "revenue": 0, "pane_timing": "ON_TIME", "pane_index": 0,
    }  # fmt: skip


def activity_rows(events: list[Event]) -> list[dict[str, Any]]:
    rows = batch(map(event_row, events)).to_pylist()
    return [
        dict.fromkeys(USER_STREAM.names) | {
            "activity_id": f"{row['device_id']}/{row['event_id']}", "ts": row["event_time"],
            "customer": row["user_key"], "activity": "view", "anonymous_customer_id": row["device_id"],
            "customer_is_stitched": False, "date": row["event_date"],
        }
        for row in rows
    ]  # fmt: skip


def put(lake: str, record: Record, rows: pa.Table, number: int, merge: MergeRows | None = None) -> None:
    """New rows in the place of those of their keys."""
    live = live_files(open_table(lake, record))
    none = rows.slice(0, 0)
    writes = [
        replace_changed(
            Place(table_uri(lake, record.name), record, partition), live.get(partition, []), part, none, merge=merge
        )
        for partition, part in split_by_partition(rows, record)
    ]
    commit(lake, record, writes, WriteMode.MERGE, Transaction(f"delivery {number}", 1))


def deliver(lake: str, before: list[Event], events: list[Event], number: int) -> None:
    """What the main job does with a delivery."""
    visits = defaultdict(list)
    for event in [*before, *events]:
        visits[event[:2]].append(event)
    touched = [session_row(visits[visit]) for visit in {event[:2] for event in events}]
    put(lake, FACT_SESSION, pa.Table.from_pylist(touched, FACT_SESSION.schema), number, keep_resolution)
    put(lake, USER_STREAM, pa.Table.from_pylist(activity_rows(events), USER_STREAM.schema), number)
    devices = device_rows(batch(map(event_row, events)))
    put(lake, DEVICE.record, devices, number, lambda old, new: merge_devices(pa.concat_tables([old, new])))


def person_of(device: str, users_of: dict[str, set[str]]) -> str | None:
    """The least user that a walk over devices and their users reaches from a device; None where it is one."""
    found: set[str] = set()
    left = set(users_of[device])
    while left:
        found |= left
        left = {user for users in users_of.values() if users & found for user in users} - found
    return min(found) if len(found) > 1 else None


def assert_stitched(lake: str, events: list[Event], lookback: timedelta | None) -> None:
    """Sessions, activities and devices are what the rules say, worked out device by device."""
    by_device, visits, users_of = defaultdict(list), defaultdict(list), defaultdict(set)
    for event in events:
        by_device[event[0]].append(event)
        visits[event[:2]].append(event)
        users_of[event[0]] |= {event[3]} - {None}
    sessions, owners, devices = {}, {}, {}
    for device, own in by_device.items():
        logins = sorted(batch(event_row(event) for event in own if event[3])["event_time"].to_pylist())
        since = logins[0] - lookback if logins and lookback is not None else None
        user = last_login(own)
        person = person_of(device, users_of)
        devices[device] = (person, "shared_devices" if person else None, user, since)
        for visit in {event[:2] for event in own}:
            row = session_row(visits[visit])
            in_reach = user and not row["user_key"] and (since is None or row["session_start"] >= since)
            sessions[row["session_id"]] = row["user_key"], user if in_reach else None
            owners[visit] = row["user_key"] or (user if in_reach else None)
    activities = {
        f"{e[0]}/{e[1]}-{e[2]}": (e[3] or owners[e[:2]], not e[3] and owners[e[:2]] is not None) for e in events
    }

    def stored(record: Record, *columns: str) -> dict[Any, tuple[Any, ...]]:
        rows = read_table(lake, record.name, [record.key[0], *columns]).to_pylist()
        assert len({row[record.key[0]] for row in rows}) == len(rows)
        return {row[record.key[0]]: tuple(row[name] for name in columns) for row in rows}

    assert stored(FACT_SESSION, "user_key", "resolved_user_key") == sessions
    assert stored(USER_STREAM, "customer", "customer_is_stitched") == activities
    left = ("identity_key", "identity_reason", "stitched_user_key", "stitched_from")
    assert stored(DEVICE.record, *left) == devices


events_of_devices = st.tuples(
    st.sampled_from(["phone", "desk", "tablet", "tv"]),
    st.integers(0, 12),
    st.integers(0, 2).map(lambda n: 10 * n),
    st.sampled_from([None, None, None, "ann", "bob", "cy"]),
)
deliveries = st.lists(
    st.tuples(events_of_devices, st.integers(0, 3)), min_size=1, max_size=16, unique_by=lambda one: one[0][:3]
).map(lambda given: [[event for event, number in given if number == n] for n in {number for _, number in given}])


@settings(max_examples=15)
@given(
    deliveries,
    st.lists(st.sampled_from([*LOOKBACKS, "not yet"]), min_size=4, max_size=4),
    st.sampled_from(list(LOOKBACKS)),
)
def test_deliveries_and_stitches_in_turn_end_as_the_rules_say(
    parts: list[list[Event]], between: list[Any], lookback: int | None
) -> None:
    folder = tempfile.mkdtemp()
    try:
        lake, done = str(Path(folder, "lake")), []
        create_tables(lake, [FACT_SESSION, USER_STREAM, DEVICE.record])
        for number, (events, reach) in enumerate(zip(parts, between, strict=False)):
            deliver(lake, done, events, number)
            done += events
            if reach != "not yet":
                stitch(lake, reach)
                assert_stitched(lake, done, LOOKBACKS[reach])
        stitch(lake, lookback)
        assert_stitched(lake, done, LOOKBACKS[lookback])
        again = stitch(lake, lookback)
        assert (again.devices_changed, again.files_read, again.committed) == (0, 0, [])
    finally:
        shutil.rmtree(folder)
