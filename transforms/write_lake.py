"""Writing tables into the lake: files by the workers, then one transaction that makes them all visible."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import apache_beam as beam
import pyarrow as pa
from deltalake.transaction import Transaction

from schemas.errors import OptionError
from schemas.records import Record
from schemas.sessions import SESSION, SESSION_PANE
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
from stores.lake_stream import Changes
from transforms.panes import fold_panes
from transforms.stream_lake import StreamToLake, count_commit
from transforms.tables import TableCoder

PackedTable = bytes
"""A table as `TableCoder` encodes it. A group of them is read one at a time, not all before the first."""


@dataclass(eq=False)
class WriteLake(beam.PTransform):
    """Writes tables of a record into its table of the lake.

    Input elements: tables with at least the record's columns. Output: what was committed, one `CommitResult`
    a transaction. A bounded input is one transaction: a run that dies half-way leaves nothing visible. Of an
    unbounded input each bundle's files are committed exactly once, see `StreamToLake`; it can be appended, or merged
    where new rows win.

    Attributes:
        record: Names the table, its columns, partitions, order and key.
        lake: The lake's root, a path or URI.
        mode: merge (the same input again changes nothing), overwrite (replaces the partitions that the input
            touches) or append (blind).
        wins: In a merge, which row stays of two with the same key.
        changes: Where the input's rows are not rows of the record but changes of them: what they come to.
        target_file_bytes: Size of a file, roughly.
        run_id: Names a bounded run. Its transaction is committed once, however often it is retried.
        onto_existing: Whether a fresh unbounded run may add to a table with rows of another run.
        stable_input: Whether to require stable input of the runner (Flink); FnApiRunner refuses the requirement.
    """

    record: Record
    lake: str
    mode: WriteMode = WriteMode.MERGE
    wins: Wins = Wins.EXISTING
    changes: Changes | None = None
    target_file_bytes: int = TARGET_FILE_BYTES
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    onto_existing: bool = False
    stable_input: bool = False

    def __post_init__(self) -> None:
        self.mode, self.wins = WriteMode(self.mode), Wins(self.wins)
        check_partition_columns(self.record)

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Split, group, write, group, commit; an endless input in its own way.

        Raises:
            OptionError: The mode does not fit an unbounded input.
        """
        if not tables.is_bounded:
            return tables | "StreamToLake" >> self._stream()
        return (
            tables
            | "SplitByPartition" >> beam.ParDo(_SplitByPartition(self.record, whole=self.changes is not None))
            | "GroupByPartition" >> beam.GroupByKey()
            | "WriteFiles" >> beam.ParDo(_WriteFiles(self))
            | "GroupByTable" >> beam.GroupByKey()
            | "Commit" >> beam.ParDo(_Commit(self.lake, self.record, self.mode, self.run_id))
        )

    def _stream(self) -> StreamToLake:
        merging = self.mode is WriteMode.MERGE and self.wins is Wins.NEW and self.changes is not None
        if not merging and (self.mode is not WriteMode.APPEND or self.changes is not None):
            raise OptionError(
                f"{self.record.name}: mode {self.mode} is for a bounded input; "
                f"an unbounded one takes {'merge' if self.changes is not None else 'append'}"
            )
        return StreamToLake(
            self.record,
            self.lake,
            self.changes,
            target_file_bytes=self.target_file_bytes,
            onto_existing=self.onto_existing,
            stable_input=self.stable_input,
        )


@dataclass(eq=False)
class WriteSessions(beam.PTransform):
    """Writes session panes into fact_sessions: the last pane of each session, less those withdrawn.

    Input elements: tables of SESSION_PANE. In a merge a session's new state replaces the one in the table.

    Attributes:
        lake: The lake's root, a path or URI.
        mode: merge, overwrite or append; merge for an unbounded input.
        target_file_bytes: Size of a file, roughly.
        onto_existing: As of `WriteLake`.
        stable_input: As of `WriteLake`.
    """

    lake: str
    mode: WriteMode = WriteMode.MERGE
    target_file_bytes: int = TARGET_FILE_BYTES
    onto_existing: bool = False
    stable_input: bool = False

    def expand(self, panes: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Write with the fold of panes."""
        return panes | "WriteLake" >> WriteLake(
            SESSION,
            self.lake,
            self.mode,
            wins=Wins.NEW,
            changes=Changes(SESSION_PANE, fold_panes),
            target_file_bytes=self.target_file_bytes,
            onto_existing=self.onto_existing,
            stable_input=self.stable_input,
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
        self._changes, self._target_bytes = write.changes, write.target_file_bytes
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
        if self._changes is not None or (merging and self._wins is Wins.NEW):
            changes = pa.concat_tables(tables)
            rows, gone = self._changes.fold(changes) if self._changes else (changes, changes.slice(0, 0))
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
        count_commit(result)
        yield result
