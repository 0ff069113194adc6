import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to

from runners.beam_options import parse_beam_options
from schemas.events import EVENT, EVENT_BATCH
from stores.device_store import open_device_store
from tests.session_panes import pane, pane_table
from transforms.metrics import read_counters
from transforms.sinks.write_device_store import WriteDeviceEvents, WriteDeviceSessions
from transforms.tables import TableCoder, at_earliest

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)


def clicks(*minutes: int) -> pa.Table:
    rows = [
        {
            "event_id": f"e-{minute}",
            "event_type": "page_view",
            "event_time": NOON + timedelta(minutes=minute),
            "event_date": NOON.date(),
            "client_time": NOON,
            "device_id": "phone",
            "source": "topic",
            "partition": 0,
            "offset": minute,
        }
        for minute in minutes
    ]
    return pa.Table.from_pylist(rows, schema=EVENT_BATCH.schema)


def panes(*rows: tuple[str, int, bool]) -> pa.Table:
    """Panes of (session id, pane index, retraction)."""
    return pane_table(
        *(pane(name, index, event_count=index + 1, is_retraction=withdrawn) for name, index, withdrawn in rows)
    )


@pytest.fixture(params=["rocksdb", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}:{tmp_path / 'devices'}"


def run(tables: list[pa.Table], write: beam.PTransform, written: int) -> dict[str, int]:
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    counts = pipeline | beam.Create(tables) | "Write" >> write
    assert_that(counts | beam.CombineGlobally(sum), equal_to([written]))
    result = pipeline.run()
    result.wait_until_finish()
    return read_counters(result.metrics())


def stored_events(uri: str) -> list[str]:
    with open_device_store(uri) as store:
        return store.recent_events("phone").column("event_id").to_pylist()


def test_events_are_durable_and_counted(uri: str) -> None:
    counters = run([clicks(1, 3), clicks(2), EVENT_BATCH.empty()], WriteDeviceEvents(uri), 3)
    assert counters == {"device_events_written": 3}
    assert stored_events(uri) == ["e-3", "e-2", "e-1"]


def test_replay_leaves_the_same_rows(uri: str) -> None:
    for _ in range(2):
        run([clicks(1, 2), clicks(3)], WriteDeviceEvents(uri), 3)
    assert stored_events(uri) == ["e-3", "e-2", "e-1"]


def test_sessions_end_in_their_last_pane(uri: str) -> None:
    tables = [panes(("s-1", 0, False), ("s-2", 0, False)), panes(("s-1", 1, False), ("s-2", 1, True))]
    assert run([pa.concat_tables(tables)], WriteDeviceSessions(uri), 2) == {"device_sessions_written": 2}
    with open_device_store(uri) as store:
        sessions = store.recent_sessions("phone")
    assert sessions.select(["session_id", "event_count"]).to_pylist() == [{"session_id": "s-1", "event_count": 2}]


def test_events_and_sessions_of_one_pipeline_share_the_store(uri: str) -> None:
    with beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        _ = pipeline | "Events" >> beam.Create([clicks(1)]) | WriteDeviceEvents(uri)
        _ = pipeline | "Panes" >> beam.Create([panes(("s-1", 0, False))]) | WriteDeviceSessions(uri)
    with open_device_store(uri) as store:
        assert store.recent_events("phone").num_rows == store.recent_sessions("phone").num_rows == 1


def test_more_rows_than_are_gathered_are_all_written(uri: str) -> None:
    rows = 30_000
    tables = [
        clicks(0)
        .select(EVENT.names)
        .take(pa.array([0] * rows))
        .set_column(0, EVENT.schema.field("event_id"), pa.array([f"{part}-{i}" for i in range(rows)]))
        for part in range(3)
    ]
    run(tables, WriteDeviceEvents(uri), 3 * rows)
    with open_device_store(uri) as store:
        assert store.recent_events("phone", limit=4 * rows).num_rows == 3 * rows


def test_nothing_to_write_gives_no_count(uri: str) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    counts = pipeline | beam.Create([EVENT_BATCH.empty()]) | "Write" >> WriteDeviceEvents(uri)
    assert_that(counts, equal_to([]))
    pipeline.run().wait_until_finish()


@pytest.fixture
def rocksdb(tmp_path: Path) -> str:
    return f"rocksdb:{tmp_path / 'devices'}"


def test_stream_rows_are_durable_bundle_by_bundle(rocksdb: str) -> None:
    script = test_stream.TestStream(coder=TableCoder())
    for minute in range(3):
        script.add_elements([at_earliest(clicks(minute))])
    script.advance_watermark_to_infinity()
    pipeline = beam.Pipeline(BundleBasedDirectRunner(), options=parse_beam_options(["--streaming"]))
    read = pipeline | script | WriteDeviceEvents(rocksdb) | beam.ParDo(_CountDurable(rocksdb))
    # each count was read beside the writer when its bundle was done
    assert_that(read, equal_to([1, 2, 3]))
    pipeline.run().wait_until_finish()


def test_panes_of_a_stream_are_applied_in_the_order_in_which_they_fired(rocksdb: str) -> None:
    fired = [
        panes(("s-1", 0, False), ("s-2", 0, False)),
        panes(("s-1", 1, False), ("s-2", 1, True)),
        panes(("s-1", 2, False), ("s-2", 2, False)),
    ]
    script = test_stream.TestStream(coder=TableCoder())
    for table in fired:
        script.add_elements([table])
    script.advance_watermark_to_infinity()
    with beam.Pipeline(options=parse_beam_options(["--streaming"])) as pipeline:
        _ = pipeline | script | WriteDeviceSessions(rocksdb, shards=4)
    with open_device_store(rocksdb) as store:
        found = store.recent_sessions("phone").select(["session_id", "pane_index"]).to_pylist()
    assert found == [{"session_id": "s-1", "pane_index": 2}, {"session_id": "s-2", "pane_index": 2}]


class _CountDurable(beam.DoFn):
    def __init__(self, uri: str) -> None:
        self._uri = uri

    def process(self, written: int) -> Iterator[Any]:
        with open_device_store(self._uri, read_only=True) as store:
            yield store.recent_events("phone").num_rows


def test_store_is_let_go_when_the_pipeline_is_done(rocksdb: str) -> None:
    run([clicks(1)], WriteDeviceEvents(rocksdb), 1)
    code = f"import sys; sys.path[:0] = {sys.path!r}; from stores.device_store import open_device_store as store; "
    # raises where this process still holds the store
    subprocess.run([sys.executable, "-c", f"{code} store({rocksdb!r}).close()"], check=True)
