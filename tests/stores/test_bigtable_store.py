"""What is Bigtable's own: cells and their versions, the age limit, faults that pass and faults that last."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pyarrow as pa
import pytest
from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery
from google.cloud.bigtable_v2 import MutateRowsRequest, MutateRowsResponse

from runners.services.bigtable_emulator import BigtableEmulator
from runners.services.processes import free_port
from schemas.errors import StoreError
from schemas.events import EVENT
from stores import bigtable_store, networked_store
from stores.device_store import open_device_store
from tests.session_panes import pane, pane_table

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)


def clicks(*times: datetime) -> pa.Table:
    """Events of one device at these times, their ids e-0, e-1 …"""
    rows = [
        {
            "event_id": f"e-{number}",
            "event_type": "page_view",
            "event_time": at,
            "event_date": at.date(),
            "client_time": at,
            "device_id": "phone",
        }
        for number, at in enumerate(times)
    ]
    return pa.Table.from_pylist(rows, schema=EVENT.schema)


def pane_of_s1(index: int, is_retraction: bool = False) -> pa.Table:
    return pane_table(pane("s1", index, is_retraction=is_retraction))


def read(uri: str) -> list[str]:
    with open_device_store(uri, read_only=True) as store:
        return store.recent_events("phone").column("event_id").to_pylist()


@pytest.fixture
def table(bigtable: str) -> str:
    """The URI of a table that is not there yet."""
    return f"{bigtable}/{uuid4().hex}"


@pytest.fixture
def cells(table: str) -> Iterator[Callable[[], list[Any]]]:
    """Asks the emulator, beside the store, for all cells of the table, expired ones too."""
    with pytest.warns(RuntimeWarning, match="emulator"):
        client = BigtableDataClient(project="project")
    asked = client.get_table("instance", table.rpartition("/")[2])
    yield lambda: [cell for row in asked.read_rows(ReadRowsQuery()) for cell in row.cells]
    client.close()


def test_replay_adds_no_version(table: str, cells: Callable[[], list[Any]]) -> None:
    with open_device_store(table) as store:
        for _ in range(3):
            store.write_events(clicks(NOON, NOON + timedelta(microseconds=1)))
            store.write_sessions(pane_of_s1(1))
        assert len(cells()) == 3


def test_rows_beyond_the_ttl_are_hidden_at_once_and_then_taken_out(table: str, cells: Callable[[], list[Any]]) -> None:
    now = datetime.now(UTC)
    with open_device_store(f"{table}?ttl=1h") as store:
        store.write_events(clicks(now - timedelta(minutes=61), now - timedelta(minutes=59)))
        assert store.recent_events("phone").column("event_id").to_pylist() == ["e-1"]
        deadline = time.monotonic() + 30
        while len(cells()) > 1:
            assert time.monotonic() < deadline


def test_ttl_is_kept_by_the_table_until_it_is_changed(table: str) -> None:
    now = datetime.now(UTC)
    with open_device_store(table) as store:
        store.write_events(clicks(now - timedelta(days=40), now - timedelta(days=20), now))
    assert read(table) == ["e-2", "e-1", "e-0"]
    assert read(f"{table}?ttl=1d") == ["e-2"]
    assert read(table) == ["e-2", "e-1", "e-0"]
    open_device_store(f"{table}?ttl=30d").close()
    assert read(table) == ["e-2", "e-1"]


def test_read_only_store_of_no_table_is_an_error(table: str) -> None:
    with pytest.raises(StoreError, match="not found"):
        open_device_store(table, read_only=True)


def test_several_that_make_the_table_at_once_all_open_it(table: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        for store in threads.map(open_device_store, [f"{table}?ttl=3d"] * 4):
            store.close()


def test_unreachable_store_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"^bigtable:p/i/t: .*refused$"):
        open_device_store("bigtable:p/i/t")
    assert time.monotonic() - started < 15


def test_missing_credentials_are_an_error_that_says_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BIGTABLE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StoreError, match="gcloud auth application-default login"):
        open_device_store("bigtable:p/i/t")


def test_store_that_goes_away_is_an_error_for_writes_and_reads(
    bigtable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bigtable_store, networked_store):
        monkeypatch.setattr(module, "PATIENCE", 1.0)
    emulator = BigtableEmulator(tmp_path)
    try:
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", emulator.up())
        with open_device_store(f"{bigtable}/gone") as store:
            emulator.down()
            for ask in (
                lambda: store.write_events(clicks(NOON)),
                lambda: store.recent_events("phone"),
                lambda: store.delete_device("phone"),
                lambda: store.expire(0),
                store.compact,
            ):
                with pytest.raises(StoreError, match=r"^bigtable:.*/gone: [^\n]+$"):
                    ask()
    finally:
        emulator.down()


class Interference(grpc.GenericRpcHandler):
    """Hands every call on to the emulator, but answers some rows of a first write with a fault of its own."""

    def __init__(self, address: str, code: int, keys: set[bytes]) -> None:
        self.channel = grpc.insecure_channel(address)
        self.code = code
        self.keys = keys
        self.sizes: list[int] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method
        if method.endswith("/MutateRows"):
            return grpc.unary_stream_rpc_method_handler(self._mutate)
        if method.endswith("/ReadRows"):
            return grpc.unary_stream_rpc_method_handler(lambda sent, _: self.channel.unary_stream(method)(sent))
        return grpc.unary_unary_rpc_method_handler(lambda sent, _: self.channel.unary_unary(method)(sent))

    def _mutate(self, sent: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        request = MutateRowsRequest.pb().FromString(sent)
        self.sizes.append(len(request.entries))
        marked = {i for i, entry in enumerate(request.entries) if any(key in entry.row_key for key in self.keys)}
        passed = [i for i in range(len(request.entries)) if i not in marked or len(self.sizes) > 1]
        handed_on = MutateRowsRequest.pb()(table_name=request.table_name, entries=[request.entries[i] for i in passed])
        list(self.channel.unary_stream("/google.bigtable.v2.Bigtable/MutateRows")(handed_on.SerializeToString()))
        answer = MutateRowsResponse.pb()()
        for i in range(len(request.entries)):
            answer.entries.add(index=i).status.code = 0 if i in passed else self.code
        yield answer.SerializeToString()


@contextmanager
def interfering(address: str, code: int, *keys: bytes) -> Iterator[tuple[str, Interference]]:
    """A server before the emulator: its address, and what it saw."""
    interference = Interference(address, code, set(keys))
    server = grpc.server(ThreadPoolExecutor(4), handlers=[interference])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", interference
    finally:
        server.stop(None).wait()
        interference.channel.close()


def test_rows_that_a_passing_fault_kept_out_are_sent_again_alone(
    bigtable_address: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_device_store(table).close()
    with interfering(bigtable_address, 14, b"e-3", b"e-7") as (address, seen):
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", address)
        with open_device_store(table) as store:
            assert store.write_events(clicks(*[NOON] * 10)) == 10
            assert store.recent_events("phone").num_rows == 10
    assert seen.sizes == [10, 2]


def test_row_that_the_store_refuses_is_an_error_at_once(
    bigtable_address: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_device_store(table).close()
    with interfering(bigtable_address, 3, b"e-3") as (address, seen):
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", address)
        with open_device_store(table) as store, pytest.raises(StoreError, match="1 rows could not be written"):
            store.write_events(clicks(*[NOON] * 10))
    assert seen.sizes == [10]
