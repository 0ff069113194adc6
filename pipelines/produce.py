"""Put events onto a topic of Kafka: as fast as it takes them, at a rate, or at the pace at which they happened."""

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
"""When each payload is due, in seconds since the start; never earlier than the one before. None for at once."""

DEFAULT_PARTITIONS = 4

_PRODUCER = {
    # no copy and no reordering when a request is repeated; large batches are what makes it fast
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 131_072,
    "message.max.bytes": 2_000_000,
    # as Java's clients place a key, so that all producers of a device use one partition
    "partitioner": "murmur2_random",
    "delivery.timeout.ms": 60_000,
    "delivery.report.only.error": True,
}
_DEVICE_ID = r'"device_id"\s*:\s*"(?P<device_id>[^"]+)"'
_LEAST_WAIT, _LONGEST_WAIT = 0.005, 0.1
_TOPIC_SECONDS = 20.0


@dataclass(frozen=True)
class ProduceSummary:
    """What was put onto the topic.

    Attributes:
        topic: Its name.
        partitions: How many it has.
        events: Records that are there now.
        bytes: Bytes of their payloads.
        seconds: Wall time from the first to the last acknowledgement.
        interrupted: Whether it was ended before all had been sent.
    """

    topic: str
    partitions: int
    events: int
    bytes: int
    seconds: float
    interrupted: bool


def at_rate(events_per_second: float) -> Schedule:
    """A steady rate.

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
    """As they happened, `factor` times as fast: an event is due when the newest before it is, or at its own time."""
    first = newest = NO_TIME

    def due(payloads: pa.Array) -> Seconds:
        nonlocal first, newest
        # a broken event of the year 2999 is not to be waited for
        times = trusted_times(event_times(payloads), np.array(int(time.time() * SECOND)))
        times = np.maximum.accumulate(np.concatenate([[newest], times]))[1:]
        if first == NO_TIME:
            first = int(next((time for time in times if time != NO_TIME), NO_TIME))
        newest = int(times[-1])
        return np.maximum(times, first) / (factor * SECOND) - first / (factor * SECOND)

    return due


def at_once(payloads: pa.Array) -> None:
    """As fast as the brokers take them."""
    del payloads


def device_keys(payloads: pa.Array) -> list[bytes | None]:
    """The first device_id in each payload, by a cheap look without decoding; None where there is none.

    >>> device_keys(pa.array([b'{"device_id":"d1"}', b"{}", None]))
    [b'd1', None, None]
    """
    return pc.struct_field(pc.extract_regex(payloads, _DEVICE_ID), "device_id").to_pylist()


def ensure_topic(cluster: KafkaCluster, topic: str, partitions: int | None = None) -> int:
    """Create the topic unless it is there; returns the number of its partitions.

    Args:
        cluster: Where.
        topic: Its name.
        partitions: How many it is to have; None for any number, and `DEFAULT_PARTITIONS` where it is created.

    Raises:
        OptionError: It is there with another number of partitions.
        ClickstreamError: The cluster cannot be reached, or refuses.
    """
    try:
        found = len(cluster.topic(topic).partitions)
    except NoSuchTopicError:
        found = _create_topic(cluster, topic, partitions or DEFAULT_PARTITIONS)
    if partitions is not None and partitions != found:
        raise OptionError(f"topic {topic} is there and has {found} partitions, not {partitions}")
    return found


def _create_topic(cluster: KafkaCluster, topic: str, partitions: int) -> int:
    """Create a topic and wait until it can be written to; returns the number of its partitions."""
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
        except (NoSuchTopicError, BrokerUnreachableError):  # its leader is being chosen
            if time.monotonic() > deadline:
                raise


def produce(
    cluster: KafkaCluster,
    topic: str,
    batches: Iterable[pa.Array],
    schedule: Schedule = at_once,
    partitions: int | None = None,
) -> ProduceSummary:
    """Put payloads onto a topic, byte for byte and in their order, keyed by device.

    Two events of a device stay in order, as they go to one partition. Ctrl-C ends it: what has been sent is still
    acknowledged, and counted.

    Args:
        cluster: Where the topic is.
        topic: Its name; created where it is missing.
        batches: Payloads: binary, null for a tombstone. A batch is asked for when the one before it has been sent.
        schedule: When each payload is due.
        partitions: As `ensure_topic` takes them.

    Raises:
        OptionError: The client properties cannot be used, or the partitions are not the topic's.
        ClickstreamError: The cluster cannot be reached, or has not taken an event.
    """
    found = ensure_topic(cluster, topic, partitions)
    began: float | None = None
    with _interruption() as interrupted:
        sender = _Sender(cluster, topic, interrupted)
        for payloads in batches:
            # the first batch may have taken long to make, and nothing is to be made up for by a rush
            began = began or time.monotonic()
            sender.send(payloads, schedule(payloads), began)
            if interrupted.is_set():
                break
    sender.finish()
    seconds = time.monotonic() - began if began else 0.0
    return ProduceSummary(topic, found, sender.events, sender.bytes, seconds, interrupted.is_set())


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Set by Ctrl-C, which then comes between no event and its count; only the main thread can be told of it."""
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
    """Hands payloads to the client when they are due, and raises what becomes of those that are not taken."""

    def __init__(self, cluster: KafkaCluster, topic: str, interrupted: threading.Event) -> None:
        self._topic, self._interrupted = topic, interrupted
        self._failed: list[KafkaError] = []
        settings = {**_PRODUCER, "on_delivery": self._note, "error_cb": self._heed}
        self._producer = cluster.client(Producer, settings)
        self.events = self.bytes = 0

    def send(self, payloads: pa.Array, due: Seconds | None, began: float) -> None:
        """Send a batch; waits until its last payload is due, or all is interrupted."""
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
        """Wait until all is acknowledged or refused."""
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
            except BufferError:  # as much is under way as may be
                self._poll(_LEAST_WAIT)
            except KafkaException as error:
                raise ClickstreamError(f"topic {self._topic} does not take an event: {error.args[0].str()}") from error

    def _poll(self, seconds: float) -> None:
        self._producer.poll(seconds)
        self._raise_failure()

    def _note(self, error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None:
            self._failed.append(error)

    def _heed(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._AUTHENTICATION:
            self._failed.append(error)

    def _raise_failure(self) -> None:
        if self._failed:
            raise ClickstreamError(f"topic {self._topic} has not taken an event: {self._failed[0].str()}")
