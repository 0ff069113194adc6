"""One suite that every device store passes."""

import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.errors import OptionError, StoreError
from schemas.events import EVENT, EVENT_BATCH
from schemas.sessions import SESSION, SESSION_PANE
from stores.device_store import DeviceStore, open_device_store
from tests.session_panes import pane, pane_table

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)


def micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def event(event_id: str, device_id: str = "phone", at: datetime = NOON, **columns: Any) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "event_type": "page_view",
        "event_time": at,
        "event_date": at.date(),
        "client_time": at,
        "device_id": device_id,
    } | columns


def events(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=EVENT.schema)


def ids(table: pa.Table, column: str = "event_id") -> list[str]:
    return table.column(column).to_pylist()


Open = Callable[[], DeviceStore]
OpenAs = Callable[[bool], DeviceStore]


@pytest.fixture(params=["rocksdb", "memory", "bigtable", "cassandra"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Names a store that is empty."""
    if request.param in ("rocksdb", "memory"):
        return f"{request.param}:{tmp_path / 'devices'}"
    if request.param == "bigtable":
        return f"{request.getfixturevalue('bigtable')}/{uuid.uuid4().hex}"
    return request.getfixturevalue("cassandra")


@pytest.fixture
def open_as(uri: str) -> OpenAs:
    """Opens the same store each time, read-only or not."""
    return lambda read_only: open_device_store(uri, read_only)


@pytest.fixture
def reopen(open_as: OpenAs) -> Open:
    return lambda: open_as(False)


@pytest.fixture
def store(reopen: Open) -> Iterator[DeviceStore]:
    with reopen() as opened:
        yield opened


def test_events_in_any_order_come_back_newest_first(store: DeviceStore) -> None:
    second = timedelta(seconds=1)
    store.write_events(events(event("b", at=NOON), event("c", at=NOON + second), event("a", at=NOON - second)))
    assert ids(store.recent_events("phone")) == ["c", "b", "a"]


def test_since_is_inclusive_and_until_is_not(store: DeviceStore) -> None:
    tick = timedelta(microseconds=1)
    store.write_events(events(*(event(str(i), at=NOON + i * tick) for i in range(5))))
    assert ids(store.recent_events("phone", since=micros(NOON + tick), until=micros(NOON + 4 * tick))) == [
        "3",
        "2",
        "1",
    ]


def test_limit_keeps_the_newest(store: DeviceStore) -> None:
    store.write_events(events(*(event(str(i), at=NOON + timedelta(seconds=i)) for i in range(5))))
    assert ids(store.recent_events("phone", limit=2)) == ["4", "3"]
    assert ids(store.recent_events("phone", limit=0)) == []


def test_unknown_device_has_no_rows(store: DeviceStore) -> None:
    assert store.recent_events("nobody").equals(EVENT.empty())
    assert store.recent_sessions("nobody").equals(SESSION.empty())


@pytest.mark.parametrize("other", ["phone2", "phon", "phone\x00", "phone\x00\x01", "phone\x01", "phöne", ""])
def test_devices_with_similar_ids_stay_apart(store: DeviceStore, other: str) -> None:
    store.write_events(events(event("mine"), event("theirs", device_id=other)))
    assert ids(store.recent_events("phone")) == ["mine"]
    assert ids(store.recent_events(other)) == ["theirs"]
    store.delete_device(other)
    assert ids(store.recent_events("phone")) == ["mine"]


def test_every_column_comes_back_as_written(store: DeviceStore) -> None:
    full = event(
        "e-\x00-ü",
        device_id="d\x00vice \N{SNOWMAN}",
        at=datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        event_type="",
        client_time=datetime(2026, 4, 12, 1, 2, 3, 456_789, tzinfo=UTC),
        sent_at=datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        arrival_time=datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        user_id="\x01",
        user_key="\x02",
        entity_id="\x021",
        entity_type="\x00\x01\x02\x00",
        tracker_session_id='"\\\n',
        page_url="https://a.example/?q=ä&b=\U0001f600",
        revenue=Decimal("-12345678901234.5678"),
        country="",
        properties='{ "a" : [1,\n "\\u0000"] }',
        context="not json",
        extra_properties=None,
    )
    written = events(full, full | {"event_id": "second", "properties": None, "context": "{}"})
    store.write_events(written)
    assert store.recent_events("d\x00vice \N{SNOWMAN}").to_pylist() == written.to_pylist()
    assert store.recent_events("d\x00vice \N{SNOWMAN}").schema.equals(EVENT.schema)


def test_columns_of_a_batch_in_flight_are_ignored(store: DeviceStore) -> None:
    in_flight = event("a") | {"source": "file", "partition": 0, "offset": 7}
    assert store.write_events(pa.Table.from_pylist([in_flight], schema=EVENT_BATCH.schema)) == 1
    assert store.recent_events("phone").to_pylist() == events(event("a")).to_pylist()


def test_table_in_chunks_and_slices_is_written_whole(store: DeviceStore) -> None:
    whole = events(*(event(f"{i}\x00", at=NOON + timedelta(seconds=i), country=str(i)) for i in range(6)))
    store.write_events(pa.concat_tables([whole.slice(3, 2), whole.slice(1, 1), whole.slice(0, 0)]))
    assert store.recent_events("phone").column("country").to_pylist() == ["4", "3", "1"]


def test_empty_table_writes_nothing(store: DeviceStore) -> None:
    assert store.write_events(EVENT.empty()) == 0
    assert store.write_sessions(SESSION_PANE.empty()) == 0


def test_same_rows_written_again_change_nothing(store: DeviceStore) -> None:
    table = events(event("a"), event("b", at=NOON + timedelta(seconds=1)))
    store.write_events(table)
    before = store.recent_events("phone")
    store.write_events(table)
    assert store.recent_events("phone").equals(before)


def test_session_comes_back_in_every_column(store: DeviceStore) -> None:
    full = pane(
        "s1",
        user_key="k",
        session_end=NOON + timedelta(hours=13),
        end_date=date(2026, 4, 13),
        duration_secs=46_800.000001,
        event_count=2**40,
        had_purchase=True,
        revenue=Decimal("0.0001"),
        entry_page="/in",
        country="US",
        cut_reason="cap",
    )
    store.write_sessions(pane_table(full))
    assert store.recent_sessions("phone").equals(pane_table(full).select(SESSION.names).cast(SESSION.schema))


def test_later_pane_replaces_the_session(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1")))
    store.write_sessions(pane_table(pane("s1", 1, event_count=9)))
    assert store.recent_sessions("phone").column("event_count").to_pylist() == [9]


def test_of_panes_in_one_table_the_highest_index_counts(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1", 2, event_count=3), pane("s1", 0, event_count=1), pane("s1", 1)))
    assert store.recent_sessions("phone").column("pane_index").to_pylist() == [2]


def test_retraction_takes_the_session_out(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1"), pane("s2", start=NOON + timedelta(hours=1))))
    store.write_sessions(pane_table(pane("s1", 1, is_retraction=True)))
    assert ids(store.recent_sessions("phone"), "session_id") == ["s2"]


def test_retraction_of_an_unknown_session_is_harmless(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1", 1, is_retraction=True)))
    assert ids(store.recent_sessions("phone"), "session_id") == []


def test_retraction_beside_its_last_pane_takes_the_session_out(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1", 1, is_retraction=True), pane("s1", 0)))
    assert ids(store.recent_sessions("phone"), "session_id") == []


def test_retraction_that_comes_again_keeps_the_session_out(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1")))
    for _ in range(2):
        store.write_sessions(pane_table(pane("s1", 1, is_retraction=True)))
    assert ids(store.recent_sessions("phone"), "session_id") == []
    assert store.delete_device("phone") == 0


def test_session_that_fires_after_its_retraction_is_there(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1", 1, is_retraction=True)))
    store.write_sessions(pane_table(pane("s1", 2, event_count=7)))
    assert store.recent_sessions("phone").column("event_count").to_pylist() == [7]


def test_withdrawn_sessions_do_not_count_against_the_limit(store: DeviceStore) -> None:
    hour = timedelta(hours=1)
    store.write_sessions(pane_table(*(pane(f"s{i}", start=NOON + i * hour) for i in range(6))))
    store.write_sessions(pane_table(*(pane(f"s{i}", 1, NOON + i * hour, is_retraction=True) for i in (5, 4, 2))))
    assert ids(store.recent_sessions("phone", limit=2), "session_id") == ["s3", "s1"]


@pytest.mark.parametrize("uri", ["bigtable", "cassandra"], indirect=True)
def test_late_write_of_an_earlier_pane_changes_nothing_where_several_write(store: DeviceStore) -> None:
    store.write_sessions(pane_table(pane("s1", 2, event_count=3), pane("s2", 1, is_retraction=True)))
    store.write_sessions(pane_table(pane("s1", 1, event_count=2), pane("s2", 0)))
    store.write_sessions(pane_table(pane("s1", 1, is_retraction=True), pane("s2", 1)))
    assert store.recent_sessions("phone").select(["session_id", "event_count"]).to_pylist() == [
        {"session_id": "s1", "event_count": 3}
    ]


def test_same_pane_written_with_other_values_has_the_last(store: DeviceStore) -> None:
    for count in (9, 1, 5):
        store.write_sessions(pane_table(pane("s1", 1, event_count=count)))
    assert store.recent_sessions("phone").column("event_count").to_pylist() == [5]


def test_same_event_written_with_other_values_has_the_last(store: DeviceStore) -> None:
    for country in ("US", "DE", "FR"):
        store.write_events(events(event("a", country=country)))
    assert store.recent_events("phone").column("country").to_pylist() == ["FR"]


def test_rows_of_many_years_are_read_newest_first(store: DeviceStore) -> None:
    times = [datetime(year, month, 15, tzinfo=UTC) for year in (1, 1969, 2023, 2024, 2025, 9999) for month in (3, 9)]
    store.write_events(events(*(event(str(number), at=at) for number, at in enumerate(times))))
    newest_first = [str(number) for number in reversed(range(len(times)))]
    assert ids(store.recent_events("phone")) == newest_first
    assert ids(store.recent_events("phone", limit=5)) == newest_first[:5]
    assert ids(store.recent_events("phone", since=micros(times[3]), until=micros(times[8]))) == [
        "7",
        "6",
        "5",
        "4",
        "3",
    ]
    assert store.delete_device("phone") == len(times)


def test_longest_ids_come_back(store: DeviceStore) -> None:
    device, event_id = "\x00\N{SNOWMAN}\U0001f600" * 85, "\U0001f600\x00" * 127
    assert (len(device), len(event_id)) == (255, 254)
    store.write_events(events(event(event_id, device_id=device)))
    assert ids(store.recent_events(device)) == [event_id]


def test_large_table_is_written_whole(store: DeviceStore) -> None:
    """More rows than a request takes, some of them large."""
    rows = [
        event(f"e{i:05}", f"d{i % 7}", NOON + timedelta(seconds=i), properties="x" * (200_000 if i % 2_000 == 0 else 9))
        for i in range(11_000)
    ]
    assert store.write_events(events(*rows)) == len(rows)
    for device in range(7):
        wanted = [row["event_id"] for row in reversed(rows) if row["device_id"] == f"d{device}"]
        assert ids(store.recent_events(f"d{device}", limit=len(rows))) == wanted


def test_threads_write_and_read_at_once(store: DeviceStore) -> None:
    def write_and_read(number: int) -> list[str]:
        store.write_events(events(*(event(f"{number}-{i}", f"d{number}") for i in range(50))))
        return ids(store.recent_events(f"d{number}"))

    with ThreadPoolExecutor(4) as threads:
        for number, found in enumerate(threads.map(write_and_read, range(8))):
            assert found == sorted(f"{number}-{i}" for i in range(50))


def test_deleted_device_that_is_written_again_is_there(store: DeviceStore) -> None:
    """What was deleted in order to be derived anew."""
    table, sessions = events(event("a"), event("b")), pane_table(pane("s1", 4), pane("s2", 1, is_retraction=True))
    store.write_events(table)
    store.write_sessions(sessions)
    store.delete_device("phone")
    store.write_events(table)
    store.write_sessions(pane_table(pane("s1", 0), pane("s2", 0)))
    assert store.recent_events("phone").equals(table)
    assert store.recent_sessions("phone").column("pane_index").to_pylist() == [0, 0]


def test_deleted_device_is_gone_and_counted(store: DeviceStore) -> None:
    store.write_events(events(event("a"), event("b"), event("c", device_id="tablet")))
    store.write_sessions(pane_table(pane("s1")))
    assert store.delete_device("phone") == 3
    assert ids(store.recent_events("phone")) == []
    assert ids(store.recent_sessions("phone"), "session_id") == []
    assert ids(store.recent_events("tablet")) == ["c"]
    assert store.delete_device("phone") == 0


def test_expired_rows_are_hidden_at_once_and_stay_so(store: DeviceStore) -> None:
    second = timedelta(seconds=1)
    table = events(event("old", at=NOON - second), event("kept", at=NOON), event("other", "tablet", NOON - second))
    store.write_events(table)
    store.write_sessions(pane_table(pane("s-old", start=NOON - second), pane("s-kept")))
    store.expire(micros(NOON))
    store.expire(micros(NOON - 2 * second))
    store.write_events(table)
    for compact in (lambda: None, store.compact):
        compact()
        assert ids(store.recent_events("phone")) == ["kept"]
        assert ids(store.recent_events("tablet", since=0)) == []
        assert ids(store.recent_sessions("phone"), "session_id") == ["s-kept"]


def test_compaction_removes_expired_rows(store: DeviceStore) -> None:
    store.write_events(events(event("old", at=NOON - timedelta(seconds=1)), event("kept")))
    store.expire(micros(NOON))
    store.compact()
    assert store.delete_device("phone") == 1


def test_two_stores_of_one_process_share_their_rows(reopen: Open) -> None:
    with reopen() as first, reopen() as second:
        first.write_events(events(event("a")))
        first.close()
        second.write_events(events(event("b")))
        assert sorted(ids(second.recent_events("phone"))) == ["a", "b"]


def test_reopened_store_has_its_rows(reopen: Open) -> None:
    with reopen() as store:
        store.write_events(events(event("a")))
    with reopen() as store:
        assert ids(store.recent_events("phone")) == ["a"]


def test_closed_store_refuses_and_closes_again(store: DeviceStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.recent_events("phone")
    with pytest.raises(StoreError, match="closed"):
        store.write_events(events(event("a")))


def test_read_only_store_reads_and_refuses_to_write(open_as: OpenAs) -> None:
    with open_as(False) as writer:
        writer.write_events(events(event("a")))
        writer.flush()
        with open_as(True) as reader:
            assert ids(reader.recent_events("phone")) == ["a"]
            for write in (
                lambda: reader.write_events(events(event("b"))),
                lambda: reader.write_sessions(pane_table(pane("s"))),
                lambda: reader.delete_device("phone"),
                lambda: reader.expire(0),
                reader.compact,
                reader.flush,
            ):
                with pytest.raises(StoreError, match="reading only"):
                    write()


@pytest.mark.parametrize(
    "name",
    [
        *("redis:here", "rocksdb:", "bigtable:", "bigtable:project/table", "bigtable:a/b/c/d", "bigtable:a//c"),
        *("cassandra:host", "cassandra:host/", "cassandra:host/key space", "cassandra:host/1st", "cassandra:host/a/b"),
    ],
)
def test_unusable_uri_is_an_option_error(name: str) -> None:
    with pytest.raises(OptionError, match=re.escape(name)):
        open_device_store(name)


@pytest.mark.parametrize("hosts", ["", "host:port", "host:99999", "user:secret@host", "a,,b"])
def test_unusable_host_is_an_option_error_that_does_not_repeat_it(hosts: str) -> None:
    with pytest.raises(OptionError, match="CLICKSTREAM_CASSANDRA_CLIENT") as raised:
        open_device_store(f"cassandra:{hosts}/keyspace")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("option", ["ttl", "ttl=", "ttl=soon", "ttl=10ms", "ttl=8000d", "tll=3d", "ttl=1d&x=1", ""])
@pytest.mark.parametrize("name", ["bigtable:project/instance/table", "cassandra:host/keyspace"])
def test_unusable_option_of_a_uri_is_an_option_error(name: str, option: str) -> None:
    with pytest.raises(OptionError):
        open_device_store(f"{name}?{option}")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("bigtable:project/instance/table", "google.cloud.bigtable", "dataflow"),
        ("cassandra:host/keyspace", "cassandra", "cassandra"),
    ],
)
def test_missing_client_is_an_option_error_that_names_the_extra(name: str, package: str, extra: str) -> None:
    done = run_python(
        f"""
        sys.modules[{package!r}] = None
        try:
            open_device_store({name!r})
        except OptionError as error:
            print(error)
        """
    )
    assert f"pip install 'clickstream[{extra}]'" in done


def test_client_of_a_networked_store_is_not_loaded_for_another(tmp_path: Path) -> None:
    done = run_python(
        f"""
        open_device_store({str(tmp_path)!r}).close()
        print({{"cassandra", "grpc", "google.cloud.bigtable"}} & sys.modules.keys())
        """
    )
    assert done == "set()"


def run_python(code: str) -> str:
    """What a fresh interpreter prints that has this module's names."""
    prelude = "import sys\nfrom schemas.errors import OptionError\nfrom stores.device_store import open_device_store\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return done.stdout.strip()
