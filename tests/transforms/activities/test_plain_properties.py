"""Properties that are plainly as declared have the same values as by the query, which states all rules."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalogue import parse_catalogue, shipped_catalogue
from schemas.table_query import TableQuery
from transforms.activities.plain_properties import PropertyFinder
from transforms.activities.property_types import type_query

OWN = """\
[event.all]
description = "a property of each type"

[event.all.properties]
text = { type = "string", description = "a text" }
whole = { type = "integer", description = "an integer" }
real = { type = "number", description = "a number" }
paid = { type = "decimal", description = "money" }
yes = { type = "boolean", description = "a flag" }
at = { type = "timestamp", description = "a time" }
any = { type = "json", description = "anything" }
id = { type = "string", description = "a required text", required = true }
"""
(EVENT,) = [event for event in parse_catalogue(OWN, "own").events if event.name == "all"]
FINDER, QUERY = PropertyFinder(EVENT), TableQuery(type_query(EVENT))

NUMBERS = ["0", "-0", "7", "-12.5", "1e3", "1E-2", "1.7e308", "1e999", "0.00005", "19.99", "123456789012345", "9" * 16]
NUMBERS += ["9" * 25, "12345678901.2345", "123456789012.5", "1.00000", "4.0"]
TEXTS = ["", "a", "é\\u00e9", "\\ud83d\\ude00", "a\\u0000b", "12.50", "-1", "1e2", " 3", "true", "٣"]
TEXTS += ["2026-04-12T00:00:00Z", "2026-04-12T00:00:00.123456789+02:00", "2026-04-12 00:00:00z", "2026-12-31T23:59:60Z"]
VALUES = [*NUMBERS, *(f'"{text}"' for text in TEXTS), "true", "false", "null", "{}", '{"a": [1, 2]}', "[]", "[ 1 ]"]
NAMES = [*(item.name for item in EVENT.properties), "other", "\\u0069d"]


def written(*members: tuple[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in members) + "}"


def plain_as_by_query(properties: list[str | None]) -> list[int]:
    """Compare with the query; returns the numbers of the plain rows."""
    column = pa.chunked_array([pa.array(properties, pa.string())])
    plain = FINDER.find(column)
    expected = QUERY.run(pa.table({"properties": column})).take(pa.array(plain.rows))
    assert plain.typed.cast(expected.schema).to_pylist() == expected.to_pylist()
    assert expected["fault"].null_count == len(plain.rows)
    return plain.rows.tolist()


def test_every_value_of_every_property_is_what_the_query_says() -> None:
    rows = [(name, value) for name in NAMES for value in VALUES]
    plain = plain_as_by_query([written(("id", '"x"'), row) for row in rows])
    assert {rows[row][0] for row in plain} == set(NAMES) - {"other", "id", "\\u0069d"}
    assert ("whole", "123456789012345") in [rows[row] for row in plain]


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6).map(
                lambda members: written(*members)
            ),
            st.sampled_from([None, "[]", "7"]),
        ),
        max_size=8,
    )
)
def test_plain_properties_are_what_the_query_says(properties: list[str | None]) -> None:
    plain_as_by_query(properties)


def test_usual_properties_are_plain() -> None:
    usual: dict[str, Any] = {
        "text": "a", "whole": 7, "real": 1.5, "paid": "19.99", "yes": True, "at": "2026-04-12T00:00:00Z", "id": "b",
    }  # fmt: skip
    rows = [usual, usual | {"text": "é\n", "paid": 5, "at": 1000, "real": 3}, {"id": ""}, {"any": None, "id": "c"}]
    column = pa.chunked_array([[json.dumps(row) for row in rows]])
    assert FINDER.find(column).rows.tolist() == list(range(len(rows)))


def test_a_declared_type_takes_any_batch_of_no_rows() -> None:
    for event in shipped_catalogue().events:
        if event.properties:
            found = PropertyFinder(event).find(pa.chunked_array([], pa.string()))
            assert len(found.rows) == 0
            assert found.typed.num_rows == 0
            assert found.rows.dtype == np.int64
