"""The lake's tables: one Delta table per record, each in a folder under the lake's root."""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from schemas.errors import StoreError, first_line
from schemas.records import Record
from stores.lake_files import Partition, check_partition_columns
from stores.lake_schema import check_evolution, delta_schema, evolve
from stores.locations import open_location

LOG_FOLDER = "_delta_log"
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
"""deltalake decodes this as a percent escape even in a local path, and would write its log to another folder."""
_TABLES_AT_ONCE = 8
CONFIGURATION = {
    # how long Delta remembers a run's (application id, version): longer than any retry of that run
    "delta.setTransactionRetentionDuration": "interval 30 days",
    # a table is opened several times a commit, and each time reads the commits since the last checkpoint; a checkpoint
    # itself costs little unless the table has many thousands of files
    "delta.checkpointInterval": "20",
}


class LiveFile(NamedTuple):
    """A file of a table's current version: its path relative to the table's folder, its bytes and rows."""

    path: str
    size: int
    rows: int


def table_uri(lake_uri: str, name: str) -> str:
    """The folder of a table; the name may contain slashes.

    >>> table_uri("s3://bucket/lake/", "silver/page_view")
    's3://bucket/lake/silver/page_view'
    """
    return f"{lake_uri.rstrip('/')}/{name}"


def check_lake(lake_uri: str, records: Sequence[Record]) -> None:
    """Check before a run that it can write these records. Creates the lake's root if it does not exist.

    Raises:
        SchemaMismatchError: A table exists whose columns or partitioning cannot become those of its record.
        StoreError: The root cannot be written, or a table cannot be read.
        OptionError: A record has a partition column of an unsupported type.
    """
    _find_checked(lake_uri, records)


def _find_checked(lake_uri: str, records: Sequence[Record]) -> list[DeltaTable | None]:
    """As `check_lake`; returns the table of each record, None if there is none."""
    for record in records:
        check_partition_columns(record)
    _delta_uri(lake_uri)
    filesystem, root = open_location(lake_uri)
    _check_writable(filesystem, root, lake_uri)

    def find(record: Record) -> DeltaTable | None:
        existing = find_table(lake_uri, record.name)
        if existing is not None:
            check_evolution(existing, record)
        return existing

    # A table takes a few requests, which wait for each other
    with ThreadPoolExecutor(_TABLES_AT_ONCE) as pool:
        return list(pool.map(find, records))


def check_fresh(lake_uri: str, records: Sequence[Record]) -> None:
    """Check before a fresh run on an endless input that it does not add to the rows of another run.

    Raises:
        StoreError: A table has rows.
    """
    for record in records:
        if has_rows(lake_uri, record):
            raise StoreError(
                f"{lake_uri}: {record.name} has rows of another run; go on from its checkpoint with --resume, "
                "or let this one add to them with --onto-existing"
            )


def has_rows(lake_uri: str, record: Record) -> bool:
    """Whether a record's table exists and has rows.

    Raises:
        StoreError: Its transaction log cannot be read.
    """
    return bool(find_files(lake_uri, record.name))


def create_tables(lake_uri: str, records: Sequence[Record]) -> None:
    """Create the missing tables empty, so that a query finds every table even if the run wrote no rows to it.

    A table of an earlier version of its record is migrated, see `stores.lake_schema.evolve`.

    Raises:
        SchemaMismatchError, StoreError, OptionError: As `check_lake`, before anything is created.
    """
    found = _find_checked(lake_uri, records)
    with ThreadPoolExecutor(_TABLES_AT_ONCE) as pool:
        list(pool.map(partial(_up_to_date, lake_uri), records, found))


def find_table(lake_uri: str, name: str) -> DeltaTable | None:
    """The current version of a table, or None if there is no such table.

    Raises:
        StoreError: Its transaction log cannot be read.
    """
    uri = _delta_uri(table_uri(lake_uri, name))
    try:
        return DeltaTable(uri) if DeltaTable.is_deltatable(uri) else None
    except (DeltaError, OSError) as error:
        raise StoreError(f"{name}: cannot read the table at {uri}: {first_line(error)}") from error


def open_table(lake_uri: str, record: Record) -> DeltaTable:
    """The current version of a record's table. Creates a missing table, and adds columns that an older one lacks.

    Raises:
        SchemaMismatchError: The table has columns or a partitioning that cannot become those of the record.
        StoreError: The table can be neither read nor created.
    """
    return _up_to_date(lake_uri, record, find_table(lake_uri, record.name))


def _up_to_date(lake_uri: str, record: Record, table: DeltaTable | None) -> DeltaTable:
    if table is None:
        uri = _delta_uri(table_uri(lake_uri, record.name))
        try:
            table = DeltaTable.create(
                uri,
                delta_schema(record),
                mode="ignore",  # another run may be creating it
                partition_by=list(record.partition_by),
                name=record.name,
                description=record.grain,
                configuration=CONFIGURATION,
            )
        except (DeltaError, OSError) as error:
            table = find_table(lake_uri, record.name)
            if table is None:
                raise StoreError(f"{record.name}: cannot make the table at {uri}: {first_line(error)}") from error
    evolve(table, record)
    return table


def live_files(table: DeltaTable) -> dict[Partition, list[LiveFile]]:
    """The files of a table's current version by partition, in path order."""
    actions = pa.table(table.get_add_actions(flatten=True))
    partition_by = table.metadata().partition_columns
    values = [pc.cast(actions.column(f"partition.{name}"), pa.string()).to_pylist() for name in partition_by]
    partitions = zip(*values, strict=True) if values else [()] * actions.num_rows
    # the log percent-encodes paths; file names and the paths passed to a commit are not encoded
    paths = [unquote(path) for path in actions.column("path").to_pylist()]
    columns = (paths, actions.column("size_bytes").to_pylist(), actions.column("num_records").to_pylist())
    files: dict[Partition, list[LiveFile]] = {}
    for partition, *fields in sorted(zip(partitions, *columns, strict=True), key=lambda row: row[1]):
        files.setdefault(partition, []).append(LiveFile(*fields))
    return files


def find_files(lake_uri: str, name: str) -> dict[Partition, list[LiveFile]]:
    """As `live_files`, for a table by its name; empty if there is no such table.

    Raises:
        StoreError: Its transaction log cannot be read.
    """
    table = find_table(lake_uri, name)
    return live_files(table) if table is not None else {}


def file_path(lake_uri: str, name: str, file: LiveFile) -> str:
    """The location of a live file: a plain absolute path, or a URI in an object store."""
    # not DeltaTable.file_uris(), which percent-encodes a local root
    return f"{_delta_uri(table_uri(lake_uri, name))}/{file.path}"


def read_table(lake_uri: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table into memory.

    Args:
        lake_uri: The lake's root.
        name: The table's name.
        columns: Columns to read, in the given order; all by default.

    Raises:
        StoreError: There is no such table, or it cannot be read.
    """
    table = find_table(lake_uri, name)
    if table is None:
        raise StoreError(f"{name}: there is no such table in {lake_uri}")
    try:
        return table.to_pyarrow_dataset().to_table(columns=list(columns) if columns is not None else None)
    except (OSError, DeltaError) as error:
        raise StoreError(f"{name}: cannot read: {first_line(error)}") from error


def check_exists(lake_uri: str) -> None:
    """Check before a maintenance command that there is a lake, so that a mistyped path does not create one.

    Raises:
        StoreError: There is no lake.
    """
    table_names(lake_uri)


def table_names(lake_uri: str) -> list[str]:
    """Names of the tables in a lake, nested ones with slashes.

    Raises:
        StoreError: There is no lake, or the location is a file or a table.
    """
    filesystem, root = open_location(lake_uri)
    try:
        names = sorted(_tables_under(filesystem, root, ""))
    except NotADirectoryError as error:
        raise StoreError(f"{lake_uri} is a file: a lake is a folder") from error
    if not names:
        raise StoreError(f"there is no lake at {lake_uri}")
    if "" in names:
        raise StoreError(f"{lake_uri} is a table of a lake: name the lake, the folder that its tables are in")
    return names


def _delta_uri(uri: str) -> str:
    filesystem, path = open_location(uri)
    if not isinstance(filesystem, LocalFileSystem):
        return uri
    if _ESCAPE.search(path):
        raise StoreError(f"{path}: a lake's path cannot have a percent sign before two hexadecimal digits")
    return path


def _tables_under(filesystem: FileSystem, root: str, name: str) -> list[str]:
    found: list[str] = []
    for child in filesystem.get_file_info(FileSelector(f"{root}/{name}".rstrip("/"), allow_not_found=True)):
        if child.type != FileType.Directory or "=" in child.base_name:
            continue
        if child.base_name == LOG_FOLDER:
            return [name]
        if not child.base_name.startswith(("_", ".")):
            found += _tables_under(filesystem, root, f"{name}/{child.base_name}".lstrip("/"))
    return found


def _check_writable(filesystem: FileSystem, root: str, lake_uri: str) -> None:
    try:
        filesystem.create_dir(root, recursive=True)
        if filesystem.get_file_info(root).type == FileType.File:
            raise StoreError(f"{lake_uri} is a file: a lake is a folder")
        writable = not isinstance(filesystem, LocalFileSystem) or os.access(root, os.W_OK | os.X_OK)
    except OSError as error:
        raise StoreError(f"the lake cannot be made at {lake_uri}: {first_line(error)}") from error
    if not writable:
        raise StoreError(f"the lake at {lake_uri} cannot be written: permission denied")
