"""Each relationship against its definition in plain Python, on random streams."""

import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import resources
from string import Template
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import OptionError
from schemas.user_stream import USER_STREAM
from transforms.relationships import (
    Cohort,
    aggregate_after,
    aggregate_all_ever,
    aggregate_before,
    aggregate_in_between,
    at_least,
    at_most,
    avg_of,
    cohort,
    count,
    count_between,
    count_distinct,
    differs,
    equals,
    ever_done,
    first_after,
    first_before,
    first_ever,
    first_in_between,
    last_after,
    last_before,
    last_ever,
    last_in_between,
    less_than,
    max_of,
    min_of,
    missing,
    more_than,
    nth_ever,
    number,
    present,
    sum_of,
    within_next,
)
from transforms.relationships.appended import Aggregating, Picking
from transforms.relationships.cohort import DIALECTS

Row = dict[str, Any]
START = datetime(2026, 4, 1, tzinfo=UTC)
ACTIVITIES = ("open", "click", "buy")
PICKING = (
    first_ever, last_ever, first_before, last_before, first_after, last_after, first_in_between, last_in_between,
)  # fmt: skip
AGGREGATING = (aggregate_before, aggregate_after, aggregate_in_between, aggregate_all_ever)
AGGREGATES = (
    count(), sum_of("revenue_impact"), min_of("revenue_impact"), max_of("ts"), avg_of("revenue_impact"),
    min_of("feature_1"), sum_of(number("feature_json.n")),
)  # fmt: skip


@pytest.fixture(scope="module")
def sql() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in which user_stream is whatever a test registers."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        yield connection


def stream(size: int, pick: random.Random) -> list[Row]:
    """Activities of few customers on few instants, so that ties are common; some anonymous, some of nobody."""
    rows = []
    for index in pick.sample(range(size), size):
        customer, device = pick.choice([("ann", "d1"), ("ann", "d2"), ("ann", None), (None, "d1"), (None, None)])
        amount = pick.choice([None, 1, 2, 7])
        rows.append(
            {
                "activity_id": f"a{index:02}",
                "ts": START + timedelta(minutes=pick.randrange(7)),
                "customer": customer,
                "activity": pick.choice(ACTIVITIES),
                "anonymous_customer_id": device,
                "feature_1": pick.choice([None, "x", "y"]),
                "feature_json": pick.choice([None, "{}", '{"n": null}', '{"n": "?"}', f'{{"n": {amount or 0}}}']),
                "revenue_impact": None if amount is None else Decimal(amount).quantize(Decimal("0.0001")),
                "customer_is_stitched": False,
                "date": START.date(),
            }
        )
    return rows


streams = st.builds(stream, st.integers(0, 30), st.randoms(use_true_random=False))
Meets = Callable[[Row], bool]
CONDITIONS: list[tuple[tuple[Any, ...], Meets]] = [
    ((), lambda row: True),
    ((equals("feature_1", "x"),), lambda row: row["feature_1"] == "x"),
    ((missing("feature_1"),), lambda row: row["feature_1"] is None),
    ((at_least("revenue_impact", 2),), lambda row: (row["revenue_impact"] or 0) >= 2),
]


def order(row: Row) -> tuple[datetime, str]:
    return row["ts"], row["activity_id"]


def of_one_customer(row: Row, other: Row) -> bool:
    key, of_other = (r["customer"] or r["anonymous_customer_id"] for r in (row, other))
    return bool(key == of_other if key else row is other)


def members(rows: list[Row], activity: str, meets: Meets) -> list[Row]:
    return sorted((row for row in rows if row["activity"] == activity and meets(row)), key=order)


def chosen(rows: list[Row], sequence: list[Row], occurrence: int | str) -> list[Row]:
    """The rows of a cohort, of those that could be."""
    result = []
    for row in sequence:
        own = [other for other in sequence if of_one_customer(row, other)]
        place = {"first": 0, "last": len(own) - 1}.get(str(occurrence), occurrence)
        if occurrence == "all" or own.index(row) == (place if isinstance(occurrence, str) else occurrence - 1):
            result.append(row)
    return result


def period(row: Row, sequence: list[Row], hits: list[Row], where: str, within: timedelta | None) -> list[Row]:
    """Those of the hits that a cohort row looks at, in order."""
    own = [hit for hit in hits if of_one_customer(row, hit)]
    later = [other for other in sequence if of_one_customer(row, other) and order(other) > order(row)]
    if where == "ever":
        return own
    if where == "before":
        own = [hit for hit in own if order(hit) < order(row)]
    else:
        own = [hit for hit in own if order(hit) > order(row)]
    if where == "in_between" and later:
        own = [hit for hit in own if order(hit) < order(later[0])]
    return [hit for hit in own if within is None or abs(hit["ts"] - row["ts"]) <= within]


def number_of(row: Row) -> Decimal | None:
    found = re.search(r'"n": (\d+)', row["feature_json"] or "")
    return Decimal(found[1]) if found else None


def aggregates_of(rows: list[Row]) -> list[Any]:
    """The values of `AGGREGATES`."""
    revenue = [row["revenue_impact"] for row in rows if row["revenue_impact"] is not None]
    features = [row["feature_1"] for row in rows if row["feature_1"] is not None]
    numbers = [n for n in map(number_of, rows) if n is not None]
    return [
        len(rows),
        sum(revenue) if revenue else None,
        min(revenue, default=None),
        max((row["ts"] for row in rows), default=None),
        pytest.approx(float(sum(revenue) / len(revenue))) if revenue else None,
        min(features, default=None),
        sum(numbers) if numbers else None,
    ]


def answer(sql: duckdb.DuckDBPyConnection, rows: list[Row], question: Cohort) -> dict[str, list[Any]]:
    """What DuckDB answers: the appended values by activity_id, of a cohort whose columns are that alone."""
    sql.register(
        "user_stream", pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in USER_STREAM.schema]))
    )
    found = sql.sql(question.sql()).fetchall()
    assert len({row[0] for row in found}) == len(found)
    return {row[0]: list(row[1:]) for row in found}


occurrences = st.sampled_from(["all", "first", "last", 2])
conditions = st.sampled_from(CONDITIONS)
names = st.sampled_from(ACTIVITIES)
WITHIN = {None: None, "1us": timedelta(microseconds=1), "2m": timedelta(minutes=2), "1h": timedelta(hours=1)}


@pytest.mark.parametrize("relationship", PICKING, ids=lambda r: r.name)
@given(
    streams,
    names,
    conditions,
    occurrences,
    names,
    conditions,
    st.sampled_from(list(WITHIN)),
    st.sampled_from([("activity_id", "ts", "feature_1", "feature_json.n", "done"), ("done", "ts")]),
)
@settings(max_examples=35)
def test_picked_activity_is_that_of_the_definition(
    sql: duckdb.DuckDBPyConnection,
    relationship: Picking,
    rows: list[Row],
    activity: str,
    cohort_where: tuple[Any, Meets],
    occurrence: int | str,
    appended: str,
    where: tuple[Any, Meets],
    within: str | None,
    columns: tuple[str, ...],
) -> None:
    within = None if relationship.period == "ever" else within
    question = cohort(activity, occurrence=occurrence, where=cohort_where[0], columns=["activity_id"])
    question = question.append(relationship(appended, within=within, where=where[0], columns=columns))
    sequence, hits = members(rows, activity, cohort_where[1]), members(rows, appended, where[1])
    expected = {}
    for row in chosen(rows, sequence, occurrence):
        found = period(row, sequence, hits, relationship.period, WITHIN[within])
        hit = found[0 if relationship.name.startswith("first") else -1] if found else None
        text = re.search(r'"n": "?([\d?]+)', hit["feature_json"] or "") if hit else None
        values = (hit or {}) | {"feature_json.n": text[1] if text else None, "done": hit is not None}
        expected[row["activity_id"]] = [values.get(name) for name in columns]
    assert answer(sql, rows, question) == expected


@pytest.mark.parametrize("relationship", AGGREGATING, ids=lambda r: r.name)
@given(streams, names, conditions, occurrences, names, conditions, st.sampled_from(list(WITHIN)))
@settings(max_examples=25)
def test_aggregates_are_those_of_the_definition(
    sql: duckdb.DuckDBPyConnection,
    relationship: Aggregating,
    rows: list[Row],
    activity: str,
    cohort_where: tuple[Any, Meets],
    occurrence: int | str,
    appended: str,
    where: tuple[Any, Meets],
    within: str | None,
) -> None:
    within = None if relationship.period == "ever" else within
    question = cohort(activity, occurrence=occurrence, where=cohort_where[0], columns=["activity_id"])
    question = question.append(relationship(appended, *AGGREGATES, within=within, where=where[0]))
    has_distinct = within is None or relationship.period == "in_between"
    if has_distinct:
        question = question.append(relationship(appended, count_distinct("feature_1"), within=within, where=where[0]))
    sequence, hits = members(rows, activity, cohort_where[1]), members(rows, appended, where[1])
    expected = {}
    for row in chosen(rows, sequence, occurrence):
        found = period(row, sequence, hits, relationship.period, WITHIN[within])
        distinct = [len({hit["feature_1"] for hit in found} - {None})]
        expected[row["activity_id"]] = aggregates_of(found) + (distinct if has_distinct else [])
    assert answer(sql, rows, question) == expected


@given(streams, names, names, st.integers(1, 3))
@settings(max_examples=25)
def test_nth_ever_and_the_operators_are_those_of_their_definitions(
    sql: duckdb.DuckDBPyConnection, rows: list[Row], activity: str, appended: str, nth: int
) -> None:
    start, end = START + timedelta(minutes=1), START + timedelta(minutes=4)
    question = cohort(activity, columns=["activity_id"]).append(
        nth_ever(appended, nth, columns=["activity_id"]),
        nth_ever(appended, nth, name="time"),
        within_next(appended, "2m"),
        ever_done(appended),
        count_between(appended, start, end),
    )
    sequence, hits = members(rows, activity, bool), members(rows, appended, bool)
    expected = {}
    for row in sequence:
        ever = period(row, sequence, hits, "ever", None)
        expected[row["activity_id"]] = [
            ever[nth - 1]["activity_id"] if len(ever) >= nth else None,
            ever[nth - 1]["ts"] if len(ever) >= nth else None,
            bool(period(row, sequence, hits, "after", timedelta(minutes=2))),
            bool(ever),
            sum(start <= hit["ts"] < end for hit in ever),
        ]
    assert answer(sql, rows, question) == expected


@given(streams, names, names)
@settings(max_examples=25)
def test_before_itself_and_after_are_all_that_was_ever_done(
    sql: duckdb.DuckDBPyConnection, rows: list[Row], activity: str, appended: str
) -> None:
    question = cohort(activity, columns=["activity_id"]).append(
        aggregate_before(appended), aggregate_after(appended), aggregate_all_ever(appended)
    )
    for before, after, ever in answer(sql, rows, question).values():
        assert before + after + (activity == appended) == ever


def test_activity_that_only_a_null_keeps_out_of_the_cohort_is_in_between(sql: duckdb.DuckDBPyConnection) -> None:
    pick = random.Random(1)
    rows = [row | {"activity": "open", "customer": "ann"} for row in stream(3, pick)]
    for row, feature, minute in zip(rows, ["x", None, "x"], range(3), strict=True):
        row |= {"feature_1": feature, "ts": START + timedelta(minutes=minute)}
    question = cohort("open", columns=["activity_id"], where=[equals("feature_1", "x")])
    found = answer(sql, rows, question.append(first_in_between("open"), aggregate_in_between("open")))
    assert list(found.values()) == [[rows[1]["ts"], 1], [None, 0]]


def test_occurrence_and_repetition_are_columns_like_those_that_are_stored(sql: duckdb.DuckDBPyConnection) -> None:
    pick = random.Random(1)
    _, second, third = rows = [row | {"activity": "open", "customer": "ann"} for row in stream(3, pick)]
    for minute, row in enumerate(rows):
        row |= {"ts": START + timedelta(minutes=minute)}
    sql.register("stored", pa.Table.from_pylist(rows, schema=USER_STREAM.schema))
    view = Template((resources.files("stores") / "user_stream.sql").read_text(encoding="utf-8"))
    sql.execute(f"CREATE OR REPLACE TEMP VIEW viewed AS {view.substitute(stored='stored')}")
    columns = ["activity_id", "activity_repeated_at"]
    question = cohort("open", columns=columns, where=[at_least("activity_occurrence", 2)]).append(
        last_before("open", columns=["activity_occurrence", "activity_repeated_at"])
    )
    assert sql.sql(question.sql(ordered=True, table="viewed")).fetchall() == [
        (second["activity_id"], third["ts"], 1, second["ts"]),
        (third["activity_id"], None, 2, third["ts"]),
    ]


def everything() -> Cohort:
    """A question with each relationship, each aggregate and each condition."""
    where = (
        equals("feature_1", "it's", 'a "b" \\'), differs("feature_2", "x"), at_most("date", "2026-04-02"),
        more_than("ts", "2026-04-01T02:00:00+02:00"), less_than(number("feature_json.odd key"), "1.5"),
        present("link"), equals("customer_is_stitched", False), at_least("revenue_impact", Decimal("0.01")),
    )  # fmt: skip
    columns = ("ts", "feature_json.odd key", "revenue_impact", "link", number("feature_2"), "done")
    picks = [relationship("click", columns=columns, where=where) for relationship in PICKING]
    near = [r("o'clock", within="1h30m") for r in PICKING if r.period != "ever"]
    every = [r("click", *AGGREGATES, count_distinct("link"), where=where) for r in AGGREGATING]
    close = [r("buy", *AGGREGATES, within="30d") for r in AGGREGATING if r.period != "ever"]
    others = [
        nth_ever("click", 3),
        within_next("click", "1h"),
        ever_done("buy"),
        count_between("buy", START, "2026-05-01"),
    ]
    return cohort("open", occurrence="last", where=where).append(*picks, *near, *every, *close, *others)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_relationship_is_valid_sql_of_each_dialect(dialect: Any) -> None:
    question = everything()
    parsed = sqlglot.parse(question.sql(dialect, ordered=True, table="shop.gold.user_stream"), read=dialect)
    assert len(parsed) == 1
    assert parsed[0].named_selects == question.labels
    assert [t.sql(dialect) for t in parsed[0].find_all(sqlglot.exp.Table) if t.db] == ["shop.gold.user_stream"]


def test_everything_at_once_can_be_run(sql: duckdb.DuckDBPyConnection) -> None:
    row = {"activity_id": "a", "ts": START, "customer": "c", "activity": "open", "anonymous_customer_id": "d",
           "feature_1": "it's", "feature_2": "2", "feature_json": '{"odd key": 1}', "revenue_impact": Decimal(1),
           "link": "l", "customer_is_stitched": False, "date": START.date()}  # fmt: skip
    rows = [row | {"activity_id": f"a{n}", "ts": START + timedelta(hours=n)} for n in range(3)]
    rows.append(rows[2] | {"activity_id": "c", "activity": "click", "ts": START + timedelta(hours=3)})
    assert list(answer(sql, rows, everything())) == ["a2"]


def test_snowflake_has_its_own_word_for_microseconds() -> None:
    assert "DATE_PART(EPOCH_MICROSECOND, ts)" in cohort("open").append(first_after("click")).sql("snowflake")


def test_all_problems_are_named_at_once() -> None:
    question = cohort("", occurrence=0, columns=["when"], where=[at_least("ts", "noon")]).append(
        first_after("click", within="soon", columns=["ts", "feature_json."]),
        first_ever("click", within="1h"),
        last_before("click", columns=[]),
        nth_ever("click", 0),
        aggregate_before("buy", sum_of("feature_1"), avg_of("ts"), name="1st"),
        aggregate_after("buy", count_distinct("link"), within="1d"),
        aggregate_all_ever("buy", count(), count(), where=[more_than(number("revenue_impact"), 1), equals("link", 5)]),
        first_before("buy", where=[equals("feature_1"), at_most("revenue_impact", "NaN")]),
    )
    with pytest.raises(OptionError) as caught:
        question.sql("oracle")  # type: ignore[arg-type]
    lines = str(caught.value).split("\n")
    starts = [
        "the cohort's activity has no name", "occurrence 0", "'when' is no column", "ts >= 'noon'",
        "first_after click: 'feature_json.' is no column", "first_after click: within: 'soon'",
        "first_ever click: within does not apply to ever", "last_before click: no columns", "nth_ever click: 0 is no",
        "aggregate_before buy: sum of feature_1: it is text", "aggregate_before buy: avg of ts: it is a time",
        "aggregate_before buy: name '1st'", "aggregate_after buy: count_distinct within",
        "aggregate_all_ever buy: number('revenue_impact')", "aggregate_all_ever buy: link = 5",
        "first_before buy: feature_1 =: nothing", "first_before buy: revenue_impact <= 'NaN'",
        "2 columns are called aggregate_all_ever_buy_count", "dialect 'oracle'",
    ]  # fmt: skip
    assert sorted(start for start in starts if not any(line.startswith(start) for line in lines)) == []
    assert len(lines) == len(starts)
