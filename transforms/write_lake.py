"""Writing tables into the lake: files by the workers, then one transaction that makes them all visible."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import apache_beam as beam
import pyarrow as pa
from deltalake.transaction import Transaction

from schemas.records import Record
from schemas.sessions import SESSION
from stores.lake import LiveFile, find_table, live_files, table_uri
from stores.lake_commit import CommitResult, PartitionWrite, Wins, WriteMode, commit
from stores.lake_files import (
    TARGET_FILE_BYTES,
    Partition,
    Place,
    check_partition_columns,
    parse_partition,
    partition_folder,
    split_by_partition,
    write_files,
)
from stores.lake_merge import add_missing, replace_changed
from transforms.metrics import count
from transforms.panes import fold_panes
from transforms.tables import TableCoder

Fold = Callable[[pa.Table], tuple[pa.Table, pa.Table]]
"""From changes to the rows they leave (of the record) and the keys of rows that are no more."""

PackedTable = bytes
"""A table as `TableCoder` encodes it. A group of them is read one at a time, not all before the first."""


@dataclass(eq=False)
class WriteLake(beam.PTransform):
    """Writes tables of a record into its table of the lake.

    Input elements: tables with at least the record's columns. Output: what was committed, one `CommitResult`
    a transaction. A bounded input is one transaction: a run that dies half-way leaves nothing visible.

    Attributes:
        record: Names the table, its columns, partitions, order and key.
        lake: The lake's root, a path or URI.
        mode: merge (the same input again changes nothing), overwrite (replaces the partitions that the input
            touches) or append (blind).
        wins: In a merge, which row stays of two with the same key.
        fold: Where the input's rows are changes: what they come to. It sees all of a partition at once.
        target_file_bytes: Size of a file, roughly.
        run_id: Names this run. A transaction of a run is committed once, however often it is retried.
    """

    record: Record
    lake: str
    mode: WriteMode = WriteMode.MERGE
    wins: Wins = Wins.EXISTING
    fold: Fold | None = None
    target_file_bytes: int = TARGET_FILE_BYTES
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.mode, self.wins = WriteMode(self.mode), Wins(self.wins)
        check_partition_columns(self.record)

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Split, group, write, group, commit."""
        return (
            tables
            | "SplitByPartition" >> beam.ParDo(_SplitByPartition(self.record, whole=self.fold is not None))
            | "GroupByPartition" >> beam.GroupByKey()
            | "WriteFiles" >> beam.ParDo(_WriteFiles(self))
            | "GroupByTable" >> beam.GroupByKey()
            | "Commit" >> beam.ParDo(_Commit(self.lake, self.record, self.mode, self.run_id))
        )


@dataclass(eq=False)
class WriteSessions(beam.PTransform):
    """Writes session panes into fact_sessions: the last pane of each session, less those withdrawn.

    Input elements: tables of SESSION_PANE. In a merge a session's new state replaces the one in the table.

    Attributes:
        lake: The lake's root, a path or URI.
        mode: merge, overwrite or append.
        target_file_bytes: Size of a file, roughly.
    """

    lake: str
    mode: WriteMode = WriteMode.MERGE
    target_file_bytes: int = TARGET_FILE_BYTES

    def expand(self, panes: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Write with the fold of panes."""
        return panes | "WriteLake" >> WriteLake(
            SESSION,
            self.lake,
            self.mode,
            wins=Wins.NEW,
            fold=fold_panes,
            target_file_bytes=self.target_file_bytes,
        )


@beam.typehints.with_output_types(tuple[str, PackedTable])
class _SplitByPartition(beam.DoFn):
    """A table to one packed table a partition, keyed by the partition's folder."""

    def __init__(self, record: Record, whole: bool) -> None:
        self._record, self._whole = record, whole
        self._coder = TableCoder()

    def process(self, table: pa.Table) -> Iterator[tuple[str, PackedTable]]:
        if not self._whole:
            table = table.select(self._record.names)
        for partition, part in split_by_partition(table, self._record):
            yield partition_folder(self._record, partition), self._coder.encode(part)


@beam.typehints.with_output_types(tuple[str, PartitionWrite])
class _WriteFiles(beam.DoFn):
    """The tables of one partition to files, described for the commit and keyed by table."""

    def __init__(self, write: WriteLake) -> None:
        self._lake, self._record, self._mode, self._wins = write.lake, write.record, write.mode, write.wins
        self._fold, self._target_bytes = write.fold, write.target_file_bytes
        self._coder = TableCoder()
        self._live: dict[Partition, list[LiveFile]] = {}

    def start_bundle(self) -> None:
        if self._mode is WriteMode.MERGE:
            table = find_table(self._lake, self._record.name)
            self._live = live_files(table) if table is not None else {}

    def process(self, group: tuple[str, Iterable[PackedTable]]) -> Iterator[tuple[str, PartitionWrite]]:
        folder, packed = group
        yield self._record.name, self._write(parse_partition(folder), map(self._coder.decode, packed))

    def _write(self, partition: Partition, tables: Iterable[pa.Table]) -> PartitionWrite:
        place = Place(table_uri(self._lake, self._record.name), self._record, partition)
        live = self._live.get(partition, [])
        merging = self._mode is WriteMode.MERGE
        if self._fold is not None or (merging and self._wins is Wins.NEW):
            changes = pa.concat_tables(tables)
            rows, gone = self._fold(changes) if self._fold else (changes, changes.slice(0, 0))
            if merging:
                return replace_changed(place, live, rows, gone, self._target_bytes)
            tables = [rows]
        if merging:
            return add_missing(place, live, tables, self._target_bytes)
        return PartitionWrite(partition, tuple(write_files(place, tables, self._target_bytes)))


@beam.typehints.with_output_types(CommitResult)
class _Commit(beam.DoFn):
    """All of a run's writes to a table, in one transaction."""

    def __init__(self, lake: str, record: Record, mode: WriteMode, run_id: str) -> None:
        self._lake, self._record, self._mode, self._run_id = lake, record, mode, run_id

    def process(self, group: tuple[str, Iterable[PartitionWrite]]) -> Iterator[CommitResult]:
        name, writes = group
        transaction = Transaction(f"{name}:{self._run_id}", 1)
        result = commit(self._lake, self._record, list(writes), self._mode, transaction)
        prefix = f"lake_{name.replace('/', '_')}"
        count(f"{prefix}_rows", result.rows_written)
        count(f"{prefix}_skipped", result.rows_already_there)
        count(f"{prefix}_files", result.files_written)
        count(f"{prefix}_bytes", result.bytes_written)
        yield result
