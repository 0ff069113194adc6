"""Members of JSON objects: what Python's own parser finds in any text, and nothing in a text that it refuses."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.events.json_members import Kind, MemberFinder, Members

KEYS: dict[str, tuple[str, ...]] = {"a": (), "b": ("x", "yy"), "long_key": (), "c": ("a",)}
FINDER = MemberFinder(KEYS)
MICRO = timedelta(microseconds=1)
PATHS = [*((key,) for key in KEYS), *((key, inner) for key, inside in KEYS.items() for inner in inside)]


def find(*texts: bytes) -> Members:
    return FINDER.find(pa.chunked_array([pa.array(texts, pa.binary())]))


def kind_of(text: bytes) -> Kind:
    return Kind(find(text).document[0])


# Texts of the kinds that JSON test suites collect: each alone decides nothing about members, but is JSON or is not
JSON_TEXTS = [
    b"{}", b"[]", b" \t\r\n[ ] \n", b"0", b"-0", b"-0.0", b"0e+1", b"1E-2", b"123.456e78", b"1e400", b"9" * 400,
    b'""', b'"\\u0000"', b'"\\uD801\\udc37"', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\"\\\\\\/\\b\\f\\n\\r\\t"',
    b'"\x7f"', '"é€😀\u2028"'.encode(), b"true", b"false", b"null", b"[null,1,\"1\",{}]", b'{"":0}', b'{"a":{"a":{}}}',
    b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"a":1,"a":2}', b'[{"a":1}, 2]',
]  # fmt: skip
NOT_JSON = [
    b"", b" ", b"[", b"]", b"{", b"}", b"[}", b"{]", b"[1,]", b"[,1]", b"[1,,2]", b"[1 2]", b"{,}", b'{"a":1,}',
    b'{"a"}', b'{"a":}', b'{"a" 1}', b'{"a":1 "b":2}', b'{"a"::1}', b"{a:1}", b"{'a':1}", b"{1:1}", b'{"a":1}}',
    b'{"a":1}{', b"[]a", b"1 2", b"-", b"+1", b"01", b"-01", b"1.", b".5", b"1.e1", b"1e", b"1e+", b"0x1", b"1_000",
    b"NaN", b"-Infinity", b"inf", b"nul", b"nulll", b"True", b"tru", b"falsee",
    b'"', b'"a', b'"\\"', b'"\\x41"', b'"\\u12"',
    b'"\\u12G4"', b'"\\uD8"', b'"\\ud800\\u"', b'"\\U0041"', b'"a\nb"', b'"\x00"', b'"\x1f"', b"\x00", b"1\x00",
    b"\xef\xbb\xbf{}",
    b"/**/{}", b"{} // c", b'{"a":1,/**/"b":2}', b'{"a":tru}', b"[" * 100_000, b'{"a":' * 100_000, b'["\\',
    b'{"a":[1}', b'{"a":{"b":1]}', b"[1,\x0b2]", b"\xc2\xa0[]",
]  # fmt: skip


@pytest.mark.parametrize("text", JSON_TEXTS)
def test_json_is_read(text: bytes) -> None:
    opening = text.strip()[:1]
    kinds = {
        b"{": Kind.OBJECT,
        b"[": Kind.ARRAY,
        b'"': Kind.TEXT,
        b"t": Kind.BOOLEAN,
        b"f": Kind.BOOLEAN,
        b"n": Kind.NULL,
    }
    number = Kind.NUMBER if set(b".eE") & set(text) else Kind.INTEGER
    assert kind_of(text) == kinds.get(opening, number)


@pytest.mark.parametrize("text", NOT_JSON)
def test_text_that_is_not_json_has_no_kind_and_no_members(text: bytes) -> None:
    found = find(text, b'{"a":1,"b":{"x":2},"n":3,' + text)
    assert found.document.tolist() == [Kind.ABSENT, Kind.ABSENT]
    assert [found.texts(*path).null_count for path in PATHS] == [2] * len(PATHS)
    assert found.others().null_count == 2


@pytest.mark.parametrize("end", range(len(b'{"a":"\\u00e9\\ud83d\\ude00","b":{"x":-1.5e3,"yy":[true,null]},"n":{}}')))
def test_every_beginning_of_an_object_is_not_json(end: int) -> None:
    whole = b'{"a":"\\u00e9\\ud83d\\ude00","b":{"x":-1.5e3,"yy":[true,null]},"n":{}}'
    assert (kind_of(whole[:end]), kind_of(whole)) == (Kind.ABSENT, Kind.OBJECT)


def test_member_is_given_as_text_or_as_it_stands() -> None:
    found = find(
        rb' { "b" : { "x" : 1.50, "yy":"\u00e9\n\"" , "z":[ 1 ] } ,"a":[ {"b": 2} ],"c":null, "long_key":"" } '
    )
    assert {path: found.texts(*path)[0].as_py() for path in PATHS} == {
        ("a",): '[ {"b": 2} ]',
        ("b",): r'{ "x" : 1.50, "yy":"\u00e9\n\"" , "z":[ 1 ] }',
        ("long_key",): "",
        ("c",): None,
        ("b", "x"): "1.50",
        ("b", "yy"): 'é\n"',
        ("c", "a"): None,
    }
    assert [found.kinds(name)[0] for name in KEYS] == [Kind.ARRAY, Kind.OBJECT, Kind.TEXT, Kind.NULL]


def test_key_may_be_written_with_escapes() -> None:
    found = find(rb'{"\u0061":1,"l\u006fng_key":2,"\u0062":{"\u0079y":3},"\u00e9":4}')
    assert [found.texts(*path)[0].as_py() for path in [("a",), ("long_key",), ("b", "yy")]] == ["1", "2", "3"]
    assert found.others().to_pylist() == [r'{"\u00e9":4}']


def test_keys_elsewhere_are_not_members() -> None:
    found = find(
        b'{"n":{"a":1,"x":2},"b":[{"x":3}],"c":{"n":{"a":4}}}', b'[{"a":1,"b":{"x":2}}]', b'{"b":{"b":{"x":1}}}'
    )
    assert found.texts("a").null_count == found.texts("b", "x").null_count == found.texts("c", "a").null_count == 3


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        (b'{"a":1,"b":2,"a":1}', True),
        (rb'{"a":1,"\u0061":2}', True),
        (b'{"n":1,"m":2,"n":3}', True),
        (rb'{"\u006e":1,"n":2}', True),
        (b'{"n":1,"m":2,"nn":3}', False),
        (b'{"b":{"x":1,"x":2}}', False),
        (b'{"n":{"m":1,"m":2}}', False),
        (b'[{"a":1,"a":2}]', False),
    ],
)
def test_repeated_key_is_noticed_at_the_top_level_alone(text: bytes, repeated: bool) -> None:
    assert find(b'{"n":1}', text, b'{"n":1}').repeated_key.tolist() == [False, repeated, False]


def test_of_keys_repeated_inside_a_member_the_first_counts() -> None:
    assert find(b'{"b":{"x":{"n":1},"x":2}}').texts("b", "x").to_pylist() == ['{"n":1}']


def test_lone_surrogate_becomes_the_replacement_character_and_is_told() -> None:
    found = find(rb'{"a":"x\ud800y\udc00\ud83d\ude00\ud800"}', rb'{"a":"\ud83d\ude00"}', rb'{"n":{"m":["\udfff"]}}')
    assert found.texts("a").to_pylist() == ["x\ufffdy\ufffd\U0001f600\ufffd", "\U0001f600", None]
    assert found.lone_surrogate.tolist() == [True, False, True]


def test_others_of_many_rows_stay_with_their_rows() -> None:
    rows = [{f"k{n}": n for n in range(count)} | {"a": 1} for count in [0, 3, 0, 5000, 1, 0]]
    texts = [json.dumps(row).encode() for row in rows]
    found = find(*texts, b'{"z":1,"a"')
    wanted = [{key: value for key, value in row.items() if key != "a"} or None for row in rows]
    assert [text and json.loads(text) for text in found.others().to_pylist()] == [*wanted, None]


def test_only_the_chosen_rows_of_a_slice_are_read() -> None:
    texts = pa.array([b'{"a":%d,"n":1}' % number for number in range(10)] + [None, b"\xff", b'{"a":12}'], pa.binary())
    found = FINDER.find(pa.chunked_array([texts[4:]]), np.array([0, 3, 8]))
    assert found.texts("a").to_pylist() == ["4", None, None, "7", None, None, None, None, "12"]
    assert found.texts("a", rows=np.array([3, 8])).to_pylist() == ["7", "12"]
    assert found.others().is_valid().to_pylist() == [True, False, False, True, False, False, False, False, False]


def test_column_without_rows_has_no_members() -> None:
    found = FINDER.find(pa.chunked_array([], pa.binary()))
    assert (len(found.texts("a")), len(found.others()), len(found.times("a")[0])) == (0, 0, 0)


@pytest.mark.parametrize(
    ("written", "micros"),
    [
        ('"1970-01-01T00:00:00Z"', 0),
        ('"1970-01-01T00:00:00.1234567Z"', 123_456),
        ('"1969-12-31T23:59:59.5Z"', -500_000),
        ('"2000-02-29T00:00:00+05:30"', 951_762_600_000_000),
        ('"2100-02-28T23:59:59-00:01"', 4_107_542_459_000_000),
        ('"0001-01-01T00:00:00Z"', -62_135_596_800_000_000),
        ('"9999-12-31T23:59:59.999999Z"', 253_402_300_799_999_999),
        ("1775952000123", 1_775_952_000_123_000),
        ("-1", -1000),
        ("-0", 0),
        ("0", 0),
        ("1775952000123.000", 1_775_952_000_123_000),
        ("1.775952000123E12", 1_775_952_000_123_000),
        ("-50e-1", -5_000),
        ("0.0e-999", 0),
        ("0e999", 0),
        ("999999999999999", 999_999_999_999_999_000),
        ('"2026-04-12t00:00:00z"', 1_775_952_000_000_000),
        ('"2026-04-12 00:00:00Z"', 1_775_952_000_000_000),
        ('"2016-12-31T23:59:60.25Z"', 1_483_228_800_250_000),
        ('"2017-01-01T01:59:60+02:00"', 1_483_228_800_000_000),
        ('"2016-06-30T18:29:60-05:30"', 1_467_331_200_000_000),
    ],
)
def test_time_is_read(written: str, micros: int) -> None:
    values, known = find(f'{{"a":{written}}}'.encode()).times("a")
    assert (values.tolist(), known.tolist()) == ([micros], [True])


@pytest.mark.parametrize(
    "written",
    [
        "null", "true", "1.5", "1234567890123456", "{}", '""', '"2026"', '"2026-04-12"', '"2026-04-12T00:00:00"',
        '"2026-02-29T00:00:00Z"', '"2100-02-29T00:00:00Z"', '"2026-13-01T00:00:00Z"', '"2026-00-01T00:00:00Z"',
        '"2026-04-31T00:00:00Z"', '"2026-04-00T00:00:00Z"', '"0000-01-01T00:00:00Z"', '"2026-04-12T24:00:00Z"',
        '"2026-04-12T00:60:00Z"', '"2026-04-12T00:00:60Z"', '"2026-04-12T00:00:00.Z"', '"2026-04-12T00:00:00+0200"',
        '"2026-04-12T00:00:00+24:00"', '"2026-04-12T00:00:00+02:60"', '"2026-04-12T00:00:00ZZ"',
        '"2016-12-31T23:59:60+01:00"', '"2016-12-31T23:58:60Z"', '"2016-12-31T23:59:61Z"',
        "5e-1", "1e15", "1e-999", "1e9999999999", "0.0000000000000000000000000", "123456789012345e1", "12e-1",
        '"2026-04-12_00:00:00Z"', '"+026-04-12T00:00:00Z"', '"2026-04-12T00:00:0\\u0030Z"',
        '" 2026-04-12T00:00:00Z"', '"2026-4-12T00:00:00.00Z"', '"2026/04/12T00:00:00Z"',
    ],
)  # fmt: skip
def test_rarer_time_or_none_is_left_to_others(written: str) -> None:
    assert find(f'{{"a":{written}}}'.encode()).times("a")[1].tolist() == [False]


@given(st.datetimes(), st.integers(-1439, 1439))
def test_any_time_is_the_one_that_python_means(local: datetime, offset: int) -> None:
    when = local.replace(tzinfo=timezone(timedelta(minutes=offset)))
    values, known = find(json.dumps({"a": when.isoformat()}).encode()).times("a")
    assert values.tolist() == [(local - datetime(1970, 1, 1)) // MICRO - offset * 60_000_000]
    assert known.tolist() == [True]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "x", "yy", "é"]), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c", "long_key", "n", 'q"\\', "é"]), ANY, max_size=6)
EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["", *'{}[]",:\\u0e-. \n\x00tfn'])), max_size=2
)


def edited(text: str, edits: list[tuple[float, str]]) -> str:
    """The text with some characters replaced, most of them to texts that are not JSON."""
    for where, character in edits:
        at = int(where * len(text))
        text = text[:at] + character + text[at + 1 :]
    return text


def strictly(text: str) -> Any:
    """What Python reads, with objects as lists of pairs; an exception if it is not JSON."""

    def refuse(_: str) -> None:
        raise ValueError

    return json.loads(text, parse_constant=refuse, object_pairs_hook=lambda pairs: ("object", pairs))


def kind(value: object) -> Kind:
    kinds = {type(None): Kind.NULL, str: Kind.TEXT, int: Kind.INTEGER, float: Kind.NUMBER, bool: Kind.BOOLEAN}
    return kinds.get(type(value), Kind.OBJECT if isinstance(value, tuple) else Kind.ARRAY)


def first(pairs: list[tuple[str, Any]], key: str) -> list[Any]:
    return [value for name, value in pairs if name == key][:1]


@settings(max_examples=300)
@example(value={"a": "\ud800"}, ascii_only=True, indent=None, edits=[])
@given(value=OBJECTS | ANY, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]), edits=EDITS)
def test_any_text_is_what_python_reads(
    value: object, ascii_only: bool, indent: int | None, edits: list[tuple[float, str]]
) -> None:
    text = edited(json.dumps(value, ensure_ascii=ascii_only, indent=indent), edits)
    found = find(text.encode())
    try:
        wanted = strictly(text)
    except ValueError:
        assert found.document[0] == Kind.ABSENT
        return
    assert found.document[0] == kind(wanted)
    pairs = wanted[1] if isinstance(wanted, tuple) else []
    names = [name for name, _ in pairs]
    assert found.repeated_key[0] == (len(names) > len(set(names)))
    if found.repeated_key[0]:
        return
    for path in PATHS:
        values = first(pairs, path[0])
        if len(path) == 2:
            values = first(values[0][1], path[1]) if values and isinstance(values[0], tuple) else []
        assert found.kinds(*path)[0] == (kind(values[0]) if values else Kind.ABSENT)
        text_found = found.texts(*path)[0].as_py()
        if not values or values[0] is None:
            assert text_found is None
        elif isinstance(values[0], str):
            assert text_found == values[0].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        else:
            assert strictly(text_found) == values[0]
    others = [(name, value) for name, value in pairs if name not in KEYS]
    left = found.others()[0].as_py()
    assert (strictly(left) if left else ("object", [])) == ("object", others)
