"""Files of the raw log: what goes in comes out, in files that a reader sees whole or not at all."""

import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import FileSelector, LocalFileSystem

from schemas.errors import StoreError
from schemas.events import RAW
from schemas.raw_log import RAW_LOG_AVRO
from stores.avro_rows import encode_rows, varints
from stores.raw_log_buffer import BLOCK_BYTES, RawLogBuffer
from stores.raw_log_files import RawLogFile
from transforms.sources.raw_files import FileFormat, FileSlice, read_slice
from transforms.sources.read_files import list_files

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)

Row = tuple[bytes | None, str, int, int, datetime | None]

INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.binary(), st.just(b"\xff\xfe not UTF-8"), st.just(b'{"event_id": "1"}')),
        st.sampled_from(["clicks", "_views", "projects/p/subscriptions/s", "Übersicht", ""]),
        st.integers(-(2**31), 2**31 - 1),
        INT64,
        st.one_of(st.none(), st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))),
    ),
    max_size=30,
)


def raw(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(RAW.names, row, strict=True)) for row in rows], schema=RAW.schema)


def clicks(*offsets: int, hour: int = 0) -> pa.Table:
    """One row an offset, one second apart."""
    at = NOON + timedelta(hours=hour)
    return raw((b"{%d}" % offset, "clicks", offset % 2, offset, at + timedelta(seconds=offset)) for offset in offsets)


def write(root: Path, *tables: pa.Table) -> list[RawLogFile]:
    buffer = RawLogBuffer(str(root))
    for table in tables:
        buffer.add(table)
    return buffer.write()


def read(root: Path) -> list[Row]:
    """Every row that a replay of the log sees, file by file."""
    rows: list[Row] = []
    for path, size in list_files([str(root)]).items():
        with Path(path).open("rb") as stream:
            for table in read_slice(stream, FileSlice(path, FileFormat.AVRO, 0, size)):
                assert isinstance(table, pa.Table)
                assert table.schema.equals(RAW.schema)
                rows += [tuple(row.values()) for row in table.to_pylist()]
    return rows


def in_any_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=repr)


@given(ROWS)
@settings(max_examples=60)
def test_rows_of_any_kind_are_replayed_as_they_came(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    root = tmp_path_factory.mktemp("log")
    written = write(root, raw(rows))
    assert sum(file.rows for file in written) == len(rows)
    if rows:
        assert in_any_order(read(root)) == in_any_order(rows)


@given(ROWS)
@settings(max_examples=60)
def test_rows_are_encoded_as_fastavro_encodes_them(rows: list[Row]) -> None:
    out = io.BytesIO()
    for row in rows:
        fastavro.schemaless_writer(out, RAW_LOG_AVRO, dict(zip(RAW.names, row, strict=True)))
    # sliced and in chunks, as batches are
    table = pa.concat_tables([raw([(b"before", "s", 0, 0, None), *rows]).slice(1)])
    assert encode_rows(table).to_pybytes() == out.getvalue()


@given(st.lists(INT64))
def test_numbers_of_any_width_are_written_as_avro_longs(numbers: list[int]) -> None:
    expected = []
    for number in numbers:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, "long", number)
        expected.append(out.getvalue())
    assert varints(pa.array(numbers, pa.int64()).to_numpy()).to_pylist() == expected


def test_null_in_a_column_that_has_none_is_refused() -> None:
    columns = clicks(1).columns
    columns[RAW.names.index("offset")] = pa.nulls(1, pa.int64())
    with pytest.raises(ValueError, match="offset is never null"):
        encode_rows(pa.Table.from_arrays(columns, schema=RAW.schema))


def test_hours_and_sources_have_files_of_their_own(tmp_path: Path) -> None:
    other = raw([(None, "_views", 0, 7, NOON), (b"x", "_views", 0, 8, None)])
    written = write(tmp_path, clicks(1, 2), clicks(3, hour=1), other, clicks(4))
    folders = sorted((file.path.rpartition("/")[0], file.path.rpartition("/")[2].split("-")[0]) for file in written)
    assert folders == [
        ("arrival_date=2026-04-12/arrival_hour=12", "clicks"),
        ("arrival_date=2026-04-12/arrival_hour=12", "views"),
        ("arrival_date=2026-04-12/arrival_hour=13", "clicks"),
        ("arrival_date=__HIVE_DEFAULT_PARTITION__/arrival_hour=__HIVE_DEFAULT_PARTITION__", "views"),
    ]
    assert sorted(file.rows for file in written) == [1, 1, 1, 3]
    assert {file.path: file.size for file in written} == {
        str(Path(path).relative_to(tmp_path)): size for path, size in list_files([str(tmp_path)]).items()
    }


def test_same_rows_again_are_the_same_file_and_bytes(tmp_path: Path) -> None:
    first = write(tmp_path, clicks(1, 2), clicks(3))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.avro")}
    assert write(tmp_path, clicks(1, 2), clicks(3)) == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.avro")} == before


def test_same_positions_with_other_payloads_are_another_file(tmp_path: Path) -> None:
    # a topic that was deleted and made again starts at offset 0 again
    write(tmp_path, raw([(b"old", "clicks", 0, 0, NOON)]))
    write(tmp_path, raw([(b"new", "clicks", 0, 0, NOON)]))
    assert {row[0] for row in read(tmp_path)} == {b"old", b"new"}


def test_large_payloads_have_blocks_of_their_own(tmp_path: Path) -> None:
    payloads = [b"small", bytes(3 * BLOCK_BYTES), None, b"\xff" * (BLOCK_BYTES + 1), *[b"{}"] * 20_000]
    (file,) = write(tmp_path, raw((p, "clicks", 0, n, NOON) for n, p in enumerate(payloads)))
    assert [row[0] for row in read(tmp_path)] == payloads
    with (tmp_path / file.path).open("rb") as stream:
        blocks = [block.num_records for block in fastavro.block_reader(stream)]
    assert sum(blocks) == len(payloads)
    assert len(blocks) >= 3


@pytest.mark.parametrize("arrival", [-(2**62), 2**62])
def test_arrival_that_no_reader_could_hold_is_kept_as_none(tmp_path: Path, arrival: int) -> None:
    impossible = pa.array([arrival], pa.int64()).cast(RAW.schema.field("arrival_time").type)
    write(tmp_path, clicks(1).set_column(4, "arrival_time", impossible))
    assert read(tmp_path) == [(b"{1}", "clicks", 1, 1, None)]


def test_file_is_whole_when_its_name_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    move = LocalFileSystem.move

    class Watched(LocalFileSystem):
        def move(self, source: str, target: str) -> None:
            seen.extend(list_files_or_none(tmp_path))
            move(self, source, target)

    buffer = RawLogBuffer(str(tmp_path))
    buffer._filesystem = Watched()
    buffer.add(clicks(1))
    (file,) = buffer.write()
    assert seen == []
    assert list_files_or_none(tmp_path) == [file.path]


def list_files_or_none(root: Path) -> list[str]:
    """What a reader would take: files whose names are not hidden."""
    found = LocalFileSystem().get_file_info(FileSelector(str(root), recursive=True))
    return [
        str(Path(info.path).relative_to(root)) for info in found if info.is_file and not info.base_name.startswith(".")
    ]


def test_root_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write the raw log"):
        write(tmp_path / "file" / "log", clicks(1))
