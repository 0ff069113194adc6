"""Rows that a table has already, however many keys can be held."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from schemas.records import TIMESTAMP, Field, Record
from stores import lake_merge
from stores.lake import live_files, open_table, read_table, table_uri
from stores.lake_bounds import TimeBounds
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, encode_rows, write_files
from stores.lake_merge import KnownKeys, merge_into_table, replace_changed
from stores.lake_read import read_files

DAYS = ["2026-04-12", "2026-04-13"]
RECORD = Record(
    name="r",
    grain="one row",
    fields=(
        Field("device", pa.string(), "text that repeats"),
        Field("number", pa.int64(), "number"),
        Field("day", pa.date32(), "date"),
    ),
    partition_by=("day",),
    key=("device", "number"),
)


def rows(day: str, numbers: range) -> pa.Table:
    devices = [None if n % 5 == 0 else f"device {n % 3}" for n in numbers]
    columns = [devices, list(numbers), [date.fromisoformat(day)] * len(numbers)]
    return pa.table(columns, schema=RECORD.schema)


@pytest.mark.parametrize("keys_held", [0, 150, 10_000], ids=["no partition", "one partition", "all"])
def test_rows_of_two_dates_with_known_keys_are_left_out_whether_keys_are_held_or_not(
    tmp_path: Path, keys_held: int
) -> None:
    places = {day: Place(table_uri(str(tmp_path), RECORD.name), RECORD, (day,)) for day in DAYS}
    writes = [
        PartitionWrite((day,), tuple(write_files(place, [rows(day, range(start, start + 50))])))
        for day, place in places.items()
        for start in (0, 50)
    ]
    commit(str(tmp_path), RECORD, writes, WriteMode.APPEND, Transaction("one", 1))
    live = live_files(open_table(str(tmp_path), RECORD))
    known = KnownKeys(keys_held)
    for start in (0, 30, 90):
        for day, place in places.items():
            for incoming in (
                rows(day, range(start, start + 60)),
                encode_rows(rows(day, range(start, start + 60)), RECORD),
            ):
                left = known.without_known(incoming, place, live[day,])
                assert left.column("number").to_pylist() == list(range(max(start, 100), start + 60))


def test_threads_that_share_known_keys_read_each_partition_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {day: Place(table_uri(str(tmp_path), RECORD.name), RECORD, (day,)) for day in DAYS}
    writes = [
        PartitionWrite((day,), tuple(write_files(place, [rows(day, range(50))]))) for day, place in places.items()
    ]
    commit(str(tmp_path), RECORD, writes, WriteMode.APPEND, Transaction("one", 1))
    live = live_files(open_table(str(tmp_path), RECORD))
    known, read = KnownKeys(), []
    monkeypatch.setattr(
        lake_merge, "read_files", lambda place, paths, names: read.append(paths) or read_files(place, paths, names)
    )

    def left(day: str) -> list[int]:
        return known.without_known(rows(day, range(40, 60)), places[day], live[day,]).column("number").to_pylist()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(left, DAYS * 8)) == [list(range(50, 60))] * 16
    assert sorted(read) == sorted([[file.path] for day in DAYS for file in live[day,]])


TOTAL = Record("totals", "one name", (Field("name", pa.string(), "name"), Field("n", pa.int64(), "sum")), key=("name",))


def totals(**counts: int) -> pa.Table:
    return pa.table({"name": list(counts), "n": list(counts.values())}, schema=TOTAL.schema)


def greatest(existing: pa.Table, new: pa.Table) -> pa.Table:
    grouped = pa.concat_tables([existing, new]).group_by("name").aggregate([("n", "max")])
    return grouped.rename_columns(["name", "n"]).cast(TOTAL.schema)


def test_rows_merge_with_those_of_their_keys_and_only_files_that_change_are_rewritten(tmp_path: Path) -> None:
    place = Place(table_uri(str(tmp_path), TOTAL.name), TOTAL, ())
    written = [write_files(place, [table])[0] for table in (totals(a=1, b=9), totals(c=3), totals(d=4))]
    commit(str(tmp_path), TOTAL, [PartitionWrite((), tuple(written))], WriteMode.APPEND, Transaction("one", 1))
    live = live_files(open_table(str(tmp_path), TOTAL))[()]
    change = replace_changed(place, live, totals(a=2, b=5, c=3, e=1), totals().select(["name"]), merge=greatest)
    commit(str(tmp_path), TOTAL, [change], WriteMode.MERGE, Transaction("two", 1))
    assert (change.removed, change.skipped) == ((written[0].path,), 2)
    found = {row["name"]: row["n"] for row in read_table(str(tmp_path), TOTAL.name).to_pylist()}
    assert found == {"a": 2, "b": 9, "c": 3, "d": 4, "e": 1}


def test_rows_merged_into_a_table_again_commit_nothing(tmp_path: Path) -> None:
    assert merge_into_table(str(tmp_path), TOTAL, totals(a=1, b=2), greatest).rows_written == 2
    assert not merge_into_table(str(tmp_path), TOTAL, totals(a=1, b=1), greatest).committed


def test_rows_merged_into_a_table_that_another_run_commits_to_meanwhile_merge_with_its_rows(tmp_path: Path) -> None:
    lake = str(tmp_path)
    merge_into_table(lake, TOTAL, totals(a=1, b=2), greatest)
    raced = []

    def slow(existing: pa.Table, new: pa.Table) -> pa.Table:
        if not raced:
            raced.append(merge_into_table(lake, TOTAL, totals(a=5, c=3), greatest).version)
        return greatest(existing, new)

    result = merge_into_table(lake, TOTAL, totals(a=4, b=7), slow)
    assert result.committed
    assert result.version > raced[0]
    found = read_table(lake, TOTAL.name).to_pylist()
    assert {row["name"]: row["n"] for row in found} == {"a": 5, "b": 7, "c": 3}


def test_file_of_some_size_is_rewritten_by_itself_and_the_changed_row_leaves_it(tmp_path: Path) -> None:
    place = Place(table_uri(str(tmp_path), RECORD.name), RECORD, (DAYS[0],))
    large, small = (write_files(place, [rows(DAYS[0], numbers)])[0] for numbers in (range(5_000), range(5_000, 5_010)))
    first = [PartitionWrite(place.partition, (large, small))]
    commit(str(tmp_path), RECORD, first, WriteMode.APPEND, Transaction("one", 1))
    live = live_files(open_table(str(tmp_path), RECORD))[place.partition]
    withdrawn = rows(DAYS[0], range(4_999, 5_001)).select(list(RECORD.key))
    change = replace_changed(place, live, rows(DAYS[0], range(6_000, 6_001)), withdrawn, target_bytes=large.size * 4)
    # of the small file nine rows are left, beside the new one
    assert sorted(file.rows for file in change.added) == [10, 4_999]
    assert set(change.removed) == {large.path, small.path}
    commit(str(tmp_path), RECORD, [change], WriteMode.MERGE, Transaction("one", 2))
    numbers = read_table(str(tmp_path), RECORD.name).column("number").to_pylist()
    assert sorted(numbers) == [*range(4_999), *range(5_001, 5_010), 6_000]


def test_files_without_any_of_the_times_of_the_rows_are_not_read(tmp_path: Path) -> None:
    visit = Record(
        "visits",
        "one visit",
        (Field("id", pa.string(), "id"), Field("began", TIMESTAMP, "when"), Field("pages", pa.int64(), "count")),
        sort_by=("began",),
        key=("id",),
    )
    place = Place(table_uri(str(tmp_path), visit.name), visit, ())

    def visits(pages: int, *hours: int) -> pa.Table:
        times = [datetime(2026, 4, 12, tzinfo=UTC) + timedelta(hours=hour, microseconds=1) for hour in hours]
        columns = {"id": [f"at {hour}" for hour in hours], "began": times, "pages": [pages] * len(hours)}
        return pa.table(columns, schema=visit.schema)

    # the middle one has the hours 4 and 6 alone, and is read for the hour 5 too
    early, middle, late = (write_files(place, [visits(1, *hours)])[0] for hours in ((1, 2), (4, 6), (8, 9)))
    first = [PartitionWrite((), (early, middle, late))]
    commit(str(tmp_path), visit, first, WriteMode.APPEND, Transaction("one", 1))
    table = open_table(str(tmp_path), visit)
    content = (tmp_path / "visits" / early.path).read_bytes()
    (tmp_path / "visits" / early.path).unlink()
    bounds = TimeBounds.read(table, "began")
    gone = visits(1, 8).select(["id", "began"])
    change = replace_changed(place, live_files(table)[()], visits(2, 5, 6), gone, bounds=bounds)
    assert set(change.removed) == {middle.path, late.path}
    (tmp_path / "visits" / early.path).write_bytes(content)
    commit(str(tmp_path), visit, [change], WriteMode.MERGE, Transaction("two", 1))
    found = {row["id"]: row["pages"] for row in read_table(str(tmp_path), visit.name).to_pylist()}
    assert found == {"at 1": 1, "at 2": 1, "at 4": 1, "at 5": 2, "at 6": 2, "at 9": 1}
