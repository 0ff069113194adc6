"""The Decode step of the graph; its rules are in transforms/events/envelope.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.secrets import UserKeySecret
from transforms.events.envelope import Decoded, EnvelopeDecoder
from transforms.metrics import count, count_dead_letters
from transforms.tables import at_earliest
from transforms.work_ahead import WorkAhead

DEAD_LETTERS = "dead_letters"

Output = Any
"""A windowed table, or one with a tag."""


class DecodedEvents(NamedTuple):
    """Batches of EVENT_BATCH rows, each stamped with its earliest event time; batches of DEAD_LETTER rows."""

    events: "beam.PCollection[pa.Table]"
    dead_letters: "beam.PCollection[pa.Table]"


@dataclass(eq=False)
class Decode(beam.PTransform):
    """Decodes batches of RAW rows.

    Attributes:
        secret: Where to find the secret for user_key's keyed hash; read on the worker.
        now: The arrival time of rows for which the input gives none.
    """

    secret: UserKeySecret
    now: datetime

    @no_annotations
    def expand(self, batches: "beam.PCollection[pa.Table]") -> DecodedEvents:
        """RAW tables → DecodedEvents."""
        decoded = batches | "DecodeBatches" >> (
            beam.ParDo(_DecodeBatch(self.secret, self.now))
            .with_output_types(pa.Table, **{DEAD_LETTERS: pa.Table})
            .with_outputs(DEAD_LETTERS, main="events")
        )
        return DecodedEvents(decoded["events"], decoded[DEAD_LETTERS])


class _DecodeBatch(WorkAhead):
    """RAW table → EVENT_BATCH table, and a DEAD_LETTER table in the tagged output."""

    def __init__(self, secret: UserKeySecret, now: datetime) -> None:
        self._secret, self._now = secret, now

    def setup(self) -> None:
        super().setup()
        self._decoder = EnvelopeDecoder(self._secret.read())

    def process(self, element: pa.Table, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Output]:
        yield from super().process(element, timestamp)

    def work(self, raw: pa.Table, timestamp: Timestamp) -> tuple[Decoded, Timestamp]:
        return self._decoder.decode(raw, self._now), timestamp

    def tell(self, result: tuple[Decoded, Timestamp]) -> Iterator[Output]:
        (events, letters), timestamp = result
        count("events_decoded", len(events))
        if len(letters):
            count_dead_letters(letters)
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, WindowedValue(letters, timestamp, [GlobalWindow()]))
        if len(events):
            yield WindowedValue(events, at_earliest(events).timestamp, [GlobalWindow()])
