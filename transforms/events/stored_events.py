"""Looks up events that arrive hours late in the lake; a live run does this outside its bundles. No Beam here."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from schemas.events import FACT_EVENT
from stores.lake_lookup import StoredRows
from transforms.gathered import put_together

_ROWS = 50_000


@dataclass(frozen=True)
class StoredKeys:
    """Finds out which events fact_events already has.

    Attributes:
        lake: The lake's root, a path or URI.
    """

    lake: str

    def __call__(self, tables: Iterator[pa.Table]) -> pa.Table:
        """Return keys of events in the lake, including those of all given events that the lake has.

        Args:
            tables: Rows of EVENT_BATCH.

        Raises:
            StoreError: The lake cannot be read.
        """
        columns = [*FACT_EVENT.key, self._stored.time]
        narrow = (table.select(columns) for table in tables)
        return pa.concat_tables(self._stored.keys_of(rows) for rows in put_together(narrow, _ROWS))

    @cached_property
    def _stored(self) -> StoredRows:
        return StoredRows(self.lake, FACT_EVENT, "client_time")
