"""What is Cassandra's own: partitions, the age limit, logins and certificates, a node that does not answer."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
from cassandra.cluster import Session

from runners.services.cassandra import CassandraService
from runners.services.processes import free_port
from schemas.errors import OptionError, StoreError
from schemas.events import EVENT
from stores import cassandra_client, networked_store
from stores.cassandra_batches import tokens
from stores.cassandra_client import CLIENT_VARIABLE
from stores.device_store import open_device_store

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def clicks(*times: datetime, devices: int = 1) -> pa.Table:
    """Events at these times, of devices that take turns, their ids e-0, e-1 …"""
    rows = [
        {
            "event_id": f"e-{number}",
            "event_type": "page_view",
            "event_time": at,
            "event_date": at.date(),
            "client_time": at,
            "device_id": f"d{number % devices}",
            "properties": "x" * 300,
        }
        for number, at in enumerate(times)
    ]
    return pa.Table.from_pylist(rows, schema=EVENT.schema)


def read(uri: str) -> list[str]:
    with open_device_store(uri, read_only=True) as store:
        return store.recent_events("d0").column("event_id").to_pylist()


@pytest.fixture
def keyspace(cassandra_session: Session) -> Iterator[str]:
    """A keyspace without tables."""
    name = f"k{uuid4().hex}"
    cassandra_session.execute(
        f"CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    )
    yield name
    cassandra_session.execute(f"DROP KEYSPACE {name}", timeout=60)


@pytest.fixture
def fresh(keyspace: str, cassandra_address: str, cassandra_login: Path) -> str:
    """The URI of a device store that is not there yet."""
    return f"cassandra:{cassandra_address}/{keyspace}"


def test_row_lives_until_its_own_time_is_older_than_the_ttl(
    fresh: str, keyspace: str, cassandra_session: Session
) -> None:
    now = datetime.now(UTC)
    with open_device_store(f"{fresh}?ttl=30d") as store:
        assert store.write_events(clicks(now - 31 * DAY, now - 10 * DAY, now + 365 * 100 * DAY)) == 3
    rows = cassandra_session.execute(f"SELECT event_id, TTL(value) AS ttl FROM {keyspace}.events")
    left = {row.event_id: row.ttl for row in rows}
    assert left.keys() == {"e-1", "e-2"}
    assert 0 <= 20 * 86_400 - left["e-1"] < 120
    # it would go after 2038, which Cassandra cannot tell
    assert left["e-2"] is None
    assert read(fresh) == ["e-2", "e-1"]


def test_ttl_is_kept_by_the_tables_and_hides_what_was_written_before(fresh: str) -> None:
    now = datetime.now(UTC)
    with open_device_store(fresh) as store:
        store.write_events(clicks(now - 40 * DAY, now - 20 * DAY, now))
    assert read(fresh) == ["e-2", "e-1", "e-0"]
    assert read(f"{fresh}?ttl=1d") == ["e-2"]
    open_device_store(f"{fresh}?ttl=30d").close()
    assert read(fresh) == ["e-2", "e-1"]


def test_weeks_of_a_device_are_partitions_of_their_own(fresh: str, keyspace: str, cassandra_session: Session) -> None:
    with open_device_store(fresh) as store:
        store.write_events(clicks(*(NOON + days * DAY for days in range(70))))
        partitions = list(cassandra_session.execute(f"SELECT DISTINCT device_id, week FROM {keyspace}.events"))
        assert 10 <= len(partitions) <= 11
        assert store.recent_events("d0", limit=1_000).num_rows == 70


def test_writes_of_many_devices_draw_no_warning_of_the_server(
    fresh: str, keyspace: str, cassandra_session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with open_device_store(fresh) as store, caplog.at_level(logging.WARNING, logger="cassandra"):
        store.write_events(clicks(*[NOON] * 2_000, devices=700))
    assert caplog.messages == []
    rows = list(
        cassandra_session.execute(f"SELECT device_id, week, token(device_id, week) AS t FROM {keyspace}.events")
    )
    devices = pa.chunked_array([[row.device_id for row in rows]])
    weeks = pa.array([row.week for row in rows]).to_numpy()
    assert tokens(devices, weeks).tolist() == [row.t for row in rows]


def test_missing_keyspace_is_an_error_that_says_how_to_make_it(cassandra_address: str, cassandra_login: Path) -> None:
    with pytest.raises(StoreError, match="CREATE KEYSPACE nowhere"):
        open_device_store(f"cassandra:{cassandra_address}/nowhere")


def test_read_only_store_of_no_tables_is_an_error(fresh: str) -> None:
    with pytest.raises(StoreError, match="there is no device store here"):
        open_device_store(fresh, read_only=True)


@pytest.mark.parametrize("host", [f"127.0.0.1:{free_port()}", "no-such-host.invalid"], ids=["refuses", "unknown"])
def test_unreachable_store_is_an_error_within_seconds(host: str) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError, match=rf"^cassandra:{host.partition(':')[0]}[^\n]+$"):
        open_device_store(f"cassandra:{host}/keyspace")
    assert time.monotonic() - started < 15


def test_node_that_does_not_answer_is_an_error(
    cassandra: str, cassandra_node: tuple[str, CassandraService], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = cassandra_node[1].process.pid
    assert pid is not None
    with open_device_store(cassandra) as store:
        store.write_events(clicks(NOON))
        assert store.recent_events("d0").num_rows == 1
    for module in (cassandra_client, networked_store):
        monkeypatch.setattr(module, "PATIENCE", 1.0)
    with open_device_store(cassandra) as store:
        os.kill(pid, signal.SIGSTOP)
        try:
            for ask in (lambda: store.write_events(clicks(NOON)), lambda: store.recent_events("d0")):
                with pytest.raises(StoreError, match=r"^cassandra:[^\n]+$"):
                    ask()
        finally:
            os.kill(pid, signal.SIGCONT)


def test_write_outlasts_a_node_that_pauses(
    cassandra: str, cassandra_node: tuple[str, CassandraService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cassandra_client, "PATIENCE", 0.5)
    monkeypatch.setattr(networked_store, "PATIENCE", 60.0)
    pid = cassandra_node[1].process.pid
    assert pid is not None
    with open_device_store(cassandra) as store:
        store.write_events(clicks(NOON))
        os.kill(pid, signal.SIGSTOP)
        resume = threading.Timer(1.5, os.kill, (pid, signal.SIGCONT))
        resume.start()
        try:
            assert store.write_events(clicks(*[NOON] * 200)) == 200
        finally:
            resume.join()
    monkeypatch.setattr(cassandra_client, "PATIENCE", 10.0)
    with open_device_store(cassandra) as store:
        assert store.recent_events("d0", limit=1_000).num_rows == 200


def test_certificate_of_the_cluster_encrypts_the_connection(
    cassandra: str, cassandra_login: Path, cassandra_certificate: Path, cassandra_session: Session
) -> None:
    with cassandra_login.open("a") as file:
        file.write(f'ca_file = "{cassandra_certificate}"\n')
    with open_device_store(cassandra) as store:
        store.write_events(clicks(NOON))
        clients = cassandra_session.execute("SELECT keyspace_name, ssl_enabled FROM system_views.clients")
        assert any(client.ssl_enabled for client in clients)


def test_wrong_password_is_an_error_that_does_not_tell_it(cassandra: str, cassandra_login: Path) -> None:
    cassandra_login.write_text('username = "cassandra"\npassword = "open sesame"\n')
    with pytest.raises(StoreError, match="authenticate") as raised:
        open_device_store(cassandra)
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        'password "open sesame"',
        'password = "open sesame"',
        'username = "u"\npassword = "open sesame"\npass = "x"',
        'username = "u"\npassword = 7',
        'ca_file = "/no/such/file"',
        None,
    ],
)
def test_unusable_client_file_is_an_option_error_that_does_not_tell_its_secrets(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "client.toml"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(CLIENT_VARIABLE, str(path))
    with pytest.raises(OptionError, match=CLIENT_VARIABLE) as raised:
        open_device_store("cassandra:localhost/keyspace")
    assert "sesame" not in str(raised.value)
    assert "sesame" not in repr(cassandra_client.ClientFile("u", "open sesame"))
