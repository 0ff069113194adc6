"""Rows that are recognised as valid at once are those that all rules together accept, with the same columns."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.durations import micros_of
from schemas.events import RAW
from schemas.table_query import TableQuery
from transforms.events.envelope_rules import DECIDED, ENVELOPE, decode_query, given_columns, plain_rows
from transforms.events.json_members import MemberFinder

NOW = datetime(2026, 5, 1, tzinfo=UTC)
FINDER = MemberFinder(ENVELOPE)
QUERY = TableQuery(decode_query())
MISSING = object()

TEXT = st.sampled_from(["a", "user", "", "é" * 127, "é" * 128, "x" * 255, "x" * 256, 'quote " and \\'])
ODD = st.sampled_from([MISSING, None, 5, 1.5, True, {}, []])
TIME = st.sampled_from([
    "2026-04-12T00:00:00Z", "2026-04-12T02:00:00.123456+02:00", "2026-05-01T00:59:59Z", "2026-05-01T01:00:00.000001Z",
    "2016-12-31T23:59:60Z", "2017-01-01T00:59:60.5+01:00", "2016-12-30T23:59:60Z",
    "2026-04-12t00:00:00z", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+01:00", "never",
    1775952000123, 1775952000123.0, -62_135_596_800_000, -62_135_596_800_001, 253_402_300_800_000, 10**17, 0,
])  # fmt: skip
FIELDS = {
    "event_id": st.just("e") | TEXT | ODD,
    "event_type": st.sampled_from(["page_view", "purchase"]) | TEXT | ODD,
    "timestamp": st.just("2026-04-12T00:00:00Z") | TIME | ODD,
    "device_id": st.just("d") | TEXT | ODD,
    "user_id": TEXT | ODD,
    "entity_id": TEXT | ODD,
    "entity_type": st.just("user") | TEXT | ODD,
    "sent_at": st.just(MISSING) | TIME | ODD,
    "session_id": TEXT | ODD,
    "properties": st.sampled_from([{}, {"page_url": "/a"}, {"revenue": 5}, {"amount": "x"}, {"revenue": None}]) | ODD,
    "context": st.sampled_from([{}, {"os": "iOS"}, {"device_id": "c"}, {"user_id": 7}, {"device_id": None}]) | ODD,
}
ARRIVAL = st.sampled_from([None, NOW - timedelta(days=400), NOW, datetime(2026, 4, 12, tzinfo=UTC)])


def usual(fields: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    """Most fields as in a valid event, so that often a single one decides."""
    valid = {"event_id": "e", "event_type": "page_view", "timestamp": "2026-04-12T00:00:00Z", "device_id": "d"}
    row = {name: value if name in kept else valid.get(name, MISSING) for name, value in fields.items()}
    return {name: value for name, value in row.items() if value is not MISSING}


@settings(max_examples=300)
@given(
    rows=st.lists(
        st.tuples(st.fixed_dictionaries(FIELDS), st.sets(st.sampled_from(list(FIELDS)), max_size=4), ARRIVAL),
        max_size=20,
    )
)
def test_plain_rows_are_valid_by_all_rules_with_the_same_columns(
    rows: list[tuple[dict[str, Any], set[str], datetime | None]],
) -> None:
    payloads = pa.chunked_array(
        [pa.array([json.dumps(usual(row, kept)).encode() for row, kept, _ in rows], pa.binary())]
    )
    arrivals = pa.chunked_array([pa.array([arrival for *_, arrival in rows], RAW.schema.field("arrival_time").type)])
    members = FINDER.find(payloads)
    plain = plain_rows(members, arrivals, NOW)
    judged = QUERY.run(given_columns(members, arrivals, np.flatnonzero(plain.rows)), micros_of(NOW))
    assert judged["reason"].null_count == judged["field"].null_count == plain.rows.sum()
    for name in DECIDED:
        assert judged[name].to_pylist() == plain.columns[name].to_pylist(), name


@pytest.mark.parametrize(
    "number",
    [
        "1775952000123.0", "1.775952000123E12", "177595200012300e-2", "1775952000123000.0e-3", "1e12", "0e99", "-0.0",
        "5e-1", "12345e-2", "1e15", "999999999999999.0", "-62135596800000.00", "-6.2135596800001E13",
        "253402300800000.0", "2.534023007999E14", "0.001e3", "0.0001e3",
    ],
)  # fmt: skip
def test_number_is_the_same_time_by_all_rules_however_it_is_written(number: str) -> None:
    event = f'{{"event_id":"e","event_type":"view","device_id":"d","timestamp":{number}}}'
    payloads = pa.chunked_array([[event.encode()]], pa.binary())
    arrivals = pa.chunked_array([[datetime(9999, 12, 31, tzinfo=UTC)]], RAW.schema.field("arrival_time").type)
    members = FINDER.find(payloads)
    plain = plain_rows(members, arrivals, NOW)
    judged = QUERY.run(given_columns(members, arrivals, np.array([0])), micros_of(NOW))
    found = judged.filter(pa.array(plain.rows))
    assert found["reason"].null_count == len(found)
    assert found["client_time"].to_pylist() == plain.columns["client_time"].to_pylist()


def test_usual_events_are_plain() -> None:
    event = {"event_id": "e", "event_type": "page_view", "timestamp": "2026-04-12T00:00:00.5Z", "device_id": "d"}
    anonymous = event | {"user_id": None, "properties": {"page_url": "/a", "n": 1.5}, "context": {"os": "iOS"}}
    known = event | {"timestamp": 1775952000000, "entity_type": "user", "entity_id": "u", "context": None, "more": [1]}
    sent = event | {"sent_at": "2026-04-12T00:00:01.5Z"}
    payloads = pa.chunked_array([[json.dumps(row).encode() for row in (event, anonymous, known, sent)]], pa.binary())
    arrivals = pa.chunked_array([[None, None, None, NOW]], RAW.schema.field("arrival_time").type)
    plain = plain_rows(FINDER.find(payloads), arrivals, NOW)
    assert plain.rows.all()
    assert plain.columns["user_id"].to_pylist() == [None, None, "u", None]
    assert plain.columns["event_time"].to_pylist()[3] == micros_of(NOW - timedelta(seconds=1))
