"""What becomes of events in silver, in the activity stream and as dead letters, without a pipeline."""

import hashlib
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalogue import parse_catalogue, shipped_catalogue
from schemas.dead_letters import DEAD_LETTER
from schemas.events import EVENT, EVENT_BATCH, RAW
from schemas.silver import COMMON, silver_records
from schemas.user_stream import USER_STREAM
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.activities.refused_events import envelope_of
from transforms.activities.typed_events import EventTyper, TypedEvents
from transforms.events.envelope import EnvelopeDecoder

TODAY = date(2026, 5, 1)
NOW = datetime(2026, 5, 1, tzinfo=UTC)
OWN = """\
[event."Song played"]
description = "a song was played"
table = "song_played"
feature_1 = "id"
feature_2 = "loud"
feature_3 = "at"
revenue = ["paid", "tip"]
link = "url"

[event."Song played".properties]
id = { type = "integer", description = "the song", column = "song_id", required = true }
loud = { type = "boolean", description = "whether it was" }
at = { type = "timestamp", description = "when" }
paid = { type = "decimal", description = "paid for it" }
tip = { type = "decimal", description = "given on top" }
url = { type = "string", description = "where" }
"""


@pytest.fixture(scope="module")
def typer() -> EventTyper:
    return EventTyper(parse_catalogue(OWN, "own"))


def event(number: int, event_type: str, properties: object = None, **columns: Any) -> dict[str, Any]:
    text = None if properties is None else json.dumps(properties, separators=(",", ":"))
    return click(at(minutes=number), "d1", f"e{number}", event_type=event_type, properties=text, **columns)


def type_all(typer: EventTyper, *rows: dict[str, Any]) -> TypedEvents:
    return typer.type_events(batch(rows), TODAY)


def test_event_is_a_row_of_its_silver_table_and_an_activity(typer: EventTyper) -> None:
    properties = {"id": 7, "loud": True, "at": 1000, "tip": "1.5", "url": "https://x.example/"}
    row = event(1, "Song played", properties, user_key="u", country="DE", tracker_session_id="s")
    found = type_all(typer, row)
    (silver,) = found.silver["silver/song_played"].to_pylist()
    assert silver == {
        **{field.name: batch([row]).to_pylist()[0][field.name] for field in COMMON},
        "song_id": 7, "loud": True, "at": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "paid": None,
        "tip": Decimal("1.5"), "url": "https://x.example/", "extra_properties": None,
    }  # fmt: skip
    (activity,) = found.stream.to_pylist()
    assert activity == {
        "activity_id": hashlib.md5(b"2:d1e1").hexdigest(),
        "ts": silver["event_time"], "customer": "u", "activity": "Song played", "anonymous_customer_id": "d1",
        "feature_1": "7", "feature_2": "true", "feature_3": "1970-01-01 00:00:01.000000Z",
        "feature_json": row["properties"], "revenue_impact": Decimal("1.5"), "link": "https://x.example/",
        "customer_is_stitched": False, "date": silver["event_date"],
    }  # fmt: skip
    assert found.dead_letters.num_rows == 0


def test_undeclared_properties_are_kept_apart(typer: EventTyper) -> None:
    found = type_all(
        typer,
        event(1, "Song played", {"id": 1, "mood": None, "deep": {"a": [1]}}),
        event(2, "Song played", {"id": 2}),
        event(3, "never heard of", {"mood": "good"}, page_url="/p"),
        event(4, "never heard of", {}),
        event(5, "never heard of"),
    )
    songs = found.silver["silver/song_played"]["extra_properties"].to_pylist()
    assert songs == ['{"mood":null,"deep":{"a":[1]}}', None]
    assert found.silver["silver/other"]["extra_properties"].to_pylist() == ['{"mood":"good"}', None, None]
    stream = found.stream.sort_by("ts")
    assert stream["feature_json"].to_pylist() == ['{"id":1}', '{"id":2}', '{"mood":"good"}', "{}", None]
    assert stream["link"].to_pylist() == [None, None, "/p", None, None]
    assert stream["activity"].to_pylist()[2:] == ["never heard of"] * 3


def test_event_that_is_not_as_declared_is_a_dead_letter_and_nothing_else(typer: EventTyper) -> None:
    found = type_all(
        typer,
        event(1, "Song played", {"id": 1}),
        event(2, "Song played", {"id": 2, "loud": "yes", "tip": True}),
        event(3, "Song played", {"loud": True}),
        event(4, "click", {"x": "left"}),
    )
    assert found.silver["silver/song_played"]["event_id"].to_pylist() == ["e1"]
    assert found.stream["feature_1"].to_pylist() == ["1"]
    letters = found.dead_letters.sort_by("message").to_pylist()
    assert sorted(
        (row["step"], row["reason"], row["field"], json.loads(row["payload"])["event_id"]) for row in letters
    ) == [
        ("type", "property_missing", "id", "e3"),
        ("type", "property_wrong_type", "loud", "e2"),
        ("type", "property_wrong_type", "x", "e4"),
    ]
    assert {row["arrival_date"] for row in letters} == {TODAY}


def test_nothing_comes_of_nothing(typer: EventTyper) -> None:
    found = typer.type_events(EVENT_BATCH.empty(), TODAY)
    assert found.silver == {}
    assert found.stream.schema.equals(USER_STREAM.schema)
    assert found.dead_letters.schema.equals(DEAD_LETTER.schema)
    assert found.stream.num_rows == found.dead_letters.num_rows == 0


@settings(max_examples=30)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["Song played", "click", "login", "?"]), st.sampled_from([1, "1", None]), st.booleans()
        ),
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_events_typed_in_any_parts_come_to_the_same(
    typer: EventTyper, rows: list[tuple[str, object, bool]], cuts: list[int]
) -> None:
    events = batch(
        event(number, kind, {"id": value, "method": value} | ({"more": number} if more else {}))
        for number, (kind, value, more) in enumerate(rows)
    )
    places = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [events.slice(a, b - a) for a, b in pairwise(places)] or [events]
    whole, pieces = typer.type_events(events, TODAY), [typer.type_events(part, TODAY) for part in parts]
    assert _sorted(pa.concat_tables([piece.stream for piece in pieces])) == _sorted(whole.stream)
    assert _sorted(pa.concat_tables([piece.dead_letters for piece in pieces])) == _sorted(whole.dead_letters)
    for name, table in whole.silver.items():
        assert _sorted(pa.concat_tables([p.silver[name] for p in pieces if name in p.silver])) == _sorted(table)
    assert {name for piece in pieces for name in piece.silver} == set(whole.silver)
    # each event is in silver and in the stream, or a dead letter
    silver = [row for table in whole.silver.values() for row in table["event_id"].to_pylist()]
    refused = [json.loads(row["payload"])["event_id"] for row in whole.dead_letters.to_pylist()]
    assert sorted(silver + refused) == sorted(events["event_id"].to_pylist())
    assert whole.stream.num_rows == len(silver)


def _sorted(table: pa.Table) -> list[str]:
    return sorted(map(str, table.to_pylist()))


ENVELOPES: list[dict[str, object]] = [
    {"user_id": "ann", "properties": {"a": '"\n é'}, "context": {"os": "iOS", "extra": [1]}, "more": {"x": None}},
    {
        "device_id": None,
        "entity_id": "ann",
        "entity_type": "user",
        "session_id": "s/1",
        "sent_at": "2026-04-12T00:00:05Z",
    },
    {"context": {"device_id": "c", "user_id": "u"}, "device_id": None, "properties": None},
    {"timestamp": 1775952000123, "sent_at": 1775952001000, "version": 2, "tags": ["a", "b"]},
    {"timestamp": "0001-01-02T00:00:00.000001Z", "event_type": 'quo"te \\ \u0000'},
]


@pytest.mark.parametrize("changes", ENVELOPES)
@pytest.mark.parametrize("arrival", [None, datetime(2026, 4, 12, 0, 0, 9, 5, tzinfo=UTC)])
def test_refused_event_is_written_so_that_it_decodes_into_itself(
    changes: dict[str, object], arrival: datetime | None
) -> None:
    decoder = EnvelopeDecoder("secret")
    given_event = {"event_id": "e", "event_type": "t", "timestamp": "2026-04-12T00:00:00Z", "device_id": "d"} | changes

    def decoded(payload: bytes) -> dict[str, Any]:
        values = [[payload], ["topic"], [0], [1], [arrival]]
        raw = pa.table([pa.array(v, f.type) for v, f in zip(values, RAW.schema, strict=True)], schema=RAW.schema)
        events, letters = decoder.decode(raw, NOW)
        assert letters.to_pylist() == []
        return dict(events.select(EVENT.names).to_pylist()[0])

    once = decoded(json.dumps(given_event).encode())
    assert decoded(envelope_of(once)) == once


def test_every_shipped_type_and_table_is_typed() -> None:
    catalogue = shipped_catalogue()
    typer = EventTyper(catalogue)
    found = typer.type_events(
        batch(
            event(number, declared.name, {item.name: None for item in declared.properties if not item.required})
            for number, declared in enumerate(catalogue.events)
        ),
        TODAY,
    )
    refusing = {event.table for event in catalogue.events if any(item.required for item in event.properties)}
    assert refusing == {"choice_presented", "choice_selected"}
    assert set(found.silver) == {record.name for record in silver_records(catalogue)} - {
        "silver/other", *(f"silver/{table}" for table in refusing),
    }  # fmt: skip
    for record in silver_records(catalogue):
        if record.name in found.silver:
            assert found.silver[record.name].schema.equals(record.schema)
