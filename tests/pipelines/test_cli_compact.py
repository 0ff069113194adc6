"""The command `compact`, on a lake and a raw log with small files."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from pipelines.generate import GenerateSummary
from pipelines.tables import TABLES
from schemas.session_dimension import SESSION_BRIDGE
from stores.lake import create_tables, find_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, write_files
from stores.lake_sql import connect


def rows(lake: Path) -> list[tuple[Any, ...]]:
    with connect(str(lake)) as connection:
        return connection.sql("SELECT * FROM fact_events ORDER BY ALL").fetchall()


def test_files_of_several_runs_become_one_a_date_with_the_same_rows(
    command_line: Callable[..., Any], traffic_files: GenerateSummary, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    for path in traffic_files.files:
        assert command_line("run", "--input", path, "--lake", lake, "--devices", "memory:compact", "--json").code == 0
    before = rows(lake)
    done = command_line("compact", "--lake", lake, "--json")
    report = json.loads(done.out)
    dates = len({row[3] for row in before})
    assert report["tables"]["fact_events"]["merged"] > report["tables"]["fact_events"]["written"] == dates
    assert (report["busy"], report["deleted"]) == ([], 0), "what was merged stays for those who read it"
    assert rows(lake) == before
    again = json.loads(command_line("compact", "--lake", lake, "--json").out)
    assert again["tables"] == {}


def test_tables_of_the_session_dimension_are_merged_where_they_are_and_not_made(
    command_line: Callable[..., Any], tmp_path: Path
) -> None:
    lake = str(tmp_path)
    create_tables(lake, TABLES)
    assert command_line("compact", "--lake", lake, "--json").code == 0
    assert find_table(lake, SESSION_BRIDGE.name) is None
    place = Place(table_uri(lake, SESSION_BRIDGE.name), SESSION_BRIDGE, ("2026-04-12",))
    for number in range(2):
        row = {"user_key": f"u{number}", "highest_session_id": number, "before_date": date(2026, 4, 12)}
        files = write_files(place, [pa.Table.from_pylist([row], schema=SESSION_BRIDGE.schema)])
        write = PartitionWrite(place.partition, tuple(files))
        commit(lake, SESSION_BRIDGE, [write], WriteMode.APPEND, Transaction(f"run-{number}", 1))
    report = json.loads(command_line("compact", "--lake", lake, "--json").out)
    assert report["tables"] == {SESSION_BRIDGE.name: {"merged": 2, "written": 1}}


@pytest.mark.parametrize(("option", "value"), [("--keep", "90m"), ("--keep", "10m"), ("--every", "soon")])
def test_wrong_duration_is_refused(command_line: Callable[..., Any], tmp_path: Path, option: str, value: str) -> None:
    ended = command_line("compact", "--lake", tmp_path, option, value)
    assert ended.code == 2
    assert option in ended.err
