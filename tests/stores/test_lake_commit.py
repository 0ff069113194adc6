"""Transactions of the lake: all or nothing, once, whoever else writes."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from schemas.errors import StoreBusyError, StoreError
from schemas.records import TIMESTAMP, Field, Record
from stores.lake import (
    check_lake,
    create_tables,
    find_table,
    live_files,
    open_table,
    read_table,
    table_names,
    table_uri,
)
from stores.lake_commit import CommitResult, PartitionWrite, WriteMode, commit
from stores.lake_compact import delete_unreferenced
from stores.lake_files import Place, split_by_partition, write_files
from stores.lake_merge import add_missing, replace_changed
from stores.lake_sql import query

MONDAY, TUESDAY = date(2026, 4, 13), date(2026, 4, 14)
VISIT = Record(
    name="silver/visits",
    grain="one visit",
    fields=(
        Field("visit_id", pa.string(), "id", nullable=False),
        Field("day", pa.date32(), "date", nullable=False),
        Field("seen_at", TIMESTAMP, "when"),
        Field("pages", pa.int64(), "pages"),
    ),
    partition_by=("day",),
    sort_by=("visit_id",),
    key=("visit_id",),
)


def visits(ids: Sequence[str], day: date = MONDAY, pages: int = 1) -> pa.Table:
    seen = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    rows = [{"visit_id": i, "day": day, "seen_at": seen, "pages": pages} for i in ids]
    return pa.Table.from_pylist(rows, schema=VISIT.schema)


def place(lake: Path, day: date = MONDAY) -> Place:
    return Place(table_uri(str(lake), VISIT.name), VISIT, (day.isoformat(),))


def planned(lake: Path, ids: Sequence[str], day: date = MONDAY) -> PartitionWrite:
    """Write the files of a merge, leaving the commit to the caller."""
    table = find_table(str(lake), VISIT.name)
    live = live_files(table).get((day.isoformat(),), []) if table else []
    return add_missing(place(lake, day), live, [visits(ids, day)])


def commit_as(lake: Path, run: str, *writes: PartitionWrite, mode: WriteMode = WriteMode.MERGE) -> CommitResult:
    return commit(str(lake), VISIT, writes, mode, Transaction(run, 1))


def ids_of(lake: Path) -> list[str]:
    return sorted(read_table(str(lake), VISIT.name).column("visit_id").to_pylist())


def test_a_commit_again_with_its_transaction_changes_nothing(tmp_path: Path) -> None:
    write = planned(tmp_path, ["a"])
    first = commit_as(tmp_path, "run", write, mode=WriteMode.APPEND)
    again = commit_as(tmp_path, "run", write, mode=WriteMode.APPEND)
    assert (first.committed, first.rows_written, again) == (
        True,
        1,
        CommitResult(VISIT.name, first.version, committed=False),
    )
    assert ids_of(tmp_path) == ["a"]


def test_opening_a_table_reads_few_commits_however_many_there_were(tmp_path: Path) -> None:
    first = planned(tmp_path, ["0"])
    commit_as(tmp_path, "run 0", first, mode=WriteMode.APPEND)
    for n in range(1, 45):
        commit_as(tmp_path, f"run {n}", planned(tmp_path, [f"{n}"]), mode=WriteMode.APPEND)
    log = tmp_path / VISIT.name / "_delta_log"
    checkpoint = json.loads((log / "_last_checkpoint").read_text())["version"]
    assert len([name for name in log.glob("*.json") if int(name.stem) > checkpoint]) <= 20
    # a checkpoint keeps the transactions: one of long ago is still known
    assert not commit_as(tmp_path, "run 0", first, mode=WriteMode.APPEND).committed
    assert len(ids_of(tmp_path)) == 45


def test_a_merge_that_brings_nothing_new_makes_no_version(tmp_path: Path) -> None:
    before = commit_as(tmp_path, "one", planned(tmp_path, ["a"]))
    result = commit_as(tmp_path, "two", planned(tmp_path, ["a"]))
    assert (result.committed, result.version, result.rows_already_there) == (False, before.version, 1)


def test_two_merges_of_the_same_date_from_one_state_let_one_through(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [VISIT])
    first, second = planned(tmp_path, ["a", "b"]), planned(tmp_path, ["b", "c"])
    commit_as(tmp_path, "one", first)
    with pytest.raises(StoreBusyError, match="silver/visits: another run changed 2026-04-13"):
        commit_as(tmp_path, "two", second)
    commit_as(tmp_path, "two", planned(tmp_path, ["b", "c"]))
    assert ids_of(tmp_path) == ["a", "b", "c"]


def test_two_merges_of_different_dates_from_one_state_both_go_in(tmp_path: Path) -> None:
    first, second = planned(tmp_path, ["a"]), planned(tmp_path, ["b"], TUESDAY)
    commit_as(tmp_path, "one", first)
    commit_as(tmp_path, "two", second)
    assert ids_of(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("mode", [WriteMode.APPEND, WriteMode.MERGE])
def test_many_writers_at_once_on_a_table_not_yet_made_lose_nothing(tmp_path: Path, mode: WriteMode) -> None:
    days = [MONDAY + timedelta(days=n) for n in range(6)]
    writes = [planned(tmp_path, [f"v{day.day}"], day) for day in days]
    with ThreadPoolExecutor(len(days)) as pool:
        results = list(
            pool.map(lambda pair: commit_as(tmp_path, f"run-{pair[0]}", pair[1], mode=mode), enumerate(writes))
        )
    assert all(result.committed for result in results)
    assert ids_of(tmp_path) == sorted(f"v{day.day}" for day in days)


def test_writers_of_the_same_rows_at_once_leave_each_row_once(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [VISIT])
    writes = [planned(tmp_path, ["a", "b"]) for _ in range(4)]

    def attempt(number: int) -> bool:
        try:
            return commit_as(tmp_path, f"run-{number}", writes[number]).committed
        except StoreBusyError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, range(4))) == 1
    assert ids_of(tmp_path) == ["a", "b"]


def test_overwrite_replaces_what_is_there_at_the_commit(tmp_path: Path) -> None:
    commit_as(tmp_path, "one", planned(tmp_path, ["a"]), planned(tmp_path, ["t"], TUESDAY))
    files = write_files(place(tmp_path), [visits(["z"])])
    commit_as(tmp_path, "two", planned(tmp_path, ["late"]))
    commit_as(tmp_path, "three", PartitionWrite((MONDAY.isoformat(),), tuple(files)), mode=WriteMode.OVERWRITE)
    assert ids_of(tmp_path) == ["t", "z"]


def test_new_rows_replace_changed_ones_and_withdrawn_ones_go(tmp_path: Path) -> None:
    commit_as(tmp_path, "one", planned(tmp_path, ["changes", "goes", "same", "stays"]))
    live = live_files(open_table(str(tmp_path), VISIT))[(MONDAY.isoformat(),)]
    rows = pa.concat_tables([visits(["changes", "comes"], pages=9), visits(["same"])])
    write = replace_changed(place(tmp_path), live, rows, visits(["goes", "never was"]))
    result = commit_as(tmp_path, "two", write)
    found = read_table(str(tmp_path), VISIT.name).to_pylist()
    assert {row["visit_id"]: row["pages"] for row in found} == {"changes": 9, "comes": 9, "same": 1, "stays": 1}
    assert result.rows_already_there == 1


def test_files_without_a_changed_row_are_left_alone(tmp_path: Path) -> None:
    commit_as(tmp_path, "one", planned(tmp_path, ["a"]))
    commit_as(tmp_path, "two", planned(tmp_path, ["b"]))
    live = live_files(open_table(str(tmp_path), VISIT))[(MONDAY.isoformat(),)]
    write = replace_changed(place(tmp_path), live, visits(["a"], pages=5), VISIT.empty())
    assert len(write.removed) == 1
    commit_as(tmp_path, "three", write)
    assert ids_of(tmp_path) == ["a", "b"]


def test_a_writer_killed_before_its_commit_leaves_nothing_to_see_and_an_orphan_to_vacuum(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [VISIT])
    script = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from test_lake_commit import planned
        planned(Path(sys.argv[1]), ["a"])
        print("written", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    (orphan,) = tmp_path.rglob("day=*/*.parquet")
    assert ids_of(tmp_path) == []
    commit_as(tmp_path, "again", planned(tmp_path, ["a"]))
    assert ids_of(tmp_path) == ["a"]
    assert delete_unreferenced(str(tmp_path), VISIT, keep_hours=1) == 0
    assert orphan.exists()
    assert delete_unreferenced(str(tmp_path), VISIT, keep_hours=0) == 1
    assert not orphan.exists()
    assert ids_of(tmp_path) == ["a"]


@pytest.mark.parametrize("root", ["file/lake", "file"])
def test_a_lake_that_cannot_be_made_is_refused_before_the_run(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=str(tmp_path)) as caught:
        check_lake(str(tmp_path / root), [VISIT])
    assert "\n" not in str(caught.value)


def test_a_damaged_log_is_an_error_of_one_line(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [VISIT])
    (log,) = tmp_path.rglob("*.json")
    log.write_text("{")
    with pytest.raises(StoreError, match="silver/visits: cannot read") as caught:
        find_table(str(tmp_path), VISIT.name)
    assert "\n" not in str(caught.value)


def test_tables_are_found_by_name_however_deep(tmp_path: Path) -> None:
    plain = Record("plain", "one row", (Field("x", pa.int64(), "x"),))
    create_tables(str(tmp_path), [VISIT, plain])
    commit_as(tmp_path, "one", planned(tmp_path, ["a"]))
    assert table_names(str(tmp_path)) == ["plain", "silver/visits"]
    with pytest.raises(StoreError, match="there is no lake at"):
        table_names(str(tmp_path / "nothing"))


def test_lake_that_is_a_file_or_one_of_its_own_tables_is_refused(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [VISIT])
    (tmp_path / "notes").touch()
    with pytest.raises(StoreError, match="visits is a table of a lake: name the lake"):
        table_names(table_uri(str(tmp_path), VISIT.name))
    with pytest.raises(StoreError, match="notes is a file"):
        table_names(str(tmp_path / "notes"))


def test_lake_in_a_path_that_deltalake_would_take_for_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="percent sign"):
        create_tables(f"{tmp_path}/a%20b", [])
    assert list(tmp_path.iterdir()) == []


def test_reading_names_columns(tmp_path: Path) -> None:
    commit_as(tmp_path, "one", planned(tmp_path, ["b"], TUESDAY))
    found = read_table(f"file://{tmp_path}", VISIT.name, ["day", "visit_id"])
    assert found.to_pylist() == [{"day": TUESDAY, "visit_id": "b"}]
    with pytest.raises(StoreError, match="nope: there is no such table"):
        read_table(str(tmp_path), "nope")


def test_partition_values_of_any_text_are_written_read_queried_and_removed(tmp_path: Path) -> None:
    record = Record(
        "odd", "one row", (Field("x", pa.int64(), "x"), Field("where", pa.string(), "text")), partition_by=("where",)
    )
    values = ["a b/c=d", "ü%20", 'it\'s "quoted"', None]
    table = pa.Table.from_pylist([{"x": n, "where": v} for n, v in enumerate(values)], schema=record.schema)
    root = str(tmp_path / "a lake")
    uri = table_uri(root, record.name)
    writes = [
        PartitionWrite(partition, tuple(write_files(Place(uri, record, partition), [part])))
        for partition, part in split_by_partition(table, record)
    ]
    commit(root, record, writes, WriteMode.MERGE, Transaction("one", 1))
    assert read_table(root, record.name).sort_by("x").to_pylist() == table.to_pylist()
    with query(root, "SELECT * FROM odd ORDER BY x") as reader:
        assert reader.read_all().to_pylist() == table.to_pylist()
    gone = [PartitionWrite(write.partition, ()) for write in writes[:2]]
    commit(root, record, gone, WriteMode.OVERWRITE, Transaction("two", 1))
    assert read_table(root, record.name).num_rows == 2
