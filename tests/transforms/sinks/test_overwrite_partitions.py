"""Partitions put in the place of what they hold: all of them, those that changed alone, or none."""

from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from deltalake.transaction import Transaction

from runners.beam_options import parse_beam_options
from schemas.records import Field, Record
from stores.lake import live_files, open_table, read_table
from stores.lake_commit import CommitResult, NamedWrite, WriteMode, commit
from transforms.sinks.overwrite_partitions import OverwritePartitions, sum_of_rows
from transforms.tables import Spill

RECORD = Record(
    "numbers",
    "one number",
    (Field("day", pa.date32(), "its day", nullable=False), Field("n", pa.int64(), "the number", nullable=False)),
    partition_by=("day",),
    sort_by=("n",),
    key=("day", "n"),
)
MONDAY, TUESDAY = date(2026, 3, 2), date(2026, 3, 3)


def numbers(*rows: tuple[date, int]) -> pa.Table:
    return pa.Table.from_pylist([{"day": day, "n": n} for day, n in rows], schema=RECORD.schema)


class _Commit(beam.DoFn):
    """Commits as the caller of the transform does."""

    def __init__(self, lake: str, run: str) -> None:
        self._lake, self._run = lake, run

    def process(self, group: tuple[int, Iterable[NamedWrite]]) -> Iterator[CommitResult]:
        writes = [write for _, write in group[1]]
        yield commit(self._lake, RECORD, writes, WriteMode.MERGE, Transaction(self._run, 1))


def overwrite(lake: Path, run: str, days: tuple[date, ...], *tables: pa.Table) -> None:
    there = live_files(open_table(str(lake), RECORD))
    live = {(day.isoformat(),): there.get((day.isoformat(),), []) for day in days}
    with Spill(), beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        rows = pipeline | beam.Create(tables, reshuffle=False).with_output_types(pa.Table)
        writes = rows | OverwritePartitions(RECORD, str(lake), live)
        _ = writes | beam.WithKeys(0) | beam.GroupByKey() | beam.ParDo(_Commit(str(lake), run))


def found(lake: Path) -> list[tuple[date, int]]:
    return sorted((row["day"], row["n"]) for row in read_table(str(lake), RECORD.name).to_pylist())


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Two numbers on Monday, one on Tuesday."""
    overwrite(tmp_path, "first", (MONDAY, TUESDAY), numbers((MONDAY, 1), (TUESDAY, 3)), numbers((MONDAY, 2)))
    return tmp_path


def paths(lake: Path) -> dict[str, list[str]]:
    files = live_files(open_table(str(lake), RECORD))
    return {str(key[0]): [file.path for file in of_day] for key, of_day in files.items()}


def test_rows_replace_those_of_their_partition_and_leave_the_others(lake: Path) -> None:
    before = paths(lake)
    overwrite(lake, "second", (MONDAY,), numbers((MONDAY, 7)))
    assert found(lake) == [(MONDAY, 7), (TUESDAY, 3)]
    assert paths(lake)[str(TUESDAY)] == before[str(TUESDAY)]


def test_same_rows_in_another_order_and_cut_leave_the_files_and_make_no_version(lake: Path) -> None:
    before, version = paths(lake), open_table(str(lake), RECORD).version()
    overwrite(lake, "second", (MONDAY, TUESDAY), numbers((MONDAY, 2)), numbers((TUESDAY, 3), (MONDAY, 1)))
    assert (paths(lake), open_table(str(lake), RECORD).version()) == (before, version)


def test_only_the_partition_that_changed_gets_new_files(lake: Path) -> None:
    before = paths(lake)
    overwrite(lake, "second", (MONDAY, TUESDAY), numbers((MONDAY, 1), (MONDAY, 2), (TUESDAY, 4)))
    after = paths(lake)
    assert after[str(MONDAY)] == before[str(MONDAY)]
    assert after[str(TUESDAY)] != before[str(TUESDAY)]


@pytest.mark.parametrize("tables", [[numbers((MONDAY, 1), (MONDAY, 2))], []], ids=["some rows", "no rows at all"])
def test_partition_without_rows_is_emptied(lake: Path, tables: list[pa.Table]) -> None:
    overwrite(lake, "second", (MONDAY, TUESDAY), *tables)
    assert found(lake) == ([(MONDAY, 1), (MONDAY, 2)] if tables else [])


def test_rows_are_told_apart_by_values_number_and_repetition() -> None:
    one, two = numbers((MONDAY, 1)), numbers((MONDAY, 2))
    assert sum_of_rows([one]) != sum_of_rows([two])
    assert sum_of_rows([one]) != sum_of_rows([one, one])
    assert sum_of_rows([]) == sum_of_rows([one.slice(0, 0)])
