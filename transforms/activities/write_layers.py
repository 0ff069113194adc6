"""Keeps silver and the activity stream in the main graph; the rules are in transforms/activities/typed_events.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.typehints.decorators import no_annotations

from schemas.event_types import Catalogue
from schemas.user_stream import USER_STREAM
from stores.encoded_texts import plain
from stores.lake import table_uri
from stores.lake_commit import CommitResult, NamedWrite, WriteMode
from stores.lake_stream import STAGING
from transforms.activities.typed_events import EventTyper, TypedEvents
from transforms.activities.typed_files import GATHERED_ROWS, TypedFiles, TypeToFiles, layer_records
from transforms.background import Ahead
from transforms.gathered import Gathered
from transforms.metrics import count_dead_letters
from transforms.sinks.hold_back import HoldBack, Worked
from transforms.sinks.stream_lake import CommitInOrder
from transforms.sinks.write_tables import NamedTable, WriteTables
from transforms.tables import at_the_end

DEAD_LETTERS = "dead_letters"
COMMIT_SECONDS = 10
"""How long events of an unbounded input wait; otherwise each type's file would have a few rows."""


class WrittenLayers(NamedTuple):
    """The output of `WriteLayers`: one `CommitResult` a transaction, and tables of DEAD_LETTER rows."""

    commits: "beam.PCollection[CommitResult]"
    dead_letters: "beam.PCollection[pa.Table]"


@dataclass(eq=False)
class WriteLayers(beam.PTransform):
    """Writes the silver tables and user_stream. Input elements: tables of EVENT_BATCH, each event once.

    Attributes:
        catalogue: The declared event types.
        first_met: The arrival date of dead letters whose input has no arrival time.
        lake: The lake's root, a path or URI.
        mode: See `WriteTables`. An unbounded run ignores it: it always appends, each numbered file once, and reads no
            rows of the tables.
        onto_existing: See `WriteLake`.
        stable_input: See `WriteLake`.
    """

    catalogue: Catalogue
    first_met: date
    lake: str
    mode: WriteMode = WriteMode.MERGE
    onto_existing: bool = False
    stable_input: bool = False

    @no_annotations
    def expand(self, events: "beam.PCollection[pa.Table]") -> WrittenLayers:
        """Type the events and write the rows; for an unbounded input every few seconds, in the background."""
        records = layer_records(self.catalogue)
        if events.is_bounded:
            typed = events | "TypeEvents" >> (
                beam.ParDo(_TypeEvents(self.catalogue, self.first_met))
                .with_output_types(NamedTable, **{DEAD_LETTERS: pa.Table})
                .with_outputs(DEAD_LETTERS, main="tables")
            )
            commits = typed["tables"] | "WriteTables" >> WriteTables(records, self.lake, self.mode)
        else:
            folder = f"{table_uri(self.lake, USER_STREAM.name)}/{STAGING}"
            work = TypeToFiles(self.catalogue, self.lake, self.first_met)
            typed = (
                events
                | "HoldBack" >> HoldBack(folder, COMMIT_SECONDS, work, self.stable_input)
                | "TellTyped"
                >> beam.ParDo(_EmitTyped())
                .with_output_types(NamedWrite, **{DEAD_LETTERS: pa.Table})
                .with_outputs(DEAD_LETTERS, main="files")
            )
            commits = typed["files"] | "CommitInOrder" >> CommitInOrder(
                records, self.lake, onto_existing=self.onto_existing, stable_input=self.stable_input
            )
        return WrittenLayers(commits, typed[DEAD_LETTERS])


class _TypeEvents(beam.DoFn):
    """EVENT_BATCH tables → (table name, rows), and tagged DEAD_LETTER tables.

    A background thread types the gathered events, mostly without the GIL.
    """

    def __init__(self, catalogue: Catalogue, first_met: date) -> None:
        self._catalogue, self._first_met = catalogue, first_met

    def setup(self) -> None:
        self._typing = Ahead[TypedEvents]("type", workers=1)
        self._typer = EventTyper(self._catalogue)

    def start_bundle(self) -> None:
        self._typing.reset()
        self._gathered = Gathered(GATHERED_ROWS)

    def process(self, events: pa.Table) -> Iterator[Any]:
        for start in range(0, max(events.num_rows, 1), GATHERED_ROWS):
            if self._gathered.add(events.slice(start, GATHERED_ROWS)):
                yield from self._start()

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._start()
        for typed in self._typing.finish():
            yield from _emit_rows(typed)

    def teardown(self) -> None:
        self._typing.close()

    def _start(self) -> Iterator[Any]:
        for events in self._gathered.take():
            for typed in self._typing.start(self._type, events):
                yield from _emit_rows(typed)

    def _type(self, events: pa.Table) -> TypedEvents:
        return self._typer.type_events(plain(events), self._first_met)


class _EmitTyped(beam.DoFn):
    """`Worked` results → descriptions of the files, and tagged DEAD_LETTER tables."""

    def process(self, worked: Worked) -> Iterator[Any]:
        typed: TypedFiles = worked.result
        yield from _emit_refused(typed.dead_letters)
        for described in typed.described:
            yield at_the_end(described)


def _emit_rows(typed: TypedEvents) -> Iterator[Any]:
    yield from _emit_refused(typed.dead_letters)
    for named in typed.rows():
        yield at_the_end(named)


def _emit_refused(letters: pa.Table) -> Iterator[Any]:
    if letters.num_rows:
        count_dead_letters(letters)
        yield beam.pvalue.TaggedOutput(DEAD_LETTERS, at_the_end(letters))
