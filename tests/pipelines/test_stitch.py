"""The command `stitch` on lakes that the main job wrote."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.stitch import stitch
from schemas.dimensions import DEVICE
from schemas.durations import DAY
from schemas.sessions import SESSION
from stores.lake import find_table, live_files, read_table
from tests.pipelines.shop import MORNING, Shop, on_day


@pytest.fixture
def shop(tmp_path: Path, command_line: Any) -> Shop:
    return Shop(tmp_path, command_line)


def files_by_date(lake: str) -> dict[str, list[str]]:
    table = find_table(lake, SESSION.name)
    assert table is not None
    return {str(partition[0]): [file.path for file in files] for partition, files in live_files(table).items()}


def test_login_on_day_four_tells_whose_day_one_was_and_nothing_else_changes(shop: Shop) -> None:
    shop.visit(
        ("phone", on_day(1), None),
        ("phone", on_day(4), "ann"),
        ("other", on_day(1), None),
        ("other", on_day(2), None),
        ("desk", on_day(2), "bob"),
    )
    before = read_table(shop.lake, SESSION.name).sort_by("session_id")
    files = files_by_date(shop.lake)
    versions = shop.versions()

    report = stitch(shop.lake, 30 * DAY)

    assert report.dates_changed == ["2026-04-01"]
    assert shop.versions()[SESSION.name] == versions[SESSION.name] + 1
    assert shop.whose() == {
        ("phone", 1): (None, "ann"),
        ("phone", 4): ("ann", None),
        ("other", 1): (None, None),
        ("other", 2): (None, None),
        ("desk", 2): ("bob", None),
    }
    after = read_table(shop.lake, SESSION.name).sort_by("session_id")
    others = [name for name in SESSION.names if name != "resolved_user_key"]
    assert after.select(others).equals(before.select(others))
    changed = {date for date, paths in files_by_date(shop.lake).items() if paths != files[date]}
    assert changed == {"2026-04-01"}

    versions = shop.versions()
    again = stitch(shop.lake, 30 * DAY)
    assert (again.devices_changed, again.files_read, again.committed) == (0, 0, [])
    assert shop.versions() == versions


def customers(shop: Shop) -> dict[tuple[str, int], str | None]:
    """Whose the activities are, by device and day of the month."""
    sql = """
        SELECT anonymous_customer_id AS device, day(ts) AS day, user_id FROM user_stream
        LEFT JOIN dim_users ON user_key = customer"""
    return {(row["device"], row["day"]): row["user_id"] for row in shop.rows(sql)}


def test_activities_go_to_the_users_of_their_sessions(shop: Shop) -> None:
    shop.visit(
        ("phone", on_day(1), None),
        ("phone", on_day(4), None),
        ("phone", on_day(4, minutes=10), "ann"),
        ("shared", on_day(2), None),
        ("shared", on_day(2, minutes=10), "bob"),
        ("shared", on_day(3), "cat"),
        ("other", on_day(1), None),
    )
    before = shop.rows("SELECT * EXCLUDE (customer, customer_is_stitched) FROM user_stream ORDER BY ALL")
    report = stitch(shop.lake, 30 * DAY)
    assert report.stream_dates_changed == ["2026-04-01", "2026-04-02", "2026-04-04"]
    assert customers(shop) == {
        ("phone", 1): "ann", ("phone", 4): "ann", ("shared", 2): "bob", ("shared", 3): "cat", ("other", 1): None,
    }  # fmt: skip
    counts = "SELECT count(*) FILTER (customer_is_stitched) AS stitched, count(*) AS rows FROM user_stream"
    assert shop.rows(counts) == [{"stitched": 3, "rows": 7}]
    after = shop.rows("SELECT * EXCLUDE (customer, customer_is_stitched) FROM user_stream ORDER BY ALL")
    changing = {"activity_occurrence", "activity_repeated_at"}
    assert [{k: v for k, v in row.items() if k not in changing} for row in after] == [
        {k: v for k, v in row.items() if k not in changing} for row in before
    ]
    assert stitch(shop.lake, 30 * DAY).committed == []
    # what is no longer in reach of the login is nobody's again
    assert stitch(shop.lake, 1 * DAY).stream_dates_changed == ["2026-04-01"]
    assert customers(shop)["phone", 1] is None


def test_login_that_comes_late_tells_whose_the_activities_of_its_session_were(shop: Shop) -> None:
    midnight = datetime(2026, 4, 2, tzinfo=UTC)
    shop.visit(("phone", midnight - timedelta(minutes=5), None), ("phone", midnight, None))
    stitch(shop.lake, None)
    assert customers(shop) == {("phone", 1): None, ("phone", 2): None}
    shop.visit(
        ("phone", midnight - timedelta(minutes=5), None),
        ("phone", midnight, None),
        ("phone", midnight + timedelta(minutes=5), "ann"),
    )
    assert stitch(shop.lake, None).stream_dates_changed == ["2026-04-01", "2026-04-02"]
    assert customers(shop) == {("phone", 1): "ann", ("phone", 2): "ann"}


def test_stitching_outlives_a_replay_and_takes_in_what_came_since(shop: Shop) -> None:
    first = [("phone", on_day(1), None), ("phone", on_day(4), "ann")]
    shop.visit(*first)
    stitch(shop.lake, 30 * DAY)
    versions = shop.versions()
    shop.visit(*first)
    assert shop.versions() == versions
    # the device's user is known by now, and no resolution changes
    shop.visit(("phone", on_day(6), None))
    report = stitch(shop.lake, 30 * DAY)
    assert (report.devices_changed, report.files_read, report.dates_changed) == (0, 1, ["2026-04-06"])
    assert shop.whose()["phone", 6] == (None, "ann")


def test_another_lookback_reaches_further_and_less_far_again(shop: Shop) -> None:
    shop.visit(("phone", on_day(1), None), ("phone", on_day(8), None), ("phone", on_day(10), "ann"))
    assert stitch(shop.lake, 3 * DAY).dates_changed == ["2026-04-08"]
    assert stitch(shop.lake, None).dates_changed == ["2026-04-01"]
    assert stitch(shop.lake, 3 * DAY).dates_changed == ["2026-04-01"]
    assert shop.whose()["phone", 1] == (None, None)


def test_shared_device_is_the_last_users_for_anonymous_sessions_alone(shop: Shop) -> None:
    shop.visit(("tablet", on_day(1), None), ("tablet", on_day(2), "ann"), ("tablet", on_day(3), None))
    stitch(shop.lake, 30 * DAY)
    assert shop.whose()["tablet", 3] == (None, "ann")
    shop.visit(("tablet", on_day(5), "bob"))
    stitch(shop.lake, 30 * DAY)
    assert shop.whose() == {
        ("tablet", 1): (None, "bob"),
        ("tablet", 2): ("ann", None),
        ("tablet", 3): (None, "bob"),
        ("tablet", 5): ("bob", None),
    }


def test_stitch_that_died_between_its_commits_is_done_again(shop: Shop, tmp_path: Path) -> None:
    shop.visit(("phone", on_day(1), None), ("phone", on_day(4), "ann"))
    saved = tmp_path / "dim_devices before"
    shutil.copytree(Path(shop.lake) / DEVICE.record.name, saved)
    stitch(shop.lake, 30 * DAY)
    done = read_table(shop.lake, SESSION.name)
    shutil.rmtree(Path(shop.lake) / DEVICE.record.name)
    saved.rename(Path(shop.lake) / DEVICE.record.name)
    report = stitch(shop.lake, 30 * DAY)
    assert (report.dates_changed, report.committed) == ([], [DEVICE.record.name])
    assert read_table(shop.lake, SESSION.name).equals(done)
    assert read_table(shop.lake, DEVICE.record.name, ["stitched_user_key"]).column(0).null_count == 0


def test_only_dates_of_devices_that_changed_are_read(shop: Shop) -> None:
    shop.visit(*((f"d{day}", on_day(day), "ann") for day in range(1, 11)), ("late", on_day(9), None))
    stitch(shop.lake, 30 * DAY)
    shop.visit(("late", on_day(10, hours=3), "bob"))
    report = stitch(shop.lake, 30 * DAY)
    assert report.dates_changed == ["2026-04-09"]
    assert report.files_read == 3, "that of day 9, and those of day 10"


def test_command_says_what_it_did(shop: Shop, command_line: Any) -> None:
    shop.visit(("phone", on_day(1), None), ("phone", on_day(4), "ann"))
    ended = command_line("stitch", "--lake", shop.lake, "--lookback", "off", "--json")
    assert json.loads(ended.out) == {
        "devices_changed": 1,
        "files_read": 2,
        "dates_changed": ["2026-04-01"],
        "stream_dates_changed": ["2026-04-01"],
        "committed": ["fact_sessions", "user_stream", "dim_devices"],
    }
    ended = command_line("stitch", "--lake", shop.lake, "--lookback", "off")
    assert ended.out.strip() == "0 devices changed, sessions of 0 dates stitched, 0 files read"


def test_wrong_options_are_told_together(command_line: Any) -> None:
    ended = command_line("stitch", "--lookback", "a while", "--every", "0s")
    assert ended.code == 2
    assert [line.split(":")[1].strip() for line in ended.err.splitlines()] == ["--lake", "--lookback", "--every"]


def test_dimensions_of_the_main_job_are_those_of_its_events(shop: Shop) -> None:
    shop.visit(("phone", on_day(1), None), ("phone", on_day(4), "ann"), ("desk", on_day(2), "ann"))
    assert shop.rows("SELECT user_id, devices_seen, latest_country FROM dim_users") == [
        {"user_id": "ann", "devices_seen": 2, "latest_country": "DE"}
    ]
    assert shop.rows("SELECT url, host, path, category, first_seen_at FROM dim_pages") == [
        {
            "url": "shop.example/product/09",
            "host": "shop.example",
            "path": "/product/09",
            "category": "product",
            "first_seen_at": MORNING,
        }
    ]
