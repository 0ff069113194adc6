"""The command `compact`, on a lake and a raw log with small files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.generate import GenerateSummary
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


@pytest.mark.parametrize(("option", "value"), [("--keep", "90m"), ("--keep", "10m"), ("--every", "soon")])
def test_wrong_duration_is_refused(command_line: Callable[..., Any], tmp_path: Path, option: str, value: str) -> None:
    ended = command_line("compact", "--lake", tmp_path, option, value)
    assert ended.code == 2
    assert option in ended.err
