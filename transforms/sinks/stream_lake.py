"""Writes an unbounded input to the lake, exactly once.

Each step has its reason:

- A bundle's rows are written to files before the bundle is acknowledged.
- The descriptions of the files are numbered; the runner's checkpoint holds each number with its description. Without
  the numbers, a crash between a commit and its acknowledgement would write rows twice.
- A break in fusion makes sure that the commit sees only descriptions that are in a checkpoint. Without it, such a crash
  would lose rows.
- The table itself records the highest committed number and the attempt that assigned it. Without the attempt, a run
  restored from a checkpoint older than the lake would write rows twice or lose them, as its bundles are cut anew.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import StrUtf8Coder, VarIntCoder
from apache_beam.transforms.userstate import ReadModifyWriteRuntimeState, ReadModifyWriteStateSpec
from apache_beam.utils.windowed_value import WindowedValue

from schemas.records import Record
from stores.lake import table_uri
from stores.lake_commit import CommitResult, NamedWrite, PartitionWrite
from stores.lake_files import BUFFER_BYTES, Partition, Place, split_by_partition, write_files
from stores.lake_stream import Changes, Numbered, commit_numbered
from transforms.metrics import count, observe
from transforms.sinks.stable_input import BreakFusion, stable_par_do
from transforms.tables import at_the_end


@dataclass(eq=False)
class StreamToLake(beam.PTransform):
    """Writes an unbounded PCollection of tables to a table of the lake.

    Input elements: tables with the record's columns, or tables of changes. Output: one `CommitResult` a commit.

    Attributes:
        record: Defines the table's name, columns, partitions, sort order and key.
        lake: The lake's root, a path or URI.
        changes: How changes become rows, if the input's rows are changes; the commit then merges them into the table.
            None if the rows are appended as they are.
        onto_existing: Whether a fresh run may add to a table that holds rows of another run.
        stable_input: Whether to require stable input of the runner for the commit: a retry sees the same elements.
    """

    record: Record
    lake: str
    changes: Changes | None = None
    onto_existing: bool = False
    stable_input: bool = False

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Write each bundle's files, and commit them in order."""
        return (
            tables
            | "WriteBundles" >> beam.ParDo(_WriteBundles(self))
            | "CommitInOrder"
            >> CommitInOrder((self.record,), self.lake, self.changes, self.onto_existing, self.stable_input)
        )


@dataclass(eq=False)
class CommitInOrder(beam.PTransform):
    """Commits the files of an unbounded run. Input: (table, description); output: one `CommitResult` a commit.

    Attributes:
        records: The tables' records.
        lake: The lake's root, a path or URI.
        changes: See `StreamToLake`.
        onto_existing: See `StreamToLake`.
        stable_input: See `StreamToLake`.
    """

    records: tuple[Record, ...]
    lake: str
    changes: Changes | None = None
    onto_existing: bool = False
    stable_input: bool = False

    def expand(self, described: beam.PCollection[NamedWrite]) -> beam.PCollection[CommitResult]:
        """Number the descriptions of each table, break fusion, commit."""
        return (
            described
            | "Sequence" >> beam.ParDo(_Sequence())
            | "BreakFusion" >> BreakFusion()
            | "Commit" >> stable_par_do(_CommitNumbered(self), self.stable_input)
        )


def count_commit(result: CommitResult) -> None:
    """Add what a commit wrote to the counters of its table."""
    prefix = f"lake_{result.table.replace('/', '_')}"
    count(f"{prefix}_rows", result.rows_written)
    count(f"{prefix}_skipped", result.rows_already_there)
    count(f"{prefix}_files", result.files_written)
    count(f"{prefix}_bytes", result.bytes_written)
    count(f"{prefix}_commits_retried", result.failures)
    if result.committed:
        count(f"{prefix}_commits")
        observe(f"{prefix}_commit_ms", result.commit_ms)


@beam.typehints.with_output_types(NamedWrite)
class _WriteBundles(beam.DoFn):
    """Writes a bundle's tables to one or more files a partition, and emits the files' descriptions."""

    def __init__(self, write: StreamToLake) -> None:
        self._lake, self._record, self._changes = write.lake, write.record, write.changes
        self._held: dict[Partition, list[pa.Table]] = {}
        self._held_bytes = 0

    def start_bundle(self) -> None:
        self._held, self._held_bytes = {}, 0

    def process(self, table: pa.Table) -> Iterator[NamedWrite]:
        if self._changes is None:
            table = table.select(self._record.names)
        for partition, part in split_by_partition(table, self._record):
            self._held.setdefault(partition, []).append(part)
        self._held_bytes += table.nbytes
        if self._held_bytes >= BUFFER_BYTES:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for described in self._flush():
            # with the maximum timestamp a description is never late, and does not hold the watermark back
            yield at_the_end(described)

    def _flush(self) -> Iterator[NamedWrite]:
        for partition, tables in self._held.items():
            if self._changes is None:
                place = Place(table_uri(self._lake, self._record.name), self._record, partition)
            else:
                place = self._changes.place(self._lake, self._record, partition)
            files = write_files(place, tables)
            yield self._record.name, PartitionWrite(partition, tuple(files))
        self._held, self._held_bytes = {}, 0


@beam.typehints.with_output_types(tuple[str, Numbered])
class _Sequence(beam.DoFn):
    """Numbers the descriptions of a table 1, 2, 3 …; the checkpoint holds each number with its description.

    The state is two small values a table. It is kept for the whole run, because a run's numbers never restart.
    """

    INCARNATION = ReadModifyWriteStateSpec("incarnation", StrUtf8Coder())
    LAST = ReadModifyWriteStateSpec("last", VarIntCoder())

    def setup(self) -> None:
        # a restored step is set up again: a new attempt tells its numbers from those given after the checkpoint
        self._attempt = uuid.uuid4().hex

    def process(
        self,
        element: NamedWrite,
        incarnation: ReadModifyWriteRuntimeState = beam.DoFn.StateParam(INCARNATION),  # noqa: B008
        last: ReadModifyWriteRuntimeState = beam.DoFn.StateParam(LAST),  # noqa: B008
    ) -> Iterator[tuple[str, Numbered]]:
        name, write = element
        run = incarnation.read()
        if not run:
            # a fresh run on an existing table needs its own incarnation: the table's numbers are another run's
            run = uuid.uuid4().hex
            incarnation.write(run)
        number = (last.read() or 0) + 1
        last.write(number)
        yield name, Numbered(run, number, self._attempt, write)


@beam.typehints.with_output_types(CommitResult)
class _CommitNumbered(beam.DoFn):
    """Commits a bundle's descriptions in one transaction; with stable input, all that a checkpoint released."""

    def __init__(self, commit: CommitInOrder) -> None:
        self._lake, self._changes, self._onto_existing = commit.lake, commit.changes, commit.onto_existing
        self._records = {record.name: record for record in commit.records}
        self._numbered: dict[str, list[Numbered]] = {}

    def start_bundle(self) -> None:
        self._numbered = {}

    def process(self, group: tuple[str, Iterable[Numbered]]) -> None:
        self._numbered.setdefault(group[0], []).extend(group[1])

    def finish_bundle(self) -> Iterator[WindowedValue]:
        waiting, self._numbered = self._numbered, {}
        for name, numbered in waiting.items():
            result = commit_numbered(
                self._lake, self._records[name], numbered, self._changes, onto_existing=self._onto_existing
            )
            count_commit(result)
            yield at_the_end(result)
