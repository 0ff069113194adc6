"""Sorting and encoding by numbers, held against Python's own sort and the values as they went in."""

import io
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import MONEY, TIMESTAMP
from stores import parquet_files
from stores.encoded_texts import encode_texts
from stores.parquet_files import parquet_bytes, sort_encoded

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("at", TIMESTAMP),
        ("whole", pa.int64()),
        ("small", pa.int16()),
        ("day", pa.date32()),
        ("money", MONEY),
        ("raw", pa.binary()),
        ("place", pa.int64()),
    ]
)
TEXTS = st.sampled_from(["", "a", "b", "aa", "ü", "z", "\U0001f600", "a\0"]) | st.text(max_size=3)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | TEXTS,
            "at": st.none()
            | st.datetimes(datetime(1, 1, 2), datetime(9999, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
            "whole": st.none() | st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
            "small": st.none() | st.integers(-(2**15), 2**15 - 1),
            "day": st.none() | st.dates(),
            "money": st.none() | st.decimals(-100, 100, places=4),
            "raw": st.none() | st.binary(max_size=2),
        }
    ),
    max_size=40,
)
COLUMNS = st.lists(st.sampled_from(SCHEMA.names[:-1]), unique=True, min_size=1)


def table_of(rows: list[dict[str, object]]) -> pa.Table:
    numbered = [row | {"place": number} for number, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, schema=SCHEMA)


def order(row: dict[str, object], by: list[str]) -> list[tuple[bool, object]]:
    """Nulls first, texts by their bytes."""
    values = [row[name].encode() if isinstance(row[name], str) else row[name] for name in by]  # type: ignore[union-attr]
    return [(value is not None, Decimal(0) if value is None else value) for value in values]


@given(rows=ROWS, by=COLUMNS, cut=st.integers(0, 40))
def test_rows_are_sorted_as_python_sorts_them_and_ties_stay_as_they_were(
    rows: list[dict[str, object]], by: list[str], cut: int
) -> None:
    table = table_of(rows)
    # a part that is encoded beside one that may not be
    done = sort_encoded([encode_texts(table.slice(0, cut)), table.slice(cut)], by)
    found = [{**row, "place": None} for row in done.to_pylist()]
    expected = sorted(table.to_pylist(), key=lambda row: order(row, by))
    assert found == [{**row, "place": None} for row in expected]
    assert done.column("place").to_pylist() == [row["place"] for row in expected]


@pytest.mark.parametrize("distinct", [1, 3, 2500, 9000])
def test_a_file_of_many_row_groups_reads_back_as_it_was(monkeypatch: pytest.MonkeyPatch, distinct: int) -> None:
    monkeypatch.setattr(parquet_files, "ROW_GROUP_ROWS", 3000)
    texts = [None if n % 11 == 0 else f"text {n * 7919 % distinct}" for n in range(9000)]
    table = pa.table({"text": texts, "place": range(9000)})
    done = sort_encoded([encode_texts(table.slice(0, 4000)), encode_texts(table.slice(4000))], ["text", "place"])
    data = parquet_bytes(done, {"place"})
    expected = sorted(table.to_pylist(), key=lambda row: (row["text"] is not None, row["text"] or "", row["place"]))
    found = pq.read_table(io.BytesIO(data), read_dictionary=[])
    assert found.to_pylist() == expected
    assert found.schema == table.schema
    metadata = pq.read_metadata(io.BytesIO(data))
    assert metadata.num_row_groups == 3
    assert [metadata.row_group(n).column(1).statistics.has_min_max for n in range(3)] == [True] * 3


def test_a_row_group_carries_only_the_texts_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 40_000
    texts = [f"a text of some length {n // 4:09}" for n in range(rows)]
    done = sort_encoded([encode_texts(pa.table({"text": texts}))], ["text"])
    assert pa.types.is_dictionary(done.schema.field("text").type)
    one_group = parquet_bytes(done, ()).size
    monkeypatch.setattr(parquet_files, "ROW_GROUP_ROWS", rows // 10)
    assert parquet_bytes(done, ()).size < 1.5 * one_group
