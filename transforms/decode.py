"""Decode as a step of the graph; the rules are in transforms/envelope.py."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.secrets import UserKeySecret
from transforms.envelope import Decoded, EnvelopeDecoder
from transforms.metrics import count
from transforms.tables import at_earliest

DEAD_LETTERS = "dead_letters"
MOST_WORKERS = 4
"""Each worker holds a batch and what becomes of it, some 100 MB."""

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
        secret: Where the secret of user_key's keyed hash is; read on the worker.
        now: Stands for a row's arrival where the input does not say it.
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


class _DecodeBatch(beam.DoFn):
    """RAW table → EVENT_BATCH table, and a DEAD_LETTER table by its tag.

    As many batches are decoded at a time as there are processors: the work is outside of Python's lock. Results leave
    in the order of the batches, the last ones when the bundle ends.
    """

    def __init__(self, secret: UserKeySecret, now: datetime) -> None:
        self._secret, self._now = secret, now

    def setup(self) -> None:
        self._workers = min(os.cpu_count() or 1, MOST_WORKERS)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        self._decoder = EnvelopeDecoder(self._secret.read())

    def start_bundle(self) -> None:
        self._running: deque[tuple[Future[Decoded], Timestamp]] = deque()

    def process(self, element: pa.Table, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Output]:
        if len(self._running) == self._workers:
            yield from self._emit(*self._running.popleft())
        self._running.append((self._pool.submit(self._decoder.decode, element, self._now), timestamp))

    def finish_bundle(self) -> Iterator[Output]:
        while self._running:
            yield from self._emit(*self._running.popleft())

    def teardown(self) -> None:
        self._pool.shutdown()

    def _emit(self, decoding: Future[Decoded], timestamp: Timestamp) -> Iterator[Output]:
        events, letters = decoding.result()
        count("events_decoded", len(events))
        if len(letters):
            for reason in pc.value_counts(letters["reason"]).to_pylist():
                count(f"dead_{reason['values']}", reason["counts"])
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, WindowedValue(letters, timestamp, [GlobalWindow()]))
        if len(events):
            yield WindowedValue(events, at_earliest(events).timestamp, [GlobalWindow()])
