"""Tables of an endless input, held back for what costs by the table and not by the row."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms import trigger, window
from apache_beam.utils.windowed_value import WindowedValue

from stores.held_tables import delete_held, read_held, write_held
from transforms.sinks.stable_input import BreakFusion, stable_par_do
from transforms.tables import at_the_end

_READ = "read"


@dataclass(eq=False)
class HoldBack(beam.PTransform):
    """Tables → the same tables, those of a few seconds of the processing time together.

    They wait in files, one a bundle: the runner has only their names, to move and to write with each checkpoint. A file
    goes once a checkpoint has what its rows became. The end of the input lets all go.

    Attributes:
        folder: Of the files, a path or URI. What a lost attempt leaves there is never read.
        seconds: How long a table waits at most.
        stable_input: As of `WriteLake`.
    """

    folder: str
    seconds: int
    stable_input: bool = False

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Write, wait, read; delete."""
        read = (
            tables
            | "Write" >> beam.ParDo(_Write(self.folder)).with_output_types(tuple[str, str])
            | "NowAndThen" >> now_and_then(self.seconds)
            | "Together" >> beam.GroupByKey()
            | "Read"
            >> beam.ParDo(_Read(self.folder))
            .with_output_types(pa.Table, **{_READ: tuple[str, str]})
            .with_outputs(_READ, main="tables")
        )
        _ = (
            read[_READ]
            | "AfterCheckpoint" >> BreakFusion()
            | "Delete" >> stable_par_do(_Delete(self.folder), self.stable_input)
        )
        return read["tables"]


def now_and_then(seconds: int) -> beam.WindowInto:
    """Lets go what waits every few seconds of the processing time, and at the end of the input."""
    either = trigger.AfterAny(trigger.AfterProcessingTime(seconds), trigger.AfterWatermark())
    return beam.WindowInto(
        window.GlobalWindows(),
        trigger=trigger.Repeatedly(either),
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    )


class _Write(beam.DoFn):
    """A bundle's tables to a file, named when the bundle ends."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._tables: list[pa.Table] = []

    def process(self, table: pa.Table) -> None:
        self._tables.append(table)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._tables:
            name = write_held(self._folder, self._tables)
            self._tables = []
            # the end of time: what waits is never late, and holds no watermark back
            yield at_the_end(("", name))


class _Read(beam.DoFn):
    """Names of files to their tables, one at a time; and each name when its table has gone on."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, group: tuple[str, Iterable[str]]) -> Iterator[Any]:
        for name in group[1]:
            yield read_held(self._folder, name)
            yield beam.pvalue.TaggedOutput(_READ, ("", name))


class _Delete(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, group: tuple[str, Iterable[str]]) -> None:
        delete_held(self._folder, group[1])
