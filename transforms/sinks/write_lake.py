"""Writes tables to the lake: workers write files, then one transaction makes all of them visible."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue
from deltalake.transaction import Transaction

from schemas.errors import OptionError
from schemas.records import Record
from stores.encoded_texts import plain
from stores.lake import LiveFile, find_files, table_uri
from stores.lake_buffer import Part, PartitionBuffer, to_hold
from stores.lake_commit import CommitResult, NamedWrite, PartitionWrite, WriteMode, commit
from stores.lake_files import (
    TARGET_FILE_BYTES,
    Partition,
    Place,
    check_partition_columns,
    parse_partition,
    split_by_partition,
    write_files,
)
from stores.lake_merge import KnownKeys, add_missing
from stores.lake_stream import Changes
from transforms.background import Ahead, Background
from transforms.gathered import GATHERED_BYTES, Gathered, put_together
from transforms.sinks.group_by_partition import GroupByPartition, unpack
from transforms.sinks.stream_lake import StreamToLake, count_commit
from transforms.tables import PackedTable, TableCoder, at_the_end
from transforms.work_ahead import WorkAhead


@dataclass(eq=False)
class WriteLake(beam.PTransform):
    """Writes tables of a record to its table of the lake.

    Input elements: tables with at least the record's columns. Output: one `CommitResult` a transaction. A bounded
    input is one transaction, so a run that dies half-way leaves nothing visible. The rows of an unbounded input are
    committed exactly once (see `StreamToLake`): rows are appended, changes are merged.

    Attributes:
        record: Defines the table's name, columns, partitions, sort order and key.
        lake: The lake's root, a path or URI.
        mode: merge (idempotent), overwrite (replaces the partitions that the input touches) or append (adds all rows
            without a check).
        changes: How changes become rows, if the input's rows are changes and not rows of the record. In a merge they
            replace the rows that the table has; plain rows whose key the table has are skipped.
        target_file_bytes: Approximate file size for a bounded input; a bundle of an unbounded one seldom fills a file.
        run_id: Identifies a bounded run. Its transaction is committed once, however often it is retried.
        onto_existing: Whether a fresh unbounded run may add to a table that holds rows of another run.
        stable_input: Whether to require stable input of the runner (Flink); FnApiRunner rejects the requirement.
    """

    record: Record
    lake: str
    mode: WriteMode = WriteMode.MERGE
    changes: Changes | None = None
    target_file_bytes: int = TARGET_FILE_BYTES
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    onto_existing: bool = False
    stable_input: bool = False

    def __post_init__(self) -> None:
        self.mode = WriteMode(self.mode)
        check_partition_columns(self.record)

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Write files and commit them: a bounded input once, an unbounded one by `StreamToLake`.

        Raises:
            OptionError: The mode does not fit an unbounded input.
        """
        if not tables.is_bounded:
            return tables | "StreamToLake" >> self._stream()
        if self.changes is None:
            # no row depends on another, so rows are written as they arrive, without a shuffle
            written = tables | "WriteRows" >> beam.ParDo(_WriteRows(self))
        else:
            written = (
                tables
                | "GroupByPartition" >> GroupByPartition(self.record)
                | "WriteFiles" >> beam.ParDo(_WriteFiles(self, self.changes))
            )
        return written | "CommitOnce" >> CommitOnce((self.record,), self.lake, self.mode, self.run_id)

    def _stream(self) -> StreamToLake:
        if self.mode is WriteMode.OVERWRITE:
            raise OptionError(
                f"{self.record.name}: mode {self.mode} is for a bounded input; an unbounded one is merged"
            )
        if self.changes is not None and self.mode is WriteMode.APPEND:
            raise OptionError(f"{self.record.name}: changes are merged; mode append is for plain rows")
        return StreamToLake(
            self.record,
            self.lake,
            self.changes,
            onto_existing=self.onto_existing,
            stable_input=self.stable_input,
        )


_FEW_PARTITIONS = 16
"""From more partitions than this in a table, its input counts as unordered."""
_GATHERED_ROWS, _SPLIT_BYTES = 100_000, GATHERED_BYTES // 2
"""How much of an unordered input is split at a time: each part of a table takes a millisecond or two."""
_SMALL_SHARE = 8
"""Less than an eighth of a table is not worth a place in the buffer, and would not fill a file when it overflows."""


class _Parts(NamedTuple):
    """A table's rows by partition.

    Attributes:
        large: For the buffer.
        small: Those with few of the rows, packed.
    """

    large: list[Part]
    small: list[tuple[Partition, PackedTable]]


_Rows = tuple[Partition, list[pa.Table], list[PackedTable]]
"""The arguments of `RowWriter.write`."""


def _parts_of(table: pa.Table, record: Record) -> _Parts:
    """Split a table by partition. Without a spill file, no part is packed, as it would remain in memory."""
    parts, coder = _Parts([], []), TableCoder()
    for partition, part in split_by_partition(table.select(record.names), record):
        if TableCoder.spill is not None and _SMALL_SHARE * part.num_rows < table.num_rows:
            parts.small.append((partition, coder.encode(plain(part))))
        else:
            parts.large.append((partition, to_hold(part, table.num_rows, record)))
    return parts


@beam.typehints.with_output_types(NamedWrite)
class _WriteRows(beam.DoFn):
    """Writes tables to files as they arrive; at the end of a bundle emits their descriptions, keyed by table.

    One thread splits tables by partition, and another sorts and writes the files; those of the bundle's end are written
    in parallel, as no rows come in any more. All run mostly without the GIL.

    If the input is in no order of time, each table has a few rows of many partitions, and the buffer would overflow
    before a file is full. Tables are then gathered before they are split, and small parts wait in the spill file, if
    the runner has one: otherwise a history in the order of its devices would become thousands of small files.
    """

    def __init__(self, write: WriteLake) -> None:
        self._lake, self._record, self._mode = write.lake, write.record, write.mode
        self._target_bytes = write.target_file_bytes

    def setup(self) -> None:
        self._splitting = Ahead[_Parts](f"split-{self._record.name}", workers=1)
        self._writer = Background[PartitionWrite](f"write-{self._record.name}")
        self._last_writers = Ahead[PartitionWrite](f"write-last-{self._record.name}")

    def start_bundle(self) -> None:
        self._splitting.reset()
        self._writer.reset()
        self._last_writers.reset()
        self._gathered, self._scattered = Gathered(_GATHERED_ROWS, _SPLIT_BYTES), False
        self._buffer = PartitionBuffer(self._record, self._target_bytes)
        self._rows = RowWriter(self._lake, self._record, self._mode, self._target_bytes)
        self._waiting: defaultdict[Partition, list[PackedTable]] = defaultdict(list)
        self._rest: list[PartitionWrite] = []

    def process(self, table: pa.Table) -> None:
        self._writer.check()
        full = self._gathered.add(table)
        if full or not self._scattered:
            for filled in self._full(self._split()):
                self._writer.start(self._rows.write, *filled)
        if not table.num_rows:
            self._write_rest()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._write_rest()
        for write in join_writes([*self._writer.finish(), *self._rest, *self._last_writers.finish()]):
            described = (self._record.name, write)
            yield at_the_end(described)

    def teardown(self) -> None:
        self._splitting.close()
        self._writer.close()
        self._last_writers.close()

    def _split(self) -> Iterator[_Parts]:
        """Start to split the gathered tables; yields the parts of the tables before them."""
        for table in self._gathered.take():
            yield from self._splitting.start(_parts_of, table, self._record)

    def _full(self, split: Iterable[_Parts]) -> Iterator[_Rows]:
        """Buffer rows; yields the partitions that are full."""
        for parts in split:
            self._scattered = len(parts.large) + len(parts.small) > _FEW_PARTITIONS
            for partition, packed in parts.small:
                self._waiting[partition].append(packed)
            for partition, tables in self._buffer.hold(parts.large):
                yield partition, tables, self._waiting.pop(partition, [])

    def _write_rest(self) -> None:
        for rest in chain(self._full(chain(self._split(), self._splitting.finish())), self._drain()):
            self._rest += self._last_writers.start(self._rows.write, *rest)

    def _drain(self) -> Iterator[_Rows]:
        """All rows that are left."""
        for partition, tables in self._buffer.drain():
            yield partition, tables, self._waiting.pop(partition, [])
        while self._waiting:
            partition, packed = self._waiting.popitem()
            yield partition, [], packed


class RowWriter:
    """Writes rows of one table to files; in a merge, only rows that the table did not have when this was created."""

    def __init__(self, lake: str, record: Record, mode: WriteMode, target_bytes: int = TARGET_FILE_BYTES) -> None:
        self._lake, self._record, self._target_bytes = lake, record, target_bytes
        self._live = find_files(lake, record.name) if mode is WriteMode.MERGE else None
        self._known = KnownKeys()

    def write(self, partition: Partition, tables: list[pa.Table], packed: Sequence[PackedTable] = ()) -> PartitionWrite:
        """Write rows of one partition; clears the list of tables to free their memory.

        Args:
            partition: The partition.
            tables: Rows.
            packed: More rows, in small tables.
        """
        place = Place(table_uri(self._lake, self._record.name), self._record, partition)
        rows = chain(put_together(unpack(packed), _GATHERED_ROWS, min(GATHERED_BYTES, self._target_bytes)), tables)
        try:
            if self._live is not None:
                return add_missing(place, self._live.get(partition, []), rows, self._target_bytes, self._known)
            return PartitionWrite(partition, tuple(write_files(place, rows, self._target_bytes)))
        finally:
            tables.clear()


def join_writes(writes: Iterable[PartitionWrite]) -> list[PartitionWrite]:
    """Combine writes of the same partition that were computed from the same files."""
    joined: dict[tuple[Partition, str | None], PartitionWrite] = {}
    for write in writes:
        before = joined.get((write.partition, write.seen))
        if before is not None:
            removed = tuple(dict.fromkeys(before.removed + write.removed))
            skipped = before.skipped + write.skipped
            write = PartitionWrite(write.partition, before.added + write.added, removed, write.seen, skipped)  # noqa: PLW2901
        joined[write.partition, write.seen] = write
    return list(joined.values())


@beam.typehints.with_output_types(NamedWrite)
class _WriteFiles(WorkAhead):
    """Folds the changes of one partition and writes files; emits their description for the commit, keyed by table."""

    def __init__(self, write: WriteLake, changes: Changes) -> None:
        self._lake, self._record, self._mode = write.lake, write.record, write.mode
        self._changes, self._target_bytes = changes, write.target_file_bytes
        self._live: dict[Partition, list[LiveFile]] = {}

    def start_bundle(self) -> None:
        super().start_bundle()
        if self._mode is WriteMode.MERGE:
            self._live = find_files(self._lake, self._record.name)

    def process(self, group: tuple[str, Iterable[PackedTable]]) -> Iterator[WindowedValue]:
        folder, packed = group
        yield from super().process(parse_partition(folder), list(packed))

    def work(self, partition: Partition, packed: list[PackedTable]) -> PartitionWrite:
        place = Place(table_uri(self._lake, self._record.name), self._record, partition)
        changes = pa.concat_tables(unpack(packed))
        if self._mode is WriteMode.MERGE:
            return self._changes.merge_into(place, self._live.get(partition, []), changes, self._target_bytes)
        rows, _ = self._changes.fold_by_key(changes, self._record.key[0])
        return PartitionWrite(partition, tuple(write_files(place, [rows], self._target_bytes)))

    def tell(self, write: PartitionWrite) -> Iterator[WindowedValue]:
        described = (self._record.name, write)
        yield at_the_end(described)


@dataclass(eq=False)
class CommitOnce(beam.PTransform):
    """Commits the files of a bounded run, one transaction per table. Input: (table, description).

    Attributes:
        records: The tables' records.
        lake: The lake's root, a path or URI.
        mode: See `WriteLake`.
        run_id: See `WriteLake`.
    """

    records: tuple[Record, ...]
    lake: str
    mode: WriteMode
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def expand(self, described: beam.PCollection[NamedWrite]) -> beam.PCollection[CommitResult]:
        """Group the descriptions by table, and commit each group."""
        return described | "GroupByTable" >> beam.GroupByKey() | "Commit" >> beam.ParDo(_Commit(self))


@beam.typehints.with_output_types(CommitResult)
class _Commit(beam.DoFn):
    """Commits all of a run's writes to a table in one transaction."""

    def __init__(self, commit: CommitOnce) -> None:
        self._lake, self._mode, self._run_id = commit.lake, commit.mode, commit.run_id
        self._records = {record.name: record for record in commit.records}

    def process(self, group: tuple[str, Iterable[PartitionWrite]]) -> Iterator[CommitResult]:
        name, writes = group
        transaction = Transaction(f"{name}:{self._run_id}", 1)
        result = commit(self._lake, self._records[name], join_writes(writes), self._mode, transaction)
        count_commit(result)
        yield result
