"""The daily facts: of a date as a function, kept up to the lake's facts, and by the graph in batch and live."""

import json
import random
from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Script
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.beam_options import parse_beam_options
from schemas.catalogue import shipped_catalogue
from schemas.daily_metrics import DAILY_METRICS
from schemas.durations import DAY, MINUTE, SECOND
from schemas.sessions import FACT_SESSION, SESSION
from schemas.sketches import estimate
from stores.lake import create_tables, find_table, live_files, read_table
from stores.lake_commit import WriteMode
from stores.lake_compact import delete_unreferenced
from stores.lake_sql import connect
from tests.transforms.activities.daily_oracle import assert_exact
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.activities.daily_metrics import SESSION_COLUMNS, MetricRules, counting, daily_metrics
from transforms.activities.refresh_daily_metrics import refresh_daily_metrics
from transforms.activities.write_daily_metrics import REFRESH_SECONDS, WriteDailyMetrics
from transforms.events.pages import PageRules
from transforms.events.write_events import WriteEvents
from transforms.identity.write_dimensions import WriteDimensions
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessionize import Sessionize
from transforms.sessions.write_sessions import WriteSessions
from transforms.tables import TableCoder, at_earliest

PAGES = PageRules((("cart", "^/cart"), ("home", "^/$")))
RULES = MetricRules.of(shipped_catalogue(), PAGES)
SUNDAY = date(2026, 4, 12)
POLICY = SessionPolicy()
TYPES = ("page_view", "purchase", "video_view", "episode_end", "of no catalogue")
URLS = ("https://shop.example/cart?x=1", "https://shop.example/cart", "https://shop.example", "/tea", None, " ")
VIDEO = ({"content_category": "drama", "view_duration_sec": 1.5}, {"view_duration_sec": 3}, {}, None)


def traffic(seed: int, count: int, days: float = 1) -> list[dict[str, Any]]:
    """Clicks of ten devices, some of them in sessions over midnight."""
    choice = random.Random(seed)
    rows = []
    for number in range(count):
        kind = choice.choice(TYPES)
        row = click(
            at(seconds=choice.randrange(int(days * 86_400))),
            f"d{choice.randrange(10)}",
            f"e{seed}-{number}",
            event_type=kind,
            user_key=choice.choice((None, "ann", "bob")),
            page_url=choice.choice(URLS),
            country=choice.choice(("DE", "FR", None)),
            device_type=choice.choice(("mobile", None)),
            revenue=Decimal(number) / 4 if kind == "purchase" else None,
            properties=json.dumps(choice.choice(VIDEO[:3])),
        )
        rows.append(row)
    return rows


moments = st.integers(0, 40)
clicks = st.builds(
    click,
    moments.map(lambda n: at(minutes=10 * n)),
    st.sampled_from(["d1", "d2"]),
    event_id=st.uuids().map(str),
    event_type=st.sampled_from(TYPES),
    user_key=st.sampled_from([None, "ann", "bob"]),
    page_url=st.sampled_from(URLS),
    country=st.sampled_from([None, "DE", "FR"]),
    revenue=st.sampled_from([None, Decimal("0.1"), Decimal("2.5")]),
    properties=st.sampled_from(VIDEO).map(lambda found: None if found is None else json.dumps(found)),
)
spans = st.lists(st.tuples(st.sampled_from(["d1", "d2", "d3"]), moments, st.integers(0, 5)), max_size=5)


def sessions_of(given: list[tuple[str, int, int]]) -> pa.Table:
    """Sessions of some devices that do not overlap."""
    rows, ends = [], dict.fromkeys(("d1", "d2", "d3"), -1)
    for device, start, length in sorted(given, key=lambda span: span[1]):
        if start > ends[device]:
            ends[device] = start + length
            bounds = {"session_start": at(minutes=10 * start), "session_end": at(minutes=10 * (start + length))}
            rows.append({"session_id": f"{device}-{start}", "device_id": device, **bounds})
    return pa.Table.from_pylist(rows, pa.schema([SESSION.schema.field(name) for name in SESSION_COLUMNS]))


def by_hand(rows: list[dict[str, Any]], sessions: pa.Table) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Event by event, with none of the program's code."""
    pages = {URLS[0]: "cart", URLS[1]: "cart", URLS[2]: "home", URLS[3]: "other"}
    found: dict[tuple[str, str, str], dict[str, Any]] = defaultdict(
        lambda: {"events": 0, "users": set(), "devices": set(), "sessions": set(), "revenue": 0, "watch_time": 0}
    )
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    spans = [
        (s["device_id"], *((s[n] - epoch) // (epoch.resolution) for n in ("session_start", "session_end")), s)
        for s in sessions.to_pylist()
    ]
    for row in rows:
        told = json.loads(row["properties"]) if row["properties"] else {}
        category = pages.get(row["page_url"], "unknown")
        if row["event_type"] == "video_view":
            category = told.get("content_category", "unknown")
        group = found[row["country"] or "unknown", category, row["event_type"]]
        group["events"] += 1
        group["users"] |= {row["user_key"]} - {None}
        group["devices"] |= {row["device_id"]}
        group["sessions"] |= {
            s["session_id"]
            for device, start, end, s in spans
            if device == row["device_id"] and start <= row["event_time"] <= end
        }
        group["revenue"] += row["revenue"] or 0
        if row["event_type"] in ("video_view", "episode_end"):
            group["watch_time"] += Decimal(str(told.get("view_duration_sec", 0)))
    return found


def computed(rows: list[dict[str, Any]], sessions: pa.Table) -> pa.Table:
    table = batch(rows)
    pieces = [table.slice(start, 7).select for start in range(0, table.num_rows, 7)]
    with counting() as tables:
        return daily_metrics(tables, SUNDAY, pieces, [sessions], RULES)


@settings(max_examples=40)
@given(st.lists(clicks, min_size=1, max_size=20), spans)
def test_rows_are_what_counting_event_by_event_gives(
    rows: list[dict[str, Any]], given: list[tuple[str, int, int]]
) -> None:
    sessions = sessions_of(given)
    found = {(row["segment"], row["category"], row["event_type"]): row for row in computed(rows, sessions).to_pylist()}
    expected = by_hand(rows, sessions)
    assert found.keys() == expected.keys()
    for group, row in found.items():
        want = expected[group]
        assert [row[name] for name in ("events", "revenue", "watch_time")] == [
            want[name] for name in ("events", "revenue", "watch_time")
        ]
        assert row["purchases"] == (want["events"] if group[2] == "purchase" else 0)
        for name in ("users", "devices", "sessions"):
            assert row[name] == len(want[name]) == estimate([row[f"{name}_sketch"]])


@settings(max_examples=40)
@given(st.lists(clicks, min_size=1, max_size=20), spans, st.randoms())
def test_order_of_events_and_sessions_changes_no_byte(
    rows: list[dict[str, Any]], given: list[tuple[str, int, int]], shuffle: random.Random
) -> None:
    sessions = sessions_of(given)
    before = computed(rows, sessions)
    shuffle.shuffle(rows)
    order = list(range(sessions.num_rows))
    shuffle.shuffle(order)
    assert computed(rows, sessions.take(pa.array(order, pa.int64()))).equals(before)


@settings(max_examples=20)
@given(st.lists(clicks, min_size=1, max_size=20), st.lists(clicks, min_size=1, max_size=20), spans, spans)
def test_date_is_counted_as_if_no_other_had_been_before_it(
    before: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    sessions_before: list[tuple[str, int, int]],
    given: list[tuple[str, int, int]],
) -> None:
    with counting() as tables:
        daily_metrics(tables, SUNDAY, [batch(before).select], [sessions_of(sessions_before)], RULES)
        found = daily_metrics(tables, SUNDAY, [batch(rows).select], [sessions_of(given)], RULES)
    assert found.equals(computed(rows, sessions_of(given)))


def test_a_property_of_another_type_counts_for_nothing() -> None:
    for value in ('"90"', "true", "null", "[1]", '{"a": 1}'):
        said = f'{{"view_duration_sec": {value}, "content_category": 7}}'
        (row,) = computed([click(at(), event_type="video_view", properties=said)], sessions_of([])).to_pylist()
        assert (row["watch_time"], row["category"]) == (0, "unknown")


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_beyond_the_digits_of_a_column_are_the_most_it_holds(sign: int) -> None:
    most_money, most_seconds = Decimal("99999999999999.9999"), Decimal("999999999999999.999")
    rows = [
        click(at(seconds=second), event_type="video_view", revenue=sign * most_money,
              properties=json.dumps({"view_duration_sec": sign * 999_999_999_999}))
        for second in range(1_001)
    ]  # fmt: skip
    (row,) = computed(rows, sessions_of([])).to_pylist()
    assert (row["events"], row["revenue"], row["watch_time"]) == (1_001, sign * most_money, sign * most_seconds)


def test_a_date_without_events_has_no_rows() -> None:
    assert computed([], sessions_of([])).equals(DAILY_METRICS.empty())


# --- kept up to the facts of a lake


def run_batch(lake: Path, rows: list[dict[str, Any]], mode: WriteMode = WriteMode.MERGE) -> None:
    """Replay unique events into the facts, the pages and, after their commits, the metrics."""
    with beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        events = pipeline | beam.Create([batch(rows)]) | beam.Map(at_earliest)
        commits = (
            events | WriteEvents(str(lake), mode),
            events | Sessionize(POLICY, 2) | WriteSessions(str(lake), mode),
        )
        _ = events | WriteDimensions(str(lake), PAGES)
        _ = commits | beam.Flatten() | WriteDailyMetrics(str(lake), RULES)


def version_of(lake: Path) -> int:
    table = find_table(str(lake), DAILY_METRICS.name)
    assert table is not None
    return table.version()


def files_by_date(lake: Path) -> dict[str, str]:
    table = find_table(str(lake), DAILY_METRICS.name)
    assert table is not None
    return {str(day): files[0].path for (day,), files in live_files(table).items()}


def test_batch_late_events_duplicates_and_replay_leave_what_a_full_recomputation_gives(tmp_path: Path) -> None:
    rows = traffic(1, 300, days=3)
    run_batch(tmp_path, rows)
    assert_exact(str(tmp_path))
    before = files_by_date(tmp_path)
    late = [row for row in traffic(2, 30) if row["event_time"] < at() + DAY // 4]  # on the first date
    run_batch(tmp_path, rows + late)
    assert_exact(str(tmp_path))
    after = files_by_date(tmp_path)
    untouched = {day for day in before if after[day] == before[day]}
    assert "2026-04-12" not in untouched
    assert {"2026-04-14", "2026-04-15"} <= untouched
    version = version_of(tmp_path)
    run_batch(tmp_path, rows + late)
    assert files_by_date(tmp_path) == after
    assert refresh_daily_metrics(str(tmp_path), RULES).committed is False
    assert version_of(tmp_path) <= version + 1  # the facts' new version is noted


def test_dates_of_a_replay_that_overwrites_are_recomputed_and_one_without_events_goes(tmp_path: Path) -> None:
    rows = traffic(3, 100, days=2)
    run_batch(tmp_path, rows)
    kept = [row for row in rows if row["event_id"] < "e3-5"]
    run_batch(tmp_path, kept, WriteMode.OVERWRITE)
    assert_exact(str(tmp_path))
    table = find_table(str(tmp_path), "fact_events")
    assert table is not None
    table.delete("event_date = '2026-04-13'")  # as an erasure would leave it
    refresh_daily_metrics(str(tmp_path), RULES)
    assert "2026-04-13" not in files_by_date(tmp_path)


def test_what_a_stitch_writes_onto_sessions_recomputes_no_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_batch(tmp_path, traffic(8, 100, days=2))
    sessions = find_table(str(tmp_path), "fact_sessions")
    assert sessions is not None
    sessions.update(predicate="user_key IS NULL", updates={"resolved_user_key": "'ann'"})
    with monkeypatch.context() as patch:
        patch.setattr("transforms.activities.refresh_daily_metrics.daily_metrics", None)
        assert refresh_daily_metrics(str(tmp_path), RULES).files_written == 0
    sessions.update_incremental()
    sessions.update(predicate="start_date = '2026-04-13'", updates={"session_end": "session_start"})
    refresh_daily_metrics(str(tmp_path), RULES)
    assert_exact(str(tmp_path))
    # the files that were replaced are deleted before the metrics have compared them
    sessions.update_incremental()
    sessions.update(predicate="start_date = '2026-04-12'", updates={"resolved_user_key": "'bob'"})
    delete_unreferenced(str(tmp_path), FACT_SESSION, keep_hours=0)
    assert refresh_daily_metrics(str(tmp_path), RULES).files_written == 0
    assert_exact(str(tmp_path))


def test_other_rules_recompute_every_date(tmp_path: Path) -> None:
    run_batch(tmp_path, traffic(4, 100, days=2))
    other = MetricRules("device_type", RULES.category, RULES.watch_time, PAGES)
    assert refresh_daily_metrics(str(tmp_path), other).committed
    assert_exact(str(tmp_path), segment="device_type")
    assert refresh_daily_metrics(str(tmp_path), RULES).committed
    assert_exact(str(tmp_path))


def test_a_forced_refresh_of_what_is_up_to_date_writes_no_file(tmp_path: Path) -> None:
    run_batch(tmp_path, traffic(5, 50))
    before = files_by_date(tmp_path)
    result = refresh_daily_metrics(str(tmp_path), RULES, since=SUNDAY)
    assert (result.files_written, files_by_date(tmp_path)) == (0, before)


def test_a_session_that_grows_over_midnight_changes_the_next_date_too(tmp_path: Path) -> None:
    def minute_of_midnight(minute: int) -> dict[str, Any]:
        return click(at(14) + minute * MINUTE, event_id=f"e{minute}", page_url="/tea")

    run_batch(tmp_path, [minute_of_midnight(-40), minute_of_midnight(5)])  # 45 minutes apart: two sessions
    run_batch(tmp_path, [minute_of_midnight(n) for n in (-40, -15, 5)])  # the late event makes one of them
    assert_exact(str(tmp_path))
    found = read_table(str(tmp_path), DAILY_METRICS.name, ["date", "sessions"]).sort_by("date").to_pylist()
    assert [row["sessions"] for row in found] == [1, 1]


def test_sketches_are_merged_by_a_query(tmp_path: Path) -> None:
    run_batch(tmp_path, traffic(7, 100, days=2))
    with connect(str(tmp_path)) as sql:
        found = sql.sql("SELECT distinct_estimate(list(devices_sketch)) FROM daily_metrics").fetchall()
    assert found == [(10,)]


def test_a_lake_without_facts_has_empty_metrics(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [DAILY_METRICS])
    assert refresh_daily_metrics(str(tmp_path), RULES).committed is False
    assert read_table(str(tmp_path), DAILY_METRICS.name).num_rows == 0


def test_live_metrics_end_as_a_full_recomputation_gives(tmp_path: Path) -> None:
    rows = sorted(traffic(6, 120, days=0.1), key=lambda row: row["event_time"])
    parts = (rows[80:], rows[:50], rows[50:80])  # the two that come last are late
    stream = Script(coder=TableCoder())
    for step, part in enumerate(parts):
        stream = stream.add_elements([at_earliest(batch(part))])
        stream = stream.advance_processing_time(REFRESH_SECONDS + 1)
        stream = stream.advance_watermark_to(at(step) // SECOND)
    options = parse_beam_options([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    events = pipeline | stream.advance_watermark_to_infinity().with_output_types(pa.Table)
    commits = (
        events | WriteEvents(str(tmp_path)),
        events | Sessionize(POLICY, 2) | WriteSessions(str(tmp_path)),
    )
    _ = events | WriteDimensions(str(tmp_path), PAGES)
    _ = commits | beam.Flatten() | WriteDailyMetrics(str(tmp_path), RULES)
    pipeline.run().wait_until_finish()
    assert read_table(str(tmp_path), "fact_events").num_rows == len(rows)
    assert_exact(str(tmp_path))
