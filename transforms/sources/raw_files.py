"""Reads files of raw events, JSON lines (plain, gzip, zstd) and Avro raw logs, as RAW rows. No Beam."""

import io
import zlib
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain, repeat
from typing import Any, BinaryIO, NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from schemas.errors import InputError
from schemas.events import RAW
from schemas.records import TIMESTAMP

CHUNK_BYTES = 16 << 20
"""Bytes of JSON lines in one batch: some 40,000 events."""

AVRO_BATCH_ROWS = 40_000
_AVRO_CODECS = ("null", "deflate", "bzip2", "xz", "zstandard")
_UTF8_BOM = b"\xef\xbb\xbf"
_SYNC_BYTES = 16
_BLOCK_BYTES = 1 << 20
_WHITE_SPACE = b" \t\r\n"
_DAMAGED = (zlib.error, zstandard.ZstdError)


class FileFormat(StrEnum):
    """The format of a file, detected by its first bytes and never by its name."""

    LINES = "lines"
    GZIP = "gzip"
    ZSTD = "zstd"
    AVRO = "avro"


_MAGIC = {
    b"\x1f\x8b": FileFormat.GZIP,
    b"\x28\xb5\x2f\xfd": FileFormat.ZSTD,
    # Skippable frames, with which some writers begin a file
    **{bytes([first]) + b"\x2a\x4d\x18": FileFormat.ZSTD for first in range(0x50, 0x60)},
    b"Obj\x01": FileFormat.AVRO,
}
_FOREIGN = {
    b"PAR1": "a Parquet file",
    b"ORC": "an ORC file",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "compressed by bzip2",
    b"\xfd7zX": "compressed by xz",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def sniff(head: bytes, path: str) -> FileFormat:
    """Detect the format of a file by its first four bytes (fewer if the file is shorter).

    Raises:
        InputError: The file has a known format that is not supported. Read as lines, all of it would be dead letters.

    >>> sniff(b'{"ev', "events.jsonl")
    <FileFormat.LINES: 'lines'>
    """
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"{path} is {name}: events are JSON lines in UTF-8 (plain, gzip, zstd) or Avro raw logs")
    return next((found for magic, found in _MAGIC.items() if head.startswith(magic)), FileFormat.LINES)


class FileSlice(NamedTuple):
    """The lines of a file that start in [start, end). A file that cannot be split is one slice."""

    path: str
    format: FileFormat
    start: int
    end: int


class Damage(NamedTuple):
    """Bytes of a file that cannot be read as events: RAW rows with these bytes, and a one-line error message."""

    rows: pa.Table
    message: str


def read_slice(stream: BinaryIO, part: FileSlice) -> Iterator[pa.Table | Damage]:
    """Read one slice of an open file.

    Yields:
        Batches of `schemas.events.RAW` rows in file order, and a `Damage` for each place that cannot be read. The rows
        before it (and, in Avro, after it) are not lost.

    Raises:
        InputError: An Avro file is not a raw log.
    """
    if part.format is FileFormat.AVRO:
        yield from _read_avro(stream, part.path)
    elif part.format is FileFormat.LINES:
        yield from _read_plain(stream, part.path, _first_line(stream, part.start), part.end)
    else:
        yield from _read_inflated(_inflate(stream, part.format), part.path)


class _BrokenStreamError(Exception):
    """A compressed stream is truncated or damaged."""


def _first_line(stream: BinaryIO, start: int) -> int:
    """The offset of the first line that starts at or after `start`."""
    if start == 0:
        return 0
    stream.seek(start - 1)
    stream.readline()
    return stream.tell()


def _read_plain(stream: BinaryIO, path: str, start: int, end: int) -> Iterator[pa.Table]:
    """Read batches of the lines that start in [start, end)."""
    while start < end:
        # Begins again with the line that the batch before cut off, which costs less than to join the two
        stream.seek(start)
        data = stream.read(min(CHUNK_BYTES, end - start))
        whole = data.rfind(b"\n") + 1
        if whole < len(data) and (start + len(data) == end or not whole):
            data += stream.readline()
            whole = len(data)
        if not whole:
            return
        yield _lines(data, whole, path, start)
        start += whole


def _inflate(stream: BinaryIO, kind: FileFormat) -> Iterator[bytes]:
    """Decompress a stream up to its end or its damage.

    A decompressor that fails discards the output of the current block. So the stream is then read again, the damaged
    block byte by byte.
    """
    given = 0
    try:
        for piece in _inflate_blocks(stream, kind, repeat(_BLOCK_BYTES)):
            given += len(piece)
            yield piece
    except _DAMAGED:
        whole_blocks = max(0, stream.tell() - _BLOCK_BYTES) // _BLOCK_BYTES
        stream.seek(0)
        try:
            for piece in _inflate_blocks(stream, kind, chain(repeat(_BLOCK_BYTES, whole_blocks), repeat(1))):
                yield piece[given:]
                given = max(0, given - len(piece))
        except _DAMAGED as error:
            raise _BrokenStreamError(f"the {kind} data is damaged ({error})") from error


def _inflate_blocks(stream: BinaryIO, kind: FileFormat, sizes: Iterator[int]) -> Iterator[bytes]:
    """Decompress one or more gzip members or zstd frames, reading them in blocks of these sizes."""
    inflater: Any = None
    block = stream.read(next(sizes))
    while block:
        if inflater is None:
            inflater = (
                zlib.decompressobj(wbits=31)
                if kind is FileFormat.GZIP
                else zstandard.ZstdDecompressor().decompressobj()
            )
        yield inflater.decompress(block)
        if inflater.eof:
            # Zeros after the last member are padding, as for gzip itself
            rest, inflater = inflater.unused_data.lstrip(b"\0"), None
            block = rest or stream.read(next(sizes))
        else:
            block = stream.read(next(sizes))
    if inflater is not None:
        raise _BrokenStreamError(f"the {kind} data ends in the middle")


def _read_inflated(pieces: Iterator[bytes], path: str) -> Iterator[pa.Table | Damage]:
    """Split the pieces of a decompressed file into batches of lines."""
    held: list[bytes] = []
    size, offset, broken = 0, 0, None
    try:
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size >= CHUNK_BYTES and b"\n" in piece:
                data = b"".join(held)
                end = data.rfind(b"\n") + 1
                yield _lines(data, end, path, offset)
                held, size, offset = [data[end:]], len(data) - end, offset + end
    except _BrokenStreamError as error:
        broken = str(error)
    data = b"".join(held)
    end = data.rfind(b"\n") + 1 if broken else len(data)
    if end:
        yield _lines(data, end, path, offset)
    if broken:
        yield Damage(_rows(pa.array([data[end:]], pa.binary()), path, np.array([offset + end])), broken)


def _lines(data: bytes, end: int, path: str, offset: int) -> pa.Table:
    """RAW rows of the lines in data[:end]. A line of white space alone is not an event and is skipped."""
    first = len(_UTF8_BOM) if offset == 0 and data.startswith(_UTF8_BOM) else 0
    if not data.endswith(b"\n", 0, end):
        data, end = data + b"\n", end + 1
    ends = np.flatnonzero(np.frombuffer(data, np.uint8, end) == ord("\n")) + 1
    bounds = np.concatenate([[first], ends]).astype(np.int32)
    lines = pa.BinaryArray.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(bounds), pa.py_buffer(data)])
    # The newline is not part of the event, nor of the payload in a dead letter
    rows = _rows(pc.binary_slice(lines, 0, -1), path, bounds[:-1] + np.int64(offset))
    indented = np.flatnonzero(np.isin(np.frombuffer(data, np.uint8)[bounds[:-1]], list(_WHITE_SPACE)))
    blank = [row for row in indented.tolist() if not data[bounds[row] : bounds[row + 1]].strip(_WHITE_SPACE)]
    return rows.take(np.delete(np.arange(len(ends)), blank)) if blank else rows


def _rows(payload: pa.Array, path: str, offsets: np.ndarray) -> pa.Table:
    """RAW rows of a file, with partition 0 and no arrival time."""
    size = len(payload)
    columns = [
        payload,
        pa.repeat(path, size),
        pa.repeat(pa.scalar(0, pa.int32()), size),
        pa.array(offsets, pa.int64()),
        pa.nulls(size, TIMESTAMP),
    ]
    return pa.Table.from_arrays(columns, schema=RAW.schema)


def _read_avro(stream: BinaryIO, path: str) -> Iterator[pa.Table | Damage]:
    """Read an Avro raw log, with the positions and arrival times recorded in it."""
    held: list[dict[str, Any]] = []
    good_end = header_end = 0
    try:
        blocks = fastavro.block_reader(stream)
    except Exception as error:
        raise InputError(f"{path} is not a whole Avro file: {error}") from error
    record = blocks.writer_schema if isinstance(blocks.writer_schema, dict) else {}
    if "payload" not in {field["name"] for field in record.get("fields", ())}:
        raise InputError(f"{path} is not a raw log: its Avro records have no field payload")
    if blocks.codec not in _AVRO_CODECS:
        codecs = ", ".join(_AVRO_CODECS)
        raise InputError(f"{path} is an Avro file with the codec {blocks.codec}: a raw log must have one of {codecs}")
    broken = None
    try:
        for block in blocks:
            held.extend(block)
            header_end, good_end = header_end or block.offset, block.offset + block.size
            if len(held) >= AVRO_BATCH_ROWS:
                yield _records(held, path)
                held = []
    except Exception as error:  # fastavro's codecs raise many kinds: EOFError, ValueError, zlib.error …
        broken = f"a block of the avro data is damaged ({error or type(error).__name__})"
    if held:
        yield _records(held, path)
    if broken:
        stream.seek(0)
        header = stream.read(header_end)
        stream.seek(good_end)
        rest = stream.read()
        # After the next sync marker the file can be read again
        marker = rest.find(header[-_SYNC_BYTES:], 1) if header else -1
        damaged = rest if marker < 0 else rest[:marker]
        yield Damage(_rows(pa.array([damaged], pa.binary()), path, np.array([good_end])), broken)
        if marker >= 0 and marker + _SYNC_BYTES < len(rest):
            yield from _read_avro(io.BytesIO(header + rest[marker + _SYNC_BYTES :]), path)


def _records(records: list[dict[str, Any]], path: str) -> pa.Table:
    """RAW rows of a raw log's records. For fields that a foreign log lacks, the values of a plain file are used."""
    try:
        files = _rows(pa.array([r["payload"] for r in records], pa.binary()), path, np.arange(len(records)))
        for position, field in enumerate(RAW):
            if field.name in records[0] and field.name != "payload":
                files = files.set_column(position, field.name, pa.array([r[field.name] for r in records], field.type))
        return files.cast(RAW.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{path} is not a raw log: {error}") from error
