"""Converts unique events to files of silver and of the activity stream: the background work of a live run. No Beam."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa

from schemas.dead_letters import DEAD_LETTER
from schemas.event_types import Catalogue
from schemas.records import Record
from schemas.silver import silver_records
from schemas.user_stream import USER_STREAM
from stores.encoded_texts import plain
from stores.lake import table_uri
from stores.lake_buffer import Filled, TableBuffers
from stores.lake_commit import NamedWrite, PartitionWrite
from stores.lake_files import Place, write_files
from transforms.activities.typed_events import EventTyper, TypedEvents
from transforms.background import Ahead
from transforms.gathered import put_together

GATHERED_ROWS = 50_000
"""Number of events typed together: the query of each type costs a millisecond or two, however few the events."""


def layer_records(catalogue: Catalogue) -> tuple[Record, ...]:
    """The records of all tables that events are typed into."""
    return USER_STREAM, *silver_records(catalogue)


class TypedFiles(NamedTuple):
    """The result of typing some events. Each is in files of a silver table and of the stream, or is a dead letter.

    Attributes:
        described: The files, not committed to their tables yet.
        dead_letters: Rows of DEAD_LETTER.
    """

    described: list[NamedWrite]
    dead_letters: pa.Table


@dataclass(frozen=True)
class TypeToFiles:
    """Types events and writes the rows to files.

    Attributes:
        catalogue: The declared event types.
        lake: The lake's root, a path or URI.
        first_met: The arrival date of dead letters whose input has no arrival time.
    """

    catalogue: Catalogue
    lake: str
    first_met: date

    def __call__(self, tables: Iterator[pa.Table]) -> TypedFiles:
        """Type the events and write the files.

        Args:
            tables: Rows of EVENT_BATCH, each event once.

        Raises:
            StoreError: A file cannot be written.
        """
        buffers = TableBuffers(layer_records(self.catalogue))
        described: list[NamedWrite] = []
        letters = [DEAD_LETTER.empty()]
        for typed in self._typed(tables):
            letters.append(typed.dead_letters)
            for name, rows in typed.rows():
                described += [self._write(*filled) for filled in buffers.add(name, rows)]
        described += [self._write(*filled) for filled in buffers.drain()]
        return TypedFiles(described, pa.concat_tables(letters))

    @cached_property
    def _typer(self) -> EventTyper:
        return EventTyper(self.catalogue)

    def _typed(self, tables: Iterator[pa.Table]) -> Iterator[TypedEvents]:
        """Types one batch in a thread while the caller writes the rows of the previous one."""
        typing = Ahead[TypedEvents]("type", workers=1)
        try:
            for events in put_together(tables, GATHERED_ROWS):
                yield from typing.start(self._type, events)
            yield from typing.finish()
        finally:
            typing.close()

    def _type(self, events: pa.Table) -> TypedEvents:
        return self._typer.type_events(plain(events), self.first_met)

    def _write(self, record: Record, filled: Filled) -> NamedWrite:
        partition, tables = filled
        place = Place(table_uri(self.lake, record.name), record, partition)
        return record.name, PartitionWrite(partition, tuple(write_files(place, tables)))
