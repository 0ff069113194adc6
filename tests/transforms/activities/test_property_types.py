"""Which JSON values a property of each type takes, held against a definition in plain Python."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dead_letters import Reason
from schemas.event_types import EventType, Property, PropertyType
from transforms.activities.property_types import type_query
from transforms.events.envelope_rules import YEAR_1_MS, YEAR_10000_MS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WRONG, MISSING = Reason.PROPERTY_WRONG_TYPE.value, Reason.PROPERTY_MISSING.value


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def event(*properties: Property) -> EventType:
    return EventType("e", "e", "an event", properties)


def declared(name: str, type_: PropertyType, *, required: bool = False) -> Property:
    return Property(name, type_, "a property", "a_column", required=required)


def typed(connection: duckdb.DuckDBPyConnection, of: EventType, *properties: str | None) -> list[dict[str, Any]]:
    connection.register("given", pa.table({"properties": pa.array(properties, pa.string())}))
    return connection.sql(type_query(of)).to_arrow_table().to_pylist()


def value_of(connection: duckdb.DuckDBPyConnection, type_: PropertyType, text: str) -> object:
    """The value of a property with this JSON; `WRONG` where it is refused."""
    (row,) = typed(connection, event(declared("p", type_)), f'{{"p":{text}}}')
    if row["fault"] is not None:
        assert row["fault"] == [WRONG, "p"]
        assert row["v1"] is None
        return WRONG
    return row["v1"]


TAKEN: dict[PropertyType, list[tuple[str, object]]] = {
    PropertyType.STRING: [
        ('"a"', "a"), ('""', ""), ('"\\u0041\\n\\"é😀"', 'A\n"é😀'), ('"a\\u0000b"', "a\0b"), ("null", None),
        ("1", WRONG), ("true", WRONG), ("{}", WRONG), ("[]", WRONG),
    ],
    PropertyType.INTEGER: [
        ("5", 5), ("-0", 0), ("5.0", 5), ("1e3", 1000), ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)), ("9007199254740992.0", 2**53), ("null", None),
        ("1.5", WRONG), ("9223372036854775808", WRONG), ("18446744073709551616", WRONG), ("1e30", WRONG),
        ("1e400", WRONG), ('"5"', WRONG), ("true", WRONG), ("[5]", WRONG),
    ],
    PropertyType.NUMBER: [
        ("5", 5.0), ("1.5", 1.5), ("-1e-3", -0.001), ("18446744073709551616", 2.0**64), ("1e-400", 0.0), ("null", None),
        ("1e400", WRONG), ("-1e400", WRONG), ('"1.5"', WRONG), ('"NaN"', WRONG), ("false", WRONG), ("{}", WRONG),
    ],
    PropertyType.DECIMAL: [
        ("5", Decimal(5)), ("12.34", Decimal("12.34")), ('"12.34"', Decimal("12.34")), ('"-5"', Decimal(-5)),
        ("0.00005", Decimal("0.0001")), ("1e-9", Decimal(0)), ("99999999999999", Decimal(99999999999999)),
        ("null", None), ("100000000000000", WRONG), ('"NaN"', WRONG), ('"12,50"', WRONG), ('""', WRONG),
        ('"abc"', WRONG), ("true", WRONG), ("[1]", WRONG), ('{"a":1}', WRONG), ("1e400", WRONG),
    ],
    PropertyType.BOOLEAN: [
        ("true", True), ("false", False), ("null", None), ("1", WRONG), ("0", WRONG), ('"true"', WRONG), ("[]", WRONG),
    ],
    PropertyType.TIMESTAMP: [
        ('"1970-01-01T00:00:01Z"', 10**6), ('"1970-01-01T01:00:00.000001+01:00"', 1), ("1000", 10**6), ("1e3", 10**6),
        ("null", None), ('"1970-01-01"', WRONG), ('"1970-01-01T00:00:01"', WRONG), ('"1000"', WRONG), ("1000.5", WRONG),
        ("true", WRONG), ("99999999999999999", WRONG), ("{}", WRONG),
    ],
    PropertyType.JSON: [
        ('"a"', '"a"'), ("1.50", "1.5"), ("[1,{}]", "[1,{}]"), ('{"b":[null]}', '{"b":[null]}'), ("true", "true"),
        ("null", None),
    ],
}  # fmt: skip


@pytest.mark.parametrize("type_", PropertyType)
def test_values_of_each_type_are_taken_and_others_refused(
    connection: duckdb.DuckDBPyConnection, type_: PropertyType
) -> None:
    expected = TAKEN[type_]
    found = [(text, value_of(connection, type_, text)) for text, _ in expected]
    assert found == expected


def plain(type_: PropertyType, value: Any) -> object:
    """The definition: what a JSON value, as Python parses it, is of a type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return None
    if type_ is PropertyType.STRING and isinstance(value, str):
        return value
    if type_ is PropertyType.BOOLEAN and isinstance(value, bool):
        return value
    if type_ is PropertyType.NUMBER and number:
        return float(value)
    if type_ is PropertyType.INTEGER and number:
        if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
            return int(value)
        return value if isinstance(value, int) and -(2**63) <= value < 2**63 else WRONG
    if type_ is PropertyType.DECIMAL and (number or isinstance(value, str)):
        try:
            money = Decimal(str(value)).quantize(Decimal("0.0001"), ROUND_HALF_UP)
        except InvalidOperation:
            return WRONG
        return money if money.is_finite() and abs(money) < 10**14 else WRONG
    if type_ is PropertyType.JSON:
        return value
    if type_ is PropertyType.TIMESTAMP and number:
        return int(value) * 1000 if YEAR_1_MS <= value < YEAR_10000_MS and value == int(value) else WRONG
    if type_ is PropertyType.TIMESTAMP and isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            return WRONG
        return (time - EPOCH) // timedelta(microseconds=1) if time.tzinfo else WRONG
    return WRONG


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1000, 1000).map(float),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=5),
    st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat()),
    st.decimals(-(10**6), 10**6, places=3).map(str),
    st.sampled_from(["5", "-1.25", "1e2", "NaN", "Infinity", "true", "null", ""]),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text("ab", max_size=1), SCALARS, max_size=2)
)
NAMES = st.sampled_from(["p", "a.b", "a/b~c", "q\"uo'te", "$", "é 😀", "0", "*", "back\\slash", "x y"])


@settings(max_examples=80)
@given(
    types=st.dictionaries(NAMES, st.tuples(st.sampled_from(PropertyType), st.booleans()), min_size=1, max_size=4),
    rows=st.lists(st.dictionaries(NAMES, VALUES, max_size=5), min_size=1, max_size=4),
)
def test_typed_properties_are_those_of_the_definition(
    connection: duckdb.DuckDBPyConnection,
    types: dict[str, tuple[PropertyType, bool]],
    rows: list[dict[str, Any]],
) -> None:
    of = event(*(declared(name, type_, required=required) for name, (type_, required) in types.items()))
    for row, found in zip(rows, typed(connection, of, *map(json.dumps, rows)), strict=True):
        fault = None
        for place, (name, (type_, required)) in enumerate(types.items(), 1):
            expected = plain(type_, row.get(name))
            got = found[f"v{place}"]
            if type_ is PropertyType.JSON and got is not None:
                got = json.loads(got)
            if expected == WRONG:
                fault = fault or [WRONG, name]
                expected = None
            elif expected is None and required:
                fault = fault or [MISSING, name]
            assert got == expected
        assert found["fault"] == fault
        extra = {name: value for name, value in row.items() if name not in types}
        assert json.loads(found["extra_properties"] or "{}") == extra
        assert (found["extra_properties"] is None) == (not extra)
        if extra:
            rest = {name: value for name, value in row.items() if name in types}
            assert json.loads(found["declared_properties"]) == rest
        else:
            assert found["declared_properties"] is None


def test_first_of_two_values_of_a_key_counts(connection: duckdb.DuckDBPyConnection) -> None:
    of = event(declared("a", PropertyType.INTEGER))
    rows = typed(connection, of, '{"a":1,"a":"x"}', '{"a":"x","a":1}', '{"\\u0061":3}', '{"A":4}')
    assert [(row["v1"], row["fault"]) for row in rows] == [(1, None), (None, [WRONG, "a"]), (3, None), (None, None)]
    assert [row["extra_properties"] for row in rows] == [None, None, None, '{"A":4}']


def test_event_without_properties_lacks_what_is_required(connection: duckdb.DuckDBPyConnection) -> None:
    of = event(declared("a", PropertyType.STRING, required=True))
    assert [row["fault"] for row in typed(connection, of, None, "{}", '{"a":null}')] == [[MISSING, "a"]] * 3
    of = event(declared("a", PropertyType.STRING))
    assert [row["fault"] for row in typed(connection, of, None, "{}", '{"a":null}')] == [None] * 3
