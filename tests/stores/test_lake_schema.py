"""A table whose record has become another: columns added and widened, nothing lost, all else refused."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from schemas.errors import SchemaMismatchError, StoreError
from schemas.records import MONEY, Field, Record
from stores.lake import check_lake, create_tables, find_table, live_files, read_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, write_files
from stores.lake_read import read_files
from stores.lake_schema import is_wider
from stores.lake_sql import query

MONDAY, TUESDAY = date(2026, 4, 13), date(2026, 4, 14)
NOTE = Record(
    name="silver/notes",
    grain="one note",
    fields=(
        Field("note_id", pa.string(), "id", nullable=False),
        Field("day", pa.date32(), "date", nullable=False),
        Field("length", pa.int32(), "letters", nullable=False),
    ),
    partition_by=("day",),
    sort_by=("note_id",),
    key=("note_id",),
)
COLOUR = Field("colour", pa.string(), "colour")
COLOURED = replace(NOTE, fields=(*NOTE.fields, COLOUR))


def with_length(kind: pa.DataType, *, nullable: bool = False) -> Record:
    return replace(NOTE, fields=(*NOTE.fields[:2], Field("length", kind, "letters", nullable)))


def place(lake: Path, record: Record, day: date) -> Place:
    return Place(table_uri(str(lake), record.name), record, (day.isoformat(),))


def add(lake: Path, record: Record, day: date, *rows: dict[str, object]) -> None:
    table = pa.Table.from_pylist([{**row, "day": day} for row in rows], schema=record.schema)
    write = PartitionWrite((day.isoformat(),), tuple(write_files(place(lake, record, day), [table])))
    commit(str(lake), record, [write], WriteMode.APPEND, Transaction(str(rows), 1))


def rows_of(lake: Path) -> list[dict[str, object]]:
    return read_table(str(lake), NOTE.name).sort_by("note_id").to_pylist()


def asked(lake: Path, sql: str) -> list[tuple[object, ...]]:
    with query(str(lake), sql) as reader:
        return [tuple(row.values()) for row in reader.read_all().to_pylist()]


def files_of(lake: Path) -> set[str]:
    return {str(path) for path in lake.rglob("*.parquet")}


def test_a_new_nullable_column_is_added_and_no_file_rewritten(tmp_path: Path) -> None:
    add(tmp_path, NOTE, MONDAY, {"note_id": "old", "length": 1})
    before = files_of(tmp_path)
    check_lake(str(tmp_path), [COLOURED])
    create_tables(str(tmp_path), [COLOURED])
    assert files_of(tmp_path) == before
    add(tmp_path, COLOURED, MONDAY, {"note_id": "new", "length": 2, "colour": "red"})
    add(tmp_path, COLOURED, TUESDAY, {"note_id": "newer", "length": 3, "colour": "blue"})
    assert before < files_of(tmp_path)
    assert [(row["note_id"], row["colour"]) for row in rows_of(tmp_path)] == [
        ("new", "red"),
        ("newer", "blue"),
        ("old", None),
    ]
    sql = 'SELECT note_id, day, length, colour FROM "silver".notes ORDER BY note_id'
    assert asked(tmp_path, sql) == [
        ("new", MONDAY, 2, "red"),
        ("newer", TUESDAY, 3, "blue"),
        ("old", MONDAY, 1, None),
    ]
    table = find_table(str(tmp_path), NOTE.name)
    assert table is not None
    paths = [file.path for file in live_files(table)[(MONDAY.isoformat(),)]]
    found = read_files(place(tmp_path, COLOURED, MONDAY), paths).sort_by("note_id")
    assert found.schema.equals(COLOURED.schema)
    assert found.column("colour").to_pylist() == ["red", None]


def test_a_column_is_added_once(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [NOTE])
    versions = []
    for _ in range(3):
        create_tables(str(tmp_path), [COLOURED])
        table = find_table(str(tmp_path), NOTE.name)
        assert table is not None
        versions.append(table.version())
    assert versions == [1, 1, 1]


@pytest.mark.parametrize(
    ("old", "new", "values"),
    [
        (pa.int32(), pa.int64(), [2**31 - 1, -1]),
        (pa.int64(), pa.float64(), [2**53, -3]),
        (pa.float32(), pa.float64(), [0.5, -2.0]),
        (pa.decimal128(9, 2), MONEY, [1, 2]),
    ],
    ids=str,
)
def test_a_type_is_widened_and_the_values_stay(
    tmp_path: Path, old: pa.DataType, new: pa.DataType, values: list[float]
) -> None:
    narrow, wide = with_length(old), with_length(new)
    add(tmp_path, narrow, MONDAY, {"note_id": "a", "length": values[0]})
    add(tmp_path, narrow, TUESDAY, {"note_id": "b", "length": values[1]})
    add(tmp_path, wide, TUESDAY, {"note_id": "c", "length": 7})
    assert [(row["note_id"], row["day"], row["length"]) for row in rows_of(tmp_path)] == [
        ("a", MONDAY, values[0]),
        ("b", TUESDAY, values[1]),
        ("c", TUESDAY, 7),
    ]
    assert asked(tmp_path, 'SELECT length FROM "silver".notes ORDER BY note_id') == [(values[0],), (values[1],), (7,)]
    table = find_table(str(tmp_path), NOTE.name)
    assert table is not None
    assert (table.metadata().name, table.metadata().partition_columns) == (NOTE.name, ["day"])
    assert set(live_files(table)) == {(MONDAY.isoformat(),), (TUESDAY.isoformat(),)}


def test_a_value_that_the_wider_type_would_lose_stops_the_change(tmp_path: Path) -> None:
    add(tmp_path, with_length(pa.int64()), MONDAY, {"note_id": "a", "length": 2**53 + 1})
    with pytest.raises(StoreError, match="silver/notes: cannot change the table's columns") as caught:
        create_tables(str(tmp_path), [with_length(pa.float64())])
    assert "\n" not in str(caught.value)
    assert rows_of(tmp_path) == [{"note_id": "a", "day": MONDAY, "length": 2**53 + 1}]


def test_a_column_may_become_nullable_and_not_the_reverse(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [NOTE])
    nullable = with_length(pa.int32(), nullable=True)
    add(tmp_path, nullable, MONDAY, {"note_id": "a", "length": None})
    assert rows_of(tmp_path)[0]["length"] is None
    with pytest.raises(SchemaMismatchError, match="length is integer in the table and integer not null in this"):
        check_lake(str(tmp_path), [NOTE])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (with_length(pa.string()), "column length is integer not null in the table and string not null in this"),
        (with_length(pa.int16()), "column length is integer not null in the table and short not null in this"),
        (
            replace(NOTE, fields=(*NOTE.fields, replace(COLOUR, nullable=False))),
            r"column colour \(string not null\) is not in the table, and never null",
        ),
        (replace(NOTE, fields=NOTE.fields[:2]), r"column length \(integer not null\) of the table is unknown to this"),
        (replace(NOTE, partition_by=()), r"partitioned by \['day'\] and in this program by \[\]"),
    ],
    ids=["other-type", "narrower", "not-null", "missing", "partitions"],
)
def test_a_change_that_would_lose_rows_is_refused_in_one_line(tmp_path: Path, record: Record, words: str) -> None:
    create_tables(str(tmp_path), [NOTE])
    for change in (check_lake, create_tables):
        with pytest.raises(SchemaMismatchError, match=f"silver/notes: .*{words}") as caught:
            change(str(tmp_path), [record])
        assert "\n" not in str(caught.value)
    table = find_table(str(tmp_path), NOTE.name)
    assert table is not None
    assert table.version() == 0


def test_text_is_never_wider_than_a_number_nor_a_decimal_of_fewer_digits() -> None:
    assert not is_wider(pa.string(), pa.int64())
    assert not is_wider(pa.decimal128(18, 4), pa.decimal128(18, 2))
    assert not is_wider(pa.float32(), pa.float64())
