"""The output and the counters that all sources share."""

from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from transforms.metrics import count

DEAD_LETTERS = "dead_letters"
"""The output tag of a source's dead letters."""


class RawInput(NamedTuple):
    """A source's output: batches of RAW rows, and dead letters of step ``read``, which only files can have."""

    batches: "beam.PCollection[pa.Table]"
    dead_letters: "beam.PCollection[pa.Table]"


def count_read(rows: pa.Table) -> None:
    """Count RAW rows and the bytes of their payloads as read."""
    count("events_read", len(rows))
    count("bytes_read", pc.sum(pc.binary_length(rows["payload"])).as_py() or 0)
