"""Sends events to a Kafka topic: as fast as possible, at a fixed rate, or at the pace at which they happened."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from numpy.typing import NDArray

from schemas.durations import SECOND
from schemas.errors import ClickstreamError, OptionError
from transforms.sources.kafka_client import BrokerUnreachableError, KafkaCluster, NoSuchTopicError
from transforms.sources.kafka_times import NO_TIME, event_times, trusted_times

Seconds = NDArray[np.float64]
Schedule = Callable[[pa.Array], Seconds | None]
"""Returns when each payload is due, in seconds since the start and never decreasing; None to send at once."""

DEFAULT_PARTITIONS = 4

_PRODUCER = {
    # idempotence prevents duplicates and reordering on retries; large batches make it fast
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 131_072,
    "message.max.bytes": 2_000_000,
    # the partitioner of Java clients, so that all producers send a device's events to one partition
    "partitioner": "murmur2_random",
    "delivery.timeout.ms": 60_000,
    "delivery.report.only.error": True,
}
_DEVICE_ID = r'"device_id"\s*:\s*"(?P<device_id>[^"]+)"'
_LEAST_WAIT, _LONGEST_WAIT = 0.005, 0.1
_TOPIC_SECONDS = 20.0


@dataclass(frozen=True)
class ProduceSummary:
    """What was sent to the topic.

    Attributes:
        topic: The topic's name.
        partitions: The topic's number of partitions.
        events: Records sent.
        bytes: Bytes of their payloads.
        seconds: Wall time from the first send to the last acknowledgement.
        interrupted: Whether sending was interrupted before the end.
    """

    topic: str
    partitions: int
    events: int
    bytes: int
    seconds: float
    interrupted: bool


def at_rate(events_per_second: float) -> Schedule:
    """Send at a fixed rate.

    >>> at_rate(10)(pa.array([b"", b"", b""])).tolist()
    [0.0, 0.1, 0.2]
    """
    sent = 0

    def due(payloads: pa.Array) -> Seconds:
        nonlocal sent
        rows = np.arange(sent, sent + len(payloads))
        sent += len(payloads)
        return rows / events_per_second

    return due


def at_pace(factor: float) -> Schedule:
    """Send at `factor` times the original pace. An event is due at its own time, or with a newer event before it."""
    first = newest = NO_TIME

    def due(payloads: pa.Array) -> Seconds:
        nonlocal first, newest
        # ignores untrusted times, so that a broken event of the year 2999 is not waited for
        times = trusted_times(event_times(payloads), np.array(int(time.time() * SECOND)))
        times = np.maximum.accumulate(np.concatenate([[newest], times]))[1:]
        if first == NO_TIME:
            first = int(next((time for time in times if time != NO_TIME), NO_TIME))
        newest = int(times[-1])
        return np.maximum(times, first) / (factor * SECOND) - first / (factor * SECOND)

    return due


def at_once(payloads: pa.Array) -> None:
    """Send as fast as the brokers accept."""
    del payloads


def device_keys(payloads: pa.Array) -> list[bytes | None]:
    """The first device_id in each payload, found by a cheap regular expression without decoding; None if missing.

    >>> device_keys(pa.array([b'{"device_id":"d1"}', b"{}", None]))
    [b'd1', None, None]
    """
    return pc.struct_field(pc.extract_regex(payloads, _DEVICE_ID), "device_id").to_pylist()


def ensure_topic(cluster: KafkaCluster, topic: str, partitions: int | None = None) -> int:
    """Create the topic unless it exists; returns its number of partitions.

    Args:
        cluster: The Kafka cluster.
        topic: The topic's name.
        partitions: Required number of partitions; None accepts any, and creates a topic with `DEFAULT_PARTITIONS`.

    Raises:
        OptionError: The topic exists with another number of partitions.
        ClickstreamError: The cluster cannot be reached, or refuses to create the topic.
    """
    try:
        found = len(cluster.topic(topic).partitions)
    except NoSuchTopicError:
        found = _create_topic(cluster, topic, partitions or DEFAULT_PARTITIONS)
    if partitions is not None and partitions != found:
        raise OptionError(f"topic {topic} exists with {found} partitions, not {partitions}")
    return found


def _create_topic(cluster: KafkaCluster, topic: str, partitions: int) -> int:
    """Create a topic and wait until it is writable; returns its number of partitions."""
    admin = cluster.client(AdminClient, {})
    try:
        admin.create_topics([NewTopic(topic, partitions)])[topic].result(timeout=_TOPIC_SECONDS)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise ClickstreamError(f"topic {topic} cannot be created: {error.args[0].str()}") from error
    deadline = time.monotonic() + _TOPIC_SECONDS
    while True:
        try:
            return len(cluster.topic(topic).partitions)
        except (NoSuchTopicError, BrokerUnreachableError):  # leader election is still in progress
            if time.monotonic() > deadline:
                raise


def produce(
    cluster: KafkaCluster,
    topic: str,
    batches: Iterable[pa.Array],
    schedule: Schedule = at_once,
    partitions: int | None = None,
) -> ProduceSummary:
    """Send payloads to a topic, byte for byte and in order, keyed by device.

    The events of a device stay in order, because they go to one partition. Ctrl-C stops sending; records already sent
    are still awaited and counted.

    Args:
        cluster: The Kafka cluster.
        topic: The topic's name; created if missing.
        batches: Payloads: binary, null for a tombstone. The next batch is requested once the previous one is sent.
        schedule: When each payload is due.
        partitions: See `ensure_topic`.

    Raises:
        OptionError: The client properties are invalid, or the topic has another number of partitions.
        ClickstreamError: The cluster cannot be reached, or did not accept an event.
    """
    found = ensure_topic(cluster, topic, partitions)
    began: float | None = None
    with _interruption() as interrupted:
        sender = _Sender(cluster, topic, interrupted)
        for payloads in batches:
            # starts the clock only now: making the first batch may have taken long, and must not cause a burst
            began = began or time.monotonic()
            sender.send(payloads, schedule(payloads), began)
            if interrupted.is_set():
                break
    sender.finish()
    seconds = time.monotonic() - began if began else 0.0
    return ProduceSummary(topic, found, sender.events, sender.bytes, seconds, interrupted.is_set())


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that it cannot interrupt between a send and its count. For the main thread only."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


class _Sender:
    """Hands payloads to the client when they are due, and raises an error if one is not accepted."""

    def __init__(self, cluster: KafkaCluster, topic: str, interrupted: threading.Event) -> None:
        self._topic, self._interrupted = topic, interrupted
        self._failed: list[KafkaError] = []
        settings = {**_PRODUCER, "on_delivery": self._note_failure, "error_cb": self._note_fatal}
        self._producer = cluster.client(Producer, settings)
        self.events = self.bytes = 0

    def send(self, payloads: pa.Array, due: Seconds | None, began: float) -> None:
        """Send a batch; returns once its last payload is sent, or sending is interrupted."""
        keys, values = device_keys(payloads), payloads.to_pylist()
        sent = 0
        while sent < len(values) and not self._interrupted.is_set():
            ready = len(values)
            if due is not None:
                elapsed = time.monotonic() - began
                ready = int(np.searchsorted(due, elapsed, side="right"))
                if ready == sent:
                    self._poll(min(max(due[sent] - elapsed, _LEAST_WAIT), _LONGEST_WAIT))
                    continue
            for value, key in zip(values[sent:ready], keys[sent:ready], strict=True):
                self._put(value, key)
            sent = ready
            self._poll(0)

    def finish(self) -> None:
        """Wait until every record is acknowledged or rejected."""
        while len(self._producer):
            self._producer.flush(_LONGEST_WAIT)
            self._raise_failure()
        self._raise_failure()

    def _put(self, value: bytes | None, key: bytes | None) -> None:
        while not self._interrupted.is_set():
            try:
                self._producer.produce(self._topic, value, key)
                self.events += 1
                self.bytes += len(value or b"")
                break
            except BufferError:  # the client's queue is full
                self._poll(_LEAST_WAIT)
            except KafkaException as error:
                raise ClickstreamError(f"topic {self._topic} does not take an event: {error.args[0].str()}") from error

    def _poll(self, seconds: float) -> None:
        self._producer.poll(seconds)
        self._raise_failure()

    def _note_failure(self, error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None:
            self._failed.append(error)

    def _note_fatal(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._AUTHENTICATION:
            self._failed.append(error)

    def _raise_failure(self) -> None:
        if self._failed:
            raise ClickstreamError(f"topic {self._topic} has not taken an event: {self._failed[0].str()}")
