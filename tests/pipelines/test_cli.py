"""Every command as a user types it: what it prints, how it refuses, and with which exit status it ends."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from pipelines.ask import show_rows
from schemas.secrets import USER_KEY_VARIABLE

ROOT = Path(__file__).parents[2]
CommandLine = Callable[..., Any]

LINES = [
    {"event_id": "e1", "event_type": "page_view", "timestamp": "2026-04-12T09:00:00.001Z", "device_id": "d",
     "properties": {"page_url": "https://shop.example/start"}},
    {"event_id": "e2", "event_type": "purchase", "timestamp": "2026-04-12T09:10:00Z", "device_id": "d",
     "user_id": "anna", "properties": {"revenue": 12.5, "page_url": "https://shop.example/pay[/b]"}},
    {"event_id": "e3", "event_type": "click\x1b[2J", "timestamp": "2026-04-13T10:00:00Z", "device_id": "d",
     "properties": {"x": 3}, "unknown": {"kept": True}},
    {"event_id": "e4", "event_type": "click", "timestamp": "2026-04-13T10:00:00Z", "device_id": "other"},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stores with four events of two devices, and the input beside them."""
    folder = tmp_path_factory.mktemp("cli")
    lines = [json.dumps(line, separators=(",", ":")) for line in LINES]
    (folder / "in.jsonl").write_text("\n".join([*lines, "not an event"]) + "\n")
    command = ["run", "--input=in.jsonl", "--lake=lake", "--devices=rocksdb:devices"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *command],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), USER_KEY_VARIABLE: "s", "PATH": "", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Not a word of Beam's own on standard error
    assert (done.returncode, done.stderr) == (0, "")
    assert "events read" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    return folder


@pytest.fixture(autouse=True)
def stores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CLICKSTREAM_LAKE", str(folder / "lake"))
    monkeypatch.setenv("CLICKSTREAM_DEVICES", f"rocksdb:{folder / 'devices'}")
    monkeypatch.delenv("CLICKSTREAM_CONFIG", raising=False)


# -- recent -----------------------------------------------------------------------------------------------------------


def test_recent_shows_a_device_newest_first_in_80_columns(command_line: CommandLine) -> None:
    code, out, err = command_line("recent", "d")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].strip() == "device d: 3 events, 2 sessions"
    assert lines[1].strip() == "events from 2026-04-12 09:00:00.001 to 2026-04-13 10:00:00.000 UTC"
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if re.match(r"\d\d:", line)]
    assert [row[0] for row in rows] == ["10:00:00.000", "09:10:00.000", "09:00:00.001", "10:00:00.000", "09:00:00.001"]
    assert [line.strip() for line in lines if line.startswith("2026")] == ["2026-04-13", "2026-04-12"] * 2
    # as it came: neither markup nor a command to the terminal
    assert "click\\x1b[2J" in out
    assert "shop.example/pay[/b]" in out
    assert "12.5000" in out
    assert '{"x":3}' in out


def test_recent_as_json_holds_all_columns(command_line: CommandLine) -> None:
    found = json.loads(command_line("recent", "d", "--json").out)
    assert list(found) == ["device_id", "events", "sessions"]
    assert [event["event_id"] for event in found["events"]] == ["e3", "e2", "e1"]
    assert found["events"][0]["properties"] == {"x": 3}
    assert found["events"][0]["extra_properties"] == {"unknown": {"kept": True}}
    assert found["events"][1]["revenue"] == "12.5000"
    assert found["events"][2]["event_time"] == "2026-04-12T09:00:00.001000Z"
    assert [session["event_count"] for session in found["sessions"]] == [1, 2]
    assert len(found["events"][1]["user_key"]) == 32


@pytest.mark.parametrize(
    ("options", "events"),
    [
        (["--since=2026-04-12T09:10:00Z"], ["e3", "e2"]),
        (["--until=2026-04-12T09:10:00Z"], ["e1"]),
        (["--since=2026-04-12", "--until=2026-04-13"], ["e2", "e1"]),
        (["--since=2026-04-12T11:10:00+02:00", "--until=2026-04-13"], ["e2"]),
        (["--minutes=10", "--until=2026-04-12T09:10:00.001Z"], ["e2", "e1"]),
        (["--minutes=1", "--until=2026-04-12T09:10:00.001Z"], ["e2"]),
        (["--limit=1"], ["e3"]),
        (["--minutes=1"], []),
    ],
)
def test_recent_shows_only_what_was_asked_for(command_line: CommandLine, options: list[str], events: list[str]) -> None:
    found = json.loads(command_line("recent", "d", "--json", *options).out)
    assert [event["event_id"] for event in found["events"]] == events


def test_recent_of_a_device_cut_by_the_limit_says_so(command_line: CommandLine) -> None:
    assert "device d: the newest 2 events, the newest 2 sessions" in command_line("recent", "d", "--limit=2").out


def test_recent_of_an_unknown_device_says_that_there_is_nothing(command_line: CommandLine) -> None:
    assert command_line("recent", "[nobody]") == (0, "no events of device [nobody] found\n", "")
    nothing = {"device_id": "[nobody]", "events": [], "sessions": []}
    assert json.loads(command_line("recent", "[nobody]", "--json").out) == nothing


def test_recent_names_every_bad_option(command_line: CommandLine) -> None:
    code, out, err = command_line(
        "recent", "d", "--minutes=0", "--since=soon", "--until=later", "--limit=few", "--config=missing.toml"
    )
    assert (code, out) == (2, "")
    starts = [
        "give --minutes or --since",
        "--minutes: ",
        "--since: ",
        "--until: ",
        "--limit: ",
        "cannot read the config",
    ]
    assert [start for line, start in zip(err.splitlines(), starts, strict=True) if f"error: {start}" not in line] == []


def test_recent_of_no_time_at_all_is_refused(command_line: CommandLine) -> None:
    code, _, err = command_line("recent", "d1", "--since=2026-04-13", "--until=2026-04-12")
    assert (code, err) == (2, "error: --until: it is not after --since\n")


def test_recent_before_the_year_one_is_refused(command_line: CommandLine) -> None:
    code, _, err = command_line("recent", "d", "--minutes=5G")
    assert (code, err.count("\n")) == (2, 1)
    assert "--minutes: 5000000000 minutes" in err


def test_recent_of_a_store_that_is_not_there_fails_in_one_line(command_line: CommandLine, tmp_path: Path) -> None:
    code, out, err = command_line("recent", "d", f"--devices=rocksdb:{tmp_path}/none")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert not (tmp_path / "none").exists()


# -- sql --------------------------------------------------------------------------------------------------------------

QUERY = "SELECT event_id, revenue, user_id IS NULL AS anonymous FROM fact_events ORDER BY 1 LIMIT 2"


def test_sql_prints_a_table(command_line: CommandLine) -> None:
    code, out, err = command_line("sql", QUERY)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["event_id", "revenue", "anonymous"],
        ["e1", "true"],
        ["e2", "12.5000", "false"],
    ]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("SHOW TABLES", {"fact_events", "journeys", "user_stream"}),
        ("SHOW TABLES FROM silver", {"purchase", "other"}),
        ("DESCRIBE journeys", {"person_key", "session_start"}),
    ],
)
def test_sql_tells_what_the_lake_has(command_line: CommandLine, query: str, named: set[str]) -> None:
    code, out, _ = command_line("sql", query, "--csv")
    assert code == 0
    assert {row[0] for row in csv.reader(io.StringIO(out))} >= named


def test_sql_prints_json_and_csv_for_programs(command_line: CommandLine) -> None:
    assert json.loads(command_line("sql", QUERY, "--json").out) == [
        {"event_id": "e1", "revenue": None, "anonymous": True},
        {"event_id": "e2", "revenue": "12.5000", "anonymous": False},
    ]
    rows = list(csv.reader(io.StringIO(command_line("sql", QUERY, "--csv").out)))
    assert rows == [["event_id", "revenue", "anonymous"], ["e1", "", "true"], ["e2", "12.5000", "false"]]


def test_sql_writes_times_dates_and_bytes_as_other_programs_read_them(command_line: CommandLine) -> None:
    query = "SELECT event_time, event_date FROM fact_events WHERE event_id = 'e1'"
    (row,) = json.loads(command_line("sql", query, "--json").out)
    assert row == {"event_time": "2026-04-12T09:00:00.001000Z", "event_date": "2026-04-12"}
    (row,) = json.loads(command_line("sql", "SELECT payload, reason FROM dead_letters", "--json").out)
    assert row == {"payload": "not an event", "reason": "not_json"}


def test_sql_prints_valid_json_of_numbers_that_json_lacks(command_line: CommandLine) -> None:
    query = "SELECT CAST('nan' AS DOUBLE) AS a, CAST('-inf' AS DOUBLE) AS b, CAST(0.5 AS DOUBLE) AS c"
    assert command_line("sql", query, "--json").out == '[{"a": null, "b": null, "c": 0.5}]\n'


def test_sql_shortens_fractions_for_people_alone(command_line: CommandLine) -> None:
    query = "SELECT 1 / 3 AS a, 20000 / 3 AS b, 1 / 3e9 AS c, CAST('inf' AS DOUBLE) AS d, 3e0 AS e"
    assert command_line("sql", query).out.split()[5:] == ["0.3333", "6666.6667", "3.333e-10", "inf", "3.0"]
    assert command_line("sql", query, "--csv").out.splitlines()[1].startswith("0.3333333333333333,")


def test_sql_of_more_columns_than_fit_prints_a_line_each(command_line: CommandLine) -> None:
    code, out, _ = command_line("sql", "SELECT * FROM fact_events WHERE event_id = 'e2'")
    lines = [line.split() for line in out.splitlines()]
    assert (code, lines[0]) == (0, ["row", "1"])
    assert ["event_type", "purchase"] in lines
    assert max(map(len, out.splitlines())) <= 80


def test_sql_for_what_reads_lines_prints_a_row_a_line(command_line: CommandLine) -> None:
    query = "SELECT repeat('text ', 40) AS a, event_time, repeat('x', 200) AS b FROM fact_events WHERE event_id = 'e1'"
    _, row = command_line("sql", query).out.splitlines()
    assert row.split() == ["text"] * 40 + ["2026-04-12T09:00:00.001000Z", "x" * 200]


def rows_on_a_terminal(table: pa.Table, width: int) -> list[list[str]]:
    """The words of each line that a terminal of this width shows."""
    text = io.StringIO()
    show_rows(table.to_reader(), "table", Console(file=text, force_terminal=True, no_color=True, width=width))
    lines = re.sub(r"\x1b\[\d*m", "", text.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    return [line.split() for line in lines]


def test_table_on_a_narrow_terminal_folds_texts_and_nothing_else() -> None:
    time = datetime(2026, 4, 12, 9, tzinfo=UTC)
    row = {"page": "a" * 20, "a_long_name": 1, "at": time}
    header, *lines = rows_on_a_terminal(pa.Table.from_pylist([row]), width=50)
    assert header == ["page", "a_long_name", "at"]
    assert lines[0][1:] == ["1", "2026-04-12T09:00:00Z"]
    assert "".join([lines[0][0], *(words[0] for words in lines[1:])]) == "a" * 20
    # a row to a block where even that does not fit
    assert rows_on_a_terminal(pa.Table.from_pylist([row]), width=35)[0] == ["row", "1"]


def test_sql_reads_a_query_from_standard_input(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT count(*) AS n\nFROM fact_events -- all\n"))
    assert command_line("sql", "-", "--csv").out == "n\n4\n"


def test_sql_without_rows_still_names_the_columns(command_line: CommandLine) -> None:
    query = "SELECT event_id FROM fact_events WHERE false"
    assert command_line("sql", query).out.split() == ["event_id"]
    assert command_line("sql", query, "--csv").out == "event_id\n"
    assert json.loads(command_line("sql", query, "--json").out) == []


def test_sql_shows_the_head_of_a_long_table_and_gives_programs_all(command_line: CommandLine) -> None:
    out = command_line("sql", "SELECT * FROM range(1500)").out
    assert out.splitlines()[1000].strip() == "999"
    assert "the first 1,000 rows" in out.splitlines()[1001]
    assert len(command_line("sql", "SELECT * FROM range(1500)", "--csv").out.splitlines()) == 1501
    assert "the first" not in command_line("sql", "SELECT * FROM range(1000)").out


def test_sql_keeps_columns_of_one_name_apart_or_says_that_it_cannot(command_line: CommandLine) -> None:
    query = "SELECT 1 AS a, 2 AS a"
    assert command_line("sql", query, "--csv").out == "a,a\n1,2\n"
    code, _, err = command_line("sql", query, "--json")
    assert (code, err) == (1, "error: JSON cannot hold two columns of one name: rename one with AS\n")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("DROP VIEW fact_events", "only one SELECT"),
        ("CREATE TABLE t AS SELECT 1", "only one SELECT"),
        ("SELECT 1; SELECT 2", "only one SELECT"),
        ("", "only one SELECT"),
        ("SELEC 1", "cannot be run"),
        ("SELECT * FROM no_such_table", "the lake has no table no_such_table, but "),
        ("SELECT * FROM events", "the lake has no table events, but "),
        ("SELECT * FROM fact_event", "the lake has no table fact_event, but fact_events"),
        ("SELECT * FROM silver.page_views", "the lake has no table page_views, but silver.page_view"),
        ("SELECT no_such_column FROM fact_events", "no_such_column"),
        ("SELECT * FROM read_text('/etc/hostname')", "/etc/hostname"),
        ("SELECT CAST(event_type AS INTEGER) FROM fact_events", "Conversion Error"),
    ],
)
def test_sql_that_cannot_be_run_fails_in_one_line(command_line: CommandLine, query: str, words: str) -> None:
    code, out, err = command_line("sql", query)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ")
    assert words in err


def test_sql_of_a_lake_that_is_not_there_says_so(command_line: CommandLine, tmp_path: Path) -> None:
    code, out, err = command_line("sql", "SELECT 1", f"--lake={tmp_path}/none")
    assert (code, out, err) == (1, "", f"error: there is no lake at {tmp_path}/none\n")


@pytest.mark.parametrize("command", ["stitch", "sessions-dim", "metrics", "compact", "rebuild"])
def test_lake_that_is_not_there_is_an_error_and_stays_away(
    command_line: CommandLine, tmp_path: Path, command: str
) -> None:
    code, out, err = command_line(command, f"--lake={tmp_path}/none")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{tmp_path}/none" in err
    assert not (tmp_path / "none").exists()


def test_rebuild_makes_no_device_store_where_a_mistyped_name_points(command_line: CommandLine, tmp_path: Path) -> None:
    code, out, err = command_line("rebuild", "--days=all", f"--devices=rocksdb:{tmp_path}/none")
    assert (code, out, err) == (1, "", f"error: {tmp_path}/none: there is no device store here\n")
    assert not (tmp_path / "none").exists()


def test_sql_writes_lengths_of_time_and_nanoseconds_as_text(command_line: CommandLine) -> None:
    query = (
        "SELECT INTERVAL '26 hours 1 second' AS a, INTERVAL '-1.5 seconds' AS b, INTERVAL '14 months 3 days' AS c, "
        "CAST(NULL AS INTERVAL) AS d, INTERVAL '0 days' AS e, TIMESTAMP_NS '2026-04-12 00:00:00.123456789' AS f"
    )
    assert json.loads(command_line("sql", query, "--json").out) == [
        {"a": "26:00:01", "b": "-00:00:01.5", "c": "14 months 3 days", "d": None, "e": "00:00:00",
         "f": "2026-04-12T00:00:00.123456"}
    ]  # fmt: skip


def test_version_is_that_of_the_package(command_line: CommandLine) -> None:
    assert command_line("--version").out == f"clickstream {version('clickstream')}\n"


def test_sql_refuses_two_forms_and_a_lake_that_nobody_named(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLICKSTREAM_LAKE")
    code, _, err = command_line("sql", "SELECT 1", "--json", "--csv")
    assert code == 2
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["give --json or --csv, not both", "--lake"]


# -- generate, run, and help ------------------------------------------------------------------------------------------


def test_generate_names_every_bad_option_and_writes_nothing(command_line: CommandLine, tmp_path: Path) -> None:
    wrong = {
        "--events": "many",
        "--devices": "0",
        "--days": "-1",
        "--start": "then",
        "--late-share": "2",
        "--duplicate-share": "x",
        "--broken-share": "-1%",
    }
    code, out, err = command_line("generate", f"--out={tmp_path}/new", *(f"{k}={v}" for k, v in wrong.items()))
    assert (code, out) == (2, "")
    assert [line.split(":")[1].strip() for line in err.splitlines()] == list(wrong)
    assert not (tmp_path / "new").exists()


def test_generate_reports_for_people_and_programs(command_line: CommandLine, tmp_path: Path) -> None:
    code, out, _ = command_line("generate", f"--out={tmp_path}/[a]", "--events=100")
    assert (code, out.count("\n")) == (0, 1)
    assert f"{tmp_path}/[a]" in out
    report = json.loads(command_line("generate", f"--out={tmp_path}/b", "--events=100", "--json").out)
    assert (report["events"], report["truth"]) == (100, f"{tmp_path}/b/_truth")
    (tmp_path / "file").touch()
    for taken in ("b", "file"):
        code, _, err = command_line("generate", f"--out={tmp_path}/{taken}", "--events=100")
        assert (code, err.count("\n")) == (2, 1)


def test_every_event_read_is_in_the_report_of_the_run(command_line: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "events"
    command_line("generate", f"--out={out}", "--events=500", "--broken-share=20%", "--duplicate-share=5%")
    stores = (f"--lake={tmp_path}/lake", f"--devices=rocksdb:{tmp_path}/devices")
    report = json.loads(command_line("run", f"--input={out}", *stores, "--json").out)
    dead = sum(report["dead_letters"].values())
    assert dead >= 100
    assert report["events_read"] == report["events_unique"] + report["duplicates"] + dead


def test_run_that_takes_no_event_says_where_the_reasons_are(command_line: CommandLine, tmp_path: Path) -> None:
    foreign = {"messageId": "m1", "type": "page", "timestamp": "2026-04-12T00:00:00Z", "anonymousId": "d1"}
    ours = {"event_id": "e1", "event_type": "click", "timestamp": "2026-04-12T00:00:00Z", "device_id": "d1"}
    lake = tmp_path / "a lake"
    run = ("run", f"--input={tmp_path}/in.jsonl", f"--lake={lake}", f"--devices=rocksdb:{tmp_path}/devices")
    (tmp_path / "in.jsonl").write_text(json.dumps(foreign))
    err = command_line(*run).err
    named = shlex.split(next(line for line in err.splitlines() if "no event was taken" in line))
    reasons = command_line(*named[named.index("sql") : named.index("says")])
    assert (reasons.code, "event_id is missing" in reasons.out) == (0, True)
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(foreign)}\n{json.dumps(ours)}")
    assert "no event was taken" not in command_line(*run).err


def test_event_of_the_first_day_of_the_calendar_stops_no_command(command_line: CommandLine, tmp_path: Path) -> None:
    first = {"event_id": "e1", "event_type": "login", "timestamp": "0001-01-01T00:00:00Z", "device_id": "d1"}
    (tmp_path / "in.jsonl").write_text(json.dumps(first | {"user_id": "u1"}))
    lake, devices = f"--lake={tmp_path}/lake", f"--devices={tmp_path}/devices"
    for command in (
        ["run", f"--input={tmp_path}/in.jsonl", lake, devices],
        ["rebuild", "--days=all", lake, devices],
        *([command, lake] for command in ("stitch", "sessions-dim", "metrics", "compact")),
        ["recent", "d1", devices],
    ):
        code, _, err = command_line(*command)
        assert (code, [line for line in err.splitlines() if not line.startswith("warning: ")]) == (0, []), command
    query = "SELECT start_date, session_id FROM dim_sessions"
    assert json.loads(command_line("sql", query, lake, "--json").out) == [{"start_date": "0001-01-01", "session_id": 1}]


def test_second_file_without_its_option_is_refused_not_passed_over(command_line: CommandLine) -> None:
    code, out, err = command_line("run", "--input", "in.jsonl", "more.jsonl")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'more.jsonl': unexpected argument" in err


@pytest.mark.parametrize("command", ["generate", "run", "recent", "sql"])
def test_help_names_unit_and_default_of_every_option(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = command_line(command, "--help")
    assert (code, err) == (0, "")
    options = [line for line in out.splitlines() if re.search(r"^\W*--", line) and "--help" not in line]
    assert len(options) >= 4
    for line in options:
        takes_value = re.search(r"--[a-z-]+\s+[A-Z]+\b", line)
        is_switch = re.search(r"--(json|csv|verbose|onto-existing)\b", line)
        assert takes_value or is_switch, line
        if takes_value:
            has_default = "[default: " in line or "[required]" in line
            says_what_holds_without = re.search(
                r"Else |By default|Only |at or after|before|may be given more", line, re.I
            )
            assert has_default or says_what_holds_without, line


def test_no_command_shows_the_commands_and_is_an_error(command_line: CommandLine) -> None:
    code, out, err = command_line()
    assert code == 2
    for command in ("generate", "run", "recent", "sql"):
        assert command in out + err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["recent", "d", "--bogus"], "--bogus"),
        (["recent", "d", "--jsn"], "--json"),
        (["recent"], "device"),
        (["rebuild", "--config"], "--config"),
        (["recnt"], "recnt"),
        (["--bogus"], "--bogus"),
        (["services", "start"], "start"),
        (["sql", "SELECT 1", "SELECT 2"], "SELECT 2"),
    ],
)
def test_what_the_command_line_has_not_is_refused_in_one_line(
    command_line: CommandLine, arguments: list[str], named: str
) -> None:
    code, out, err = command_line(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert named in err
