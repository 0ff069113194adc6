"""Funnels against their definition, followed from every start in plain Python."""

import random
import statistics
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.durations import MINUTE, parse_duration
from schemas.errors import OptionError
from schemas.sessions import FACT_SESSION
from schemas.user_stream import USER_STREAM
from transforms.activities.funnel import Funnel

Row = dict[str, Any]
START = datetime(2026, 4, 1, 23, 50, tzinfo=UTC)


@pytest.fixture(scope="module")
def sql() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        yield connection


def stream(size: int, pick: random.Random) -> list[Row]:
    """Activities of some users on some devices, on few instants, so that ties are common."""
    rows = []
    for index in pick.sample(range(size), size):
        ts = START + timedelta(minutes=pick.randrange(20))
        customer, device = pick.choice([("ann", "d1"), ("ann", "d2"), ("bob", "d2"), (None, "d1"), (None, "d3")])
        rows.append(
            {
                "activity_id": f"a{index:02}",
                "ts": ts,
                "customer": customer,
                "activity": pick.choice(["view", "view", "cart", "buy", "other"]),
                "anonymous_customer_id": device,
                "customer_is_stitched": False,
                "date": ts.date(),
            }
        )
    return rows


def sessions(rows: list[Row], pick: random.Random) -> list[Row]:
    """Sessions of the devices, cut anywhere; some activities are in none."""
    found = []
    for device in {row["anonymous_customer_id"] for row in rows}:
        times = sorted({row["ts"] for row in rows if row["anonymous_customer_id"] == device})
        while times:
            length = pick.randrange(1, len(times) + 1)
            if pick.random() < 0.9:
                number = len(found)
                found.append(
                    {
                        "session_id": f"s{number}",
                        "device_id": device,
                        "session_start": times[0],
                        "session_end": times[length - 1],
                        "country": pick.choice(["KR", "DE", None]),
                    }
                )
            times = times[length:]
    return found


def of_table(record: Any, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in record.schema]))


def session_of(row: Row, all_sessions: list[Row]) -> Row | None:
    own = (session for session in all_sessions if session["device_id"] == row["anonymous_customer_id"])
    return next((one for one in own if one["session_start"] <= row["ts"] <= one["session_end"]), None)


def sequence(own: list[Row], start: int, funnel: Funnel) -> list[datetime]:
    """The times of the steps that follow from an activity of a user or session, these being in order."""
    times, last = [own[start]["ts"]], start
    for step in funnel.steps[1:]:
        later = [n for n in range(last + 1, len(own)) if own[n]["activity"] == step]
        if not later or own[later[0]]["ts"] - times[0] > timedelta(microseconds=funnel.within):
            break
        last = later[0]
        times.append(own[last]["ts"])
    return times


def expected(rows: list[Row], all_sessions: list[Row], funnel: Funnel) -> list[tuple[Any, ...]]:
    units: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r["ts"], r["activity_id"])):
        session = session_of(row, all_sessions)
        unit = row["customer"] or row["anonymous_customer_id"]
        if funnel.per == "session":
            unit = session["session_id"] if session else None
        if unit is not None:
            units.setdefault(unit, []).append(row | {"country": session["country"] if session else None})
    groups: dict[Any, list[list[datetime]]] = {} if funnel.by else {None: []}
    for own in units.values():
        begun = [
            (row, sequence(own, n, funnel))
            for n, row in enumerate(own)
            if row["activity"] == funnel.steps[0]
            and (funnel.since is None or row["date"] >= funnel.since)
            and (funnel.until is None or row["date"] <= funnel.until)
        ]
        if begun:
            row, times = max(begun, key=lambda one: len(one[1]))  # the first of the longest
            groups.setdefault(row["country"] if funnel.by else None, []).append(times)
    result = []
    for group in sorted(groups, key=lambda name: (name is None, name or "")):
        previous = None
        for step, activity in enumerate(funnel.steps, start=1):
            there = [times for times in groups[group] if len(times) >= step]
            first = len(groups[group])
            took = [(times[step] - times[step - 1]).total_seconds() for times in there if len(times) > step]
            shares = (len(there) / first if first else None, len(there) / previous if previous else None)
            median = pytest.approx(statistics.median(took)) if took else None
            result.append((*([group] if funnel.by else []), step, activity, len(there), *shares, median))
            previous = len(there)
    return result


def answer(
    sql: duckdb.DuckDBPyConnection, rows: list[Row], all_sessions: list[Row], funnel: Funnel
) -> list[tuple[Any, ...]]:
    sql.register("user_stream", of_table(USER_STREAM, rows))
    sql.register("fact_sessions", of_table(FACT_SESSION, all_sessions))
    return sql.sql(funnel.sql()).fetchall()


@given(
    st.integers(0, 40),
    st.randoms(use_true_random=False),
    st.sampled_from([("view", "cart", "buy"), ("view", "view"), ("cart", "buy"), ("view", "cart", "view", "cart")]),
    st.sampled_from([1, 3 * MINUTE, parse_duration("1h")]),
    st.sampled_from(["user", "session"]),
    st.sampled_from([None, "country"]),
    st.sampled_from([(None, None), (date(2026, 4, 1), date(2026, 4, 1)), (date(2026, 4, 2), None)]),
)
@settings(max_examples=80)
def test_funnel_is_that_of_the_best_sequence_of_each_user_or_session(
    sql: duckdb.DuckDBPyConnection,
    size: int,
    pick: random.Random,
    steps: tuple[str, ...],
    within: int,
    per: str,
    by: str | None,
    dates: tuple[date | None, date | None],
) -> None:
    rows = stream(size, pick)
    all_sessions = sessions(rows, pick)
    funnel = Funnel(steps, within, per, by, *dates)
    assert answer(sql, rows, all_sessions, funnel) == expected(rows, all_sessions, funnel)


def test_a_later_start_that_gets_further_counts(sql: duckdb.DuckDBPyConnection) -> None:
    minutes = {"view": [0, 10], "cart": [11], "buy": [13]}
    rows = [
        {"activity_id": f"{name}{minute}", "ts": START + timedelta(minutes=minute), "customer": "ann", "activity": name}
        for name, times in minutes.items()
        for minute in times
    ]
    funnel = Funnel(("view", "cart", "buy"), parse_duration("5m"))
    assert answer(sql, rows, [], funnel) == [
        (1, "view", 1, 1.0, None, 60.0),
        (2, "cart", 1, 1.0, 1.0, 120.0),
        (3, "buy", 1, 1.0, 1.0, None),
    ]


def test_a_step_named_as_no_activity_is_called_is_only_a_name(sql: duckdb.DuckDBPyConnection) -> None:
    rows = [{"activity_id": "1", "ts": START, "customer": "ann", "activity": "it's"}]
    found = answer(sql, rows, [], Funnel(("it's", "'); DROP TABLE user_stream; --"), MINUTE))
    assert [row[2] for row in found] == [1, 0]


def test_all_problems_are_named_at_once() -> None:
    funnel = Funnel(("",), MINUTE, "visit", "session_start", date(2026, 4, 2), date(2026, 4, 1))
    with pytest.raises(OptionError) as caught:
        funnel.sql()
    starts = ["a funnel has from 2", "a step has no name", "per 'visit'", "by 'session_start'", "since 2026-04-02"]
    lines = str(caught.value).split("\n")
    assert [line for line, start in zip(lines, starts, strict=True) if not line.startswith(start)] == []
