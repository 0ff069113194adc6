"""Between which times the rows of a table's files lie."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from deltalake.transaction import Transaction

from schemas.records import TIMESTAMP, Field, Record
from stores.lake import live_files, open_table, table_uri
from stores.lake_bounds import ALL_TIME, TimeBounds
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, write_files

RECORD = Record(
    "r",
    "one row",
    (Field("name", pa.string(), "text"), Field("at", TIMESTAMP, "time"), Field("day", pa.string(), "partition")),
    partition_by=("day",),
    sort_by=("name",),
    key=("name",),
)
NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)


def at(*hours: int | None) -> list[datetime | None]:
    return [None if hour is None else NOON + timedelta(hours=hour) for hour in hours]


def test_file_may_have_the_times_within_its_bounds_and_without_bounds_any(tmp_path: Path) -> None:
    place = Place(table_uri(str(tmp_path), RECORD.name), RECORD, ("a/%",))
    stored = {"span": at(1, 3), "one": at(5), "unknown": at(None)}
    files = {
        name: write_files(place, [pa.table([[name] * len(times), times, ["a/%"] * len(times)], schema=RECORD.schema)])
        for name, times in stored.items()
    }
    writes = [PartitionWrite(place.partition, tuple(file for written in files.values() for file in written))]
    commit(str(tmp_path), RECORD, writes, WriteMode.APPEND, Transaction("one", 1))
    table = open_table(str(tmp_path), RECORD)
    bounds = TimeBounds.read(table, "at")
    names = {written[0].path: name for name, written in files.items()}
    assert {names[path] for path, both in bounds.of.items() if both == ALL_TIME} == {"unknown"}
    for hours, found in {(0, 4): [], (1,): ["span"], (2,): ["span"], (3, 5): ["one", "span"], (6,): []}.items():
        holding = bounds.files_with(live_files(table)[place.partition], pa.chunked_array([pa.array(at(*hours))]))
        assert sorted(names[file.path] for file in holding) == sorted([*found, "unknown"]), hours
    assert bounds.files_with([], pa.chunked_array([pa.array(at(1))])) == []
