"""What waits to be written: how much of it, and which partition goes first."""

import random
from datetime import date, timedelta

import pyarrow as pa
import pytest

from schemas.records import Field, Record
from stores.lake_buffer import Filled, PartitionBuffer

RECORD = Record("r", "one row", (Field("x", pa.int64(), "x"), Field("day", pa.date32(), "date")), partition_by=("day",))
FIRST = date(2026, 4, 12)
ROW_BYTES = 12
ROWS = 1000


def rows(days: list[int], start: int = 0) -> pa.Table:
    """A row a day, numbered from `start`."""
    columns = [list(range(start, start + len(days))), [FIRST + timedelta(days=day) for day in days]]
    return pa.table(columns, schema=RECORD.schema)


def day_of(filled: Filled) -> int:
    (text,) = filled[0]
    return (date.fromisoformat(str(text)) - FIRST).days


def numbers(filled: Filled) -> list[int]:
    return [number for table in filled[1] for number in table.column("x").to_pylist()]


def test_rows_in_order_of_time_fill_files_and_keep_their_order() -> None:
    buffer = PartitionBuffer(RECORD, target_file_bytes=5 * ROWS * ROW_BYTES // 4)
    filled: list[Filled] = []
    for number in range(20):
        filled += buffer.add(rows([number // 10] * ROWS, number * ROWS))
    filled += buffer.drain()
    assert [(day_of(f), len(numbers(f))) for f in filled] == [(0, 5000), (0, 5000), (1, 5000), (1, 5000)]
    assert [number for f in filled for number in numbers(f)] == list(range(20 * ROWS))
    assert buffer.held_bytes == 0


def test_a_day_that_has_ended_goes_before_the_one_that_grows() -> None:
    buffer = PartitionBuffer(RECORD, most_bytes=8 * ROWS * ROW_BYTES)
    for _ in range(3):
        assert list(buffer.add(rows([0] * ROWS))) == []
    # late rows of the day before come with each table, and do not make it one that grows
    late = [0] * (ROWS // 20) + [1] * (ROWS - ROWS // 20)
    filled: list[Filled] = []
    while not filled:
        filled += buffer.add(rows(late))
    assert [day_of(f) for f in filled] == [0]


@pytest.mark.parametrize("most_bytes", [1, 3 * ROWS, 10 * ROWS * ROW_BYTES])
def test_many_days_at_once_stay_within_the_bound_and_lose_nothing(most_bytes: int) -> None:
    buffer = PartitionBuffer(RECORD, most_bytes=most_bytes)
    pick = random.Random(7)
    filled: list[Filled] = []
    for number in range(30):
        filled += buffer.add(rows([pick.randrange(40) for _ in range(ROWS)], number * ROWS))
        assert buffer.held_bytes <= most_bytes
    filled += buffer.drain()
    assert all(numbers(f) for f in filled)
    assert sorted(number for f in filled for number in numbers(f)) == list(range(30 * ROWS))
    for f in filled:
        assert {day for table in f[1] for day in table.column("day").to_pylist()} == {FIRST + timedelta(day_of(f))}


def test_a_small_slice_does_not_keep_its_table_alive() -> None:
    buffer = PartitionBuffer(RECORD)
    list(buffer.add(rows([0] * 100 * ROWS).slice(5, 10)))
    ((_, (table,)),) = buffer.drain()
    assert table.column("x").to_pylist() == list(range(5, 15))
    assert table.get_total_buffer_size() < 1000


def test_an_empty_table_holds_nothing() -> None:
    buffer = PartitionBuffer(RECORD)
    assert [*buffer.add(RECORD.empty()), *buffer.drain()] == []
