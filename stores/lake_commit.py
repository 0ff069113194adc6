"""The writes that a run requests of a table, and the transaction that commits them."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from schemas.errors import StoreBusyError, StoreError, first_line
from schemas.records import Record
from stores.lake import LiveFile, live_files, open_table
from stores.lake_files import DataFile, Partition
from stores.lake_schema import delta_schema

COMMIT_ATTEMPTS = 10
GUARD = "clickstream-writer"
"""Application id of every commit that depends on what it read: Delta rejects one of two such concurrent commits."""


class WriteMode(StrEnum):
    """How a write treats the rows that a table already has."""

    MERGE = "merge"
    OVERWRITE = "overwrite"
    APPEND = "append"


class PartitionWrite(NamedTuple):
    """The files that a run adds to a partition, and those that it removes.

    Attributes:
        partition: The partition's values.
        added: Files written for the partition.
        removed: Paths of the live files that they replace.
        seen: Fingerprint of the live files that this write was computed from; None if it depends on none.
        skipped: Rows not written because the table already has them.
    """

    partition: Partition
    added: tuple[DataFile, ...]
    removed: tuple[str, ...] = ()
    seen: str | None = None
    skipped: int = 0


NamedWrite = tuple[str, PartitionWrite]
"""A table's name, and a write to one of its partitions."""


class CommitResult(NamedTuple):
    """The result of a commit.

    Attributes:
        table: The table's name.
        version: The table's version afterwards.
        committed: False if there was nothing to do, or the transaction had been committed before.
        rows_written: Rows of the added files.
        rows_already_there: Rows skipped because the table already has them.
        files_written: Files added.
        bytes_written: Bytes of the added files.
        files_removed: Files replaced.
        commit_ms: Milliseconds from opening the table to the end of the commit.
        failures: Failed attempts before this one.
    """

    table: str
    version: int
    committed: bool
    rows_written: int = 0
    rows_already_there: int = 0
    files_written: int = 0
    bytes_written: int = 0
    files_removed: int = 0
    commit_ms: int = 0
    failures: int = 0


def fingerprint(files: Iterable[LiveFile]) -> str:
    """A short hash of a set of live files."""
    return hashlib.sha256("\n".join(sorted(file.path for file in files)).encode()).hexdigest()[:16]


def commit(
    lake_uri: str, record: Record, writes: Sequence[PartitionWrite], mode: WriteMode, transaction: Transaction
) -> CommitResult:
    """Commit the writes atomically. Does nothing if the transaction has been committed before.

    A run that dies before its commit leaves files that no reader sees.

    Args:
        lake_uri: The lake's root.
        record: The table's record; a missing table is created.
        writes: At most one per partition, unless the mode is append.
        mode: Overwrite replaces everything that the partitions hold at the time of the commit.
        transaction: Application id and version. It counts as committed if the table's version of that id is at least
            as high.

    Raises:
        StoreBusyError: Another run changed a partition after it was read: nothing was written, run again.
        StoreError: The table cannot be read or written.
    """

    def plan(_: DeltaTable, done: int) -> Planned | None:
        return None if done >= transaction.version else Planned(transaction.version, writes)

    return commit_planned(lake_uri, record, mode, transaction.app_id, plan)


class Planned(NamedTuple):
    """What to commit on top of a version of a table.

    Attributes:
        version: The transaction version to record for the commit.
        writes: The writes.
        even_empty: Whether to record the version even if there is nothing to write.
        also: Versions of other application ids to record in the same transaction.
    """

    version: int
    writes: Sequence[PartitionWrite]
    even_empty: bool = False
    also: tuple[Transaction, ...] = ()


def commit_planned(
    lake_uri: str,
    record: Record,
    mode: WriteMode,
    app_id: str,
    plan: Callable[[DeltaTable, int], Planned | None],
) -> CommitResult:
    """Plan a commit on the table's current version and make it; plan again if another commit came in between.

    Args:
        lake_uri: The lake's root.
        record: The table's record; a missing table is created.
        mode: As `commit`.
        app_id: Application id of the transaction.
        plan: Takes the table and its version of `app_id` (0 for none); returns what to commit, None for nothing.

    Raises:
        StoreBusyError: Another run changed a partition after it was read: nothing was written, run again.
        StoreError: The table cannot be read or written.
    """
    started = time.monotonic()
    for _ in range(COMMIT_ATTEMPTS):
        table = open_table(lake_uri, record)
        planned = plan(table, table.transaction_version(app_id) or 0)
        if planned is None:
            return CommitResult(record.name, table.version(), committed=False)
        writes = planned.writes
        removed = _files_to_remove(table, record, writes, mode)
        skipped = sum(write.skipped for write in writes)
        if not (removed or planned.even_empty or any(write.added for write in writes)):
            return CommitResult(record.name, table.version(), committed=False, rows_already_there=skipped)
        transactions = [*_transactions(table, mode, Transaction(app_id, planned.version)), *planned.also]
        try:
            table.create_write_transaction(
                _actions(record, writes, removed),
                mode="append",  # adds and removes are both named; Delta's overwrite would choose the removes
                schema=delta_schema(record),
                partition_by=list(record.partition_by),
                commit_properties=CommitProperties(app_transactions=transactions),
            )
        except CommitFailedError:
            continue  # another run committed meanwhile: plan again
        except (DeltaError, OSError) as error:
            raise StoreError(f"{record.name}: cannot commit: {first_line(error)}") from error
        table.update_incremental()
        added = [file for write in writes for file in write.added]
        return CommitResult(
            record.name,
            table.version(),
            committed=True,
            rows_written=sum(file.rows for file in added),
            rows_already_there=skipped,
            files_written=len(added),
            bytes_written=sum(file.size for file in added),
            files_removed=len(removed),
            commit_ms=int((time.monotonic() - started) * 1000),
        )
    raise StoreBusyError(f"{record.name}: other runs kept committing to the table; run again")


def _files_to_remove(
    table: DeltaTable, record: Record, writes: Sequence[PartitionWrite], mode: WriteMode
) -> list[tuple[Partition, LiveFile]]:
    if mode is WriteMode.APPEND:
        return []
    live = live_files(table)
    removed: list[tuple[Partition, LiveFile]] = []
    for write in writes:
        files = live.get(write.partition, [])
        if mode is WriteMode.OVERWRITE:
            removed += [(write.partition, file) for file in files]
            continue
        if write.seen is not None and write.seen != fingerprint(files):
            values = ", ".join(str(value) for value in write.partition) or "all rows"
            raise StoreBusyError(f"{record.name}: another run changed {values} while this one was writing; run again")
        replaced = set(write.removed)
        if not replaced <= {file.path for file in files}:
            raise StoreBusyError(f"{record.name}: another run replaced files that this one was rewriting; run again")
        removed += [(write.partition, file) for file in files if file.path in replaced]
    return removed


def _actions(
    record: Record, writes: Sequence[PartitionWrite], removed: Sequence[tuple[Partition, LiveFile]]
) -> list[AddAction | RemoveAction]:
    now_ms = time.time_ns() // 1_000_000

    def values(partition: Partition) -> dict[str, str | None]:
        return dict(zip(record.partition_by, partition, strict=True))

    added = [
        AddAction(file.path, file.size, values(write.partition), now_ms, True, file.stats)
        for write in writes
        for file in write.added
    ]
    return [
        *added,
        *(RemoveAction(file.path, True, now_ms, file.size, values(partition)) for partition, file in removed),
    ]


def _transactions(table: DeltaTable, mode: WriteMode, transaction: Transaction) -> list[Transaction]:
    if mode is WriteMode.APPEND:
        return [transaction]
    return [transaction, Transaction(GUARD, table.version() + 1)]
