"""Numbered descriptions: each file of an endless run is in the table once."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StoreError
from schemas.records import TIMESTAMP, Field, Record
from stores.lake import read_table, table_uri
from stores.lake_commit import PartitionWrite
from stores.lake_files import Place, write_files
from stores.lake_stream import Changes, Numbered, commit_numbered

VISIT = Record(
    name="visits",
    grain="one visit",
    fields=(Field("visit_id", pa.string(), "id", nullable=False), Field("seen_at", TIMESTAMP, "when")),
    sort_by=("visit_id",),
    key=("visit_id",),
)
VISIT_CHANGE = Record("visit_changes", "one change", (*VISIT.fields, Field("gone", pa.bool_(), "withdrawn")))


def fold(changes: pa.Table) -> tuple[pa.Table, pa.Table]:
    gone = changes.filter(pa.compute.field("gone"))
    return changes.filter(~pa.compute.field("gone")).select(VISIT.names), gone.select(VISIT.key)


def described(lake: Path, number: int, run: str = "run") -> Numbered:
    place = Place(table_uri(str(lake), VISIT.name), VISIT, ())
    rows = pa.Table.from_pylist([{"visit_id": f"v{number}"}], schema=VISIT.schema)
    return Numbered(run, number, PartitionWrite((), tuple(write_files(place, [rows]))))


def changed(lake: Path, number: int, visit_id: str, *, gone: bool = False, hour: int = 0) -> Numbered:
    place = Changes(VISIT_CHANGE, fold).place(str(lake), VISIT, ())
    row = {"visit_id": visit_id, "gone": gone, "seen_at": datetime(2026, 4, 12, hour, tzinfo=UTC)}
    files = write_files(place, [pa.Table.from_pylist([row], schema=VISIT_CHANGE.schema)])
    return Numbered("run", number, PartitionWrite((), tuple(files)))


def ids_of(lake: Path) -> list[str]:
    return sorted(read_table(str(lake), VISIT.name).column("visit_id").to_pylist())


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 8), max_size=4).map(lambda found: sorted({0, 8, *found})),
    repeats=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=3),
)
def test_descriptions_that_come_again_in_any_bundle_are_in_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], repeats: list[tuple[int, int]]
) -> None:
    lake = tmp_path_factory.mktemp("lake")
    all_of_them = [described(lake, number) for number in range(1, 9)]
    for step, (start, end) in enumerate(pairwise(cuts)):
        commit_numbered(str(lake), VISIT, all_of_them[start:end])
        for when, first in repeats:
            # a restore goes back to an older checkpoint, and its bundles are cut anew
            if when == step and first < end:
                commit_numbered(str(lake), VISIT, all_of_them[first : end + 1] if end < 8 else all_of_them[first:])
    assert ids_of(lake) == [f"v{number}" for number in range(1, 9)]


def test_a_missing_number_is_refused_rather_than_lost(tmp_path: Path) -> None:
    commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1)])
    with pytest.raises(StoreError, match="visits: file description 2 is missing before 3"):
        commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 3)])


def test_a_fresh_run_over_rows_of_another_must_say_so(tmp_path: Path) -> None:
    commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1, "first")])
    with pytest.raises(StoreError, match="visits: the table has rows of another run"):
        commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1, "second")])
    commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1, "second")], onto_existing=True)
    assert ids_of(tmp_path) == ["v1", "v1"]


def test_changes_are_merged_and_their_files_are_gone_after(tmp_path: Path) -> None:
    changes = Changes(VISIT_CHANGE, fold)
    first = [changed(tmp_path, 1, "a"), changed(tmp_path, 2, "b")]
    commit_numbered(str(tmp_path), VISIT, first, changes)
    commit_numbered(str(tmp_path), VISIT, [changed(tmp_path, 3, "a", gone=True)], changes)
    # nothing changes, and yet the number is taken
    commit_numbered(str(tmp_path), VISIT, [changed(tmp_path, 4, "b")], changes)
    again = commit_numbered(str(tmp_path), VISIT, first, changes)
    commit_numbered(str(tmp_path), VISIT, [changed(tmp_path, 5, "b", hour=7)], changes)
    assert not again.committed
    assert [row["seen_at"].hour for row in read_table(str(tmp_path), VISIT.name).to_pylist()] == [7]
    assert list(tmp_path.rglob("changes/*.parquet")) == []
