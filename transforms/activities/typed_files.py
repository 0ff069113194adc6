"""Unique events to files of silver and of the activity stream, without Beam: work of a live run beside its bundles."""

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
from transforms.activities.typed_events import EventTyper
from transforms.gathered import put_together

GATHERED_ROWS = 50_000
"""Events that are typed together: a query a type costs a millisecond or two, however few its events are."""


def layer_records(catalogue: Catalogue) -> tuple[Record, ...]:
    """The tables that events are typed into."""
    return USER_STREAM, *silver_records(catalogue)


class TypedFiles(NamedTuple):
    """What became of some events: each is in files of a silver table and of the stream, or a dead letter.

    Attributes:
        described: The files, of no version of their tables yet.
        dead_letters: Rows of DEAD_LETTER.
    """

    described: list[NamedWrite]
    dead_letters: pa.Table


@dataclass(frozen=True)
class TypeToFiles:
    """Types events and writes what they become.

    Attributes:
        catalogue: The declared event types.
        lake: The lake's root, a path or URI.
        first_met: Stands for the arrival date of a dead letter where the input does not say it.
    """

    catalogue: Catalogue
    lake: str
    first_met: date

    def __call__(self, tables: Iterator[pa.Table]) -> TypedFiles:
        """Type, write.

        Args:
            tables: Rows of EVENT_BATCH, each event once.

        Raises:
            StoreError: A file cannot be written.
        """
        buffers = TableBuffers(layer_records(self.catalogue))
        described: list[NamedWrite] = []
        letters = [DEAD_LETTER.empty()]
        for events in put_together(tables, GATHERED_ROWS):
            typed = self._typer.type_events(plain(events), self.first_met)
            letters.append(typed.dead_letters)
            for name, rows in typed.rows():
                described += [self._write(*filled) for filled in buffers.add(name, rows)]
        described += [self._write(*filled) for filled in buffers.drain()]
        return TypedFiles(described, pa.concat_tables(letters))

    @cached_property
    def _typer(self) -> EventTyper:
        return EventTyper(self.catalogue)

    def _write(self, record: Record, filled: Filled) -> NamedWrite:
        partition, tables = filled
        place = Place(table_uri(self.lake, record.name), record, partition)
        return record.name, PartitionWrite(partition, tuple(write_files(place, tables)))
