"""A replay of the raw log ends where the live run did, also where the log holds rows twice."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.dead_letters import DEAD_LETTER
from schemas.events import EVENT, RAW
from schemas.secrets import USER_KEY_VARIABLE
from schemas.sessions import SESSION
from stores.device_store import open_device_store
from stores.lake import read_table
from stores.raw_log_buffer import RawLogBuffer
from transforms.events.envelope import EnvelopeDecoder
from transforms.sources.compact_archive import compact_archive
from transforms.sources.raw_files import FileFormat, FileSlice, read_slice
from transforms.sources.read_files import list_files

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
NEXT_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
DEVICES = ("phone", "laptop", "fridge")
BROKEN = (None, b"", b"\xff\xfe", b"{", b"[]", b'{"event_id": null}', bytes((1 << 20) + 1))


def delivered() -> pa.Table:
    """What a bus of two partitions delivered: events half a minute apart, each sixth one broken in some way."""
    rows = []
    for number in range(240):
        time = NOON + timedelta(seconds=30 * number)
        event = {
            "event_id": f"e{number}",
            "event_type": "purchase" if number % 7 == 0 else "page_view",
            "timestamp": time.isoformat(),
            "device_id": DEVICES[number % 3],
            "properties": {"revenue": number},
        }
        payload = BROKEN[number // 6 % len(BROKEN)] if number % 6 == 5 else json.dumps(event).encode()
        rows.append((payload, "clicks", number % 2, 1000 + number // 2, time + timedelta(seconds=2)))
    return pa.Table.from_pylist([dict(zip(RAW.names, row, strict=True)) for row in rows], schema=RAW.schema)


def archive(root: Path, rows: pa.Table, bundle: int) -> None:
    for start in range(0, len(rows), bundle):
        buffer = RawLogBuffer(str(root))
        buffer.add(rows.slice(start, bundle))
        buffer.write()


Found = dict[str, list[dict[str, object]]]
Replay = Callable[[Path, Path], Found]


@pytest.fixture
def replay(command_line: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Runs the batch job over a log into stores; everything that is then in them."""
    monkeypatch.setenv(USER_KEY_VARIABLE, "secret")

    def run(log: Path, stores: Path) -> Found:
        lake, devices = stores / "lake", stores / "devices"
        ended = command_line("run", "--input", log, "--lake", lake, "--devices", f"rocksdb:{devices}", "--json")
        assert ended.code == 0, ended.err
        found = {}
        for record in (EVENT, SESSION, DEAD_LETTER):
            rows = read_table(str(lake), record.name).select(record.names)
            found[record.name] = rows.sort_by([(name, "ascending") for name in record.key]).to_pylist()
        with open_device_store(f"rocksdb:{devices}") as store:
            for device in DEVICES:
                found[f"events of {device}"] = store.recent_events(device, limit=1000).to_pylist()
                found[f"sessions of {device}"] = store.recent_sessions(device, limit=1000).to_pylist()
        return found

    return run


def test_rows_twice_in_the_log_end_in_the_same_stores(replay: Replay, tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    archive(once / "log", delivered(), 50)
    expected = replay(once / "log", once)
    assert len(expected["fact_events"]) == 200
    assert sum(len(expected[f"events of {device}"]) for device in DEVICES) == 200
    assert len({row["dead_letter_id"] for row in expected["dead_letters"]}) == 40

    archive(twice / "log", delivered(), 50)
    # restored from a checkpoint: most of it once more, bundled in another way
    archive(twice / "log", delivered().slice(35), 64)
    assert replay(twice / "log", twice) == expected
    # and onto stores that have it all, with the log compacted
    assert compact_archive(str(twice / "log"), NEXT_YEAR).copies == 205
    assert replay(twice / "log", twice) == expected


def test_dead_letter_of_a_replay_is_the_one_of_the_live_run(tmp_path: Path) -> None:
    archive(tmp_path, delivered(), 1000)
    decoder = EnvelopeDecoder("secret")
    live = decoder.decode(delivered(), NOON).dead_letters
    letters = [DEAD_LETTER.empty()]
    for path, size in list_files([str(tmp_path)]).items():
        with Path(path).open("rb") as stream:
            for rows in read_slice(stream, FileSlice(path, FileFormat.AVRO, 0, size)):
                assert isinstance(rows, pa.Table)
                letters.append(decoder.decode(rows, NEXT_YEAR).dead_letters)
    by_id = [("dead_letter_id", "ascending")]
    assert pa.concat_tables(letters).sort_by(by_id).to_pylist() == live.sort_by(by_id).to_pylist()
