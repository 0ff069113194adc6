"""Compaction of a table: merging small files into large sorted ones, and deleting unreferenced files."""

import uuid

from deltalake.exceptions import DeltaError
from deltalake.transaction import Transaction

from schemas.errors import StoreError, first_line
from schemas.records import Record
from stores.lake import live_files, open_table, table_uri
from stores.lake_commit import CommitResult, PartitionWrite, WriteMode, commit
from stores.lake_files import TARGET_FILE_BYTES, Place, write_files
from stores.lake_read import read_files


def compact(lake_uri: str, record: Record) -> CommitResult:
    """Merge the files under half the target size, partition by partition, in one transaction.

    Skips a partition with fewer than two such files. Deltalake's own compaction would not keep rows sorted within a
    file.

    Args:
        lake_uri: The lake's root.
        record: The table's record.

    Raises:
        StoreBusyError: Another run replaced one of the files meanwhile: nothing was written, run again.
        StoreError: The table cannot be read or written.
    """
    uri = table_uri(lake_uri, record.name)
    writes: list[PartitionWrite] = []
    for partition, files in live_files(open_table(lake_uri, record)).items():
        small = [file.path for file in files if file.size < TARGET_FILE_BYTES / 2]
        if len(small) < 2:
            continue
        place = Place(uri, record, partition)
        tables = (read_files(place, [path]) for path in small)
        written = write_files(place, tables)
        # no fingerprint: files that a running job adds to the partition meanwhile do not conflict with this write
        writes.append(PartitionWrite(partition, tuple(written), tuple(small)))
    return commit(lake_uri, record, writes, WriteMode.MERGE, Transaction(f"{record.name}:compact-{uuid.uuid4()}", 1))


def delete_unreferenced(lake_uri: str, record: Record, keep_hours: int) -> int:
    """Delete the files that no table version of the last `keep_hours` references; returns their number.

    These are files that were merged or replaced earlier, and files of writers that died before their commit.

    Args:
        lake_uri: The lake's root.
        record: The table's record.
        keep_hours: Younger files are kept, because a reader may have listed them or a writer may be about to commit
            them. Must exceed the longest query and the longest run.

    Raises:
        StoreError: The table cannot be read, or a file cannot be deleted.
    """
    table = open_table(lake_uri, record)
    try:
        return len(table.vacuum(keep_hours, dry_run=False, enforce_retention_duration=False, full=True))
    except (DeltaError, OSError) as error:
        raise StoreError(f"{record.name}: cannot delete old files: {first_line(error)}") from error
