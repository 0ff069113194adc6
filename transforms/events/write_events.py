"""Write events into fact_events, with page keys; `sessions-dim` fills in the session columns later."""

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
from transforms.events.pages import with_page_keys
from transforms.sinks.write_lake import WriteLake
from transforms.work_ahead import WorkAhead


@dataclass(eq=False)
class WriteEvents(beam.PTransform):
    """Writes events into fact_events.

    Input elements: tables with EVENT's columns. A merge keeps the existing row of a key. Output: the committed
    transactions.

    Attributes:
        lake: The lake's root, a path or URI.
        mode: merge, overwrite or append.
        onto_existing: See `WriteLake`.
        stable_input: See `WriteLake`.
    """

    lake: str
    mode: WriteMode = WriteMode.MERGE
    onto_existing: bool = False
    stable_input: bool = False

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[CommitResult]:
        """Add page keys, then write."""
        return (
            events
            # Here and not in Decode, so that no shuffle moves the keys
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
    """Turns rows of EVENT into rows of FACT_EVENT."""

    workers = 1  # several such steps run in parallel

    def process(self, events: pa.Table, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[WindowedValue]:
        yield from super().process(events, timestamp)

    def work(self, events: pa.Table, timestamp: Timestamp) -> WindowedValue:
        return WindowedValue(fact_events(events), timestamp, [GlobalWindow()])

    def tell(self, keyed: WindowedValue) -> Iterator[WindowedValue]:
        yield keyed


def fact_events(events: pa.Table) -> pa.Table:
    """Make rows of FACT_EVENT; the session columns are null, and the page key is dictionary-encoded.

    Args:
        events: A table with EVENT's columns.
    """
    keyed = with_page_keys(events, {"page_key": "page_url"})
    for field in FACT_EVENT:
        if field.name not in keyed.column_names:
            keyed = keyed.append_column(field.name, pa.nulls(keyed.num_rows, field.type))
    return keyed.select(FACT_EVENT.names)
