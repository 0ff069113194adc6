"""Events into fact_events: with the key of their page, their sessions yet to come."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.events import FACT_EVENT
from stores.lake_commit import CommitResult, WriteMode
from transforms.background import WorkAhead
from transforms.events.pages import with_page_keys
from transforms.sinks.write_lake import WriteLake


@dataclass(eq=False)
class WriteEvents(beam.PTransform):
    """Writes events into fact_events.

    Input elements: tables with EVENT's columns. In a merge the row that is there stays. Output: what was committed.

    Attributes:
        lake: The lake's root, a path or URI.
        mode: merge, overwrite or append.
        onto_existing: As of `WriteLake`.
        stable_input: As of `WriteLake`.
    """

    lake: str
    mode: WriteMode = WriteMode.MERGE
    onto_existing: bool = False
    stable_input: bool = False

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Give keys, write."""
        return (
            events
            # here and not in Decode: no shuffle carries it
            | "KeyPages" >> beam.ParDo(_KeyPages())
            | "WriteLake"
            >> WriteLake(
                FACT_EVENT,
                self.lake,
                self.mode,
                onto_existing=self.onto_existing,
                stable_input=self.stable_input,
            )
        )


@beam.typehints.with_output_types(pa.Table)
class _KeyPages(WorkAhead):
    """Rows of EVENT to rows of FACT_EVENT."""

    workers = 1  # as one of several steps that work side by side

    def process(self, events: pa.Table, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[WindowedValue]:
        yield from super().process(events, timestamp)

    def work(self, events: pa.Table, timestamp: Timestamp) -> WindowedValue:
        return WindowedValue(fact_events(events), timestamp, [GlobalWindow()])

    def tell(self, keyed: WindowedValue) -> Iterator[WindowedValue]:
        yield keyed


def fact_events(events: pa.Table) -> pa.Table:
    """Rows of FACT_EVENT, of no session yet, the key of the page dictionary-encoded.

    Args:
        events: A table with EVENT's columns.
    """
    keyed = with_page_keys(events, {"page_key": "page_url"})
    for field in FACT_EVENT:
        if field.name not in keyed.column_names:
            keyed = keyed.append_column(field.name, pa.nulls(keyed.num_rows, field.type))
    return keyed.select(FACT_EVENT.names)
