"""Small files of the raw log become large ones, and no row is ever missing to a reader."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StoreError
from schemas.events import RAW
from stores.raw_log_buffer import RawLogBuffer
from transforms.sources import compact_archive as module
from transforms.sources.compact_archive import KEEP, SETTLE, Compaction, compact_archive, without_copies
from transforms.sources.raw_files import FileFormat, FileSlice, read_slice
from transforms.sources.read_files import list_files

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
CLOSED = NOON + timedelta(hours=1) + SETTLE
LATER = CLOSED + KEEP


def clicks(*offsets: int, payload: bytes | None = b"{}") -> pa.Table:
    """A row an offset, a minute apart from noon on."""
    rows = [
        {
            "payload": payload,
            "source": "clicks",
            "partition": 0,
            "offset": offset,
            "arrival_time": NOON + timedelta(minutes=offset),
        }
        for offset in offsets
    ]
    return pa.Table.from_pylist(rows, schema=RAW.schema)


def write(root: Path, *bundles: pa.Table) -> None:
    for bundle in bundles:
        buffer = RawLogBuffer(str(root))
        buffer.add(bundle)
        buffer.write()


def read(root: Path) -> list[tuple[str, int]]:
    """(name, rows) of each file that a replay of the log reads."""
    found = []
    for path, size in list_files([str(root)]).items():
        with Path(path).open("rb") as stream:
            tables = [*read_slice(stream, FileSlice(path, FileFormat.AVRO, 0, size))]
        found.append((path, sum(len(table) for table in tables if isinstance(table, pa.Table))))
    return found


def rows(root: Path) -> list[dict[str, object]]:
    """The log's rows, copies and all, in order."""
    tables = [RAW.empty()]
    for path, size in list_files([str(root)]).items():
        with Path(path).open("rb") as stream:
            tables += [
                piece
                for piece in read_slice(stream, FileSlice(path, FileFormat.AVRO, 0, size))
                if isinstance(piece, pa.Table)
            ]
    return pa.concat_tables(tables).sort_by([("offset", "ascending"), ("arrival_time", "ascending")]).to_pylist()


def distinct(found: list[dict[str, object]]) -> list[dict[str, object]]:
    return [row for n, row in enumerate(found) if row not in found[:n]]


def test_closed_hour_becomes_one_file_without_copies(tmp_path: Path) -> None:
    # after a crash rows came once more, bundled in another way
    write(tmp_path, clicks(0, 1, 2), clicks(3, payload=None), clicks(2, 3, payload=b"{}"), clicks(3, 4, payload=None))
    expected = distinct(rows(tmp_path))
    done = compact_archive(str(tmp_path), CLOSED)
    # 2 and the tombstone 3 were there twice; the other 3 is no copy of it
    assert done == Compaction(merged=4, written=1, copies=2)
    assert distinct(rows(tmp_path)) == expected

    assert compact_archive(str(tmp_path), LATER) == Compaction(deleted=4)
    assert [size for _, size in read(tmp_path)] == [len(expected)]
    assert rows(tmp_path) == expected
    assert sorted(path.name[0] for path in tmp_path.rglob("*") if path.is_file()) == ["c"]


def test_files_stay_for_readers_until_the_time_to_keep_is_over(tmp_path: Path) -> None:
    write(tmp_path, clicks(0), clicks(1), clicks(2))
    listed = [path for path, _ in read(tmp_path)]
    compact_archive(str(tmp_path), CLOSED)
    assert compact_archive(str(tmp_path), LATER - timedelta(microseconds=1)) == Compaction()
    assert all(Path(path).exists() for path in listed)
    compact_archive(str(tmp_path), LATER)
    assert not any(Path(path).exists() for path in listed)


def test_hour_that_is_not_closed_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, clicks(0), clicks(1))
    assert compact_archive(str(tmp_path), CLOSED - timedelta(microseconds=1)) == Compaction()
    assert len(read(tmp_path)) == 2


def test_rows_without_an_arrival_are_merged_too(tmp_path: Path) -> None:
    undated = [clicks(n).set_column(4, RAW.schema.field(4), pa.nulls(1, RAW.schema.field(4).type)) for n in range(3)]
    write(tmp_path, *undated)
    assert compact_archive(str(tmp_path), NOON).written == 1


def test_large_hour_becomes_several_files_and_large_files_are_left_alone(tmp_path: Path) -> None:
    # such as do not compress, or the merged files were small again
    noise = Random(1)
    write(tmp_path, *(clicks(n, payload=noise.randbytes(50_000)) for n in range(12)))
    size = max(list_files([str(tmp_path)]).values())
    done = compact_archive(str(tmp_path), CLOSED, target_bytes=4 * size)
    assert (done.merged, done.written) == (12, 3)
    compact_archive(str(tmp_path), LATER, target_bytes=4 * size)
    assert [count for _, count in read(tmp_path)] == [4, 4, 4]
    assert compact_archive(str(tmp_path), LATER, target_bytes=size) == Compaction()


def test_file_that_comes_late_is_merged_by_a_later_pass(tmp_path: Path) -> None:
    write(tmp_path, clicks(0), clicks(1))
    compact_archive(str(tmp_path), CLOSED)
    # a writer retried a bundle whose file waits for its deletion, and another one
    write(tmp_path, clicks(1), clicks(2))
    compact_archive(str(tmp_path), LATER)
    compact_archive(str(tmp_path), LATER + KEEP)
    assert [count for _, count in read(tmp_path)] == [3]


@pytest.mark.parametrize("failing", ["write", "write_whole", "delete_receipt"])
def test_pass_that_dies_is_mended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    write(tmp_path, clicks(0, 1), clicks(1, 2), clicks(3))
    expected = distinct(rows(tmp_path))

    def die(*_: object) -> None:
        raise OSError("the disk is gone")

    if failing == "delete_receipt":
        compact_archive(str(tmp_path), CLOSED)
        monkeypatch.setattr(module._Hour, "_delete", lambda hour, names: die() if isinstance(names, list) else 0)
    else:
        monkeypatch.setattr(RawLogBuffer if failing == "write" else module, failing, die)
    with pytest.raises(StoreError, match=r"cannot compact the raw log in .*: the disk is gone"):
        compact_archive(str(tmp_path), LATER)
    monkeypatch.undo()
    assert distinct(rows(tmp_path)) == expected

    compact_archive(str(tmp_path), LATER)
    assert distinct(rows(tmp_path)) == expected
    compact_archive(str(tmp_path), LATER + KEEP)
    assert rows(tmp_path) == expected
    assert len(read(tmp_path)) == 1


def test_damaged_file_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, clicks(0), clicks(1), clicks(2))
    broken = Path(read(tmp_path)[1][0])
    broken.write_bytes(broken.read_bytes()[:-20])
    content = broken.read_bytes()
    assert compact_archive(str(tmp_path), CLOSED) == Compaction(merged=2, written=1, damaged=1)
    compact_archive(str(tmp_path), LATER)
    assert broken.read_bytes() == content
    assert len(read(tmp_path)) == 2


def test_what_lost_writers_left_is_deleted_after_a_day(tmp_path: Path) -> None:
    write(tmp_path, clicks(0))
    folder = Path(read(tmp_path)[0][0]).parent
    (folder / ".half.avro.0.tmp").write_bytes(b"Obj")
    written = datetime.fromtimestamp((folder / ".half.avro.0.tmp").stat().st_mtime, UTC)
    assert compact_archive(str(tmp_path), written + timedelta(hours=23)) == Compaction()
    assert compact_archive(str(tmp_path), written + timedelta(hours=25)) == Compaction(deleted=1)


def test_avro_files_of_others_are_not_touched(tmp_path: Path) -> None:
    write(tmp_path, clicks(0), clicks(1))
    for number, (path, _) in enumerate(read(tmp_path)):
        Path(path).rename(tmp_path / f"{number}.avro")
    assert compact_archive(str(tmp_path), CLOSED) == Compaction()


def test_log_that_is_not_there_has_nothing_to_compact(tmp_path: Path) -> None:
    assert compact_archive(str(tmp_path / "none"), CLOSED) == Compaction()


@given(bundles=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=25)
def test_no_row_is_lost_whatever_is_written_and_compacted(
    tmp_path_factory: pytest.TempPathFactory, bundles: list[tuple[int, int, bool]]
) -> None:
    root = tmp_path_factory.mktemp("log")
    now, offsets = CLOSED, set()
    for start, size, compacts in bundles:
        write(root, clicks(*range(start, start + size)))
        offsets |= set(range(start, start + size))
        if compacts:
            compact_archive(str(root), now, target_bytes=3_000)
            now += KEEP * 2 / 3
        assert {row["offset"] for row in rows(root)} == offsets
    for _ in range(6):
        compact_archive(str(root), now := now + KEEP)
    assert [row["offset"] for row in rows(root)] == sorted(offsets)
    assert len(read(root)) == 1


def test_rows_that_differ_in_one_column_are_no_copies() -> None:
    other = [clicks(1, payload=b"other"), clicks(1, payload=None), clicks(2)]
    assert len(without_copies(pa.concat_tables([clicks(1), clicks(1), *other, clicks(1, payload=None)]))) == 4
