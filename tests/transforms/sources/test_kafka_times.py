"""The cheap look at event times: it reads what decoding reads, and says nothing where it cannot."""

import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.generate import GenerateSummary
from schemas.durations import HOUR, MICROSECOND
from schemas.secrets import UserKeySecret
from transforms.events.envelope import EnvelopeDecoder
from transforms.sources.kafka_times import NO_TIME, event_times, trusted_times
from transforms.sources.raw_files import FileFormat, FileSlice, read_slice

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def look(*payloads: bytes | None) -> list[int | None]:
    return [None if time == NO_TIME else time for time in event_times(pa.array(payloads, pa.binary())).tolist()]


def look_at(value: str) -> int | None:
    return look(f'{{"event_id":"e","timestamp":{value},"device_id":"d"}}'.encode())[0]


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ('"1970-01-01T00:00:00Z"', 0),
        ('"1970-01-01T00:00:01.5Z"', 1_500_000),
        ('"1970-01-01 00:00:00.000001z"', 1),
        ('"1970-01-01t00:00:00.123456789Z"', 123_456),
        ('"1970-01-01T02:00:00+02:00"', 0),
        ('"1969-12-31T18:30:00.25-05:30"', 250_000),
        ('"1970-01-01T00:00:00.1234567891Z"', 123_456),
        ('"2016-12-31T23:59:60Z"', 1_483_228_800_000_000),
        ('"2024-02-29T12:00:00Z"', 1_709_208_000_000_000),
        ("1775952000000", 1_775_952_000_000_000),
        ("-1", -1_000),
        ("0 ", 0),
        ("1775952000000.0", 1_775_952_000_000_000),
        ("1.775952E12", 1_775_952_000_000_000),
        ("-1e+3", -1_000_000),
        ("1e14", 100_000_000_000_000_000),
    ],
)
def test_time_of_the_envelope_is_read(text: str, micros: int) -> None:
    assert look_at(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "null", "true", '""', '"yesterday"', '"2026-04-12"', '"2026-04-12T00:00:00"', '"2026-13-01T00:00:00Z"',
        '"2026-00-01T00:00:00Z"', '"2026-04-12T24:00:00Z"', '"2026-04-12T00:60:00Z"', '"2026-04-12T00:00:00.Z"'[:-2],
        '"2026-04-12T00:00:00+2:00"', '"2016-12-30T23:59:60Z"', "1.5", "1e-3", "1e400",
        "1e", "-", "999999999999999", "-99999999999999", '{"seconds":1}', "[1]", '"1775952000000"',
    ],
)  # fmt: skip
def test_what_is_no_time_of_the_envelope_is_not_read(text: str) -> None:
    assert look_at(text) is None


def test_only_the_top_level_has_the_time_of_the_event() -> None:
    nested = b'{"properties":{"timestamp":1,"a":["}",{"timestamp":2}]},"timestamp":3}'
    assert look(nested, b'{"a":"\\"timestamp\\":1","t":2}', b'[{"timestamp":1}]') == [3_000, None, None]


def test_first_of_two_times_counts_and_what_follows_is_not_read() -> None:
    assert look(b'{"timestamp":1,"timestamp":2}', b'{"t\\u0069mestamp":1, nothing') == [1_000, 1_000]


def test_white_space_around_the_colon_is_passed_over() -> None:
    assert look(b'{"timestamp" :\t\r\n 7}', b'{ "timestamp":  "1970-01-01T00:00:00.000007Z" }') == [7_000, 7]


def test_rows_without_a_key_cut_short_or_not_text_have_no_time() -> None:
    rows = [
        None,
        b"",
        b"{}",
        b'{"timestamp"',
        b'{"timestamp":',
        b'{"timestamp":"2026-',
        b'{"timestamp":17',
        b"\xff\xfe",
    ]
    assert look(*rows) == [None] * len(rows)


def test_bytes_that_are_not_utf8_do_not_hide_a_time() -> None:
    assert look(b'{"caf\xe9":1,"timestamp":5}') == [5_000]


def test_slice_of_an_array_is_looked_at_in_its_own_bounds() -> None:
    payloads = pa.array([b'{"timestamp":1}', b'{"timestamp":2}', b'{"timestamp":3}', b"x"])
    assert event_times(payloads[1:3]).tolist() == [2_000, 3_000]
    assert event_times(payloads[3:]).tolist() == [NO_TIME]
    assert len(event_times(payloads[:0])) == 0


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
)
def test_any_time_is_read_as_python_reads_it(time: datetime, minutes: int, precision: str) -> None:
    text = time.replace(tzinfo=timezone(timedelta(minutes=minutes))).isoformat(timespec=precision)
    micros = (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
    assert look_at(json.dumps(text)) == micros


def test_generated_traffic_has_the_times_that_decoding_finds(traffic_files: GenerateSummary) -> None:
    path = traffic_files.files[0]
    with path.open("rb") as stream:
        (raw,) = read_slice(stream, FileSlice(str(path), FileFormat.LINES, 0, path.stat().st_size))
    decoder = EnvelopeDecoder(UserKeySecret().read())
    events = decoder.decode(raw, datetime(2026, 5, 1, tzinfo=UTC)).events
    looked = event_times(raw["payload"].combine_chunks())
    by_offset = dict(zip(raw["offset"].to_pylist(), looked.tolist(), strict=True))
    decoded = dict(zip(events["offset"].to_pylist(), events["client_time"].cast(pa.int64()).to_pylist(), strict=True))
    assert {offset: by_offset[offset] for offset in decoded} == decoded


def test_time_is_trusted_up_to_an_hour_after_arrival() -> None:
    times = np.array([HOUR, HOUR + MICROSECOND, -HOUR, NO_TIME])
    assert trusted_times(times, np.zeros(4, np.int64)).tolist() == [HOUR, NO_TIME, -HOUR, NO_TIME]
