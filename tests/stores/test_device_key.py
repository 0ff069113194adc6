import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import TIMESTAMP, Field, Record
from stores.device_rows import EARLIEST, EVENT_ROWS, LATEST, RowCodec, decode_key, device_prefix, encode_key, key_range

texts = st.text(st.sampled_from("a\x00\x01\xffä\U0001f600") | st.characters(codec="utf-8"), max_size=6)
times = st.sampled_from([EARLIEST, -1, 0, 1, LATEST]) | st.integers(EARLIEST, LATEST)
keys = st.tuples(texts, times, texts)


def test_bytes_are_those_of_the_design() -> None:
    key = encode_key("a\x00b", 1, "e")
    assert key == b"a\x00\xffb" + b"\x00\x01" + bytes.fromhex("7ffffffffffffffe") + b"e"
    assert encode_key("a", -1, "e") == b"a\x00\x01" + bytes.fromhex("8000000000000000") + b"e"


@given(keys)
def test_key_is_read_back(key: tuple[str, int, str]) -> None:
    assert decode_key(encode_key(*key)) == key


@given(texts, texts)
@example("a", "a\x00")
@example("a\x00", "a\x00\x01")
@example("", "\x00\x01")
def test_no_device_begins_another(one: str, other: str) -> None:
    assert (device_prefix(one) == device_prefix(other)) == (one == other)
    if one != other:
        assert not device_prefix(other).startswith(device_prefix(one))


@given(texts, times, texts, times, texts)
def test_newest_comes_first_and_equal_times_by_id(device: str, one: int, a: str, other: int, b: str) -> None:
    before = (-one, a.encode()) < (-other, b.encode())
    assert (encode_key(device, one, a) < encode_key(device, other, b)) == before


@given(keys, texts, st.none() | times, st.none() | times)
@example(("a", EARLIEST, ""), "a", EARLIEST, None)
@example(("a", LATEST, "\U0001f600"), "a", LATEST, None)
@example(("a", 0, ""), "a", None, EARLIEST)
def test_range_holds_exactly_its_device_and_times(
    key: tuple[str, int, str], device: str, since: int | None, until: int | None
) -> None:
    first, end = key_range(device, since, until)
    inside = key[0] == device and (since is None or since <= key[1]) and (until is None or key[1] < until)
    assert (first <= encode_key(*key) < end) == inside


ROWS = RowCodec(
    Record(
        "rows",
        "one row",
        (
            Field("device_id", pa.string(), ""),
            Field("at", TIMESTAMP, ""),
            Field("id", pa.string(), ""),
            Field("day", pa.date32(), ""),
            Field("text", pa.string(), ""),
            Field("number", pa.int64(), ""),
        ),
    ),
    time="at",
    row_id="id",
    date="day",
)
odd_texts = st.none() | texts | st.sampled_from(["", "\x00", "\x01", "\x02", "\x020", "\x021\x00", '{"a": "\\u0000"}'])
# what a date and Arrow's calendar can hold
calendar = st.integers(-(10**16), 10**17)


@given(st.lists(st.tuples(texts, calendar, texts, odd_texts, st.none() | st.integers(EARLIEST, LATEST)), max_size=9))
def test_rows_written_together_have_the_keys_of_one_and_come_back_whole(
    rows: list[tuple[str, int, str, str | None, int | None]],
) -> None:
    devices, at, ids, texts_, numbers = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 5
    time = pa.array(at, pa.int64())
    table = pa.table(
        [
            pa.array(devices, pa.string()),
            time.cast(TIMESTAMP),
            pa.array(ids, pa.string()),
            time.cast(pa.timestamp("us")).cast(pa.date32()),
            pa.array(texts_, pa.string()),
            pa.array(numbers, pa.int64()),
        ],
        schema=ROWS.record.schema,
    )
    keys_, values = (array.to_pylist() for array in ROWS.encode(table))
    assert keys_ == sorted(encode_key(*row[:3]) for row in rows)
    back = ROWS.decode(list(zip(keys_, values, strict=True)))
    order = sorted(range(len(rows)), key=lambda i: encode_key(*rows[i][:3]))
    assert back.equals(table.take(pa.array(order, pa.int64())))


def test_value_written_before_a_column_was_appended_has_null_there() -> None:
    appended = Record("rows", "one row", (*ROWS.record.fields, Field("later", pa.string(), "")))
    row = (encode_key("a", 0, "e"), b"1\x00text\x007")
    (back,) = RowCodec(appended, time="at", row_id="id", date="day").decode([row]).to_pylist()
    assert (back["text"], back["number"], back["later"]) == ("text", 7, None)


@pytest.mark.parametrize("name", ["device_id", "event_id", "event_time", "event_date"])
def test_value_does_not_repeat_the_key(name: str) -> None:
    assert name not in [field.name for field in EVENT_ROWS.value_fields]
