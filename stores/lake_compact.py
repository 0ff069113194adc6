"""Making large files of small ones, each sorted, without a change to what a query finds."""

import uuid

from deltalake.transaction import Transaction

from schemas.records import Record
from stores.lake import live_files, open_table, table_uri
from stores.lake_commit import CommitResult, PartitionWrite, WriteMode, commit
from stores.lake_files import TARGET_FILE_BYTES, Place, read_files, write_files


def compact(lake_uri: str, record: Record, target_bytes: int = TARGET_FILE_BYTES) -> CommitResult:
    """Rewrite the files under half the target size, partition by partition, in one transaction.

    A partition with fewer than two such files is left alone. Deltalake's own compaction would lose the order of
    rows within a file.

    Args:
        lake_uri: The lake's root.
        record: The table's record.
        target_bytes: Size of a file, roughly.

    Raises:
        StoreBusyError: A run replaced one of the files meanwhile: nothing was written, run again.
        StoreError: The table cannot be read or written.
    """
    uri = table_uri(lake_uri, record.name)
    writes: list[PartitionWrite] = []
    for partition, files in live_files(open_table(lake_uri, record)).items():
        small = [file.path for file in files if file.size < target_bytes / 2]
        if len(small) < 2:
            continue
        place = Place(uri, record, partition)
        tables = (read_files(place, [path]) for path in small)
        written = write_files(place, tables, target_bytes)
        # What is added to the partition meanwhile, by a run that goes on, is none of the files that this replaces
        writes.append(PartitionWrite(partition, tuple(written), tuple(small)))
    return commit(lake_uri, record, writes, WriteMode.MERGE, Transaction(f"{record.name}:compact-{uuid.uuid4()}", 1))
