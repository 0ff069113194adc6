"""The raw log of a bus: what arrived, as it arrived, before anything can reject it."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from stores.raw_log_buffer import RawLogBuffer
from transforms.metrics import count

HELD_BYTES = 64 << 20
"""Compressed bytes that a bundle holds at most; a bundle that reaches it writes a file before its end."""


@dataclass(eq=False)
class Archive(beam.PTransform):
    """Tables of RAW → for each bundle the number of rows that are now in the raw log.

    A bundle's rows are files before the bundle is acknowledged, so the log holds every row that the runner will not
    ask the bus for again. After a failure it may hold some twice: of an event the copies are duplicates, of a dead
    letter they have one id. `transforms.compact_archive` makes large files of the small ones.

    Counters: ``archive_rows``, ``archive_files``, ``archive_bytes``.

    Attributes:
        uri: The raw log's root, a path or URI; below it a folder for each hour of arrival.
    """

    uri: str

    def expand(self, batches: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        """Write in one step."""
        return batches | "WriteRawLog" >> beam.ParDo(_WriteRawLog(self.uri)).with_output_types(int)


class _WriteRawLog(beam.DoFn):
    """Encodes tables as they come, writes them when the bundle ends."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def setup(self) -> None:
        self._buffer = RawLogBuffer(self._uri)

    def start_bundle(self) -> None:
        self._buffer.clear()
        self._rows = 0

    def process(self, table: pa.Table) -> None:
        self._buffer.add(table)
        if self._buffer.size >= HELD_BYTES:
            self._write()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._write()
        if self._rows:
            yield WindowedValue(self._rows, MIN_TIMESTAMP, [beam.window.GlobalWindow()])

    def _write(self) -> None:
        for file in self._buffer.write():
            self._rows += file.rows
            count("archive_rows", file.rows)
            count("archive_files")
            count("archive_bytes", file.size)
