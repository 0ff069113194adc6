"""Compaction: fewer files, the same rows, in order."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import Transaction

from schemas.records import Field, Record
from stores.lake import file_path, live_files, open_table, read_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_compact import compact
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
