"""Numbered descriptions: each file of an endless run is in the table once."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stores.lake_stream as lake_stream
from schemas.errors import BrokenStreamError, StoreError
from schemas.records import TIMESTAMP, Field, Record
from stores.lake import read_table, table_uri
from stores.lake_commit import COMMIT_ATTEMPTS, PartitionWrite
from stores.lake_files import Place, write_files
from stores.lake_stream import Changes, Numbered, commit_numbered
from stores.patience import Patience

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
    return Numbered(run, number, "attempt", PartitionWrite((), tuple(write_files(place, [rows]))))


def changed(lake: Path, number: int, visit_id: str, *, gone: bool = False, hour: int = 0, run: str = "run") -> Numbered:
    place = Changes(VISIT_CHANGE, fold).place(str(lake), VISIT, ())
    row = {"visit_id": visit_id, "gone": gone, "seen_at": datetime(2026, 4, 12, hour, tzinfo=UTC)}
    files = write_files(place, [pa.Table.from_pylist([row], schema=VISIT_CHANGE.schema)])
    return Numbered(run, number, "attempt", PartitionWrite((), tuple(files)))


def ids_of(lake: Path) -> list[str]:
    return sorted(read_table(str(lake), VISIT.name).column("visit_id").to_pylist())


@settings(max_examples=15)
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


class Checkpoint(NamedTuple):
    """What a run goes on from: how far it read, its last number, and the descriptions that are let through with it."""

    read: int
    number: int
    waiting: tuple[Numbered, ...]


class Run:
    """The rows 0, 1, 2 … through bundles, numbers, checkpoints and commits; a restored one cuts other bundles."""

    def __init__(self, lake: Path) -> None:
        self.lake, self.read, self.number, self.attempt = lake, 0, 0, 0
        self.waiting: tuple[Numbered, ...] = ()
        self.checkpoints: list[Checkpoint] = []

    def live(self, steps: Iterable[int | str]) -> None:
        """Bundles of so many rows, and checkpoints; of some what they have committed is not acknowledged."""
        for step in steps:
            if isinstance(step, int):
                self.bundle(step)
                continue
            self.checkpoints.append(Checkpoint(self.read, self.number, self.waiting))
            if self.waiting:
                commit_numbered(str(self.lake), VISIT, self.waiting)
            if step == "checkpoint":
                self.waiting = ()

    def bundle(self, rows: int) -> None:
        place = Place(table_uri(str(self.lake), VISIT.name), VISIT, ())
        ids = [{"visit_id": f"v{row:04}"} for row in range(self.read, self.read + rows)]
        files = write_files(place, [pa.Table.from_pylist(ids, schema=VISIT.schema)])
        self.read, self.number = self.read + rows, self.number + 1
        write = PartitionWrite((), tuple(files))
        self.waiting += (Numbered("run", self.number, f"attempt-{self.attempt}", write),)

    def restore(self, older: int) -> None:
        """Go on from the newest checkpoint, or one so much older: its descriptions come once more, then new ones."""
        self.read, self.number, self.waiting = self.checkpoints[-1 - older]
        self.attempt += 1

    def in_lake(self) -> list[str]:
        return ids_of(self.lake)


_WORK = st.one_of(st.integers(1, 5), st.sampled_from(["checkpoint", "checkpoint, unacknowledged"]))


@settings(max_examples=25)
@given(
    lives=st.lists(st.lists(_WORK, max_size=8), min_size=1, max_size=4),
    backs=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_restored_run_has_each_row_in_once_or_is_refused_if_the_lake_is_ahead_of_its_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, lives: list[list[int | str]], backs: list[int]
) -> None:
    run = Run(tmp_path_factory.mktemp("lake"))
    run.live([2, "checkpoint"])
    for life, back in zip(lives, backs, strict=False):
        older = min(back, len(run.checkpoints) - 1)
        ahead = run.checkpoints[-1].number > run.checkpoints[-1 - older].number
        run.restore(older)
        # something of each life is committed
        if ahead:
            with pytest.raises(BrokenStreamError, match="the lake is ahead of the checkpoint"):
                run.live([*life, 3, "checkpoint"])
        else:
            run.live([*life, 3, "checkpoint"])
            assert len(run.in_lake()) == run.read
        assert run.in_lake() == [f"v{row:04}" for row in range(len(run.in_lake()))]
        if ahead:
            return


def test_a_missing_number_is_refused_rather_than_lost(tmp_path: Path) -> None:
    commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1)])
    with pytest.raises(BrokenStreamError, match="visits: file description 2 is missing before 3"):
        commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 3)])


def test_a_fresh_run_over_rows_of_another_must_say_so(tmp_path: Path) -> None:
    commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1, "first")])
    with pytest.raises(BrokenStreamError, match="visits: the table has rows of another run"):
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


class Outage:
    """A table that cannot be used, until it has been waited for some times."""

    def __init__(self, lake: Path, waits: int) -> None:
        self._log, self._left = lake / VISIT.name / "_delta_log", waits
        self._log.rename(self._log.with_name("away"))
        self._log.write_text("in the way, for root as well")
        self.waited: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        if len(self.waited) == self._left:
            self._log.unlink()
            self._log.with_name("away").rename(self._log)


@pytest.mark.parametrize("changes", [None, Changes(VISIT_CHANGE, fold)], ids=["rows", "changes"])
def test_a_store_that_fails_for_a_while_is_waited_for_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: Changes | None
) -> None:
    def next_one(number: int) -> Numbered:
        return described(tmp_path, number) if changes is None else changed(tmp_path, number, f"v{number}")

    commit_numbered(str(tmp_path), VISIT, [next_one(1)], changes)
    outage, second = Outage(tmp_path, waits=5), next_one(2)
    result = commit_numbered(str(tmp_path), VISIT, [second], changes, patience=Patience(sleep=outage.wait))
    assert (result.committed, result.failures) == (True, 5)
    assert ids_of(tmp_path) == ["v1", "v2"]
    assert outage.waited == sorted(outage.waited)
    assert sum(outage.waited) > outage.waited[0] * 5
    assert [record.message.partition(": ")[0] for record in caplog.records] == [VISIT.name]


def test_a_store_that_goes_on_failing_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1)])
    outage, second = Outage(tmp_path, waits=1_000), described(tmp_path, 2)
    with pytest.raises(StoreError, match=VISIT.name):
        commit_numbered(str(tmp_path), VISIT, [second], patience=Patience(seconds=9, sleep=outage.wait))
    assert 9 <= sum(outage.waited) < 9 + max(outage.waited)
    for _ in range(1_000 - len(outage.waited)):
        outage.wait(0)
    commit_numbered(str(tmp_path), VISIT, [second])
    assert ids_of(tmp_path) == ["v1", "v2"]


def test_a_writer_that_keeps_coming_first_is_waited_for(tmp_path: Path) -> None:
    rivals = 0

    def fold_while_another_commits(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        # the table is read by now and not yet written
        nonlocal rivals
        if rivals < COMMIT_ATTEMPTS + 2:
            rivals += 1
            commit_numbered(str(tmp_path), VISIT, [changed(tmp_path, rivals, "of the rival", run="rival")], plain)
        return fold(rows)

    plain, waited = Changes(VISIT_CHANGE, fold), list[float]()
    result = commit_numbered(
        str(tmp_path), VISIT, [changed(tmp_path, 1, "ours")], Changes(VISIT_CHANGE, fold_while_another_commits),
        onto_existing=True, patience=Patience(sleep=waited.append),
    )  # fmt: skip
    assert (result.committed, result.failures, len(waited)) == (True, 1, 1)
    assert ids_of(tmp_path) == ["of the rival", "ours"]


@pytest.mark.parametrize("number", [1, 3])
def test_what_waiting_does_not_mend_is_not_waited_for(tmp_path: Path, number: int) -> None:
    commit_numbered(str(tmp_path), VISIT, [described(tmp_path, 1)])
    run, waited = "run" if number == 3 else "another", list[float]()
    with pytest.raises(BrokenStreamError):
        commit_numbered(
            str(tmp_path), VISIT, [described(tmp_path, number, run)], patience=Patience(sleep=waited.append)
        )
    assert waited == []


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40))
def test_fold_a_part_of_the_keys_at_a_time_comes_to_the_same(written: list[tuple[int, bool]]) -> None:
    def last_of_each(changes: pa.Table) -> tuple[pa.Table, pa.Table]:
        last = {row["visit_id"]: row for row in changes.to_pylist()}
        return fold(pa.Table.from_pylist(list(last.values()), schema=VISIT_CHANGE.schema))

    rows = [{"visit_id": f"v{number}", "gone": gone} for number, gone in written]
    changes = pa.Table.from_pylist(rows, schema=VISIT_CHANGE.schema)
    whole = last_of_each(changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lake_stream, "_FOLDED_ROWS", 3)
        parts = Changes(VISIT_CHANGE, last_of_each).fold_by_key(changes, "visit_id")
    for one, other in zip(whole, parts, strict=True):
        assert one.schema == other.schema
        assert sorted(one["visit_id"].to_pylist()) == sorted(other["visit_id"].to_pylist())
