"""Buffer of raw rows to be written to the raw log, encoded and compressed as they arrive."""

import hashlib
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.durations import HOUR, SECOND
from schemas.errors import StoreError, first_line
from schemas.events import RAW
from schemas.raw_log import RAW_LOG_AVRO
from schemas.records import TIMESTAMP
from stores.avro_rows import encode_rows
from stores.locations import open_location
from stores.raw_log_files import SUMMARY_KEY, RawLogFile, Summary, file_name, hour_folder, write_whole

CODEC = "zstandard"
LEVEL = 1
"""A row of 376 bytes takes 0.6 µs and 74 bytes with zstandard 1, 1.0 µs and 70 bytes with zstandard 3, 2.6 µs and 97
bytes with deflate 1, 7.1 µs and 77 bytes with deflate 6."""

BLOCK_BYTES = 1 << 20
"""Bytes of rows in a block before compression: the most that one damaged byte can cost."""

_ROW_BYTES = 64
"""Upper bound on a row's bytes besides its payload, unless the source is long."""

_SCHEMA = fastavro.parse_schema(RAW_LOG_AVRO)
_YEAR_1, _YEAR_10000 = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND


class RawLogBuffer:
    """Holds encoded and compressed rows until `write` writes them to files, one per source and hour of arrival.

    A file is named after its source, its earliest arrival and a hash of its bytes. So writing the same rows again in
    the same order writes the same file. A retry that splits the rows into files differently leaves copies of rows under
    other names. These do no harm: readers of the log identify a row by its source, partition and offset.

    Attributes:
        size: Bytes held.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._filesystem, self._path = open_location(root)
        self._parts: dict[_Key, _Part] = {}

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(part.size for part in self._parts.values())

    def add(self, rows: pa.Table) -> None:
        """Encode and hold rows of `schemas.events.RAW`, with any payloads, including null.

        An arrival before the year 1 or after 9999 becomes null.
        """
        for key, part_rows in _split(_readable(rows.select(RAW.names).cast(RAW.schema))):
            part = self._part(key)
            for block in _blocks(part_rows):
                part.append(len(block), encode_rows(block))
            part.note(part_rows)

    def add_file(self, data: bytes, summary: Summary) -> None:
        """Add the rows of a file that this class wrote, without decoding them.

        Raises:
            Exception: A block is damaged; fastavro raises many kinds. Nothing is added then.
        """
        blocks = [(block.num_records, block.bytes_.getvalue()) for block in fastavro.block_reader(io.BytesIO(data))]
        key = _Key(summary.source, None if summary.earliest is None else summary.earliest // HOUR * HOUR)
        part = self._part(key)
        for rows, encoded in blocks:
            part.append(rows, encoded)
        part.widen(summary)

    def write(self) -> list[RawLogFile]:
        """Write the held rows to files. A reader sees each file whole or not at all.

        The buffer is empty afterwards, even after an error.

        Raises:
            StoreError: A file cannot be written.
        """
        parts, self._parts = self._parts, {}
        return [self._write(key, part) for key, part in parts.items()]

    def clear(self) -> None:
        """Discard the held rows."""
        self._parts = {}

    def _part(self, key: "_Key") -> "_Part":
        if key not in self._parts:
            self._parts[key] = _Part(key.source)
        return self._parts[key]

    def _write(self, key: "_Key", part: "_Part") -> RawLogFile:
        data = part.data()
        path = f"{hour_folder(key.hour)}/{file_name(key.source, part.summary.earliest, data)}"
        try:
            write_whole(self._filesystem, f"{self._path}/{path}", data)
        except OSError as error:
            raise StoreError(f"cannot write the raw log in {self._root}: {first_line(error)}") from error
        return RawLogFile(path, part.rows, len(data))


class _Key(NamedTuple):
    """The values that all rows of a file share: source, and hour of arrival in microseconds."""

    source: str
    hour: int | None


class _Part:
    """A file being built, of one source and hour."""

    def __init__(self, source: str) -> None:
        self.rows = 0
        self.summary = Summary(source, None, {})
        self._out = io.BytesIO()
        self._writer = self._start(self._out)
        self._header = self._out.tell()

    @property
    def size(self) -> int:
        return self._out.tell()

    def append(self, rows: int, encoded: pa.Buffer | bytes) -> None:
        self.rows += rows
        self._writer.write_block(_Block(rows, io.BytesIO(encoded)))

    def note(self, rows: pa.Table) -> None:
        """Extend the summary by these rows."""
        earliest = pc.min(rows["arrival_time"].cast(pa.int64())).as_py()
        bounds = rows.group_by("partition").aggregate([("offset", "min"), ("offset", "max")]).to_pylist()
        offsets = {str(bound["partition"]): (bound["offset_min"], bound["offset_max"]) for bound in bounds}
        self.widen(Summary(self.summary.source, earliest, offsets))

    def widen(self, summary: Summary) -> None:
        known = [time for time in (self.summary.earliest, summary.earliest) if time is not None]
        offsets = dict(self.summary.offsets)
        for partition, (low, high) in summary.offsets.items():
            before = offsets.get(partition, (low, high))
            offsets[partition] = (min(low, before[0]), max(high, before[1]))
        self.summary = Summary(self.summary.source, min(known, default=None), offsets)

    def data(self) -> bytes:
        """The whole file. Its header is written last, as it summarises the rows."""
        header = io.BytesIO()
        said = self.summary._asdict() | {"offsets": dict(sorted(self.summary.offsets.items()))}
        self._start(header, {SUMMARY_KEY: json.dumps(said)})
        return header.getvalue() + self._out.getbuffer()[self._header :]

    def _start(self, out: io.BytesIO, metadata: dict[str, str] | None = None) -> "fastavro.write.Writer":
        # by default fastavro's marker is random, and the same rows would give different bytes
        marker = hashlib.blake2b(self.summary.source.encode(), digest_size=16).digest()
        return fastavro.write.Writer(
            out, _SCHEMA, codec=CODEC, compression_level=LEVEL, sync_marker=marker, metadata=metadata
        )


class _Block(NamedTuple):
    """The input of fastavro's `write_block`: a number of records and their encoding."""

    num_records: int
    bytes_: io.BytesIO


def _blocks(rows: pa.Table) -> Iterator[pa.Table]:
    """Slice rows into blocks of about `BLOCK_BYTES`; a larger row gets a block of its own."""
    sizes = np.asarray(pc.fill_null(pc.binary_length(rows["payload"]), 0)).astype(np.int64) + _ROW_BYTES
    number = (np.cumsum(sizes) - 1) // BLOCK_BYTES
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(rows)]
    for start, end in pairwise(bounds):
        yield rows.slice(start, end - start)


def _split(rows: pa.Table) -> "Iterator[tuple[_Key, pa.Table]]":
    """Split rows by source and hour of arrival, keeping their order; usually there is one of each."""
    hours = pc.floor_temporal(rows["arrival_time"].cast(pa.timestamp("us")), unit="hour").cast(pa.int64())
    keys = pa.table({"source": rows["source"], "hour": hours})
    distinct = [_Key(**key) for key in keys.group_by(keys.column_names, use_threads=False).aggregate([]).to_pylist()]
    for key in distinct:
        same_hour = pc.is_null(hours) if key.hour is None else pc.fill_null(pc.equal(hours, key.hour), False)
        same = pc.and_(pc.equal(rows["source"], key.source), same_hour)
        yield key, rows if len(distinct) == 1 else rows.filter(same)


def _readable(rows: pa.Table) -> pa.Table:
    """Set arrival times that Avro readers cannot represent to null: a client may claim any time."""
    arrival = rows["arrival_time"].cast(pa.int64())
    known = pc.and_(pc.greater_equal(arrival, _YEAR_1), pc.less(arrival, _YEAR_10000))
    if pc.all(known, skip_nulls=True).as_py():
        return rows
    kept = pc.if_else(known, rows["arrival_time"], pa.scalar(None, TIMESTAMP))
    return rows.set_column(rows.schema.get_field_index("arrival_time"), RAW.schema.field("arrival_time"), kept)
