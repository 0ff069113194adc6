"""The lake's sink in a pipeline: exactly once, whatever is repeated."""

import operator
import random
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from runners.beam_options import parse_beam_options
from schemas.dead_letters import DEAD_LETTER
from schemas.errors import StoreError
from schemas.events import EVENT, EVENT_BATCH
from schemas.sessions import FACT_SESSION
from stores.lake import create_tables, find_table, read_table
from stores.lake_buffer import PartitionBuffer
from stores.lake_commit import WriteMode
from tests.session_panes import pane, pane_table
from transforms.metrics import read_counters
from transforms.sessions.write_sessions import WriteSessions
from transforms.sinks import write_lake
from transforms.sinks.write_lake import WriteLake
from transforms.tables import Spill

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
KEY = ["device_id", "event_id"]


def events(rows: list[tuple[str, str, datetime]], page: str = "/") -> pa.Table:
    """Batches in flight of (device_id, event_id, event_time)."""
    filled = [
        {
            "event_id": event_id,
            "event_type": "page_view",
            "event_time": time,
            "event_date": time.date(),
            "client_time": time,
            "device_id": device,
            "page_url": page,
            "source": "clicks.ndjson",
            "partition": 0,
            "offset": number,
        }
        for number, (device, event_id, time) in enumerate(rows)
    ]
    return pa.Table.from_pylist(filled, schema=EVENT_BATCH.schema)


def panes(rows: list[dict[str, Any]]) -> pa.Table:
    blank = {"pane_timing": "ON_TIME", "fired_at": NOON}
    return pane_table(*(pane(**blank | row) for row in rows))


def run(sink: beam.PTransform, *tables: pa.Table) -> dict[str, int]:
    """Write tables with a bounded pipeline; its counters."""
    with Spill():
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
        _ = pipeline | beam.Create(tables, reshuffle=False).with_output_types(pa.Table) | sink
        result = pipeline.run()
        result.wait_until_finish()
        return read_counters(result.metrics())


def rows_of(lake: Path, name: str) -> list[dict[str, object]]:
    table = read_table(str(lake), name)
    return table.sort_by([(n, "ascending") for n in table.column_names[:1]]).to_pylist()


def version_of(lake: Path, name: str) -> int:
    table = find_table(str(lake), name)
    assert table is not None
    return table.version()


def test_events_of_two_dates_come_back_as_they_were_written(tmp_path: Path) -> None:
    first = events([("d1", "e1", NOON), ("d1", "e2", NOON + timedelta(days=1))])
    second = events([("d2", "e3", NOON)])
    counters = run(WriteLake(EVENT, str(tmp_path)), first, second)
    expected = pa.concat_tables([first, second]).select(EVENT.names)
    assert rows_of(tmp_path, "fact_events") == expected.to_pylist()
    assert (counters["lake_fact_events_rows"], counters["lake_fact_events_files"]) == (3, 2)
    assert counters["lake_fact_events_bytes"] == sum(
        f.stat().st_size for f in tmp_path.rglob("*.parquet") if "log" not in str(f)
    )


def interleaved(days: int, rows: int) -> list[pa.Table]:
    """Tables of events of all days at once, in no order."""
    pick = random.Random(7)
    return [
        events(
            [(f"d{pick.randrange(9)}", f"e{n}.{k}", NOON + timedelta(days=k % days, seconds=n)) for k in range(rows)]
        )
        for n in range(20)
    ]


def test_many_dates_at_once_in_small_files_come_back_whole_and_sorted(tmp_path: Path) -> None:
    tables = interleaved(days=11, rows=200)
    counters = run(WriteLake(EVENT, str(tmp_path), target_file_bytes=2000), *tables)
    files = list(tmp_path.rglob("event_date=*/*.parquet"))
    assert counters["lake_fact_events_files"] == len(files) > 2 * 11
    found: list[dict[str, object]] = []
    for file in files:
        rows = pq.ParquetFile(file).read().to_pylist()
        assert rows == sorted(rows, key=lambda row: [row[name] for name in EVENT.sort_by])
        found += rows
    assert all(pq.read_metadata(file).num_rows for file in files)
    expected = pa.concat_tables(tables).select(EVENT.names).drop_columns("event_date").to_pylist()
    by_id = operator.itemgetter("event_id")
    assert sorted(found, key=by_id) == sorted(expected, key=by_id)
    assert version_of(tmp_path, "fact_events") == 1


@pytest.mark.parametrize("gathered_rows", [1, 1_000, 100_000])
@pytest.mark.parametrize("most_bytes", [1, 50_000])
def test_rows_in_no_order_of_time_that_overflow_the_buffer_become_one_file_a_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gathered_rows: int, most_bytes: int
) -> None:
    monkeypatch.setattr(write_lake, "_GATHERED_ROWS", gathered_rows)
    monkeypatch.setattr(write_lake, "PartitionBuffer", partial(PartitionBuffer, most_bytes=most_bytes))
    tables = interleaved(days=20, rows=200)
    counters = run(WriteLake(EVENT, str(tmp_path)), *tables)
    assert counters["lake_fact_events_files"] == 20
    expected = pa.concat_tables(tables).select(EVENT.names).to_pylist()
    by_id = operator.itemgetter("event_id")
    assert sorted(read_table(str(tmp_path), "fact_events").to_pylist(), key=by_id) == sorted(expected, key=by_id)
    assert run(WriteLake(EVENT, str(tmp_path)), *tables) == {"lake_fact_events_skipped": len(expected)}


def test_small_files_of_a_run_are_one_commit_and_its_repetition_none(tmp_path: Path) -> None:
    tables = interleaved(days=3, rows=100)
    run(WriteLake(EVENT, str(tmp_path), target_file_bytes=2000), *tables[:10])
    counters = run(WriteLake(EVENT, str(tmp_path), target_file_bytes=2000), *tables)
    assert (counters["lake_fact_events_rows"], counters["lake_fact_events_skipped"]) == (1000, 1000)
    assert version_of(tmp_path, "fact_events") == 2
    counters = run(WriteLake(EVENT, str(tmp_path), target_file_bytes=2000), *tables)
    assert (version_of(tmp_path, "fact_events"), counters) == (2, {"lake_fact_events_skipped": 2000})


def test_overwrite_in_small_files_replaces_each_date_once(tmp_path: Path) -> None:
    tables = interleaved(days=3, rows=100)
    for _ in range(2):
        run(WriteLake(EVENT, str(tmp_path), WriteMode.OVERWRITE, target_file_bytes=2000), *tables)
    assert len(rows_of(tmp_path, "fact_events")) == 2000


@pytest.mark.parametrize("tables", [1, 20], ids=["in the last file", "before the last file"])
def test_a_file_that_cannot_be_written_fails_the_run_and_leaves_nothing_to_see(tmp_path: Path, tables: int) -> None:
    create_tables(str(tmp_path), [EVENT])
    (tmp_path / "fact_events" / "event_date=2026-04-13").write_text("a file where a folder must be")
    with pytest.raises(StoreError, match="fact_events: cannot write to"):
        run(WriteLake(EVENT, str(tmp_path), target_file_bytes=2000), *interleaved(days=3, rows=100)[:tables])
    assert rows_of(tmp_path, "fact_events") == []


def test_the_same_events_again_commit_nothing(tmp_path: Path) -> None:
    table = events([("d1", "e1", NOON), ("d1", "e2", NOON + timedelta(days=1))])
    run(WriteLake(EVENT, str(tmp_path)), table)
    before, version = rows_of(tmp_path, "fact_events"), version_of(tmp_path, "fact_events")
    counters = run(WriteLake(EVENT, str(tmp_path)), table)
    assert rows_of(tmp_path, "fact_events") == before
    assert version_of(tmp_path, "fact_events") == version
    assert counters == {"lake_fact_events_skipped": 2}


def test_overlapping_events_leave_existing_rows_and_add_the_rest(tmp_path: Path) -> None:
    run(WriteLake(EVENT, str(tmp_path)), events([("d1", "e1", NOON), ("d1", "e2", NOON)], page="/old"))
    # the same event id on another device is another event
    again = events([("d1", "e2", NOON), ("d2", "e2", NOON), ("d1", "e3", NOON)], page="/new")
    counters = run(WriteLake(EVENT, str(tmp_path)), again)
    found = {(r["device_id"], r["event_id"]): r["page_url"] for r in rows_of(tmp_path, "fact_events")}
    assert found == {("d1", "e1"): "/old", ("d1", "e2"): "/old", ("d2", "e2"): "/new", ("d1", "e3"): "/new"}
    assert (counters["lake_fact_events_rows"], counters["lake_fact_events_skipped"]) == (2, 1)


def test_overwrite_replaces_only_the_dates_it_brings(tmp_path: Path) -> None:
    tomorrow = NOON + timedelta(days=1)
    run(
        WriteLake(EVENT, str(tmp_path)),
        events([("d1", "e1", NOON), ("d1", "e2", NOON), ("d1", "e3", tomorrow)]),
    )
    run(WriteLake(EVENT, str(tmp_path), WriteMode.OVERWRITE), events([("d9", "e9", NOON)]))
    assert [r["event_id"] for r in rows_of(tmp_path, "fact_events")] == ["e3", "e9"]


def test_append_adds_what_is_there_already(tmp_path: Path) -> None:
    for _ in range(2):
        run(WriteLake(EVENT, str(tmp_path), WriteMode.APPEND), events([("d1", "e1", NOON)]))
    assert [r["event_id"] for r in rows_of(tmp_path, "fact_events")] == ["e1", "e1"]


def test_no_rows_write_no_file(tmp_path: Path) -> None:
    counters = run(WriteLake(EVENT, str(tmp_path)), EVENT_BATCH.empty())
    assert counters == {}
    assert list(tmp_path.rglob("*.parquet")) == []


def test_another_run_with_the_same_id_is_a_retry_and_adds_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        sink = WriteLake(EVENT, str(tmp_path), WriteMode.APPEND, run_id="run-1")
        run(sink, events([("d1", "e1", NOON)]))
    assert len(rows_of(tmp_path, "fact_events")) == 1


def test_dead_letters_of_one_file_read_twice_are_kept_once(tmp_path: Path) -> None:
    row = {
        "dead_letter_id": "x",
        "arrival_date": date(2026, 4, 12),
        "source": "f",
        "partition": 0,
        "offset": 7,
    }
    row |= {"step": "decode", "reason": "not_json", "message": "no", "payload": b"\xff{"}
    letters = pa.Table.from_pylist([row], schema=DEAD_LETTER.schema)
    for _ in range(2):
        run(WriteLake(DEAD_LETTER, str(tmp_path)), letters)
    assert [r["payload"] for r in rows_of(tmp_path, "dead_letters")] == [b"\xff{"]


def test_the_last_pane_of_a_session_is_its_row(tmp_path: Path) -> None:
    early = {"session_id": "s1", "pane_timing": "EARLY", "event_count": 1}
    on_time = {"session_id": "s1", "pane_index": 1, "event_count": 5, "fired_at": NOON + timedelta(hours=1)}
    run(WriteSessions(str(tmp_path)), panes([on_time]), panes([early]))
    assert [(r["session_id"], r["event_count"]) for r in rows_of(tmp_path, "fact_sessions")] == [("s1", 5)]


def test_a_later_run_replaces_and_withdraws_sessions(tmp_path: Path) -> None:
    run(WriteSessions(str(tmp_path)), panes([{"session_id": s} for s in ("stays", "changes", "goes")]))
    later = {"pane_index": 1, "pane_timing": "LATE", "fired_at": NOON + timedelta(hours=2)}
    changes = [
        {"session_id": "changes", "event_count": 9, **later},
        {"session_id": "goes", "is_retraction": True, **later},
        {"session_id": "stays"},
    ]
    run(WriteSessions(str(tmp_path)), panes(changes))
    found = {r["session_id"]: r["event_count"] for r in rows_of(tmp_path, "fact_sessions")}
    assert found == {"stays": 1, "changes": 9}


def test_the_same_panes_again_leave_the_sessions_files_as_they_are(tmp_path: Path) -> None:
    table = panes([{"session_id": s} for s in ("a", "b")])
    run(WriteSessions(str(tmp_path)), table)
    version = version_of(tmp_path, FACT_SESSION.name)
    counters = run(WriteSessions(str(tmp_path)), table)
    assert (version_of(tmp_path, FACT_SESSION.name), counters) == (version, {"lake_fact_sessions_skipped": 2})


def test_an_unknown_mode_is_refused_when_the_graph_is_built() -> None:
    with pytest.raises(ValueError, match="upsert"):
        WriteLake(EVENT, "lake", "upsert")  # type: ignore[arg-type]
