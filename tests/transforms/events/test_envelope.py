"""The rules of the envelope, each on a line of its own, and the same whatever stands beside it."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dead_letters import Reason
from schemas.events import EVENT_BATCH, RAW
from schemas.keys import stable_digest, user_keys
from transforms.events.envelope import EnvelopeDecoder

NOW = datetime(2026, 5, 1, tzinfo=UTC)
SECRET = "a secret"
GOOD = {"event_id": "e1", "event_type": "page_view", "timestamp": "2026-04-12T00:00:00Z", "device_id": "d1"}


@pytest.fixture(scope="module")
def decoder() -> EnvelopeDecoder:
    return EnvelopeDecoder(SECRET)


def raw(payloads: list[bytes | None], arrival: datetime | None = None) -> pa.Table:
    size = len(payloads)
    columns = [
        pa.array(payloads, pa.binary()),
        ["topic"] * size,
        pa.array([3] * size, pa.int32()),
        list(range(100, 100 + size)),
        pa.array([arrival] * size, RAW.schema.field("arrival_time").type),
    ]
    return pa.table(dict(zip(RAW.names, columns, strict=True)), schema=RAW.schema)


def envelope(without: str | None = None, **changes: object) -> bytes:
    fields = {**GOOD, **changes}
    fields.pop(without or "", None)
    return json.dumps(fields).encode()


def key_of(user_id: str) -> str:
    return str(user_keys(pa.chunked_array([[user_id]]), SECRET)[0])


def event(decoder: EnvelopeDecoder, payload: bytes, arrival: datetime | None = None) -> dict[str, object]:
    events, letters = decoder.decode(raw([payload], arrival), NOW)
    assert letters.to_pylist() == []
    return events.to_pylist()[0]


def letter(decoder: EnvelopeDecoder, payload: bytes | None, arrival: datetime | None = None) -> dict[str, object]:
    events, letters = decoder.decode(raw([payload], arrival), NOW)
    assert events.num_rows == 0
    (found,) = letters.to_pylist()
    assert (found["payload"], found["source"], found["partition"], found["offset"]) == (payload, "topic", 3, 100)
    return found


NO_TIMES = (
    "yesterday", "2026-04-12", "2026-04-12T00:00:00", "2026-02-30T00:00:00Z", "2026-04-12T24:00:00Z",
    "2026-04-12T00:60:00Z", "2026-04-12T00:00:61Z", "2026-04-12T00:00:00+24:00", "2026-04-12T00:00:00+0200",
    "2026-04-12T00:00Z", "0000-01-01T00:00:00Z", " 2026-04-12T00:00:00Z", "1775952000000", "infinity",
    1775952000000.5, 1e300, 10**30, -(10**17), "٢٠٢٦-04-12T00:00:00Z",
    # A second 60 that ends no month, UTC
    "2016-12-31T23:58:60Z", "2016-12-31T22:59:60Z", "2016-12-30T23:59:60Z", "2016-12-31T23:59:60+01:00",
)  # fmt: skip

BROKEN = [
    (None, Reason.NULL_PAYLOAD, None),
    (b"", Reason.EMPTY_PAYLOAD, None),
    (b'{"a":"' + b"x" * (1 << 20) + b'"}', Reason.OVERSIZED_EVENT, None),
    (b'{"event_id":"\xff"}', Reason.BAD_UTF8, None),
    (b"\xed\xa0\x80", Reason.BAD_UTF8, None),
    (b"click!", Reason.NOT_JSON, None),
    (b'{"event_id":"e1"', Reason.NOT_JSON, None),
    (b'{"event_id":"e1"} {}', Reason.NOT_JSON, None),
    (b"{'event_id':'e1'}", Reason.NOT_JSON, None),
    (b'{"event_id":"a\x00b"}', Reason.NOT_JSON, None),
    (b'{"event_id":"a\tb"}', Reason.NOT_JSON, None),
    (b"[" * 100_000, Reason.NOT_JSON, None),
    (envelope()[:-1] + b",}", Reason.NOT_JSON, None),
    (envelope()[:-1] + b" , \t }", Reason.NOT_JSON, None),
    (envelope(properties={"a": [1]}).replace(b"[1]", b"[1,]"), Reason.NOT_JSON, None),
    (envelope(properties={"a": float("nan")}), Reason.NOT_JSON, None),
    (envelope(properties={"a": [float("-inf")]}), Reason.NOT_JSON, None),
    (envelope(unknown=float("inf")), Reason.NOT_JSON, None),
    (envelope(session_id=float("nan")), Reason.NOT_JSON, None),
    *[(text, Reason.NOT_JSON, None) for text in (b"NaN", b" -Infinity", b"inf")],
    (b"[1, 2]", Reason.NOT_AN_OBJECT, None),
    (b'"text"', Reason.NOT_AN_OBJECT, None),
    (b"null", Reason.NOT_AN_OBJECT, None),
    (b"5", Reason.NOT_AN_OBJECT, None),
    (b"[]", Reason.NOT_AN_OBJECT, None),
    (b"{}", Reason.FIELD_MISSING, "event_id"),
    (envelope()[:-1] + b',"event_id":"e2"}', Reason.DUPLICATE_KEY, None),
    (envelope(x=1)[:-1] + b',"x":2}', Reason.DUPLICATE_KEY, None),
    *[(envelope(without=name), Reason.FIELD_MISSING, name) for name in GOOD],
    *[(envelope(**{name: None}), Reason.FIELD_NULL, name) for name in GOOD],
    *[(envelope(**{name: ""}), Reason.FIELD_EMPTY, name) for name in GOOD],
    *[(envelope(**{name: True}), Reason.FIELD_WRONG_TYPE, name) for name in GOOD],
    *[(envelope(**{name: 7}), Reason.FIELD_WRONG_TYPE, name) for name in GOOD if name != "timestamp"],
    *[(envelope(**{name: ["a"]}), Reason.FIELD_WRONG_TYPE, name) for name in ("user_id", "entity_id", "entity_type")],
    (envelope(timestamp={}), Reason.FIELD_WRONG_TYPE, "timestamp"),
    (envelope(properties="text"), Reason.FIELD_WRONG_TYPE, "properties"),
    (envelope(context=[]), Reason.FIELD_WRONG_TYPE, "context"),
    (envelope(context={"device_id": 5}), Reason.FIELD_WRONG_TYPE, "context.device_id"),
    (envelope(context={"user_id": False}), Reason.FIELD_WRONG_TYPE, "context.user_id"),
    *[
        (envelope(**{name: "é" * 256}), Reason.FIELD_TOO_LONG, name)
        for name in ("event_id", "event_type", "device_id", "user_id", "entity_id", "session_id")
    ],
    (envelope(without="device_id", context={"device_id": "d" * 256}), Reason.FIELD_TOO_LONG, "context.device_id"),
    *[(envelope(timestamp=value), Reason.BAD_TIMESTAMP, "timestamp") for value in NO_TIMES],
    (envelope(timestamp="2026-05-01T01:00:00.000001Z"), Reason.TIMESTAMP_AHEAD, "timestamp"),
    (envelope(timestamp="9999-12-31T23:59:59Z"), Reason.TIMESTAMP_AHEAD, "timestamp"),
]


@pytest.mark.parametrize(("payload", "reason", "field"), BROKEN)
def test_broken_event_is_a_dead_letter_with_its_reason_and_exact_bytes(
    decoder: EnvelopeDecoder, payload: bytes | None, reason: Reason, field: str | None
) -> None:
    found = letter(decoder, payload)
    assert (found["reason"], found["field"]) == (reason, field)
    assert "\n" not in str(found["message"])


def test_broken_events_beside_good_ones_lose_nothing(decoder: EnvelopeDecoder) -> None:
    payloads: list[bytes | None] = []
    for number, (payload, _, _) in enumerate(BROKEN):
        payloads += [payload, envelope(event_id=f"good-{number}")]
    events, letters = decoder.decode(raw(payloads), NOW)
    assert set(events["event_id"].to_pylist()) == {f"good-{number}" for number in range(len(BROKEN))}
    found = {row["offset"]: (row["payload"], row["reason"], row["field"]) for row in letters.to_pylist()}
    assert found == {100 + 2 * number: case for number, case in enumerate(BROKEN)}
    assert len(set(letters["dead_letter_id"].to_pylist())) == len(BROKEN)
    for row in letters.to_pylist():
        origin = [row["source"], str(row["partition"]), str(row["offset"]), (row["payload"] or b"").hex()]
        assert row["dead_letter_id"] == stable_digest(origin)
        assert row["message"] == letter(decoder, row["payload"])["message"]


@pytest.mark.parametrize("broken_of_each_good", [0.01, 0.5, 20])
def test_line_means_the_same_however_many_broken_ones_stand_beside_it(
    decoder: EnvelopeDecoder, broken_of_each_good: float
) -> None:
    payloads: list[bytes | None] = []
    for number in range(100):
        payloads.append(envelope(event_id=f"good-{number}"))
        while len(payloads) < (number + 1) * (1 + broken_of_each_good):
            payloads.append(BROKEN[len(payloads) % len(BROKEN)][0])
    events, letters = decoder.decode(raw(payloads), NOW)
    assert events["event_id"].to_pylist() == [f"good-{number}" for number in range(100)]
    expected = {payload: (reason, field) for payload, reason, field in BROKEN}
    rows = letters.sort_by("offset").to_pylist()
    assert [row["payload"] for row in rows] == [line for line in payloads if line in expected]
    assert all((row["reason"], row["field"]) == expected[row["payload"]] for row in rows)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-04-12T00:00:00Z", datetime(2026, 4, 12, tzinfo=UTC)),
        ("2026-04-12t00:00:00z", datetime(2026, 4, 12, tzinfo=UTC)),
        ("2026-04-12 00:00:00Z", datetime(2026, 4, 12, tzinfo=UTC)),
        ("2026-04-12T02:00:00+02:00", datetime(2026, 4, 12, tzinfo=UTC)),
        ("2026-04-11T18:30:00.5-05:30", datetime(2026, 4, 12, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-04-12T00:00:00-00:00", datetime(2026, 4, 12, tzinfo=UTC)),
        ("2026-04-12T00:00:00.123456789Z", datetime(2026, 4, 12, 0, 0, 0, 123_456, tzinfo=UTC)),
        ("1985-04-12T23:20:50.52Z", datetime(1985, 4, 12, 23, 20, 50, 520_000, tzinfo=UTC)),
        ("1996-12-19T16:39:57-08:00", datetime(1996, 12, 20, 0, 39, 57, tzinfo=UTC)),
        ("1990-12-31T23:59:60Z", datetime(1991, 1, 1, tzinfo=UTC)),
        ("1990-12-31T15:59:60-08:00", datetime(1991, 1, 1, tzinfo=UTC)),
        ("2012-07-01T05:29:60.25+05:30", datetime(2012, 7, 1, 0, 0, 0, 250_000, tzinfo=UTC)),
        ("1960-12-31t23:59:60.5z", datetime(1961, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("1937-01-01T12:00:27.87+00:20", datetime(1937, 1, 1, 11, 40, 27, 870_000, tzinfo=UTC)),
        (1775952000123, datetime(2026, 4, 12, 0, 0, 0, 123_000, tzinfo=UTC)),
        (1775952000123.0, datetime(2026, 4, 12, 0, 0, 0, 123_000, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
def test_timestamp_of_each_form_is_read_as_meant(decoder: EnvelopeDecoder, written: object, meant: datetime) -> None:
    found = event(decoder, envelope(timestamp=written))
    assert found["event_time"] == found["client_time"] == meant
    assert found["event_date"] == meant.date()


@pytest.mark.parametrize("number", ["1.775952000123E12", "1775952000123.000", "17759520001230e-1"])
def test_number_is_the_same_time_however_it_is_written(decoder: EnvelopeDecoder, number: str) -> None:
    payload = envelope(timestamp=1775952000123).replace(b"1775952000123", number.encode())
    assert event(decoder, payload)["event_time"] == datetime(2026, 4, 12, 0, 0, 0, 123_000, tzinfo=UTC)


def test_timestamp_an_hour_ahead_is_still_taken(decoder: EnvelopeDecoder) -> None:
    found = event(decoder, envelope(timestamp="2026-05-01T01:00:00Z"))
    assert found["event_time"] == NOW + timedelta(hours=1)


def test_timestamp_is_held_against_the_arrival_where_it_is_known(decoder: EnvelopeDecoder) -> None:
    arrival = datetime(2026, 4, 1, tzinfo=UTC)
    assert letter(decoder, envelope(), arrival)["reason"] == Reason.TIMESTAMP_AHEAD
    assert letter(decoder, envelope(), arrival)["arrival_date"] == arrival.date()
    assert letter(decoder, b"?")["arrival_date"] == NOW.date()


def test_wrong_client_clock_is_corrected_by_sent_at(decoder: EnvelopeDecoder) -> None:
    arrival = datetime(2026, 4, 12, 12, tzinfo=UTC)
    # the clock is a year behind; the event waited 90 s on the client
    payload = envelope(timestamp="2025-04-12T00:00:00Z", sent_at="2025-04-12T00:01:30Z")
    found = event(decoder, payload, arrival)
    assert found["event_time"] == arrival - timedelta(seconds=90)
    assert found["client_time"] == datetime(2025, 4, 12, tzinfo=UTC)
    assert found["sent_at"] == datetime(2025, 4, 12, 0, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("sent_at", [None, "never", 1.5, {}])
def test_sent_at_that_is_no_time_corrects_nothing(decoder: EnvelopeDecoder, sent_at: object) -> None:
    found = event(decoder, envelope(sent_at=sent_at), datetime(2026, 4, 12, 12, tzinfo=UTC))
    assert (found["event_time"], found["sent_at"]) == (datetime(2026, 4, 12, tzinfo=UTC), None)


def test_sent_at_without_a_known_arrival_corrects_nothing(decoder: EnvelopeDecoder) -> None:
    assert event(decoder, envelope(sent_at="2027-01-01T00:00:00Z"))["event_time"] == datetime(2026, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "device", "user"),
    [
        ({}, "d1", None),
        ({"user_id": "u"}, "d1", "u"),
        ({"device_id": None, "context": {"device_id": "c"}}, "c", None),
        ({"device_id": "", "context": {"device_id": "c"}}, "c", None),
        ({"context": {"device_id": "c", "user_id": "cu"}}, "d1", "cu"),
        ({"user_id": "u", "context": {"user_id": "cu"}}, "d1", "u"),
        ({"entity_id": "e", "entity_type": "user"}, "d1", "e"),
        ({"entity_id": "e", "entity_type": "order"}, "d1", None),
        ({"user_id": "", "entity_id": "e", "entity_type": "user"}, "d1", "e"),
        ({"device_id": None, "entity_id": "u", "entity_type": "user"}, f"user:{key_of('u')}", "u"),
    ],
)
def test_actor_is_found_in_the_documented_order(
    decoder: EnvelopeDecoder, changes: dict[str, object], device: str, user: str | None
) -> None:
    found = event(decoder, envelope(**changes))
    assert (found["device_id"], found["user_id"]) == (device, user)
    assert found["user_key"] == (None if user is None else key_of(user))


def test_actor_of_another_entity_alone_is_no_actor(decoder: EnvelopeDecoder) -> None:
    payload = envelope(without="device_id", entity_id="e", entity_type="order")
    found = letter(decoder, payload)
    assert (found["reason"], found["field"]) == (Reason.FIELD_MISSING, "device_id")


@pytest.mark.parametrize(
    ("event_type", "properties", "revenue"),
    [
        ("purchase", {"revenue": 12.5}, Decimal("12.5000")),
        ("purchase", {"revenue": "49.90"}, Decimal("49.9000")),
        ("purchase", {"amount": 7}, Decimal("7.0000")),
        ("purchase", {"revenue": None, "amount": 7}, Decimal("7.0000")),
        ("purchase", {"revenue": 1, "amount": 7}, Decimal("1.0000")),
        ("purchase", {"revenue": 0.30000000000000004}, Decimal("0.3000")),
        ("purchase", {"revenue": "free"}, None),
        ("purchase", {"revenue": 1e300}, None),
        ("purchase", {}, None),
        ("page_view", {"revenue": 5}, None),
    ],
)
def test_revenue_is_lifted_from_a_purchase(
    decoder: EnvelopeDecoder, event_type: str, properties: dict[str, object], revenue: Decimal | None
) -> None:
    assert event(decoder, envelope(event_type=event_type, properties=properties))["revenue"] == revenue


def test_unknown_keys_are_kept_where_they_stood(decoder: EnvelopeDecoder) -> None:
    properties, context = {"page_url": "/a", "n": [1]}, {"os": "iOS", "zip": 9}
    found = event(decoder, envelope(properties=properties, context=context, ab_test={"v": None}, n=1))
    assert (found["page_url"], found["os"], found["country"]) == ("/a", "iOS", None)
    assert json.loads(str(found["properties"])) == {"page_url": "/a", "n": [1]}
    assert json.loads(str(found["context"])) == {"os": "iOS", "zip": 9}
    assert json.loads(str(found["extra_properties"])) == {"ab_test": {"v": None}, "n": 1}


def test_event_of_only_known_keys_has_no_extra_properties(decoder: EnvelopeDecoder) -> None:
    found = event(decoder, envelope(user_id=None, properties=None, context={}))
    assert (found["extra_properties"], found["properties"]) == (None, None)


def test_lone_surrogate_becomes_the_replacement_character(decoder: EnvelopeDecoder) -> None:
    payload = envelope(properties={"x": "?"}).replace(b'"?"', rb'"a\ud800b \\ud800 \ud83d\ude00 \udc00"')
    found = event(decoder, payload)
    assert json.loads(str(found["properties"])) == {"x": "a\ufffdb \\ud800 \U0001f600 \ufffd"}


def test_deep_nesting_inside_properties_is_text_like_any_other(decoder: EnvelopeDecoder) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    found = event(decoder, envelope(properties={"x": 0}).replace(b'"x": 0', b'"x":' + deep))
    assert str(found["properties"]).encode() == b'{"x":' + deep + b"}"


def test_huge_and_exact_numbers_inside_properties_survive(decoder: EnvelopeDecoder) -> None:
    payload = envelope(properties={"x": 0}).replace(b'"x": 0', b'"x":123456789012345678901234567890,"y":1e400')
    assert str(event(decoder, payload)["properties"]) == '{"x":123456789012345678901234567890,"y":1e400}'


def test_nul_escape_in_an_id_is_kept(decoder: EnvelopeDecoder) -> None:
    assert event(decoder, envelope(device_id="a\x00b"))["device_id"] == "a\x00b"


@pytest.mark.parametrize("text", ["banana, ]", "NaN", "a:nan", "info,}", "[Infinity"])
def test_text_that_only_looks_like_loose_json_is_taken(decoder: EnvelopeDecoder, text: str) -> None:
    row = event(decoder, envelope(properties={"x": text, "y": [], "z": {}}))
    assert json.loads(str(row["properties"]))["x"] == text


def test_decoding_a_slice_of_a_batch_decodes_its_rows(decoder: EnvelopeDecoder) -> None:
    batch = raw([envelope(event_id=f"e{n}", properties={"x": "a,]"}) for n in range(10)] + [envelope()[:-1] + b",}"])
    events, letters = decoder.decode(batch.slice(7), NOW)
    assert events["event_id"].to_pylist() == ["e7", "e8", "e9"]
    assert letters["offset"].to_pylist() == [110]


def test_batch_of_nothing_gives_empty_tables(decoder: EnvelopeDecoder) -> None:
    events, letters = decoder.decode(raw([]), NOW)
    assert events.schema.equals(EVENT_BATCH.schema)
    assert (len(events), len(letters)) == (0, 0)


TEXT = st.text(st.characters(codec="utf-8"))
NUMBER = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(properties=st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=5), pretty=st.booleans())
def test_valid_json_inside_properties_is_never_refused_and_keeps_its_meaning(
    decoder: EnvelopeDecoder, properties: dict[str, object], pretty: bool
) -> None:
    payload = json.dumps({**GOOD, "properties": properties}, indent=2 if pretty else None).encode()
    kept = json.loads(str(event(decoder, payload)["properties"]), parse_int=float)
    assert kept == json.loads(json.dumps(properties), parse_int=float)
