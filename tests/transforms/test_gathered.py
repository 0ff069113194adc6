"""Small tables put together."""

import pyarrow as pa
import pytest

from transforms.gathered import Gathered, put_together


def texts(rows: int, length: int) -> pa.Table:
    return pa.table({"text": ["x" * length] * rows})


def test_enough_rows_are_enough() -> None:
    gathered = Gathered(rows=5)
    assert [gathered.add(texts(2, 1)) for _ in range(3)] == [False, False, True]
    assert [len(table) for table in gathered.take()] == [6]


def test_few_heavy_rows_are_enough() -> None:
    gathered = Gathered(rows=1_000_000, size=10_000)
    assert [gathered.add(texts(1, 4_000)) for _ in range(3)] == [False, False, True]
    assert [len(table) for table in gathered.take()] == [3]


def test_what_was_taken_no_longer_counts() -> None:
    gathered = Gathered(rows=3, size=10_000)
    assert gathered.add(texts(3, 4_000))
    assert [len(table) for table in gathered.take()] == [3]
    assert not gathered.add(texts(1, 100))
    assert [len(table) for table in gathered.take()] == [1]
    assert list(gathered.take()) == []


def test_table_without_rows_says_that_no_more_follow() -> None:
    gathered = Gathered(rows=3)
    assert not gathered.add(texts(1, 1))
    assert gathered.add(texts(1, 1).slice(0, 0))
    assert [len(table) for table in gathered.take()] == [1]


def test_tables_without_rows_come_to_none() -> None:
    gathered = Gathered(rows=3)
    gathered.add(texts(0, 1))
    assert list(gathered.take()) == []


@pytest.mark.parametrize(("rows", "size"), [(4, 1 << 20), (1_000_000, 4_000)])
def test_put_together_loses_no_row_and_keeps_the_order(rows: int, size: int) -> None:
    numbers = [pa.table({"n": [n], "text": ["x" * 1_000]}) for n in range(10)]
    together = list(put_together(numbers, rows, size))
    assert [table["n"].to_pylist() for table in together] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
