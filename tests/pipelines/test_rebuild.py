"""A history that comes in pieces, late and twice, through the command line: both stores end as after one run."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from pipelines.generate import GenerateOptions, GenerateSummary, generate
from schemas.events import FACT_EVENT
from schemas.secrets import USER_KEY_VARIABLE
from schemas.sessions import SESSION
from stores.device_store import open_device_store
from stores.lake import find_table, live_files, open_table, read_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files
from stores.lake_read import read_files
from stores.lake_sql import connect
from stores.lake_stream import Changes

SECRET = "for tests"
SHARED = ", ".join(name for name in SESSION.names if name not in {"pane_timing", "pane_index"})
STATE = f"SELECT {SHARED} FROM fact_sessions ORDER BY device_id, session_start"
"""What both stores say of sessions, and any history of runs."""

CommandLine = Callable[..., Any]


class Stores:
    """A lake and a device store below one folder, filled by the command line."""

    def __init__(self, folder: Path, command_line: CommandLine) -> None:
        self.lake, self.devices = folder / "lake", folder / "devices"
        self._command_line = command_line

    def command(self, name: str, *options: object) -> list[str]:
        return [name, "--lake", str(self.lake), "--devices", f"rocksdb:{self.devices}", *map(str, options)]

    def do(self, name: str, *options: object) -> dict[str, Any]:
        """Run a command; its report."""
        code, out, err = self._command_line(*self.command(name, *options, "--json"))
        assert code == 0, err
        report: dict[str, Any] = json.loads(out)
        return report

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with connect(str(self.lake)) as lake:
            return lake.sql(sql).fetchall()

    def everything(self) -> dict[str, list[tuple[object, ...]]]:
        """All that does not depend on the history of runs."""
        found = {"sessions": self.ask(STATE), "devices": self.devices_sessions()}
        for table in ("fact_events", "dim_devices", "dim_users", "dim_pages"):
            found[table] = self.ask(f"SELECT * FROM {table} ORDER BY ALL")
        return found

    def devices_sessions(self) -> list[tuple[object, ...]]:
        """The sessions that the device store has, of every device of the lake, as fact_sessions has them."""
        with open_device_store(str(self.devices), read_only=True) as store:
            devices = [str(device) for (device,) in self.ask("SELECT DISTINCT device_id FROM fact_events ORDER BY 1")]
            rows = pa.concat_tables([store.recent_sessions(device, limit=10**6) for device in devices])
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            return con.from_arrow(rows).query("fact_sessions", STATE).fetchall()

    def version(self) -> int:
        table = find_table(str(self.lake), "fact_sessions")
        assert table is not None
        return table.version()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER_KEY_VARIABLE, SECRET)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> GenerateSummary:
    """4,000 events of few devices in three days: many sessions, some of them across midnight."""
    out = tmp_path_factory.mktemp("pieces") / "events"
    return generate(GenerateOptions(events=4_000, out=out, devices=40, days=3, broken_share=0.0))


def lines_of(traffic: GenerateSummary) -> list[bytes]:
    return [line for path in traffic.files for line in path.read_bytes().splitlines(keepends=True)]


def files_by_arrival(traffic: GenerateSummary, folder: Path) -> list[Path]:
    """A file for each day that events arrive on: one in ten comes a day late, one in twenty comes again then."""
    chance = random.Random(5)
    days: dict[str, list[bytes]] = {}
    for line in lines_of(traffic):
        stamp = json.loads(line)["timestamp"]
        day = stamp[:10] if isinstance(stamp, str) else f"{datetime.fromtimestamp(stamp / 1000, UTC):%Y-%m-%d}"
        drawn = chance.random()
        if drawn < 0.9:
            days.setdefault(day, []).append(line)
        if drawn > 0.85:
            days.setdefault(f"{day}+1", []).append(line)
    paths = []
    for day, lines in sorted(days.items()):
        paths.append(folder / f"{day}.jsonl")
        paths[-1].write_bytes(b"".join(lines))
    return paths


def expected_sessions(oracle: ModuleType, traffic: GenerateSummary) -> tuple[str, list[tuple[object, ...]]]:
    """The columns that the oracle knows, and its rows."""
    with duckdb.connect() as con:
        found = oracle.expected_sessions(con, f"{traffic.files[0].parent}/*.jsonl", SECRET)
        columns = ", ".join(found.column_names)
        return columns, con.from_arrow(found).fetchall()


@pytest.fixture(scope="module")
def one_run_rows(
    traffic: GenerateSummary, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[object, ...]]]:
    """What one run over all of it leaves."""
    stores = Stores(tmp_path_factory.mktemp("one"), _no_command_line)
    command = stores.command("run", f"--input={traffic.files[0].parent}")
    subprocess.run([sys.executable, "-m", "pipelines.cli", *command], check=True, capture_output=True, cwd=ROOT,
                   env={USER_KEY_VARIABLE: SECRET, "PATH": ""})  # fmt: skip
    return stores.everything()


ROOT = Path(__file__).parents[2]


def _no_command_line(*arguments: object) -> Any:
    raise AssertionError(arguments)


@pytest.mark.parametrize("backwards", [False, True])
def test_daily_files_with_late_and_repeated_events_end_in_the_stores_of_one_run(
    traffic: GenerateSummary, oracle: ModuleType, one_run_rows: dict[str, Any], tmp_path: Path,
    command_line: CommandLine, backwards: bool,
) -> None:  # fmt: skip
    stores = Stores(tmp_path, command_line)
    for path in sorted(files_by_arrival(traffic, tmp_path), reverse=backwards):
        stores.do("run", f"--input={path}")
    columns, expected = expected_sessions(oracle, traffic)
    assert stores.ask(f"SELECT {columns} FROM fact_sessions ORDER BY device_id, session_start") == expected
    assert stores.everything() == one_run_rows
    assert one_run_rows["devices"] == one_run_rows["sessions"]

    before = stores.version()
    report = stores.do("rebuild", "--days=all")
    assert (report["sessions"], report["committed"]) == (len(expected), False)
    assert stores.version() == before


def append_events(lake: Path, events: pa.Table) -> None:
    """Add events as a live run does those that come too late: to fact_events alone."""
    writes = [
        PartitionWrite(
            partition, tuple(write_files(Place(table_uri(str(lake), FACT_EVENT.name), FACT_EVENT, partition), [rows]))
        )
        for partition, rows in split_by_partition(events, FACT_EVENT)
    ]
    commit(str(lake), FACT_EVENT, writes, WriteMode.APPEND, Transaction("late", 1))


def test_rebuild_takes_too_late_events_into_their_sessions_once(
    traffic: GenerateSummary, one_run_rows: dict[str, Any], tmp_path: Path, command_line: CommandLine
) -> None:
    whole, stores = Stores(tmp_path / "whole", command_line), Stores(tmp_path / "late", command_line)
    chance = random.Random(3)
    (tmp_path / "in_time.jsonl").write_bytes(b"".join(line for line in lines_of(traffic) if chance.random() < 0.9))
    whole.do("run", f"--input={traffic.files[0].parent}")
    stores.do("run", f"--input={tmp_path / 'in_time.jsonl'}")
    events = read_table(str(whole.lake), FACT_EVENT.name)
    known = pa.array([str(key) for (key,) in stores.ask("SELECT device_id || event_id FROM fact_events")])
    keys = pa.compute.binary_join_element_wise(events["device_id"], events["event_id"], "")
    append_events(stores.lake, events.filter(pa.compute.invert(pa.compute.is_in(keys, known))))
    assert stores.ask(STATE) != one_run_rows["sessions"]

    # the middle of three dates: right in itself, the others as they were
    report = stores.do("rebuild", "--since=2026-04-13", "--until=2026-04-13")
    assert (report["first_date"], report["last_date"], report["committed"]) == ("2026-04-13", "2026-04-13", True)
    middle = "SELECT session_id, event_count FROM fact_sessions WHERE start_date = DATE '2026-04-13' ORDER BY 1"
    assert stores.ask(middle) == whole.ask(middle)
    assert stores.ask(STATE) != one_run_rows["sessions"]

    report = stores.do("rebuild", "--days=all")
    assert report["committed"]
    assert report["added"] + report["replaced"] > 0
    assert stores.ask(STATE) == one_run_rows["sessions"]
    assert stores.devices_sessions() == one_run_rows["sessions"]

    version = stores.version()
    again = stores.do("rebuild", "--days=all")
    assert [again[name] for name in ("added", "replaced", "withdrawn", "committed")] == [0, 0, 0, False]
    assert stores.version() == version


def test_killed_run_over_a_lake_with_events_repeated_equals_an_undisturbed_one(
    traffic: GenerateSummary, one_run_rows: dict[str, Any], tmp_path: Path, command_line: CommandLine
) -> None:
    stores = Stores(tmp_path, command_line)
    lines = lines_of(traffic)
    for name, piece in (("even", lines[::2]), ("odd", lines[1::2])):
        (tmp_path / f"{name}.jsonl").write_bytes(b"".join(piece))
    stores.do("run", f"--input={tmp_path / 'even.jsonl'}")
    table = find_table(str(stores.lake), FACT_EVENT.name)
    assert table is not None
    committed = stores.lake / FACT_EVENT.name / "_delta_log" / f"{table.version() + 1:020}.json"
    odd = ("run", f"--input={tmp_path / 'odd.jsonl'}")
    with subprocess.Popen([sys.executable, "-m", "pipelines.cli", *stores.command(*odd)], cwd=ROOT,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # fmt: skip
        while process.poll() is None and not committed.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    stores.do(*odd)
    assert stores.everything() == one_run_rows


def write_lines(path: Path, *times: str) -> Path:
    lines = [
        {"event_id": time, "event_type": "click", "timestamp": f"2026-04-{time}Z", "device_id": "d"} for time in times
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


SPANS = "SELECT strftime(session_start, '%d %H:%M'), strftime(session_end, '%d %H:%M') FROM fact_sessions ORDER BY 1"


def test_overwritten_date_changes_the_session_that_reaches_into_it(tmp_path: Path, command_line: CommandLine) -> None:
    stores = Stores(tmp_path, command_line)
    first = write_lines(tmp_path / "1.jsonl", "12T23:50:00", "13T00:10:00", "13T00:30:00", "13T12:00:00", "14T09:00:00")
    stores.do("run", f"--input={first}")
    second = write_lines(tmp_path / "2.jsonl", "13T00:10:00", "13T15:00:00")
    stores.do("run", f"--input={second}", "--write-mode=overwrite")
    expected = [("12 23:50", "13 00:10"), ("13 15:00", "13 15:00"), ("14 09:00", "14 09:00")]
    assert stores.ask(SPANS) == expected
    assert stores.devices_sessions() == stores.ask(STATE)


def test_rebuild_by_other_rules_replaces_what_they_change(tmp_path: Path, command_line: CommandLine) -> None:
    stores = Stores(tmp_path, command_line)
    stores.do("run", f"--input={write_lines(tmp_path / '1.jsonl', '12T10:00:00', '12T10:20:00', '13T10:00:00')}")
    report = stores.do("rebuild", "--days=all", "--session-gap=10m")
    assert [report[name] for name in ("sessions", "added", "replaced", "withdrawn")] == [3, 1, 1, 0]
    assert stores.ask(SPANS) == [("12 10:00", "12 10:00"), ("12 10:20", "12 10:20"), ("13 10:00", "13 10:00")]
    assert stores.devices_sessions() == stores.ask(STATE)
    code, out, err = command_line(*stores.command("rebuild", "--since=2026-04-12", "--until=2026-04-13"))
    assert (code, err) == (0, "")
    assert out.startswith("2026-04-12 to 2026-04-13: 2 sessions; 0 added, 1 replaced, 1 withdrawn, ")


def test_rebuild_without_events_says_so(tmp_path: Path, command_line: CommandLine) -> None:
    stores = Stores(tmp_path, command_line)
    code, _, err = command_line(*stores.command("rebuild"))
    assert (code, err.count("error: ")) == (1, 1)
    stores.do("run", f"--input={write_lines(tmp_path / '1.jsonl', '12T10:00:00')}")
    assert command_line(*stores.command("rebuild", "--since=2020-01-01", "--until=2020-01-02")).out == (
        "no events on these dates\n"
    )


def test_rebuild_names_every_wrong_option_at_once(tmp_path: Path, command_line: CommandLine) -> None:
    stores = Stores(tmp_path, command_line)
    wrong = ["--session-gap=soon", "--days=0", "--since=yesterday", "--until=never"]
    code, _, err = command_line(*stores.command("rebuild", *wrong))
    assert code == 2
    for option in ("--session-gap", "--days", "--since", "--until"):
        assert f"error: {option}: " in err
    code, _, err = command_line(*stores.command("rebuild", "--since=2026-04-13", "--until=2026-04-12"))
    assert (code, err) == (2, "error: --until: it is before --since\n")


def commit_beside(lake: Path, times: int) -> Callable[..., PartitionWrite]:
    """A method for `Changes` that merges as before, with another run's commit to the same date after the first few."""
    left = iter(range(times))
    merge_alone = Changes.merge_into

    def merge(changes: Changes, place: Place, *rest: Any, **more: Any) -> PartitionWrite:
        write = merge_alone(changes, place, *rest, **more)
        if next(left, None) is not None:
            live = live_files(open_table(str(lake), place.record))[place.partition]
            paths = tuple(file.path for file in live)
            again = PartitionWrite(place.partition, tuple(write_files(place, [read_files(place, paths)])), paths)
            commit(str(lake), place.record, [again], WriteMode.MERGE, Transaction(f"beside {paths}", 1))
        return write

    return merge


@pytest.mark.parametrize(("commits", "code"), [(2, 0), (3, 1)])
def test_rebuild_beside_a_run_that_commits_computes_anew_and_then_gives_up(
    tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, commits: int, code: int
) -> None:
    stores = Stores(tmp_path, command_line)
    stores.do("run", f"--input={write_lines(tmp_path / '1.jsonl', '12T10:00:00', '12T10:20:00')}")
    monkeypatch.setattr(Changes, "merge_into", commit_beside(stores.lake, commits))
    ended = command_line(*stores.command("rebuild", "--days=all", "--session-gap=10m"))
    assert ended.code == code
    if code:
        assert ended.err.count("error: ") == 1
        assert "run again" in ended.err
        monkeypatch.undo()
        monkeypatch.setenv(USER_KEY_VARIABLE, SECRET)
        stores.do("rebuild", "--days=all", "--session-gap=10m")
    assert stores.ask(SPANS) == [("12 10:00", "12 10:00"), ("12 10:20", "12 10:20")]
    assert stores.devices_sessions() == stores.ask(STATE)
