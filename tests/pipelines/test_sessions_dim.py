"""The session dimension over real tables: however it was built, it is what the source document's own SQL says."""

import random
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import apache_beam as beam
import duckdb
import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from pipelines.sessions_dim import SessionsDimReport, compose, run_sessions_dim
from pipelines.sessions_dim_plan import SessionsDimOptions, SessionsDimPlan, plan_sessions_dim
from runners.beam_options import parse_beam_options
from runners.direct import direct_runner
from schemas.errors import OptionError, StoreBusyError, StoreError
from schemas.events import FACT_EVENT
from schemas.records import Field, Record
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from stores.lake import find_table, read_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files
from stores.lake_sql import connect

DEVICES = Record(
    "dim_devices",
    "one device",
    (Field("device_id", pa.string(), "the device"), Field("resolved_user_key", pa.string(), "its user")),
)
"""The part of the table that the dimension reads."""

ROOT = Path(__file__).parents[2]
FIRST, DAYS = date(2026, 3, 1), 30
LAST = FIRST + timedelta(days=DAYS - 1)
NOW = datetime(2026, 5, 1, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
GAP = timedelta(minutes=30)
# On 8 March the clocks of New York, on 29 March those of Berlin go forward; a date of Seoul begins at 15:00
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Asia/Seoul"]

# The document's query, BigQuery's dialect in DuckDB's: TIMESTAMP_DIFF counts whole seconds, as date_sub does; the
# three first_value without a window are meant over w; ties of time, which it leaves open, are broken by ids.
DOCUMENT = """
WITH fact__events AS (
    SELECT date, time, user_id, country, device, os, event_id, device_id,
        lag(date, 1) OVER o AS prev_date, lag(time, 1) OVER o AS prev_time, 1800 AS session_threshold_secs
    FROM all_events
    WINDOW o AS (PARTITION BY user_id ORDER BY time, event_id, device_id)
), fact__events_with_session_id AS (
    SELECT *, sum(
        CASE WHEN prev_time IS NULL THEN 1
             WHEN date != prev_date THEN 1
             WHEN date_sub('second', prev_time, time) > session_threshold_secs THEN 1
             ELSE 0 END
    ) OVER (
        PARTITION BY user_id ORDER BY time, event_id, device_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS session_id
    FROM fact__events
)
SELECT user_id AS user_key, CAST(session_id AS BIGINT) AS session_id,
    first_value(date) OVER w AS start_date, last_value(date) OVER w AS end_date,
    first_value(time) OVER w AS session_start, last_value(time) OVER w AS session_end,
    CAST(date_sub('second', first_value(time) OVER w, last_value(time) OVER w) AS DOUBLE) AS duration_secs,
    first_value(country IGNORE NULLS) OVER w AS country,
    first_value(device IGNORE NULLS) OVER w AS device_type,
    first_value(os IGNORE NULLS) OVER w AS os
FROM fact__events_with_session_id
WINDOW w AS (
    PARTITION BY user_id, session_id ORDER BY time, event_id, device_id
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
)
QUALIFY row_number() OVER (PARTITION BY user_id, session_id ORDER BY time, event_id, device_id) = 1
ORDER BY user_key, session_id
"""
DOCUMENT_COLUMNS = [
    "user_key", "session_id", "start_date", "end_date", "session_start", "session_end", "duration_secs",
    "country", "device_type", "os",
]  # fmt: skip


def event(number: int, time: datetime, device: str, user: str | None = None, **columns: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number:05}",
        "event_type": "page_view",
        "event_time": time,
        "event_date": time.date(),
        "client_time": time,
        "device_id": device,
        "user_key": user,
        **columns,
    }


def some_events(seed: int, days: int, first: date = FIRST, number: int = 0) -> list[dict[str, Any]]:
    """Bursts of whole seconds with gaps around 30 minutes, at midnights too: a user with 40 devices, three with five
    between them, and devices that nobody logs in on or only later."""
    pick = random.Random(seed)
    midnight = datetime(first.year, first.month, first.day, tzinfo=UTC)
    events = []
    for day in range(days):
        for _ in range(14):
            owner = pick.choice(["many", "shared", "nobody"])
            time = midnight + timedelta(days=day, seconds=pick.randrange(86_400))
            if pick.random() < 0.4:
                time = midnight + timedelta(days=day, hours=23, minutes=pick.randrange(40, 60))
            for _ in range(pick.randrange(1, 6)):
                device, user = {
                    "many": (f"m{pick.randrange(40)}", "a" * 32),
                    "shared": (f"s{pick.randrange(5)}", pick.choice(["b", "c", "d"]) * 32),
                    "nobody": (f"n{pick.randrange(8)}", None),
                }[owner]
                number += 1
                events.append(
                    event(
                        number,
                        time,
                        device,
                        user if pick.random() < 0.5 else None,
                        event_type=pick.choice(["page_view", "purchase", "click"]),
                        country=pick.choice([None, "DE", "US"]),
                        device_type=pick.choice([None, "mobile", "desktop"]),
                        os=pick.choice([None, "iOS", "Linux"]),
                    )
                )
                time += pick.choice([timedelta(0), timedelta(seconds=7), GAP, GAP + timedelta(seconds=1), GAP / 2])
    return [row for row in events if row["event_date"] < first + timedelta(days=days)]


RESOLVED = {
    **{f"m{n}": "a" * 32 for n in range(39)},  # one of the 40 devices is not known yet
    **{f"s{n}": "b" * 32 for n in range(5)},
}


def add(lake: Path, record: Record, rows: list[dict[str, Any]], mode: WriteMode = WriteMode.APPEND) -> None:
    """Rows into a table, as a run of the main job leaves them: sorted files, a commit."""
    table = pa.Table.from_pylist(rows, schema=record.schema)
    writes = [
        PartitionWrite(key, tuple(write_files(Place(table_uri(str(lake), record.name), record, key), [part])))
        for key, part in split_by_partition(table, record)
    ]
    commit(str(lake), record, writes, mode, Transaction(uuid.uuid4().hex, 1))


def options(lake: Path, days: int | None, as_of: date = LAST, zone: str = "UTC") -> SessionsDimOptions:
    return SessionsDimOptions(str(lake), ZoneInfo(zone), days, as_of, NOW)


def run(lake: Path, days: int | None = 7, as_of: date = LAST, zone: str = "UTC") -> SessionsDimReport:
    return run_sessions_dim(options(lake, days, as_of, zone))


def finish(plan: SessionsDimPlan) -> None:
    """The rest of a run that was planned earlier."""
    with direct_runner(parse_beam_options([])) as runner:
        pipeline = beam.Pipeline(runner=runner, options=parse_beam_options([]))
        compose(pipeline, plan)
        pipeline.run().wait_until_finish()


def rows(lake: Path, record: Record = DIM_SESSIONS) -> list[dict[str, Any]]:
    """All rows of a table in the order of its key."""
    table = read_table(str(lake), record.name)
    return table.sort_by([(name, "ascending") for name in record.key]).to_pylist()


def assert_stamped(lake: Path) -> None:
    """fact_events says of each event what event_sessions does, and nothing of the others."""
    with connect(str(lake)) as sql:
        differing = sql.sql("""
            SELECT * FROM fact_events e FULL JOIN event_sessions s USING (device_id, event_id, event_date)
            WHERE (session_user_key, e.session_id, e.session_position)
                IS DISTINCT FROM (s.user_key, s.session_id, s.session_position)
        """).fetchall()
    assert differing == []


def versions(lake: Path) -> list[int]:
    tables = [
        find_table(str(lake), record.name) for record in (DIM_SESSIONS, SESSION_BRIDGE, EVENT_SESSIONS, FACT_EVENT)
    ]
    return [table.version() for table in tables if table is not None]


def documents_sessions(
    events: list[dict[str, Any]], zone: str, until: date = LAST, resolved: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """What the source document's SQL makes of all events."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    con.register("raw", pa.Table.from_pylist(events, schema=FACT_EVENT.schema))
    known = resolved or {}
    con.register("devices", pa.table({"device_id": [*known], "resolved": pa.array([*known.values()], pa.string())}))
    con.execute(f"""CREATE TABLE all_events AS SELECT * FROM (
        SELECT CAST(event_time AT TIME ZONE '{zone}' AS DATE) AS date, event_time AS time,
            coalesce(user_key, resolved, 'device:' || device_id) AS user_id, country, device_type AS device, os,
            event_id, device_id
        FROM raw LEFT JOIN devices USING (device_id)
    ) WHERE date <= '{until}'""")
    return con.sql(DOCUMENT).to_arrow_table().to_pylist()


def documents_columns(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in DOCUMENT_COLUMNS} for row in found]


EVENTS = some_events(1, DAYS)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with 30 days of events and their devices."""
    lake = tmp_path_factory.mktemp("history")
    add(lake, FACT_EVENT, EVENTS)
    add(lake, DEVICES, [{"device_id": device, "resolved_user_key": user} for device, user in RESOLVED.items()])
    return lake


@pytest.fixture(scope="module")
def built(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its sessions numbered in one run."""
    lake = tmp_path_factory.mktemp("built") / "lake"
    shutil.copytree(history, lake)
    run(lake, DAYS)
    return lake


@pytest.fixture(scope="module")
def kept(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a run of the last eight days, which leaves a bridge."""
    lake = tmp_path_factory.mktemp("kept") / "lake"
    shutil.copytree(built, lake)
    assert run(lake, 8).dates_changed == 0
    return lake


@pytest.fixture
def lake(kept: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(kept, tmp_path / "lake"))


# -- what a session is ------------------------------------------------------------------------------------------------


def test_sessions_of_thirty_days_are_those_of_the_documents_query(built: Path) -> None:
    found = rows(built)
    assert documents_columns(found) == documents_sessions(EVENTS, "UTC", resolved=RESOLVED)
    assert len(found) > 500
    logged_in = {row["user_key"] for row in found if not row["user_key"].startswith("device:")}
    assert logged_in == {letter * 32 for letter in "abcd"}
    assert any(row["user_key"] == "device:m39" for row in found)
    assert {row["time_zone"] for row in found} == {"UTC"}


@pytest.mark.parametrize("zone", ZONES[1:])
def test_dates_are_those_of_the_reporting_time_zone_also_as_its_clocks_change(
    history: Path, tmp_path: Path, zone: str
) -> None:
    lake = Path(shutil.copytree(history, tmp_path / "lake"))
    # in windows, so that UTC dates that lie on two of the zone's are read for both
    for as_of in (LAST - timedelta(days=1), LAST):
        run(lake, 3, as_of, zone)
    assert documents_columns(rows(lake)) == documents_sessions(EVENTS, zone, resolved=RESOLVED)
    assert_stamped(lake)


def test_each_event_has_one_place_in_the_session_that_holds_it(built: Path) -> None:
    places = rows(built, EVENT_SESSIONS)
    key = ("device_id", "event_id", "event_date")
    assert sorted([row[n] for n in key] for row in places) == sorted([row[n] for n in key] for row in EVENTS)
    times = {(row["device_id"], row["event_id"]): row["event_time"] for row in EVENTS}
    held: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in sorted(places, key=lambda row: row["session_position"]):
        held.setdefault((row["user_key"], row["session_id"]), []).append(row)
    sessions = {(row["user_key"], row["session_id"]): row for row in rows(built)}
    assert held.keys() == sessions.keys()
    for session, inside in held.items():
        assert [row["session_position"] for row in inside] == list(range(1, sessions[session]["event_count"] + 1))
        in_time = [times[row["device_id"], row["event_id"]] for row in inside]
        assert in_time == sorted(in_time)
        assert (in_time[0], in_time[-1]) == (sessions[session]["session_start"], sessions[session]["session_end"])
        assert {row["start_date"] for row in inside} == {sessions[session]["start_date"]}
    assert_stamped(built)


def test_login_three_days_later_gives_the_first_day_to_the_user_once_the_device_is_resolved(tmp_path: Path) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    add(tmp_path, FACT_EVENT, [event(1, noon, "phone"), event(2, noon, "other")])
    run(tmp_path, as_of=FIRST)
    assert [row["user_key"] for row in rows(tmp_path)] == ["device:other", "device:phone"]
    login = noon + timedelta(days=3)
    add(tmp_path, FACT_EVENT, [event(3, login, "phone", "u")])
    add(tmp_path, DEVICES, [{"device_id": "phone", "resolved_user_key": "u"}])
    report = run(tmp_path, as_of=login.date())
    assert [(row["user_key"], row["session_id"], row["session_start"]) for row in rows(tmp_path)] == [
        ("device:other", 1, noon),
        ("u", 1, noon),
        ("u", 2, login),
    ]
    assert report.dates_changed == 2


# -- however it is built ----------------------------------------------------------------------------------------------


def test_a_run_a_day_and_one_run_over_all_days_end_in_the_same_rows(history: Path, tmp_path: Path) -> None:
    daily, at_once = (Path(shutil.copytree(history, tmp_path / name)) for name in ("daily", "at_once"))
    days = DAYS // 3  # twice the window
    for day in range(days):
        run(daily, 5, FIRST + timedelta(days=day))
    run(at_once, days, FIRST + timedelta(days=days - 1))
    assert len(rows(at_once)) > 50
    for record in (DIM_SESSIONS, EVENT_SESSIONS):
        assert rows(daily, record) == rows(at_once, record)


def test_the_same_window_again_and_again_commits_nothing(lake: Path) -> None:
    before, at_first = rows(lake), versions(lake)
    for _ in range(4):
        assert run(lake, 8).dates_changed == 0
    assert (rows(lake), versions(lake)) == (before, at_first)


def test_windows_of_any_order_and_length_leave_the_rows_and_keep_the_bridge_true(lake: Path) -> None:
    expected = rows(lake)
    for days in (20, 1, 3, DAYS, 5):
        assert run(lake, days).dates_changed == 0
        bridge = rows(lake, SESSION_BRIDGE)
        first = LAST - timedelta(days=days - 1)
        highest: dict[str, int] = {}
        for row in expected:
            if row["start_date"] < first:
                highest[row["user_key"]] = max(highest.get(row["user_key"], 0), row["session_id"])
        assert {row["user_key"]: row["highest_session_id"] for row in bridge} == highest
        assert {row["before_date"] for row in bridge} <= {first}
    assert rows(lake) == expected


def test_late_events_inside_the_window_move_the_numbers_after_them_as_a_full_rebuild_does(
    lake: Path, built: Path
) -> None:
    late = some_events(2, 5, LAST - timedelta(days=6), number=50_000)
    add(lake, FACT_EVENT, late)
    report = run(lake, 7)
    assert report.dates_changed == 7
    assert documents_columns(rows(lake)) == documents_sessions(EVENTS + late, "UTC", resolved=RESOLVED)
    old = [row for row in rows(built) if row["start_date"] < LAST - timedelta(days=6)]
    assert [row for row in rows(lake) if row["start_date"] < LAST - timedelta(days=6)] == old
    again = [rows(lake, record) for record in (DIM_SESSIONS, EVENT_SESSIONS)]
    run(lake, None)
    assert [rows(lake, record) for record in (DIM_SESSIONS, EVENT_SESSIONS)] == again
    assert_stamped(lake)


def test_events_later_than_the_window_wait_for_a_longer_one(lake: Path) -> None:
    before = rows(lake)
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    add(lake, FACT_EVENT, [event(90_000, noon, "m1", "z" * 32)])
    run(lake, 7)
    assert rows(lake) == before
    run(lake, DAYS)
    assert [row["start_date"] for row in rows(lake) if row["user_key"] == "z" * 32] == [noon.date()]


def test_days_that_no_run_has_built_are_built_by_the_next(history: Path, built: Path, tmp_path: Path) -> None:
    lake = Path(shutil.copytree(history, tmp_path / "lake"))
    run(lake, 7, FIRST + timedelta(days=9))
    report = run(lake, 2)
    assert (report.first_date, report.last_date) == ("2026-03-11", "2026-03-30")
    assert rows(lake) == rows(built)


def test_window_before_the_last_date_built_reaches_to_it_for_the_numbers_after_move(lake: Path) -> None:
    late = [event(90_000, datetime(2026, 3, 20, 4, tzinfo=UTC), "m1", "a" * 32)]
    add(lake, FACT_EVENT, late)
    report = run(lake, 3, date(2026, 3, 21))
    assert (report.first_date, report.last_date) == ("2026-03-19", "2026-03-30")
    assert documents_columns(rows(lake)) == documents_sessions(EVENTS + late, "UTC", resolved=RESOLVED)


def test_date_that_loses_all_its_events_loses_its_sessions(lake: Path) -> None:
    gone = LAST - timedelta(days=2)
    commit(
        str(lake), FACT_EVENT, [PartitionWrite((gone.isoformat(),), ())], WriteMode.OVERWRITE, Transaction("gone", 1)
    )
    run(lake, 7)
    left = [row for row in EVENTS if row["event_date"] != gone]
    assert documents_columns(rows(lake)) == documents_sessions(left, "UTC", resolved=RESOLVED)
    assert len(rows(lake, EVENT_SESSIONS)) == len(left)


def test_events_of_an_overwritten_date_have_their_sessions_again_after_a_run_that_reaches_it(lake: Path) -> None:
    overwritten = LAST - timedelta(days=6)
    add(lake, FACT_EVENT, [row for row in EVENTS if row["event_date"] == overwritten], WriteMode.OVERWRITE)
    facts = versions(lake)[-1]
    run(lake, 6)
    assert versions(lake)[-1] == facts, "it does not reach the date"
    run(lake, 7)
    assert_stamped(lake)


def test_another_time_zone_is_refused_until_all_days_are_built_in_it(lake: Path) -> None:
    with pytest.raises(OptionError, match="is in the time zone UTC; --days all rebuilds it in Asia/Seoul"):
        run(lake, 7, zone="Asia/Seoul")
    run(lake, None, zone="Asia/Seoul")
    assert documents_columns(rows(lake)) == documents_sessions(EVENTS, "Asia/Seoul", resolved=RESOLVED)
    assert_stamped(lake)


# -- crashes, rivals, cost --------------------------------------------------------------------------------------------

DYING = """
import os, sys
sys.path.insert(0, {root!r})
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo
import transforms.session_dimension.commit_session_dimension as module
from pipelines.sessions_dim import run_sessions_dim
from pipelines.sessions_dim_plan import SessionsDimOptions
real, left = module.commit, [{commits}]
def commit(*arguments):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    return real(*arguments)
module.commit = commit
run_sessions_dim(SessionsDimOptions({lake!r}, ZoneInfo("UTC"), {days}, date({last}), datetime(2026, 5, 1, tzinfo=UTC)))
"""


@pytest.mark.parametrize("commits", [1, 2, 3])
@pytest.mark.parametrize("days", [5, 12], ids=["bridge moves on", "bridge moves back"])
def test_run_killed_between_two_commits_and_run_again_ends_in_the_same_rows(
    lake: Path, commits: int, days: int
) -> None:
    late = some_events(3, 3, LAST - timedelta(days=4), number=70_000)
    add(lake, FACT_EVENT, late)
    code = DYING.format(
        root=str(ROOT), lake=str(lake), commits=commits, days=days, last=f"{LAST.year}, {LAST.month}, {LAST.day}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == -9, done.stderr.decode()
    run(lake, days)
    assert documents_columns(rows(lake)) == documents_sessions(EVENTS + late, "UTC", resolved=RESOLVED)
    assert len(rows(lake, EVENT_SESSIONS)) == len(EVENTS) + len(late)
    assert_stamped(lake)


@pytest.mark.parametrize(("mine", "rival"), [(7, 8), (8, 7), (9, 9)])
def test_of_two_runs_at_a_time_the_second_to_commit_fails_and_nothing_is_wrong(
    lake: Path, mine: int, rival: int
) -> None:
    plan = plan_sessions_dim(options(lake, mine))
    assert plan is not None
    late = some_events(4, 6, LAST - timedelta(days=8), number=80_000)
    add(lake, FACT_EVENT, late)
    run(lake, rival)
    with pytest.raises(StoreBusyError, match="run again"):
        finish(plan)
    run(lake, 9)
    assert documents_columns(rows(lake)) == documents_sessions(EVENTS + late, "UTC", resolved=RESOLVED)


def test_what_a_run_reads_depends_on_its_window_and_not_on_the_history(history: Path, tmp_path: Path) -> None:
    read = {}
    for days in (12, 30):
        lake = Path(shutil.copytree(history, tmp_path / f"{days}"))
        as_of = FIRST + timedelta(days=days - 1)
        run(lake, None, as_of)
        run(lake, 3, as_of)
        plan = plan_sessions_dim(options(lake, 3, as_of))
        assert plan is not None
        assert sorted(plan.events) == sorted(((as_of - timedelta(days=n)).isoformat(),) for n in range(3))
        assert plan.counted == {}
        report = run(lake, 3, as_of)
        (bridge,) = plan.bridge.values()
        read[days] = (report.files_read, len(bridge))
    assert set(read.values()) == {(3 + 1 + 1, 1)}  # three dates of events, the devices, the bridge


def test_next_day_counts_one_date_into_the_bridge(lake: Path) -> None:
    tomorrow = LAST + timedelta(days=1)
    add(lake, FACT_EVENT, some_events(5, 1, tomorrow, number=60_000))
    plan = plan_sessions_dim(options(lake, 8, tomorrow))
    assert plan is not None
    assert [*plan.counted] == [((LAST - timedelta(days=7)).isoformat(),)]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_date_that_has_not_ended_in_the_zone_is_refused(lake: Path) -> None:
    noon = datetime(2026, 4, 10, 12, tzinfo=UTC)  # in Auckland it is the 11th
    for zone, closed in (("UTC", date(2026, 4, 9)), ("Pacific/Auckland", date(2026, 4, 10))):
        assert SessionsDimOptions(str(lake), ZoneInfo(zone), 7, None, noon).last_date == closed
        with pytest.raises(OptionError, match="has not ended"):
            _ = SessionsDimOptions(str(lake), ZoneInfo(zone), 7, closed + timedelta(days=1), noon).last_date


def test_event_of_long_ago_costs_no_partition_of_the_days_between(tmp_path: Path) -> None:
    long_ago = datetime(1, 1, 1, 12, tzinfo=UTC)
    add(tmp_path, FACT_EVENT, [event(1, long_ago, "d"), event(2, datetime(2026, 3, 1, 12, tzinfo=UTC), "d")])
    plan = plan_sessions_dim(options(tmp_path, 7, FIRST, "Asia/Seoul"))
    assert plan is not None
    assert len(plan.sessions) == 4
    run(tmp_path, 7, FIRST, "Asia/Seoul")
    assert [(row["session_id"], row["start_date"]) for row in rows(tmp_path)] == [(1, date(1, 1, 1)), (2, FIRST)]


def test_lake_without_events_is_refused_and_one_with_none_yet_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such table"):
        run(tmp_path)
    add(tmp_path, FACT_EVENT, [])
    assert run(tmp_path).first_date is None
    add(tmp_path, FACT_EVENT, EVENTS[:1])
    assert run(tmp_path, as_of=FIRST - timedelta(days=1)).first_date is None
    assert rows(tmp_path) == []
