"""Files of the lake: rows, order, sizes and statistics, checked against the rows themselves."""

import json
import resource
import subprocess
import sys
import textwrap
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import OptionError, StoreError
from schemas.events import EVENT
from schemas.records import MONEY, TIMESTAMP, Field, Record
from stores.lake_files import (
    Place,
    check_partition_columns,
    parse_partition,
    partition_folder,
    split_by_partition,
    write_files,
)
from stores.lake_read import file_pieces, read_files
from stores.locations import open_location

DAY = date(2026, 4, 12)
VISIT = Record(
    name="visits",
    grain="one visit",
    fields=(
        Field("visit_id", pa.string(), "id", nullable=False),
        Field("day", pa.date32(), "date"),
        Field("place", pa.string(), "where"),
        Field("seen_at", TIMESTAMP, "when"),
        Field("spent", MONEY, "how much"),
    ),
    partition_by=("day", "place"),
    sort_by=("seen_at", "visit_id"),
    key=("visit_id",),
)
VISITS = st.lists(
    st.fixed_dictionaries(
        {
            "visit_id": st.text(max_size=90),
            "day": st.none() | st.dates(date(1969, 1, 1), date(2100, 1, 1)),
            "place": st.none() | st.sampled_from(["", "a b/c=d", "ü%20", "x"]),
            "seen_at": st.none()
            | st.datetimes(datetime(1969, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
            "spent": st.none() | st.decimals(-(10**9), 10**9, places=4),
        }
    ),
    max_size=30,
)


def visits(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=VISIT.schema)


def order(row: dict[str, object]) -> tuple[object, ...]:
    """Nulls first, as the files are sorted."""
    seen = row["seen_at"]
    return (seen is not None, seen or 0, row["visit_id"])


@given(VISITS)
def test_a_split_keeps_every_row_in_its_order_under_its_partition(rows: list[dict[str, object]]) -> None:
    parts = list(split_by_partition(visits(rows), VISIT))
    expected: dict[tuple[str | None, ...], list[dict[str, object]]] = {}
    for row in rows:
        day = row["day"]
        partition = (day.isoformat() if isinstance(day, date) else None, row["place"] or None)
        expected.setdefault(partition, []).append(row)  # type: ignore[arg-type]
    assert len(parts) == len(expected)
    assert {partition: part.to_pylist() for partition, part in parts} == expected


@given(st.tuples(st.none() | st.dates().map(date.isoformat), st.none() | st.text(min_size=1, max_size=20)))
def test_a_partition_comes_back_from_its_folder(partition: tuple[str | None, str | None]) -> None:
    folder = partition_folder(VISIT, partition)
    assert parse_partition(folder) == partition
    assert folder.count("/") == 1


@settings(max_examples=25)
@given(rows=VISITS, cut=st.integers(0, 30))
def test_rows_of_a_partition_come_back_sorted_with_true_statistics(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], cut: int
) -> None:
    rows = [row | {"day": DAY, "place": None} for row in rows]
    place = Place(str(tmp_path_factory.mktemp("visits")), VISIT, (DAY.isoformat(), None))
    files = write_files(place, [visits(rows[:cut]), visits(rows[cut:])])
    if not rows:
        assert files == []
        return
    (file,) = files
    assert read_files(place, [file.path]).to_pylist() == sorted(rows, key=order)
    stats = json.loads(file.stats)
    assert (file.rows, stats["numRecords"]) == (len(rows), len(rows))
    assert stats["nullCount"] == {
        name: sum(row[name] is None for row in rows) for name in ("visit_id", "seen_at", "spent")
    }
    times = [row["seen_at"] for row in rows if row["seen_at"] is not None]
    for bound, extreme in (("minValues", min), ("maxValues", max)):
        written = stats[bound].get("seen_at")
        assert (datetime.fromisoformat(written) if written else None) == (extreme(times) if times else None)
    ids = [str(row["visit_id"]).encode() for row in rows]
    assert stats["minValues"]["visit_id"].encode() <= min(ids)
    assert stats["maxValues"]["visit_id"].encode() >= max(ids)


def test_more_rows_than_a_file_holds_fill_several_each_sorted(tmp_path: Path) -> None:
    start = datetime(2026, 4, 12, tzinfo=UTC)
    rows = [
        {"visit_id": f"{n * 7919 % 20_000:08}", "day": DAY, "seen_at": start + timedelta(seconds=n % 977)}
        for n in range(20_000)
    ]
    place = Place(str(tmp_path), VISIT, (DAY.isoformat(), None))
    tables = [visits(rows[first : first + 1000]) for first in range(0, 20_000, 1000)]
    files = write_files(place, tables, target_bytes=20_000)
    assert len(files) > 2
    assert sum(file.rows for file in files) == 20_000
    for file in files:
        found = read_files(place, [file.path]).to_pylist()
        assert found == sorted(found, key=order)
        assert file.size == (tmp_path / file.path).stat().st_size


def test_a_file_is_plain_parquet_in_zstd_without_its_partition_columns(tmp_path: Path) -> None:
    place = Place(str(tmp_path), VISIT, (DAY.isoformat(), "x"))
    (file,) = write_files(place, [visits([{"visit_id": "v", "day": DAY, "place": "x"}])])
    metadata = pq.ParquetFile(tmp_path / file.path).metadata
    assert [metadata.row_group(0).column(n).path_in_schema for n in range(metadata.num_columns)] == [
        "visit_id",
        "seen_at",
        "spent",
    ]
    assert {metadata.row_group(0).column(n).compression for n in range(metadata.num_columns)} == {"ZSTD"}
    assert Path(file.path).parent == Path("day=2026-04-12/place=x")


def test_a_null_where_the_record_has_none_is_refused(tmp_path: Path) -> None:
    broken = visits([{"visit_id": None, "day": DAY, "place": "x"}])
    with pytest.raises(ValueError, match="visit_id"):
        write_files(Place(str(tmp_path), VISIT, (DAY.isoformat(), "x")), [broken])
    assert list(tmp_path.rglob("*.parquet")) == []


def test_columns_of_a_wider_type_are_written_as_the_record_says(tmp_path: Path) -> None:
    wide = visits([{"visit_id": "v", "day": DAY, "place": "x"}])
    wide = wide.set_column(0, "visit_id", wide.column("visit_id").cast(pa.large_string()))
    place = Place(str(tmp_path), VISIT, (DAY.isoformat(), "x"))
    (file,) = write_files(place, [wide])
    assert read_files(place, [file.path]).schema == VISIT.schema


def test_a_float_cannot_partition() -> None:
    record = Record("r", "g", (Field("x", pa.float64(), "x"),), partition_by=("x",))
    with pytest.raises(OptionError, match="r: cannot partition by x, a double"):
        check_partition_columns(record)


def test_an_unknown_scheme_is_an_error_of_one_line() -> None:
    with pytest.raises(StoreError, match="nowhere://x") as caught:
        open_location("nowhere://x")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    script = """
        import resource, sys
        import pyarrow as pa
        from schemas.errors import StoreError
        from schemas.events import EVENT
        from stores.lake_files import Place, write_files
        row = {f.name: None for f in EVENT} | {"event_id": "e", "event_type": "t", "device_id": "d"}
        row |= {"event_time": 0, "event_date": 0, "client_time": 0}
        table = pa.Table.from_pylist([row], schema=EVENT.schema)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        try:
            write_files(Place(sys.argv[1], EVENT, ("1970-01-01",)), [table])
        except StoreError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{EVENT.name}: cannot write to {tmp_path}: ")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def numbered(numbers: range, day: date = DAY) -> pa.Table:
    """Visits of a day, named by numbers."""
    return visits([{"visit_id": f"visit {number}", "day": day} for number in numbers])


def test_files_are_read_in_pieces_of_row_groups_small_files_of_all_partitions_together(tmp_path: Path) -> None:
    uri, paths = str(tmp_path / "visits"), []
    for day, numbers in ((DAY, range(3)), (DAY + timedelta(1), range(3, 7)), (DAY, range(7, 27))):
        paths += [
            file.path for file in write_files(Place(uri, VISIT, (day.isoformat(), None)), [numbered(numbers, day)])
        ]
    pieces = [read(["visit_id", "spent"]) for read in file_pieces(uri, VISIT, paths, most_rows=10)]
    assert [len(piece) for piece in pieces] == [7, 20]
    assert pa.concat_tables(pieces)["visit_id"].to_pylist() == sorted(
        (f"visit {n}" for n in range(27)), key=lambda name: (int(name[6:]) > 6, int(name[6:]) > 2, name)
    )
    assert pieces[0]["spent"].null_count == 7


def test_a_file_that_goes_before_its_piece_is_read_is_said_to_be_unreadable(tmp_path: Path) -> None:
    uri = str(tmp_path / "visits")
    (file,) = write_files(Place(uri, VISIT, (DAY.isoformat(), None)), [numbered(range(3))])
    (read,) = file_pieces(uri, VISIT, [file.path])
    (tmp_path / "visits" / file.path).unlink()
    with pytest.raises(StoreError, match="cannot read"):
        read(["visit_id"])
    with pytest.raises(StoreError, match="cannot read"):
        list(file_pieces(uri, VISIT, [file.path]))
