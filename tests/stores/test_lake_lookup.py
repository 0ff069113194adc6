"""Rows that a table has, found by a time and a key, whichever files they are in."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StoreError
from schemas.records import TIMESTAMP, Field, Record
from stores.lake import table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, write_files
from stores.lake_lookup import StoredRows
from stores.lake_merge import without_keys

RECORD = Record(
    name="r",
    grain="one row",
    fields=(
        Field("device", pa.string(), "text"),
        Field("number", pa.int64(), "number"),
        Field("at", TIMESTAMP, "time that copies share"),
        Field("day", pa.string(), "partition"),
    ),
    partition_by=("day",),
    sort_by=("device",),
    key=("device", "number"),
)
NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)


def rows(*numbers: int, device: str = "d", hours: int = 0) -> pa.Table:
    """Rows of one day, a second apart."""
    times = [NOON + timedelta(hours=hours, seconds=number) for number in numbers]
    columns = [[device] * len(numbers), list(numbers), times, ["a day"] * len(numbers)]
    return pa.table(columns, schema=RECORD.schema)


def store(lake: Path, *tables: pa.Table, day: str = "a day") -> None:
    """Commit each table as a file."""
    place = Place(table_uri(str(lake), RECORD.name), RECORD, (day,))
    files = tuple(file for table in tables for file in write_files(place, [table]))
    transaction = Transaction(f"{day} {len(files)} {files[0].path}", 1)
    commit(str(lake), RECORD, [PartitionWrite((day,), files)], WriteMode.APPEND, transaction)


def without_stored(stored: StoredRows, asked: pa.Table) -> pa.Table:
    return without_keys(asked, stored.keys_of(asked), RECORD.key)


def numbers(table: pa.Table) -> list[int]:
    return list(table["number"].to_pylist())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_rows_that_any_file_of_any_partition_has_are_left_out(tmp_path: Path, scheme: str) -> None:
    store(tmp_path, rows(1, 2), rows(3, device="e"))
    store(tmp_path, rows(4), day="another day/%")
    stored = StoredRows(f"{scheme}{tmp_path}", RECORD, "at")
    assert numbers(without_stored(stored, rows(1, 2, 3, 4, 5))) == [3, 5]


def test_row_of_another_time_is_another_files_and_not_looked_for(tmp_path: Path) -> None:
    store(tmp_path, rows(1))
    (path,) = (tmp_path / "r").rglob("*.parquet")
    path.unlink()
    # the file cannot be read: it is not asked for
    assert numbers(without_stored(StoredRows(str(tmp_path), RECORD, "at"), rows(1, hours=1))) == [1]


def test_file_that_was_looked_into_is_not_opened_for_a_time_between_its_rows(tmp_path: Path) -> None:
    # one late row: the bounds are six hours apart, and hold what is in neither stretch
    store(tmp_path, pa.concat_tables([rows(1, 2), rows(3, hours=6)]))
    stored = StoredRows(str(tmp_path), RECORD, "at")
    assert numbers(without_stored(stored, pa.concat_tables([rows(1, 4), rows(3, hours=6)]))) == [4]
    (path,) = (tmp_path / "r").rglob("*.parquet")
    path.unlink()
    assert numbers(without_stored(stored, rows(3, hours=3))) == [3]
    with pytest.raises(StoreError, match="cannot read"):
        without_stored(stored, rows(3, hours=6))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), min_size=1, unique=True), st.integers(0, 40))
def test_row_of_any_stretch_of_any_file_is_found(placed: list[tuple[int, int]], asked: int) -> None:
    with tempfile.TemporaryDirectory() as lake:
        files = [[second for file, second in placed if file == number] for number in range(3)]
        # a second apart: neighbours share a stretch, others do not
        store(Path(lake), *(rows(*file) for file in files if file))
        stored = StoredRows(lake, RECORD, "at")
        for _ in range(2):
            there = any(second == asked for _, second in placed)
            assert numbers(without_stored(stored, rows(asked))) == ([] if there else [asked])


def test_row_that_was_asked_for_and_never_stored_is_not_taken_for_stored(tmp_path: Path) -> None:
    stored = StoredRows(str(tmp_path), RECORD, "at")
    for _ in range(2):
        assert numbers(without_stored(stored, rows(1, 2))) == [1, 2]
    assert numbers(without_stored(stored, rows())) == []


def test_commit_is_seen_once_the_log_is_read_again(tmp_path: Path) -> None:
    slow, eager = StoredRows(str(tmp_path), RECORD, "at", refresh=1e9), StoredRows(str(tmp_path), RECORD, "at", 0)
    for stored in (slow, eager):
        assert numbers(without_stored(stored, rows(1))) == [1]
    store(tmp_path, rows(2))
    assert numbers(without_stored(slow, rows(2))) == [2]
    assert numbers(without_stored(eager, rows(2))) == []
    store(tmp_path, rows(3))
    assert numbers(without_stored(eager, rows(3, 4))) == [4]
