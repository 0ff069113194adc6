"""Compacts the lake and the raw log into fewer, larger files, while other jobs write and read them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa

from pipelines.tables import SESSION_DIMENSION, TABLES
from schemas.durations import HOUR
from schemas.errors import StoreBusyError
from schemas.records import Record
from schemas.silver import stored_record
from schemas.user_stream import USER_STREAM
from stores.lake import find_table, table_names
from stores.lake_compact import compact, delete_unreferenced
from transforms.sources.compact_archive import compact_archive


@dataclass(frozen=True)
class CompactReport:
    """The result of a pass.

    Attributes:
        tables: Number of files merged and of files written, by table of the lake.
        deleted: Number of unreferenced files of the lake that were deleted.
        busy: Tables skipped because a run changed them meanwhile; the next pass compacts them.
        archive: Counts of the raw log's files; None if no raw log was given.
    """

    tables: dict[str, dict[str, int]]
    deleted: int
    busy: list[str]
    archive: dict[str, int] | None

    def as_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)


def _records(lake_uri: str) -> Iterator[Record]:
    """The records of the lake's existing tables, including silver tables of any catalogue."""
    declared = {record.name: record for record in (*TABLES, *SESSION_DIMENSION, USER_STREAM)}
    for name in table_names(lake_uri):
        if name in declared:
            yield declared[name]
        elif (table := find_table(lake_uri, name)) and (
            record := stored_record(name, pa.schema(table.schema().to_arrow()))
        ):
            yield record


def compact_stores(lake_uri: str, archive_uri: str | None, keep: int) -> CompactReport:
    """Compact all tables once, and the raw log if one is given.

    Args:
        lake_uri: The lake's root.
        archive_uri: The raw log's root, or None.
        keep: How long to keep files that no table references, microseconds; whole hours.

    Raises:
        StoreError: There is no lake, or a table or the raw log cannot be read or written.
    """
    tables: dict[str, dict[str, int]] = {}
    busy: list[str] = []
    deleted = 0
    for record in _records(lake_uri):
        try:
            result = compact(lake_uri, record)
        except StoreBusyError:
            busy.append(record.name)
            continue
        if result.committed:
            tables[record.name] = {"merged": result.files_removed, "written": result.files_written}
        deleted += delete_unreferenced(lake_uri, record, keep // HOUR)
    archive = None
    if archive_uri:
        done = compact_archive(archive_uri, datetime.now(UTC))
        archive = {name: value for name, value in done._asdict().items() if isinstance(value, int)}
    return CompactReport(tables, deleted, busy, archive)
