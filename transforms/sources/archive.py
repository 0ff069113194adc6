"""The raw log of a bus: every record as it arrived, before any check can reject it."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from stores.raw_log_buffer import RawLogBuffer
from stores.raw_log_files import RawLogFile
from transforms.background import Background
from transforms.metrics import count

HELD_BYTES = 64 << 20
"""Compressed bytes that a bundle buffers at most; a bundle that reaches this writes files before its end."""


@dataclass(eq=False)
class Archive(beam.PTransform):
    """RAW tables → for each bundle, the number of rows written to the raw log.

    A bundle's rows are written to files before the bundle is acknowledged, so the log holds every row that the runner
    will not read again from the bus. After a failure the log may hold rows twice: copies of an event are found as
    duplicates, and copies of a dead letter have the same id. `transforms.sources.compact_archive` merges the small
    files into large ones.

    Counters: ``archive_rows``, ``archive_files``, ``archive_bytes``.

    Attributes:
        uri: The raw log's root, a path or URI. It has a folder for each hour of arrival.
    """

    uri: str

    def expand(self, batches: beam.PCollection[pa.Table]) -> beam.PCollection[int]:
        """Write the raw log in one step."""
        return batches | "WriteRawLog" >> beam.ParDo(_WriteRawLog(self.uri)).with_output_types(int)


class _WriteRawLog(beam.DoFn):
    """Encodes tables as they arrive, in a background thread, and writes them when the bundle ends."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def setup(self) -> None:
        self._buffer = RawLogBuffer(self._uri)
        self._background = Background[list[RawLogFile]]("archive")

    def start_bundle(self) -> None:
        # discard the leftovers of a failed bundle
        self._background.reset()
        self._buffer.clear()

    def process(self, table: pa.Table) -> None:
        self._background.start(self._add, table)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._background.start(self._buffer.write)
        written = [file for files in self._background.finish() for file in files]
        rows = sum(file.rows for file in written)
        count("archive_rows", rows)
        count("archive_files", len(written))
        count("archive_bytes", sum(file.size for file in written))
        if rows:
            yield WindowedValue(rows, MIN_TIMESTAMP, [beam.window.GlobalWindow()])

    def teardown(self) -> None:
        self._background.close()

    def _add(self, table: pa.Table) -> list[RawLogFile]:
        self._buffer.add(table)
        return self._buffer.write() if self._buffer.size >= HELD_BYTES else []
