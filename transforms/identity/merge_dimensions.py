"""Merge events into the dimensions of the lake; a live run does this outside its bundles. No Beam here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from schemas.dimensions import DEVICE, EVENT_COLUMNS, PAGE, USER
from schemas.records import Record
from stores.encoded_texts import plain
from stores.lake_commit import CommitResult
from stores.lake_merge import merge_into_table
from transforms.events.pages import PageRules, merge_pages, page_rows
from transforms.gathered import put_together
from transforms.identity.devices import device_rows, merge_devices
from transforms.identity.dimensions import deciding_events
from transforms.identity.users import merge_users, user_rows

GATHERED_ROWS = 150_000
_DECIDED_BY = ("device_id", "user_key", "country", "device_type", "os", "app_version")

Merge = Callable[[pa.Table], pa.Table]
"""Merges rows of a dimension into one per key."""
Rows = dict[str, pa.Table]
"""Rows of each dimension, by its name."""


def deciding(events: pa.Table) -> pa.Table:
    """The events that decide rows of a dimension, with only `EVENT_COLUMNS`."""
    return deciding_events(events.select(EVENT_COLUMNS), _DECIDED_BY, ("page_url",))


def rows_of(events: pa.Table) -> Rows:
    """Aggregate events into rows of each dimension. Pages get their categories when they are merged.

    Args:
        events: A table with the columns of `EVENT_COLUMNS`. The `deciding` events among them are enough.
    """
    return {
        DEVICE.record.name: device_rows(events),
        USER.record.name: user_rows(events),
        PAGE.name: page_rows(events),
    }


def merges(page_rules: PageRules) -> dict[str, tuple[Record, Merge]]:
    """The record of each dimension, and how its rows merge, by its name."""
    return {
        DEVICE.record.name: (DEVICE.record, merge_devices),
        USER.record.name: (USER.record, merge_users),
        PAGE.name: (PAGE, partial(merge_pages, rules=page_rules)),
    }


def into_existing(merge: Merge, existing: pa.Table, rows: pa.Table) -> pa.Table:
    """Merge new rows into existing ones."""
    return merge(pa.concat_tables([existing, rows]))


@dataclass(frozen=True)
class MergeDimensions:
    """Aggregates events, and merges the rows into the tables of the dimensions. Idempotent.

    Attributes:
        lake: The lake's root, a path or URI.
        page_rules: The categories of pages.
    """

    lake: str
    page_rules: PageRules

    def __call__(self, tables: Iterator[pa.Table]) -> list[CommitResult]:
        """Aggregate and merge the events, and commit each table that gets rows.

        Args:
            tables: Rows with the columns of `EVENT_COLUMNS`.

        Raises:
            StoreError: A table cannot be read or written.
        """
        dimensions = merges(self.page_rules)
        summed: dict[str, list[pa.Table]] = {name: [record.empty()] for name, (record, _) in dimensions.items()}
        for events in put_together(tables, GATHERED_ROWS):
            for name, rows in rows_of(plain(deciding(events))).items():
                summed[name].append(rows)
        merged = {name: merge(pa.concat_tables(summed[name])) for name, (_, merge) in dimensions.items()}
        return [
            merge_into_table(self.lake, record, merged[name], partial(into_existing, merge))
            for name, (record, merge) in dimensions.items()
            if merged[name].num_rows
        ]
