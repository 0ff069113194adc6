"""Tables as elements: coded, spilled, split by shard, stamped with their earliest row."""

import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from apache_beam.coders import registry
from apache_beam.utils.timestamp import Timestamp

from schemas.errors import StoreError
from schemas.events import EVENT
from schemas.keys import shards_of
from transforms.tables import Spill, TableCoder, at_earliest, split_by_shard

TABLE = pa.table(
    {
        "text": pa.array(["a", None, "é"]),
        "bytes": pa.array([b"\0", b"", None]),
        "money": pa.array([Decimal("1.2500"), None, Decimal("-3")], pa.decimal128(18, 4)),
        "time": pa.array([0, None, 10**15], pa.timestamp("us", tz="UTC")),
    }
)
SLICED = pa.concat_tables([TABLE, TABLE]).slice(2, 3)


@pytest.fixture
def spill() -> Iterator[Spill]:
    with Spill() as opened:
        yield opened


@pytest.mark.parametrize("table", [TABLE, SLICED, TABLE.slice(0, 0), EVENT.empty()])
def test_table_comes_back_from_its_bytes(table: pa.Table) -> None:
    found = TableCoder().decode(TableCoder().encode(table))
    assert found.equals(table)
    assert found.schema.equals(table.schema, check_metadata=True)


def test_spilled_tables_come_back_in_any_order_and_any_number_of_times(spill: Spill) -> None:
    coder = registry.get_coder(pa.Table)
    encoded = [coder.encode(table) for table in (TABLE, SLICED, TABLE.slice(0, 0))]
    assert all(len(place) == 17 for place in encoded)
    for _ in range(2):
        assert coder.decode(encoded[1]).equals(SLICED)
        assert coder.decode(encoded[0]).equals(TABLE)
        assert coder.decode(encoded[2]).equals(TABLE.slice(0, 0))


def test_table_encoded_before_the_spill_was_opened_is_still_read() -> None:
    inline = TableCoder().encode(TABLE)
    with Spill():
        assert TableCoder().decode(inline).equals(TABLE)


def test_spilled_table_read_after_the_spill_is_closed_gives_a_clear_error() -> None:
    with Spill():
        place = TableCoder().encode(TABLE)
    with pytest.raises(RuntimeError, match="after its spill was closed"):
        TableCoder().decode(place)


def test_buffers_lie_one_after_the_other_and_leave_no_name(tmp_path: os.PathLike[str]) -> None:
    with Spill(os.fspath(tmp_path)) as spill:
        places = [spill.write(pa.py_buffer(data)) for data in (b"first", b"", b"second")]
        starts_and_sizes = [(int.from_bytes(p[:8], "big"), int.from_bytes(p[8:], "big")) for p in places]
        assert starts_and_sizes == [(0, 5), (5, 0), (5, 6)]
        assert [spill.read(place).to_pybytes() for place in places] == [b"first", b"", b"second"]
        assert os.listdir(tmp_path) == []


def test_file_that_the_system_reads_in_parts_is_read_whole(spill: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    def three_bytes(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return read(descriptor, [buffers[0][:3]], offset)

    read = os.preadv
    monkeypatch.setattr(os, "preadv", three_bytes)
    place = spill.write(pa.py_buffer(b"0123456789"))
    assert spill.read(place).to_pybytes() == b"0123456789"


def test_place_beyond_the_files_end_is_an_error_of_the_store(spill: Spill) -> None:
    spill.write(pa.py_buffer(b"abc"))
    with pytest.raises(StoreError, match="shorter than what was written"):
        spill.read((0).to_bytes(8, "big") + (4).to_bytes(8, "big"))


def test_spill_lies_in_the_temporary_folder_and_says_so_when_it_cannot() -> None:
    with pytest.raises(OSError, match="missing"):
        Spill(os.path.join(tempfile.gettempdir(), "missing", "folder"))


def test_split_gives_each_shard_its_rows_in_their_order() -> None:
    devices = [f"d{n * 7 % 50}" for n in range(1000)]
    table = pa.table({"device_id": pa.chunked_array([devices[:300], devices[300:]]), "row": range(1000)})
    parts = dict(split_by_shard(table, 8))
    expected: dict[int, list[int]] = {}
    for row, shard in enumerate(shards_of(pa.array(devices), 8).tolist()):
        expected.setdefault(shard, []).append(row)
    assert {shard: part["row"].to_pylist() for shard, part in parts.items()} == expected
    assert all(part["device_id"].to_pylist() == [devices[row] for row in expected[s]] for s, part in parts.items())


def test_split_keeps_the_schema_and_gives_nothing_for_nothing() -> None:
    assert list(split_by_shard(EVENT.empty(), 4)) == []
    time = datetime(2026, 4, 12, tzinfo=UTC)
    required = {"event_id": "e", "event_type": "click", "event_time": time, "event_date": time.date()}
    row = {**required, "client_time": time, "device_id": "d"}
    table = pa.Table.from_pylist([row], schema=EVENT.schema)
    ((_, part),) = split_by_shard(table, 4)
    assert part.schema.equals(EVENT.schema)
    assert part.to_pylist() == table.to_pylist()


def test_table_is_stamped_with_its_earliest_row() -> None:
    times = pa.array([1_775_952_000_000_001, 1_775_952_000_000_000, None], pa.timestamp("us", tz="UTC"))
    assert at_earliest(pa.table({"event_time": times})).timestamp == Timestamp(micros=1_775_952_000_000_000)
    assert at_earliest(pa.table({"fired_at": times}), "fired_at").timestamp == Timestamp(micros=1_775_952_000_000_000)
    before_1970 = pa.table({"event_time": pa.array([-5], pa.timestamp("us", tz="UTC"))})
    assert at_earliest(before_1970).timestamp == Timestamp(micros=-5)
