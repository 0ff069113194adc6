"""Compaction: fewer files, the same rows, in order."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake.transaction import Transaction

from schemas.errors import StoreBusyError
from schemas.records import Field, Record
from stores import lake_compact
from stores.lake import file_path, live_files, open_table, read_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_compact import compact, delete_unreferenced
from stores.lake_files import Place, write_files

ROW = Record(
    name="rows",
    grain="one row",
    fields=(Field("x", pa.int64(), "x", nullable=False), Field("part", pa.string(), "partition", nullable=False)),
    partition_by=("part",),
    sort_by=("x",),
)


def append(lake: str, part: str, values: list[int], run: int) -> None:
    rows = pa.Table.from_pylist([{"x": x, "part": part} for x in values], schema=ROW.schema)
    files = write_files(Place(table_uri(lake, ROW.name), ROW, (part,)), [rows])
    commit(lake, ROW, [PartitionWrite((part,), tuple(files))], WriteMode.APPEND, Transaction(f"run-{run}", 1))


def test_small_files_of_a_partition_become_one_sorted_file_with_the_same_rows(tmp_path: Path) -> None:
    lake = str(tmp_path)
    for run, values in enumerate(([5, 1], [4, 2], [3])):
        append(lake, "many", values, run)
    append(lake, "one", [9], 3)
    alone = live_files(open_table(lake, ROW))[("one",)]
    before = sorted(map(str, read_table(lake, ROW.name).to_pylist()))
    assert compact(lake, ROW).files_written == 1
    live = live_files(open_table(lake, ROW))
    (merged,) = live[("many",)]
    assert pq.ParquetFile(file_path(lake, ROW.name, merged)).read().column("x").to_pylist() == [1, 2, 3, 4, 5]
    assert live[("one",)] == alone
    assert sorted(map(str, read_table(lake, ROW.name).to_pylist())) == before
    assert not compact(lake, ROW).committed


def test_rows_added_while_files_are_merged_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = str(tmp_path)
    for run in range(3):
        append(lake, "a", [run], run)

    def write_late(*args: object) -> object:
        append(lake, "a", [99], 99)
        return write_files(*args)

    monkeypatch.setattr(lake_compact, "write_files", write_late)
    assert compact(lake, ROW).files_removed == 3
    assert sorted(read_table(lake, ROW.name).column("x").to_pylist()) == [0, 1, 2, 99]


def test_files_replaced_while_they_are_merged_are_not_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = str(tmp_path)
    for run in range(3):
        append(lake, "a", [run], run)

    def overwrite_first(*args: object) -> object:
        files = write_files(Place(table_uri(lake, ROW.name), ROW, ("a",)), [pa.table({"x": [7], "part": ["a"]})])
        commit(lake, ROW, [PartitionWrite(("a",), tuple(files))], WriteMode.OVERWRITE, Transaction("other", 1))
        return write_files(*args)

    monkeypatch.setattr(lake_compact, "write_files", overwrite_first)
    with pytest.raises(StoreBusyError, match="run again"):
        compact(lake, ROW)
    assert read_table(lake, ROW.name).column("x").to_pylist() == [7]


def test_file_of_a_lost_writer_goes_once_it_is_old_and_a_fresh_one_stays(tmp_path: Path) -> None:
    lake = str(tmp_path)
    append(lake, "a", [1], 1)
    place = Place(table_uri(lake, ROW.name), ROW, ("a",))
    lost, fresh = (write_files(place, [pa.table({"x": [n], "part": ["a"]})])[0].path for n in (2, 3))
    old = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / ROW.name / lost, (old, old))
    assert delete_unreferenced(lake, ROW, keep_hours=24) == 1
    assert not (tmp_path / ROW.name / lost).exists()
    assert (tmp_path / ROW.name / fresh).exists()
    assert read_table(lake, ROW.name).column("x").to_pylist() == [1]
