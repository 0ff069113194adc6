"""Files of every kind and in every state of decay: what is whole arrives, what is not is said."""

import bz2
import gzip
import io
import lzma
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import fastavro
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.events import RAW
from schemas.raw_log import RAW_LOG_AVRO
from transforms.sources import raw_files
from transforms.sources.raw_files import Damage, FileFormat, FileSlice, read_slice, sniff


def read(data: bytes, start: int = 0, end: int | None = None) -> tuple[list[dict[str, object]], list[Damage]]:
    """All rows and all damages of a file with these bytes."""
    part = FileSlice("f", sniff(data[:4], "f"), start, len(data) if end is None else end)
    pieces = list(read_slice(io.BytesIO(data), part))
    rows = [row for piece in pieces if isinstance(piece, pa.Table) for row in piece.to_pylist()]
    assert all(piece.schema.equals(RAW.schema) for piece in pieces if isinstance(piece, pa.Table))
    return rows, [piece for piece in pieces if isinstance(piece, Damage)]


def payloads(data: bytes, start: int = 0, end: int | None = None) -> list[object]:
    rows, damages = read(data, start, end)
    assert damages == []
    return [row["payload"] for row in rows]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
        (b"a\n\n  \t\r\nb\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfa\nb\n", [b"a", b"b"]),
        (b"a\x00b\n\xff\n", [b"a\x00b", b"\xff"]),
        (b" a \n", [b" a "]),
        (b" " * 500 + b"\na\n" + b"\t" * 500 + b"\r\n", [b"a"]),
        (b"\x0c\na\n", [b"\x0c", b"a"]),
    ],
)
def test_lines_are_cut_at_newlines_and_blank_ones_passed_over(data: bytes, lines: list[bytes]) -> None:
    assert payloads(data) == lines
    assert payloads(gzip.compress(data)) == lines
    assert payloads(zstandard.compress(data)) == lines


def test_row_says_where_its_line_begins() -> None:
    rows, _ = read(b"\xef\xbb\xbfaa\n\nbb\n")
    assert [(row["source"], row["partition"], row["offset"], row["arrival_time"]) for row in rows] == [
        ("f", 0, 3, None),
        ("f", 0, 7, None),
    ]


LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=30)


@given(lines=LINES, cuts=st.lists(st.integers(0, 400), max_size=4), ends=st.booleans(), chunk=st.integers(1, 40))
def test_any_cut_into_slices_and_chunks_reads_every_line_once(
    lines: list[bytes], cuts: list[int], ends: bool, chunk: int
) -> None:
    data = b"".join(b"x" + line + b"\n" for line in lines)
    data = data if ends else data[:-1]
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_files, "CHUNK_BYTES", chunk)
        found = [read(data, start, end)[0] for start, end in pairwise(bounds)]
    rows = [row for part in found for row in part]
    assert [row["payload"] for row in rows] == [b"x" + line for line in lines]
    assert [row["offset"] for row in rows] == [sum(len(line) + 2 for line in lines[:n]) for n in range(len(lines))]


@given(lines=st.lists(st.binary(min_size=1, max_size=40), max_size=40), cut=st.integers(1, 200), kind=st.booleans())
def test_truncated_compression_gives_the_whole_lines_and_says_the_rest(
    lines: list[bytes], cut: int, kind: bool
) -> None:
    plain = b"".join(line.hex().encode() + b"\n" for line in lines)
    data = gzip.compress(plain) if kind else zstandard.compress(plain)
    cut = min(cut, len(data) - 5)
    rows, damages = read(data[:-cut])
    assert len(damages) == 1
    assert "ends in the middle" in damages[0].message
    read_back = b"".join(bytes(row["payload"]) + b"\n" for row in rows)  # type: ignore[call-overload]
    (rest,) = damages[0].rows.to_pylist()
    assert plain.startswith(read_back + rest["payload"])
    assert rest["offset"] == len(read_back)


def test_damaged_gzip_gives_what_inflates_and_says_the_rest() -> None:
    good = gzip.compress(b"a\nb\n")
    rows, damages = read(good + b"\x1f\x8b garbage")
    assert [row["payload"] for row in rows] == [b"a", b"b"]
    assert ["damaged" in damage.message for damage in damages] == [True]


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
@pytest.mark.parametrize("kind", [FileFormat.GZIP, FileFormat.ZSTD])
def test_damage_takes_no_line_that_stands_before_it(
    kind: FileFormat, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_files, "_BLOCK_BYTES", block)
    parts = [b"".join(b"%d of %d\n" % (line, part) for line in range(50)) for part in range(3)]
    members = [
        gzip.compress(part) if kind is FileFormat.GZIP else zstandard.ZstdCompressor(write_checksum=True).compress(part)
        for part in parts
    ]
    checksum = -8 if kind is FileFormat.GZIP else -1
    members[1] = members[1][:checksum] + bytes([members[1][checksum] ^ 0xFF]) + members[1][checksum:][1:]
    rows, damages = read(b"".join(members))
    assert b"".join(row["payload"] + b"\n" for row in rows) == parts[0] + parts[1]  # type: ignore[operator]
    assert ["damaged" in damage.message for damage in damages] == [True]


def test_members_and_frames_one_after_another_are_one_stream() -> None:
    assert payloads(gzip.compress(b"a\nb") + gzip.compress(b"c\n") + bytes(16)) == [b"a", b"bc"]
    skipped = b"\x5f\x2a\x4d\x18\x04\0\0\0a\nb\n"  # a frame of the writer's own, which holds no data
    assert payloads(skipped + zstandard.compress(b"a\nb") + skipped + zstandard.compress(b"c\n")) == [b"a", b"bc"]


def records(count: int) -> list[dict[str, object]]:
    return [
        {"payload": None if n == 3 else b"event %d" % n, "source": "topic", "partition": n % 3, "offset": 1000 + n,
         "arrival_time": datetime(2026, 4, 12, 0, 0, n % 60, 5, tzinfo=UTC)}
        for n in range(count)
    ]  # fmt: skip


def avro(rows: list[dict[str, object]], codec: str = "deflate") -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, RAW_LOG_AVRO, rows, codec=codec, sync_interval=300)
    return out.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate", "zstandard", "bzip2", "xz"])
def test_raw_log_keeps_positions_and_arrivals_of_the_bus(codec: str) -> None:
    rows, damages = read(avro(records(200), codec))
    assert damages == []
    assert rows == records(200)


def test_raw_log_without_records_is_empty() -> None:
    assert read(avro([])) == ([], [])


def test_log_of_payloads_alone_takes_its_place_from_the_file() -> None:
    out = io.BytesIO()
    schema = {"type": "record", "name": "log", "fields": [{"name": "payload", "type": "bytes"}]}
    fastavro.writer(out, schema, [{"payload": b"a"}, {"payload": b"b"}])
    rows, _ = read(out.getvalue())
    assert [(row["payload"], row["source"], row["offset"]) for row in rows] == [(b"a", "f", 0), (b"b", "f", 1)]


def test_damaged_avro_block_costs_no_other_block() -> None:
    whole = records(200)
    data = bytearray(avro(whole))
    sync = bytes(data[-16:])
    middle = data.index(sync, len(data) // 2)
    following = data.index(sync, middle + 16)
    data[middle + 20 : following] = b"\xff" * (following - middle - 20)
    rows, damages = read(bytes(data))
    assert len(damages) == 1
    damaged = damages[0].rows["payload"][0].as_py()
    assert damaged == bytes(data[middle + 16 : following])
    lost = [row for row in whole if row not in rows]
    assert 0 < len(lost) < 40
    assert [row["offset"] for row in lost] == list(range(lost[0]["offset"], lost[-1]["offset"] + 1))  # type: ignore[call-overload, operator]


def test_truncated_avro_gives_the_blocks_before() -> None:
    data = avro(records(200))
    rows, damages = read(data[:-40])
    assert rows == records(200)[: len(rows)]
    assert len(rows) > 150
    assert len(damages) == 1


@pytest.mark.parametrize("data", [b"Obj\x01", b"Obj\x01garbage", avro(records(5))[:60]])
def test_avro_without_its_header_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^f is not a whole Avro file") as refusal:
        read(data)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "record", "name": "other", "fields": [{"name": "x", "type": "int"}]}, {"x": 1}),
        ({"type": "array", "items": "int"}, [1]),
        ("string", "payload"),
        (["null", "bytes"], b"payload"),
    ],
)
def test_avro_of_other_values_is_refused(schema: Any, value: object) -> None:
    out = io.BytesIO()
    fastavro.writer(out, schema, [value])
    with pytest.raises(InputError, match="no field payload"):
        read(out.getvalue())


@pytest.mark.parametrize("codec", ["snappy", "lz4"])
def test_raw_log_in_a_codec_that_is_not_read_is_refused_and_not_called_damaged(codec: str) -> None:
    name = bytes([2 * len(codec)]) + codec.encode()
    with pytest.raises(InputError, match=f"codec {codec}: .*deflate"):
        read(avro(records(2), "null").replace(b"avro.codec\x08null", b"avro.codec" + name))


def test_format_is_told_by_content_not_by_name() -> None:
    assert sniff(gzip.compress(b"")[:4], "f") is FileFormat.GZIP
    assert sniff(zstandard.compress(b"")[:4], "f") is FileFormat.ZSTD
    assert sniff(avro([])[:4], "f") is FileFormat.AVRO
    assert sniff(b"", "f") is FileFormat.LINES


@pytest.mark.parametrize(
    "data", [b"PAR1\x15", b"PK\x03\x04", bz2.compress(b"{}"), lzma.compress(b"{}"), "{}".encode("utf-16")]
)
def test_format_that_is_known_and_not_read_is_refused_by_its_name(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^f is (a|compressed|UTF-16) .*: events are"):
        sniff(data[:4], "f")


@pytest.mark.parametrize("field", ["payload", "offset"])
def test_raw_log_with_a_field_of_another_type_is_refused(field: str) -> None:
    out = io.BytesIO()
    types = {"payload": ["bytes"], "offset": ["long"], field: [{"type": "map", "values": "int"}]}
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    row = {"payload": b"a", "offset": 1, field: {"x": 1}}
    fastavro.writer(out, {"type": "record", "name": "log", "fields": fields}, [row])
    with pytest.raises(InputError, match=r"^f is not a raw log: "):
        read(out.getvalue())
