"""Parquet files of the lake: their partitions, how they are written, and their statistics in the transaction log."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple
from urllib.parse import quote, unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.columns import to_polars
from schemas.errors import OptionError, StoreError, first_line
from schemas.records import Field, Record
from stores.encoded_texts import encode_texts, plain_type
from stores.locations import open_location
from stores.parquet_files import parquet_bytes, sort_encoded

TARGET_FILE_BYTES = 32 << 20
EXPECTED_RATIO = 4
"""Buffered bytes (texts dictionary-encoded) per Parquet byte: an estimate until the first file has been written."""
BUFFER_BYTES = 40 << 20
"""Limit on the bytes buffered for one file, some 250,000 events. A file is written early rather than exceed it."""

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"

Partition = tuple[str | None, ...]
"""Values of a record's partition columns, in order and in the text form of the transaction log."""


class Place(NamedTuple):
    """A partition of a table: the table's folder, its record, the partition's values."""

    table_uri: str
    record: Record
    partition: Partition

    @property
    def folder(self) -> str:
        """The partition's folder, relative to the table's."""
        return partition_folder(self.record, self.partition)


class DataFile(NamedTuple):
    """A Parquet file that is written but not yet committed.

    Attributes:
        path: The path, relative to the table's folder.
        rows: Number of rows.
        size: Bytes.
        stats: Row count, bounds and null counts, as the JSON that Delta defines.
    """

    path: str
    rows: int
    size: int
    stats: str


def partition_folder(record: Record, partition: Partition) -> str:
    """The Hive-style folder of a partition, without leading or trailing slash; empty for an unpartitioned record.

    >>> from schemas.events import EVENT
    >>> partition_folder(EVENT, ("2026-04-12",))
    'event_date=2026-04-12'
    """
    values = (NULL_PARTITION if value is None else quote(value, safe="") for value in partition)
    return "/".join(f"{name}={value}" for name, value in zip(record.partition_by, values, strict=True))


def partition_of(day: date) -> Partition:
    """The partition of a date, for a record partitioned by a date alone.

    >>> partition_of(date(2026, 4, 12))
    ('2026-04-12',)
    """
    return (day.isoformat(),)


def date_of(partition: Partition) -> date:
    """The date of a partition; the inverse of `partition_of`."""
    return date.fromisoformat(str(partition[0]))


def parse_partition(folder: str) -> Partition:
    """The values of a partition folder; the inverse of `partition_folder`.

    >>> parse_partition("event_date=2026-04-12/country=__HIVE_DEFAULT_PARTITION__")
    ('2026-04-12', None)
    """
    values = (part.partition("=")[2] for part in folder.split("/") if part)
    return tuple(None if value == NULL_PARTITION else unquote(value) for value in values)


def split_by_partition(table: pa.Table, record: Record) -> Iterator[tuple[Partition, pa.Table]]:
    """Split a table into one table per partition, keeping the order of rows.

    A table with a single partition is returned as it is. Otherwise each part is a slice of one copy of the table.
    """
    if table.num_rows == 0:
        return
    if not record.partition_by:
        yield (), table
        return
    columns = table.select(list(record.partition_by))
    constant = all(_is_constant(column) for column in columns.columns)
    # Delta stores an empty text in a partition column as null
    values = to_polars(columns.slice(0, 1) if constant else columns).with_columns(pl.col(pl.String).replace("", None))
    groups = values.with_row_index("__row").group_by(values.columns, maintain_order=True).agg("__row")
    partitions = groups.select(pl.col(values.columns).cast(pl.String)).rows()
    if len(partitions) == 1:
        yield partitions[0], table
        return
    ordered, start = table.combine_chunks().take(groups["__row"].explode().to_arrow()), 0
    for partition, rows in zip(partitions, groups["__row"].list.len(), strict=True):
        yield partition, ordered.slice(start, rows)
        start += rows


def _is_constant(column: pa.ChunkedArray) -> bool:
    """Whether all values are the same; false for a column of only nulls."""
    bounds = pc.min_max(column)
    return column.null_count == 0 and bool(bounds["min"] == bounds["max"])


def write_files(place: Place, tables: Iterable[pa.Table], target_bytes: int = TARGET_FILE_BYTES) -> list[DataFile]:
    """Write the rows of one partition, sorted within each file. The files are not visible until they are committed.

    Rows are buffered until they fill a file: memory is about twice `BUFFER_BYTES` whatever the partition's size.

    Args:
        place: The partition to write to.
        tables: Rows of this partition only; columns that are not in its record are dropped.
        target_bytes: Approximate size of a file.

    Raises:
        StoreError: The disk is full, or the folder cannot be written.
        ValueError: A non-nullable column has a null, or a column cannot be cast to its type.
    """
    stored = [field for field in place.record if field.name not in place.record.partition_by]
    files: list[DataFile] = []
    held: list[pa.Table] = []
    held_bytes, ratio = 0, float(EXPECTED_RATIO)
    for table in tables:
        for piece in _pieces(table, BUFFER_BYTES):
            held.append(encode_texts(_in_types(piece, stored)))
            held_bytes += held[-1].nbytes
            if held_bytes >= min(target_bytes * ratio, BUFFER_BYTES):
                files.append(_write_file(place, held))
                ratio = held_bytes / files[-1].size
                held, held_bytes = [], 0
    if held:
        files.append(_write_file(place, held))
    return files


def _pieces(table: pa.Table, most_bytes: int) -> Iterator[pa.Table]:
    """Slice a table into pieces of at most about `most_bytes`."""
    if table.num_rows:
        rows = -(-table.num_rows // -(-table.nbytes // most_bytes)) if table.nbytes else table.num_rows
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows)


def encode_rows(table: pa.Table, record: Record) -> pa.Table:
    """Cast a table to a record's columns and types and dictionary-encode repeated texts: the form of buffered rows.

    Raises:
        ValueError: A column cannot be cast to its type.
    """
    return encode_texts(_in_types(table, record.fields))


def _in_types(table: pa.Table, fields: Sequence[Field]) -> pa.Table:
    """Select the fields' columns, cast to their types; usually they have these types already and nothing is cast."""
    table = table.select([field.name for field in fields])
    if all(plain_type(have.type) == field.type for have, field in zip(table.schema, fields, strict=True)):
        return table
    return table.cast(pa.schema([(field.name, field.type) for field in fields]))


def _write_file(place: Place, tables: list[pa.Table]) -> DataFile:
    table_uri, record, folder = place.table_uri, place.record, place.folder
    fields = [field for field in record if field.name not in record.partition_by]
    names = [field.name for field in fields]
    rows = sort_encoded(tables, [name for name in record.sort_by if name in names])
    nulls = {name: column.null_count for name, column in zip(names, rows.columns, strict=True)}
    for field in fields:
        if nulls[field.name] and not field.nullable:
            raise ValueError(f"{record.name}: {field.name} is never null, and {nulls[field.name]} rows have a null")
    bounded = {*record.key, *record.sort_by, *(field.name for field in fields if pa.types.is_temporal(field.type))}
    data = parquet_bytes(rows, bounded)
    path = f"{folder}/{uuid.uuid4()}.parquet" if folder else f"{uuid.uuid4()}.parquet"
    filesystem, root = open_location(table_uri)
    try:
        filesystem.create_dir(f"{root}/{folder}", recursive=True)
        with filesystem.open_output_stream(f"{root}/{path}") as out:
            out.write(data)
    except OSError as error:
        raise StoreError(f"{record.name}: cannot write to {table_uri}: {first_line(error)}") from error
    stats = file_stats(pq.read_metadata(pa.BufferReader(data)), nulls)
    return DataFile(path, rows.num_rows, data.size, json.dumps(stats))


def delete_files(place: Place, paths: Iterable[str]) -> None:
    """Delete files of a partition that no table version references. A missing file is not an error.

    Raises:
        StoreError: A file cannot be deleted.
    """
    filesystem, root = open_location(place.table_uri)
    for path in paths:
        try:
            filesystem.delete_file(f"{root}/{path}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"{place.record.name}: cannot delete {path}: {first_line(error)}") from error


def file_stats(metadata: pq.FileMetaData, nulls: Mapping[str, int]) -> dict[str, object]:
    """Delta's statistics of a file: its row count, null counts, and the bounds from its footer.

    The footer has bounds of keys, sort columns, dates and times, by which readers prune files.

    Args:
        metadata: The file's footer.
        nulls: Number of nulls per column.
    """
    lows: dict[str, object] = {}
    highs: dict[str, object] = {}
    for index in range(metadata.num_columns):
        chunks = [metadata.row_group(group).column(index) for group in range(metadata.num_row_groups)]
        stats = [chunk.statistics for chunk in chunks]
        if any(s is None for s in stats):
            continue
        valued = [s for s, chunk in zip(stats, chunks, strict=True) if s.null_count < chunk.num_values]
        if valued and all(s.has_min_max for s in valued):
            name = chunks[0].path_in_schema
            lows[name] = _stat(min(s.min for s in valued))
            highs[name] = _stat(max(s.max for s in valued))
    return {"numRecords": metadata.num_rows, "minValues": lows, "maxValues": highs, "nullCount": dict(nulls)}


def _stat(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value.isoformat() if isinstance(value, date) else value


def check_partition_columns(record: Record) -> None:
    """Reject a partition column whose text form is not one-to-one.

    Raises:
        OptionError: A partition column is neither a date, an integer nor text.
    """
    for field in record:
        plain = (pa.types.is_date32, pa.types.is_integer, pa.types.is_string)
        if field.name in record.partition_by and not any(is_type(field.type) for is_type in plain):
            raise OptionError(f"{record.name}: cannot partition by {field.name}, a {field.type}")
