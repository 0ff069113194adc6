"""Commits of an endless run: numbered file descriptions, each committed exactly once.

A table's transaction version for the run's application id is the highest number committed. A description that
arrives again, after a crash between a commit and its acknowledgement, is recognised by its number and by the attempt
that numbered it. A restored run cuts its bundles differently, so its new numbers cover other rows. Hence nothing
depends on a replay producing the same bundles.
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
from stores.lake import LiveFile, live_files, table_uri
from stores.lake_bounds import TimeBounds
from stores.lake_commit import CommitResult, PartitionWrite, Planned, WriteMode, commit_planned
from stores.lake_files import TARGET_FILE_BYTES, Partition, Place, delete_files
from stores.lake_merge import MergeRows, replace_changed
from stores.lake_read import read_files
from stores.patience import Patience

STAGING = "changes"
"""Subfolder of a table's folder for files of changes (session panes) that are written but not merged yet. No table
version references them."""

_FOLDED_ROWS = 25_000

Fold = Callable[[pa.Table], tuple[pa.Table, pa.Table]]
"""Takes changes; returns the resulting rows (of the record) and the keys of withdrawn rows."""


class Numbered(NamedTuple):
    """A description of files and its position in the run.

    Attributes:
        incarnation: Id of the run; a restored run keeps it, a fresh start gets a new one.
        number: 1, 2, 3 … without a gap; a restored run continues from the number in its checkpoint.
        attempt: Id of the attempt that gave the number; a restore starts a new attempt.
        write: The files.
    """

    incarnation: str
    number: int
    attempt: str
    write: PartitionWrite


class Changes(NamedTuple):
    """How files of changes become rows.

    Attributes:
        record: The record of a change.
        fold: Reduces a set of changes to rows.
        merge: Combines existing rows and folded ones of the same keys; None: the folded rows win.
        time: A time column that a row's key determines, used to skip files without any of the rows. `fold` returns it
            for withdrawn rows too.
    """

    record: Record
    fold: Fold
    merge: MergeRows | None = None
    time: str | None = None

    def fold_by_key(self, changes: pa.Table, key: str) -> tuple[pa.Table, pa.Table]:
        """As `fold`, one part of the keys at a time, which bounds the memory beyond the input and output.

        Args:
            changes: Rows of `record`.
            key: A text column; all changes of one row have the same value.
        """
        parts = -(-changes.num_rows // _FOLDED_ROWS)
        if parts < 2:
            return self.fold(changes)
        part_of = shards_of(changes.column(key), parts)
        folded = [self.fold(changes.filter(pa.array(part_of == part))) for part in range(parts)]
        rows, gone = zip(*folded, strict=True)
        return pa.concat_tables(rows), pa.concat_tables(gone)

    def merge_into(
        self,
        place: Place,
        live: Sequence[LiveFile],
        changes: pa.Table,
        target_bytes: int = TARGET_FILE_BYTES,
        bounds: TimeBounds | None = None,
    ) -> PartitionWrite:
        """Fold changes, and replace the rows of a partition by them; see `replace_changed`."""
        rows, gone = self.fold_by_key(changes, place.record.key[0])
        return replace_changed(place, live, rows, gone, target_bytes, self.merge, bounds)

    def place(self, lake_uri: str, record: Record, partition: Partition) -> Place:
        """Where changes to a partition of a record's table are staged."""
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
    """Commit the descriptions that are not committed yet, in one transaction.

    Store errors are retried here rather than by the runner: a runner's retry starts again with the files, and after
    several retries in a row Beam's stable-input buffer can lose a description.

    Args:
        lake_uri: The lake's root.
        record: The table's record; a missing table is created.
        numbered: Descriptions of one incarnation, in any order.
        changes: If given, the files hold changes, which are merged into the table. If None, the files are appended.
        onto_existing: Whether a run that is new to the table may add to existing rows. A fresh start over a table with
            an earlier run's rows writes them twice, so the caller must allow it.
        patience: How long to retry a table that cannot be read or written.

    Raises:
        BrokenStreamError: A number is missing before these; the table has rows of another run; or it has rows of this
            run from after the checkpoint that the run was restored from.
        StoreError: The table still cannot be read or written when patience has run out.
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
            with suppress(StoreError):  # a file that is left is an orphan, like those of a failed attempt
                delete_files(place, [file.path for file in write.added])
    return result._replace(failures=failures)


def _last_numbers(in_order: Iterable[Numbered]) -> dict[str, int]:
    """The last number of each attempt."""
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
        place = Place(uri, record, partition)
        merged.append(changes.merge_into(place, live.get(partition, []), read, bounds=bounds))
    return merged
