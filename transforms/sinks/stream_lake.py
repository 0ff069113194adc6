"""An endless input into the lake, exactly once.

Why each step is there: a bundle's rows are files before they are acknowledged; the numbers of the files are in the
runner's checkpoint with their descriptions; a break in fusion lets the commit see only descriptions that are; and the
table itself remembers the highest number that is in, and of which attempt it is. Without the numbers a crash between a
commit and its acknowledgement writes rows twice; without the break it loses them; and without the attempt a run that
goes on from an older checkpoint than the lake does either, as its bundles are cut anew.
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
    """Writes an unbounded collection of tables into a table of the lake.

    Input elements: tables with the record's columns, or of changes. Output: one `CommitResult` a commit.

    Attributes:
        record: Names the table, its columns, partitions, order and key.
        lake: The lake's root, a path or URI.
        changes: Where the input's rows are changes: what they come to; they are merged when committed.
        onto_existing: Whether a fresh run may add to a table with rows of another run.
        stable_input: Whether to require of the runner that the commit's input survives a retry as it is.
    """

    record: Record
    lake: str
    changes: Changes | None = None
    onto_existing: bool = False
    stable_input: bool = False

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Write files a bundle, commit them in order."""
        return (
            tables
            | "WriteBundles" >> beam.ParDo(_WriteBundles(self))
            | "CommitInOrder"
            >> CommitInOrder((self.record,), self.lake, self.changes, self.onto_existing, self.stable_input)
        )


@dataclass(eq=False)
class CommitInOrder(beam.PTransform):
    """Commits files of an endless run. Input: (table, description); output: one `CommitResult` a commit.

    Attributes:
        records: The tables' records.
        lake: The lake's root, a path or URI.
        changes: As of `StreamToLake`.
        onto_existing: As of `StreamToLake`.
        stable_input: As of `StreamToLake`.
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
    """Count what a commit wrote, under the table's name."""
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
    """A bundle's tables to files, one or more a partition, described when the bundle ends."""

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
            # the end of time: a description is never late, and holds no watermark back
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
    """Numbers the descriptions of a table 1, 2, 3 …; the number is in the checkpoint with its description.

    Its state is two small cells a table and lives as long as the run: the numbers of a run never start again.
    """

    INCARNATION = ReadModifyWriteStateSpec("incarnation", StrUtf8Coder())
    LAST = ReadModifyWriteStateSpec("last", VarIntCoder())

    def setup(self) -> None:
        # a restored step is set up anew: what it numbers is told from what was numbered past the checkpoint before
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
            # made when the state is empty: a fresh start on an old table must not take its numbers for done
            run = uuid.uuid4().hex
            incarnation.write(run)
        number = (last.read() or 0) + 1
        last.write(number)
        yield name, Numbered(run, number, self._attempt, write)


@beam.typehints.with_output_types(CommitResult)
class _CommitNumbered(beam.DoFn):
    """A bundle's descriptions to one transaction: where the input is stable, all that a checkpoint let through."""

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
