"""Commits of an endless run: numbered descriptions of files, each made visible exactly once.

A table's transaction version of the run's application id is the highest number that is in. A description that
comes again, after a crash between a commit and its acknowledgement, is known by its number and by who gave it: what a
restored run numbers anew covers other rows, as its bundles are cut anew. So nothing rests on a replay being the same.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import Transaction

from schemas.errors import BrokenStreamError, StoreError
from schemas.keys import shards_of
from schemas.records import Record
from stores.lake import live_files, table_uri
from stores.lake_bounds import TimeBounds
from stores.lake_commit import CommitResult, PartitionWrite, Planned, WriteMode, commit_planned
from stores.lake_files import Partition, Place, delete_files
from stores.lake_merge import MergeRows, replace_changed
from stores.lake_read import read_files
from stores.patience import Patience

STAGING = "changes"
"""Folder in a table's for files of changes (session panes) between being written and merged. In no version of it."""

_FOLDED_ROWS = 25_000

Fold = Callable[[pa.Table], tuple[pa.Table, pa.Table]]
"""From changes to the rows they leave (of the record) and the keys of rows that are no more."""


class Numbered(NamedTuple):
    """A description of files and its place in the run.

    Attributes:
        incarnation: Names the run; a restored run keeps it, a fresh start has another.
        number: 1, 2, 3 … without a gap; a restored run goes on from the number in its checkpoint.
        attempt: Names who gave the number; after a restore it is another.
        write: The files.
    """

    incarnation: str
    number: int
    attempt: str
    write: PartitionWrite


class Changes(NamedTuple):
    """How files of changes become rows.

    Attributes:
        record: What the changes are written as.
        fold: What a set of changes comes to.
        merge: What a row that is there and one that changes leave come to; None where the latter holds.
        time: A column that a row's key determines, by which files without any of the rows are told; `fold` gives it
            of rows that are no more too.
    """

    record: Record
    fold: Fold
    merge: MergeRows | None = None
    time: str | None = None

    def fold_by_key(self, changes: pa.Table, key: str) -> tuple[pa.Table, pa.Table]:
        """As `fold`, a part of the keys after the other: what it takes beside its input and output stays bounded.

        Args:
            changes: Rows of `record`.
            key: A column of text; changes of one row have the same value.
        """
        parts = -(-changes.num_rows // _FOLDED_ROWS)
        if parts < 2:
            return self.fold(changes)
        part_of = shards_of(changes.column(key), parts)
        folded = [self.fold(changes.filter(pa.array(part_of == part))) for part in range(parts)]
        rows, gone = zip(*folded, strict=True)
        return pa.concat_tables(rows), pa.concat_tables(gone)

    def place(self, lake_uri: str, record: Record, partition: Partition) -> Place:
        """Where changes of a partition of a record's table are staged."""
        staged = dataclasses.replace(
            self.record, partition_by=record.partition_by, sort_by=record.sort_by, key=record.key
        )
        return Place(f"{table_uri(lake_uri, record.name)}/{STAGING}", staged, partition)


def commit_numbered(
    lake_uri: str,
    record: Record,
    numbered: Sequence[Numbered],
    changes: Changes | None = None,
    *,
    onto_existing: bool = False,
    patience: Patience = Patience(),  # noqa: B008
) -> CommitResult:
    """Commit the descriptions that are not in yet, in one transaction.

    What the store refuses is tried again here: a runner's own retry begins with the files, and of several in a row
    Beam's buffer of stable input can lose a description.

    Args:
        lake_uri: The lake's root.
        record: The table's record; the table is made if there is none.
        numbered: Descriptions of one incarnation, in any order.
        changes: Where the files hold changes: they are merged into the table, new rows winning. Else the files
            themselves are appended.
        onto_existing: Whether a run that the table does not know may add to rows that it has. A fresh start over
            a table that holds an earlier run's rows writes them twice, so the caller says that it is meant.
        patience: How long a table that cannot be read or written is tried.

    Raises:
        BrokenStreamError: A number is missing before these; the table has rows of another run; or it has some of this
            one that came after the checkpoint which it was restored from.
        StoreError: The table cannot be read or written, and patience has run out.
    """
    (incarnation,) = {item.incarnation for item in numbered}
    in_order = sorted(numbered, key=lambda item: item.number)
    app_id = f"{record.name}:{incarnation}"
    merged: list[PartitionWrite] = []

    def plan(table: DeltaTable, done: int) -> Planned | None:
        pending = [item for item in in_order if item.number > done]
        merged.clear()
        for attempt, last in _last_numbers(in_order[: len(in_order) - len(pending)]).items():
            if (table.transaction_version(f"{app_id}:{attempt}") or 0) < last:
                raise BrokenStreamError(
                    f"{record.name}: the lake is ahead of the checkpoint that the run goes on from; take its newest"
                )
        if not pending:
            return None
        for expected, item in enumerate(pending, done + 1):
            if item.number != expected:
                raise BrokenStreamError(f"{record.name}: file description {expected} is missing before {item.number}")
        if done == 0 and not onto_existing and live_files(table):
            raise BrokenStreamError(
                f"{record.name}: the table has rows of another run; say that this run may add to them, or restore it"
            )
        writes = [item.write for item in pending]
        if changes is not None:
            merged.extend(writes)
            writes = _merge(lake_uri, record, table, writes, changes)
        by_attempt = [Transaction(f"{app_id}:{attempt}", last) for attempt, last in _last_numbers(pending).items()]
        return Planned(pending[-1].number, writes, even_empty=True, also=tuple(by_attempt))

    mode = WriteMode.APPEND if changes is None else WriteMode.MERGE
    result, failures = patience.attempt(lambda: commit_planned(lake_uri, record, mode, app_id, plan))
    if changes is not None:
        for write in merged:
            place = changes.place(lake_uri, record, write.partition)
            with suppress(StoreError):  # what stays is an orphan, like the files of an attempt that failed
                delete_files(place, [file.path for file in write.added])
    return result._replace(failures=failures)


def _last_numbers(in_order: Iterable[Numbered]) -> dict[str, int]:
    """The highest number of each attempt."""
    return {item.attempt: item.number for item in in_order}


def _merge(
    lake_uri: str, record: Record, table: DeltaTable, writes: Iterable[PartitionWrite], changes: Changes
) -> list[PartitionWrite]:
    live = live_files(table)
    bounds = TimeBounds.read(table, changes.time) if changes.time else None
    staged: dict[Partition, list[str]] = {}
    for write in writes:
        staged.setdefault(write.partition, []).extend(file.path for file in write.added)
    uri = table_uri(lake_uri, record.name)
    merged: list[PartitionWrite] = []
    for partition, paths in staged.items():
        read = read_files(changes.place(lake_uri, record, partition), paths)
        rows, gone = changes.fold_by_key(read, record.key[0])
        place = Place(uri, record, partition)
        files = live.get(partition, [])
        merged.append(replace_changed(place, files, rows, gone, merge=changes.merge, bounds=bounds))
    return merged
