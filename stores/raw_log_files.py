"""Files of the raw log: where they lie, what they are called, how they are written.

Readers take every file whose name does not start with ``.`` or ``_``; such a file is whole, and never changes.
"""

import hashlib
import io
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileSystem

from schemas.durations import SECOND
from schemas.errors import StoreError
from schemas.events import RAW
from schemas.raw_log import RAW_LOG_AVRO
from schemas.records import TIMESTAMP
from stores.avro_rows import encode_rows
from stores.lake_files import NULL_PARTITION, first_line, open_location

CODEC = "zstandard"
LEVEL = 1
"""Of a row of 376 bytes, in µs and bytes: zstandard 1 takes 0.6 and leaves 74, 3 takes 1.0 and leaves 70; deflate 1
takes 2.6 and leaves 97, 6 takes 7.1 and leaves 77."""

BLOCK_BYTES = 1 << 20
"""Of rows, before they are compressed: what damage to one byte can cost."""

TEMPORARY_SUFFIX = ".tmp"

_OBJECT_STORES = ("s3", "gcs", "abfs")
"""Here a file appears when it is closed, and there is no cheap renaming."""

_ROW_BYTES = 64
"""More than a row takes beside its payload, but for a long source."""

_SCHEMA = fastavro.parse_schema(RAW_LOG_AVRO)
_YEAR_1, _YEAR_10000 = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND


class RawLogFile(NamedTuple):
    """A file of the raw log: its path below the log's root, its rows and bytes."""

    path: str
    rows: int
    size: int


def hour_folder(arrival_time: int | None) -> str:
    """The Hive-style folder of the hour of an arrival, microseconds since 1970.

    >>> hour_folder(1775995200_000000)
    'arrival_date=2026-04-12/arrival_hour=12'
    >>> hour_folder(None)
    'arrival_date=__HIVE_DEFAULT_PARTITION__/arrival_hour=__HIVE_DEFAULT_PARTITION__'
    """
    if arrival_time is None:
        return f"arrival_date={NULL_PARTITION}/arrival_hour={NULL_PARTITION}"
    return f"{_utc(arrival_time):arrival_date=%Y-%m-%d/arrival_hour=%H}"


def hour_end(folder: str) -> datetime | None:
    """The end of the hour whose folder this is, below the log's root; None where it is none.

    >>> hour_end("arrival_date=2026-04-12/arrival_hour=23")
    datetime.datetime(2026, 4, 13, 0, 0, tzinfo=datetime.timezone.utc)
    """
    found = re.fullmatch(r"arrival_date=(\d{4}-\d{2}-\d{2})/arrival_hour=(\d{2})", folder)
    if found is None:
        return None
    return datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00+00:00") + timedelta(hours=1)


def file_name(source: str, earliest: int | None, data: bytes) -> str:
    """A file's name: its source, its earliest arrival in microseconds, a hash of its bytes.

    Sorted, the names of a source are in the order of arrival.

    >>> file_name("clicks", 1775995200_250000, b"")[:31]
    'clicks-20260412T120000.250000Z-'
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", source).strip("._-")[-100:] or "raw"
    time = "undated" if earliest is None else f"{_utc(earliest):%Y%m%dT%H%M%S.%fZ}"
    return f"{safe}-{time}-{hashlib.blake2b(data, digest_size=12).hexdigest()}.avro"


class RawLogBuffer:
    """Rows that wait, encoded and compressed, until `write` makes them files: one a source and hour of arrival.

    A file is named after its source, its earliest arrival and a hash of its bytes. So the same rows written again, in
    the same order, are the same file; a retry that cuts the rows into other files leaves copies of rows under
    other names. Those do no harm: whatever reads the log knows a row by its source, partition and offset.

    Attributes:
        size: Bytes that wait.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._filesystem, self._path = open_location(root)
        self._parts: dict[_Key, _Part] = {}

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(part.size for part in self._parts.values())

    def add(self, rows: pa.Table) -> None:
        """Encode rows of `schemas.events.RAW`, whatever their payloads hold, null included.

        An arrival before the year 1 or after 9999 becomes null.
        """
        for key, part_rows in _split(_readable(rows.select(RAW.names).cast(RAW.schema))):
            part = self._parts.get(key)
            if part is None:
                part = self._parts[key] = _Part(part_rows)
            part.append(part_rows)

    def write(self) -> list[RawLogFile]:
        """Write what waits. A reader sees each file whole or not at all.

        Nothing is left to wait, even where it fails.

        Raises:
            StoreError: A file cannot be written.
        """
        parts, self._parts = self._parts, {}
        return [self._write(key, part) for key, part in parts.items()]

    def clear(self) -> None:
        """Forget what waits."""
        self._parts = {}

    def _write(self, key: "_Key", part: "_Part") -> RawLogFile:
        data = part.data()
        path = f"{hour_folder(key.hour)}/{file_name(key.source, part.earliest, data)}"
        try:
            write_whole(self._filesystem, f"{self._path}/{path}", data)
        except OSError as error:
            raise StoreError(f"cannot write the raw log in {self._root}: {first_line(error)}") from error
        return RawLogFile(path, part.rows, len(data))


def write_whole(filesystem: FileSystem, path: str, data: bytes) -> None:
    """Write a file that no reader sees before it is whole; it replaces one of the same name."""
    folder, _, name = path.rpartition("/")
    filesystem.create_dir(folder, recursive=True)
    direct = filesystem.type_name in _OBJECT_STORES
    target = path if direct else f"{folder}/.{name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    with filesystem.open_output_stream(target) as out:
        out.write(data)
    if not direct:
        filesystem.move(target, path)


class _Key(NamedTuple):
    """What the rows of a file share: source, and hour of arrival in microseconds."""

    source: str
    hour: int | None


class _Part:
    """A file in the making, of one source and hour."""

    def __init__(self, first: pa.Table) -> None:
        self.rows = 0
        self.earliest: int | None = None
        self._out = io.BytesIO()
        # random unless given, and then the same rows were not the same bytes
        marker = hashlib.blake2b(encode_rows(first.slice(0, 1)), digest_size=16).digest()
        self._writer = fastavro.write.Writer(
            self._out, _SCHEMA, codec=CODEC, compression_level=LEVEL, sync_marker=marker
        )

    @property
    def size(self) -> int:
        return self._out.tell()

    def append(self, rows: pa.Table) -> None:
        self.rows += len(rows)
        earliest = pc.min(rows["arrival_time"].cast(pa.int64())).as_py()
        if self.earliest is None or earliest < self.earliest:
            self.earliest = earliest
        for block in _blocks(rows):
            self._writer.write_block(_Block(len(block), io.BytesIO(encode_rows(block))))

    def data(self) -> bytes:
        self._writer.flush()
        return self._out.getvalue()


class _Block(NamedTuple):
    """What fastavro's `write_block` takes: a number of records, and their encoding."""

    num_records: int
    bytes_: io.BytesIO


def _blocks(rows: pa.Table) -> Iterator[pa.Table]:
    """Rows in slices of about `BLOCK_BYTES`; a row that is larger has its own."""
    sizes = np.asarray(pc.fill_null(pc.binary_length(rows["payload"]), 0)).astype(np.int64) + _ROW_BYTES
    number = (np.cumsum(sizes) - 1) // BLOCK_BYTES
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(rows)]
    for start, end in pairwise(bounds):
        yield rows.slice(start, end - start)


def _split(rows: pa.Table) -> "Iterator[tuple[_Key, pa.Table]]":
    """Rows by source and hour of arrival, as a rule one of each; rows keep their order."""
    hours = pc.floor_temporal(rows["arrival_time"].cast(pa.timestamp("us")), unit="hour").cast(pa.int64())
    keys = pa.table({"source": rows["source"], "hour": hours})
    distinct = [_Key(**key) for key in keys.group_by(keys.column_names, use_threads=False).aggregate([]).to_pylist()]
    for key in distinct:
        same_hour = pc.is_null(hours) if key.hour is None else pc.fill_null(pc.equal(hours, key.hour), False)
        same = pc.and_(pc.equal(rows["source"], key.source), same_hour)
        yield key, rows if len(distinct) == 1 else rows.filter(same)


def _readable(rows: pa.Table) -> pa.Table:
    """The rows as the log can hold them: a client may claim a time that no reader of Avro has a value for."""
    arrival = rows["arrival_time"].cast(pa.int64())
    known = pc.and_(pc.greater_equal(arrival, _YEAR_1), pc.less(arrival, _YEAR_10000))
    if pc.all(known, skip_nulls=True).as_py():
        return rows
    kept = pc.if_else(known, rows["arrival_time"], pa.scalar(None, TIMESTAMP))
    return rows.set_column(rows.schema.get_field_index("arrival_time"), RAW.schema.field("arrival_time"), kept)


def _utc(micros: int) -> datetime:
    seconds, rest = divmod(micros, SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
