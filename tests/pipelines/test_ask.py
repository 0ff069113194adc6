"""The named questions, each against an answer worked out row by row in Python; and the commands about sessions."""

import csv
import io
import json
import random
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from pipelines.questions.catalogue import questions
from pipelines.sessions_dim import run_sessions_dim
from pipelines.sessions_dim_plan import SessionsDimOptions
from schemas.events import EVENT
from schemas.session_dimension import DIM_SESSIONS
from stores.lake import table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files

CommandLine = Callable[..., Any]
FIRST, DAYS = date(2026, 3, 1), 5
SEOUL = ZoneInfo("Asia/Seoul")
LAST = FIRST + timedelta(days=DAYS)
NOW = datetime(2026, 4, 1, tzinfo=UTC)


def some_events() -> list[dict[str, Any]]:
    """Visits of whole seconds, some over two devices, most without a purchase."""
    pick = random.Random(5)
    events = []
    for visit in range(400):
        user = f"user-{pick.randrange(60)}"
        time = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=pick.randrange(86_400 * DAYS))
        device_type = pick.choice(["mobile", "desktop", None])
        for step in range(pick.randrange(1, 9)):
            if pick.random() < 0.2:
                device_type = pick.choice(["mobile", "desktop", "tablet", None])
            kind = pick.choice(["page_view", "product_view", "add_to_cart", "add_to_cart", "purchase", "click"])
            events.append(
                {
                    "event_id": f"e{visit}-{step}",
                    "event_type": kind,
                    "event_time": time,
                    "event_date": time.date(),
                    "client_time": time,
                    "device_id": f"{user}-{device_type}",
                    "user_key": user,
                    "device_type": device_type,
                    "revenue": Decimal(pick.randrange(1, 100)) if kind == "purchase" else None,
                }
            )
            time += timedelta(seconds=pick.randrange(1, 1500))
    return events


EVENTS = some_events()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five days of events, their sessions numbered by the dates of Seoul."""
    lake = tmp_path_factory.mktemp("ask")
    table = pa.Table.from_pylist(EVENTS, schema=EVENT.schema)
    writes = [
        PartitionWrite(key, tuple(write_files(Place(table_uri(str(lake), EVENT.name), EVENT, key), [part])))
        for key, part in split_by_partition(table, EVENT)
    ]
    commit(str(lake), EVENT, writes, WriteMode.APPEND, Transaction(uuid.uuid4().hex, 1))
    run_sessions_dim(SessionsDimOptions(str(lake), SEOUL, 7, None, NOW))
    return lake


Visit = list[dict[str, Any]]


def sessions() -> dict[tuple[str, int], Visit]:
    """Each user's sessions by number, worked out one event after the other."""
    found: dict[tuple[str, int], Visit] = {}
    numbers: Counter[str] = Counter()
    for event in sorted(EVENTS, key=lambda e: (e["user_key"], e["event_time"], e["event_id"], e["device_id"])):
        user = event["user_key"]
        before = found.get((user, numbers[user]), [None])[-1]
        goes_on = (
            before is not None
            and on(before) == on(event)
            and event["event_time"] - before["event_time"] <= timedelta(minutes=30)
        )
        numbers[user] += not goes_on
        found.setdefault((user, numbers[user]), []).append(event)
    return found


def on(event: dict[str, Any]) -> date:
    return event["event_time"].astimezone(SEOUL).date()


def duration(visit: Visit) -> float:
    return (visit[-1]["event_time"] - visit[0]["event_time"]).total_seconds()


def by_day() -> dict[date, dict[tuple[str, int], Visit]]:
    days: dict[date, dict[tuple[str, int], Visit]] = defaultdict(dict)
    for key, visit in sessions().items():
        days[on(visit[0])][key] = visit
    return dict(sorted(days.items()))


def reached(visit: Visit) -> int:
    """How many steps of the funnel a session has gone, in order."""
    steps = [{"page_view", "product_view"}, {"add_to_cart"}, {"purchase"}]
    gone = 0
    for event in visit:
        if gone < len(steps) and event["event_type"] in steps[gone]:
            gone += 1
    return gone


def purchase_funnel() -> list[dict[str, Any]]:
    return [
        {
            "day": day.isoformat(),
            "sessions": len(visits),
            "viewed": sum(reached(visit) >= 1 for visit in visits.values()),
            "carted": sum(reached(visit) >= 2 for visit in visits.values()),
            "bought": sum(reached(visit) >= 3 for visit in visits.values()),
            "converting_sessions": sum(
                any(event["event_type"] == "purchase" for event in visit) for visit in visits.values()
            ),
            "avg_events": pytest.approx(sum(map(len, visits.values())) / len(visits), abs=0.001),
        }
        for day, visits in by_day().items()
    ]


def session_duration() -> list[dict[str, Any]]:
    return [
        {
            "day": day.isoformat(),
            "users": len({user for user, _ in visits}),
            "avg_session_secs": pytest.approx(
                sum(map(duration, visits.values())) / len({user for user, _ in visits}), abs=0.001
            ),
        }
        for day, visits in by_day().items()
    ]


def first_visit_duration() -> list[dict[str, Any]]:
    first = {day: [visit for (_, n), visit in visits.items() if n == 1] for day, visits in by_day().items()}
    return [
        {
            "day": day.isoformat(),
            "first_visits": len(visits),
            "avg_session_secs": pytest.approx(sum(map(duration, visits)) / len(visits), abs=0.001),
        }
        for day, visits in first.items()
        if visits
    ]


def converting_devices() -> list[dict[str, Any]]:
    counts: Counter[str] = Counter()
    revenue: Counter[str] = Counter()
    for visit in sessions().values():
        kinds = [event["event_type"] for event in visit]
        if "purchase" in kinds:
            path: list[str] = []
            for event in visit[: kinds.index("purchase") + 1]:
                if event["device_type"] and path[-1:] != [event["device_type"]]:
                    path.append(event["device_type"])
            name = " > ".join(path) or "unknown"
            counts[name] += 1
            revenue[name] += sum(event["revenue"] or 0 for event in visit)
    return [
        {"device_path": name, "converting_sessions": count, "revenue": f"{revenue[name]}.0000"}
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


ANSWERS = {
    "converting-devices": converting_devices,
    "first-visit-duration": first_visit_duration,
    "purchase-funnel": purchase_funnel,
    "session-duration": session_duration,
}


def test_every_question_is_tested() -> None:
    assert [name for name, question in questions().items() if question.table == DIM_SESSIONS.name] == [*ANSWERS]


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_is_that_of_a_computation_one_event_after_the_other(
    command_line: CommandLine, lake: Path, name: str
) -> None:
    code, out, err = command_line("ask", name, f"--lake={lake}", "--days=30", "--json")
    assert (code, err) == (0, "")
    expected = ANSWERS[name]()
    assert len(expected) > 3
    assert json.loads(out) == expected


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "converting-devices"])
def test_answer_is_of_the_dates_asked_for(command_line: CommandLine, lake: Path, name: str) -> None:
    out = command_line("ask", name, f"--lake={lake}", "--days=2", "--as-of=2026-03-03", "--json").out
    days = {"2026-03-02", "2026-03-03"}
    assert json.loads(out) == [row for row in ANSWERS[name]() if row["day"] in days]
    latest = command_line("ask", name, f"--lake={lake}", "--days=1", "--csv").out
    assert [row["day"] for row in csv.DictReader(io.StringIO(latest))] in ([LAST.isoformat()], [])


def test_ask_without_a_name_lists_each_question_with_what_it_answers(command_line: CommandLine) -> None:
    code, out, err = command_line("ask")
    assert (code, err) == (0, "")
    for question in questions().values():
        assert question.name in out
        assert question.summary.endswith(".")
        assert question.summary.split()[0] in out


@pytest.mark.parametrize("name", ANSWERS)
def test_sql_that_is_shown_can_be_run_and_answers_the_same(
    command_line: CommandLine, lake: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shown = command_line("ask", name, f"--lake={lake}", "--sql").out
    assert shown.startswith("-- ")
    answer = command_line("ask", name, f"--lake={lake}", "--csv").out
    monkeypatch.setattr(sys, "stdin", io.StringIO(shown))
    assert command_line("sql", "-", f"--lake={lake}", "--csv").out == answer


def test_ask_fits_eighty_columns(command_line: CommandLine, lake: Path) -> None:
    out = command_line("ask", "purchase-funnel", f"--lake={lake}").out
    assert out.splitlines()[0].split() == [*purchase_funnel()[0]]


def test_ask_names_every_bad_option(command_line: CommandLine) -> None:
    code, out, err = command_line("ask", "why", "--days=0", "--as-of=soon", "--json", "--csv", "--config=missing.toml")
    assert (code, out) == (2, "")
    starts = ["give --json", "'why' is none of", "--days: ", "--as-of: ", "cannot read the config"]
    assert [start for line, start in zip(err.splitlines(), starts, strict=True) if f"error: {start}" not in line] == []


def test_ask_of_a_lake_without_sessions_says_what_makes_them(command_line: CommandLine, tmp_path: Path) -> None:
    code, out, err = command_line("ask", "session-duration", f"--lake={tmp_path}")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "sessions-dim makes them" in err


def test_sessions_dim_reports_for_people_and_programs(command_line: CommandLine, lake: Path) -> None:
    again = (f"--lake={lake}", "--time-zone=Asia/Seoul", f"--as-of={LAST}")
    report = json.loads(command_line("sessions-dim", *again, "--json").out)
    assert (report["first_date"], report["last_date"], report["dates_changed"]) == ("2026-03-01", "2026-03-06", 0)
    assert (report["events"], report["sessions"]) == (len(EVENTS), len(sessions()))
    code, out, err = command_line("sessions-dim", *again, "--days=1")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.startswith("2026-03-06 to 2026-03-06: ")


def test_sessions_dim_names_every_bad_option(command_line: CommandLine) -> None:
    code, out, err = command_line(
        "sessions-dim", "--days=some", "--as-of=then", "--time-zone=Nowhere", "--config=missing.toml"
    )
    assert (code, out) == (2, "")
    starts = ["cannot read the config", "--days: ", "--as-of: ", "--time-zone: "]
    assert [start for line, start in zip(err.splitlines(), starts, strict=True) if f"error: {start}" not in line] == []


def test_sessions_dim_refuses_a_date_that_has_not_ended(command_line: CommandLine, lake: Path) -> None:
    code, out, err = command_line("sessions-dim", f"--lake={lake}", "--time-zone=Asia/Seoul", "--as-of=2999-01-01")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has not ended in Asia/Seoul" in err
