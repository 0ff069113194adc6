"""A Kafka topic as a source: batches of RAW rows, each offset exactly once, with an event-time watermark.

The source is a splittable DoFn over confluent-kafka. Its restriction is the next offset of each partition; this is what
the runner checkpoints. Offsets are committed to the cluster only to monitor the lag. A bundle ends by itself after a
fraction of a second, so that checkpoints are frequent and cheap. Beam's own alternatives do not fit: `ReadFromKafka`
needs a Java expansion service and harness; `unbounded_source` can neither end nor emit many records at a time.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import Coder
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import Duration, Timestamp

from schemas.durations import MILLISECOND, MINUTE, SECOND
from schemas.errors import OptionError
from transforms.metrics import NAMESPACE
from transforms.sources.kafka_client import LOGGER, BrokerUnreachableError, KafkaCluster
from transforms.sources.kafka_positions import Positions, Span, Start, Until
from transforms.sources.kafka_reader import TopicRange, TopicReader
from transforms.sources.kafka_restriction import JsonCoder, PositionsTracker, ProgressEstimator
from transforms.sources.kafka_watermark import EventTimeProgress, WatermarkPolicy
from transforms.sources.raw_input import DEAD_LETTERS, RawInput, count_read

_RETRY_SECONDS = 2
_BEHIND_BUNDLES = 5
"""How much longer a bundle is while the backlog is a batch or more: every downstream step has fixed costs a bundle."""


@dataclass(eq=False)
class ReadKafka(beam.PTransform):
    """Reads a topic. Durations are in microseconds.

    A batch's timestamp is the earliest event time of its rows. If that is before the watermark, the batch is late.
    Counters: ``events_read``, ``bytes_read``. Gauges: ``watermark_lag_ms``, ``consumer_lag`` (records).

    Attributes:
        servers: Comma-separated HOST:PORT of brokers.
        topic: The topic's name.
        start: ``earliest``, ``latest``, or the arrival time to start at. A partition added later is read from its
            beginning.
        until: None to follow the topic without end. Otherwise the read ends, and the PCollection is bounded: ``now``
            for the records present at the start, an arrival time, or for every partition the offset to end before.
        max_disorder: How much older than the newest event of its partition an event may be without being late.
        idle_timeout: Silence after which a partition with nothing more to read no longer holds the watermark back.
        config: A client properties file (TLS, SASL). Workers read it; the job holds only its path.
        group: Consumer group to commit offsets to, for monitoring its lag; None to commit none.
        batch_rows: Maximum number of rows in a batch.
        bundle_time: Length of a bundle; checkpoints wait for its end. Five times as long while the backlog is a batch
            or more.
        discovery_interval: How often the topic is checked for new partitions.

    Raises:
        OptionError: A count or duration is not positive, or `servers` or `topic` is empty.
    """

    servers: str
    topic: str
    start: Start = "earliest"
    until: Until = None
    max_disorder: int = 1 * MINUTE
    idle_timeout: int = 30 * SECOND
    config: Path | None = None
    group: str | None = None
    batch_rows: int = 40_000
    bundle_time: int = 200 * MILLISECOND
    discovery_interval: int = 10 * SECOND

    def __post_init__(self) -> None:
        counts = ("max_disorder", "idle_timeout", "batch_rows", "bundle_time", "discovery_interval")
        problems = [f"{name} must be more than zero" for name in counts if getattr(self, name) <= 0]
        problems += [f"{name} must not be empty" for name in ("servers", "topic") if not getattr(self, name)]
        if problems:
            raise OptionError("\n".join(problems))

    @no_annotations
    def expand(self, pipeline: beam.Pipeline) -> RawInput:
        """Pipeline → RawInput; its dead letters are empty, as no record is rejected before decoding."""
        reading = _ReadEndlessly(self) if self.until is None else _ReadToEnd(self)
        read = (
            pipeline
            | "Topic" >> beam.Create([None])
            | "ReadPartitions"
            >> beam.ParDo(reading)
            .with_output_types(pa.Table, **{DEAD_LETTERS: pa.Table})
            .with_outputs(DEAD_LETTERS, main="batches")
        )
        return RawInput(read["batches"], read[DEAD_LETTERS])

    def check(self) -> int:
        """Check before the start of a job that the topic can be reached; returns the number of its partitions.

        Raises:
            InputError: No broker answers, the login is refused, or the topic does not exist.
            OptionError: The client properties file cannot be used.
        """
        return len(KafkaCluster(self.servers, self.config).topic(self.topic).partitions)


class _ReadPartitions(beam.DoFn, RestrictionProvider, WatermarkEstimatorProvider):
    """None → batches of RAW rows. The consumer stays open between bundles."""

    def __init__(self, source: ReadKafka) -> None:
        self._range = TopicRange(
            cluster=KafkaCluster(source.servers, source.config),
            topic=source.topic, start=source.start, until=source.until, group=source.group,
        )  # fmt: skip
        self._policy = WatermarkPolicy(source.max_disorder, source.idle_timeout)
        self._batch_rows = source.batch_rows
        self._bundle_seconds = source.bundle_time / SECOND
        # A bounded read is one bundle: without checkpoints Flink would not continue a deferred remainder
        self._endless = source.until is None
        self._discovery_seconds = source.discovery_interval / SECOND
        self._reader: TopicReader | None = None
        self._discovered_at = 0.0

    def initial_restriction(self, element: None) -> Positions:  # noqa: ARG002
        return Positions(bounded=not self._endless)

    def create_tracker(self, restriction: Positions) -> PositionsTracker:
        return PositionsTracker(restriction)

    def restriction_size(self, element: None, restriction: Positions) -> int:  # noqa: ARG002
        return max(restriction.left, 1)

    def restriction_coder(self) -> Coder:
        return JsonCoder(Positions)

    def initial_estimator_state(self, element: None, restriction: Positions) -> EventTimeProgress:  # noqa: ARG002
        return EventTimeProgress()

    def create_watermark_estimator(self, state: EventTimeProgress) -> ProgressEstimator:
        return ProgressEstimator(state)

    def estimator_state_coder(self) -> Coder:
        return JsonCoder(EventTimeProgress)

    def teardown(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def read(self, finalizer: Any, tracker: Any, estimator: Any) -> Iterator[beam.window.TimestampedValue]:
        """Read one bundle: a part of an unbounded read, or a bounded read as a whole."""
        while (opened := self._open(tracker.current_restriction())) is None:
            if self._endless:
                tracker.defer_remainder(Duration(seconds=_RETRY_SECONDS))
                return
            time.sleep(_RETRY_SECONDS)
        reader, positions = opened
        if not tracker.try_claim(positions):
            return
        started = time.monotonic()
        while not positions.is_done:
            behind = reader.lag >= self._batch_rows
            left = started + self._bundle_seconds * (_BEHIND_BUNDLES if behind else 1) - time.monotonic()
            if self._endless and left <= 0:
                tracker.defer_remainder()
                break
            if found := self._discover(reader):
                positions = positions.with_new(found)
                if not tracker.try_claim(positions):
                    return
            polled = reader.poll(self._batch_rows, left if self._endless else self._bundle_seconds)
            positions = positions.after(polled.offsets) if polled else positions
            if not tracker.try_claim(positions):
                return
            if polled and len(polled.rows):
                count_read(polled.rows)
                yield beam.window.TimestampedValue(polled.rows, Timestamp(micros=polled.earliest))
            # Only after the batch: its own event times must not make it late
            progress = self._policy.advance(
                estimator.get_estimator_state(), polled.newest if polled else {}, positions.unfinished, reader.at_end,
                int(time.time() * SECOND),
            )  # fmt: skip
            estimator.advance(progress)
        if self._range.group:
            finalizer.register(_Commit(reader, {p: span.next for p, span in positions.known.items()}))
        _report(reader, estimator.get_estimator_state())

    def _open(self, positions: Positions) -> tuple[TopicReader, Positions] | None:
        """Open the reader at these positions, resolving them if needed; None if no broker answers."""
        try:
            if self._reader is None:
                self._reader = TopicReader(self._range)
                self._discovered_at = time.monotonic()
            if positions.spans is None:
                positions = self._reader.resolve()
            self._reader.seek(positions)
        except BrokerUnreachableError as error:
            LOGGER.warning("%s; trying again", error)
            return None
        return self._reader, positions

    def _discover(self, reader: TopicReader) -> dict[int, Span]:
        now = time.monotonic()
        if not self._endless or now - self._discovered_at < self._discovery_seconds:
            return {}
        self._discovered_at = now
        found = reader.new_partitions()
        if found:
            LOGGER.info("new partitions of %s: %s", self._range.topic, ", ".join(map(str, found)))
        return found


class _ReadEndlessly(_ReadPartitions):
    """Follows the topic without end: the PCollection is unbounded."""

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: None,  # noqa: ARG002
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = beam.DoFn.RestrictionParam(),  # noqa: B008
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(),  # noqa: B008
    ) -> Iterator[beam.window.TimestampedValue]:
        yield from self.read(finalizer, tracker, estimator)


class _ReadToEnd(_ReadPartitions):
    """Reads up to an end: the PCollection is bounded."""

    def process(
        self,
        element: None,  # noqa: ARG002
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = beam.DoFn.RestrictionParam(),  # noqa: B008
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(),  # noqa: B008
    ) -> Iterator[beam.window.TimestampedValue]:
        yield from self.read(finalizer, tracker, estimator)


@dataclass(frozen=True)
class _Commit:
    """Commits offsets once the runner has persisted the bundle's checkpoint."""

    reader: TopicReader
    offsets: dict[int, int]

    def __call__(self) -> None:
        self.reader.commit(self.offsets)


def _report(reader: TopicReader, progress: EventTimeProgress) -> None:
    """Set the gauges."""
    Metrics.gauge(NAMESPACE, "consumer_lag").set(reader.lag)
    if progress.watermark is not None:
        lag = int(time.time() * SECOND) - progress.watermark
        Metrics.gauge(NAMESPACE, "watermark_lag_ms").set(lag // MILLISECOND)
