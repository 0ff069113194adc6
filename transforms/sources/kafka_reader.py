"""Reads partitions of a topic: offsets in, RAW tables out. It knows the broker and is independent of Beam."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.durations import MILLISECOND, SECOND
from schemas.errors import InputError
from schemas.events import RAW
from schemas.records import TIMESTAMP
from transforms.sources.kafka_client import (
    BrokerUnreachableError,
    KafkaCluster,
    commit_offsets,
    known_topic,
    unreachable,
)
from transforms.sources.kafka_positions import Positions, Span, Start, Until
from transforms.sources.kafka_times import NO_TIME, Ints, event_times, trusted_times

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REQUEST_SECONDS = 2.0
_ASK_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 5.0

_CONSUMER = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # an offset that is no longer in the log is an error; it is never skipped silently
    "auto.offset.reset": "error",
    # reports the end of a partition even if its last offset is a transaction marker and not a record
    "enable.partition.eof": True,
    # hundreds of small responses a second would cost the broker and this process more than the records in them
    "fetch.min.bytes": 256_000,
    "fetch.wait.max.ms": 100,
    # bounds the prefetch queue, and refills a full queue at once instead of a second later
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 32_768,
    "fetch.queue.backoff.ms": 20,
}
_OFFSET_LOST = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_REFUSED = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)


@dataclass(frozen=True)
class TopicRange:
    """The part of a topic to read.

    Attributes:
        cluster: The topic's cluster.
        topic: The topic's name.
        start: Where to start in the partitions that exist at the start; a partition added later is read from its
            beginning.
        until: Where to end; None to read without end.
        group: Consumer group to commit offsets to, for monitoring its lag; None to commit none.
    """

    cluster: KafkaCluster
    topic: str
    start: Start = "earliest"
    until: Until = None
    group: str | None = None


class Polled(NamedTuple):
    """The result of a poll.

    Attributes:
        rows: RAW rows.
        offsets: The next offset of each partition that has advanced.
        newest: Newest event time of each partition with rows, capped at its arrival time; None if no event time can be
            read.
        earliest: Earliest event time of the rows, in microseconds; if none can be read, the earliest arrival time.
    """

    rows: pa.Table
    offsets: dict[int, int]
    newest: dict[int, int | None]
    earliest: int


class TopicReader:
    """Reads all partitions of a topic. Only `commit` is thread-safe. Call `close` after use."""

    def __init__(self, topic_range: TopicRange) -> None:
        self._range = topic_range
        self._login_error: KafkaError | None = None
        settings = {**_CONSUMER, "group.id": topic_range.group or "clickstream", "error_cb": self._on_error}
        self._consumer = topic_range.cluster.client(Consumer, settings)
        self._spans: dict[int, Span] = {}
        self._end_checks: dict[int, tuple[float, int, bool]] = {}

    def resolve(self) -> Positions:
        """Look up the first offset to read of every partition, and the end offset if the read is bounded.

        Raises:
            BrokerUnreachableError: No broker answers; a retry may succeed.
            InputError: The topic does not exist, or the end offsets name other partitions than it has.
        """
        topic, start, until = self._range.topic, self._range.start, self._range.until
        partitions = self._partitions(_REQUEST_SECONDS)
        if isinstance(until, Mapping) and set(until) != set(partitions):
            raise InputError(
                f"the offsets to read until name the partitions {_listed(until)}; "
                f"topic {topic} has {_listed(partitions)}"
            )
        try:
            logs = {p: self._log_range(p, _REQUEST_SECONDS) for p in partitions}
            firsts = self._offsets(start, logs)
            ends = None if until is None else self._offsets(until, logs)
        except KafkaException as error:
            raise self._request_error(error) from error
        if ends is None:
            return Positions(bounded=False, spans={p: Span(firsts[p]) for p in partitions})
        return Positions(bounded=True, spans={p: Span(min(firsts[p], ends[p]), ends[p]) for p in partitions})

    def seek(self, positions: Positions) -> None:
        """Continue from these positions. Costs nothing if the reader is already there, as from bundle to bundle."""
        spans = dict(positions.known)
        if spans != self._spans:
            self._consumer.assign([self._topic_partition(p, spans[p].next) for p in positions.unfinished])
            self._spans, self._end_checks = spans, {}

    def new_partitions(self) -> dict[int, Span]:
        """Find the partitions added to the topic since `seek`, each read from its beginning; none if no broker answers.

        Raises:
            InputError: The topic no longer exists.
        """
        try:
            partitions = self._partitions(_ASK_SECONDS)
            found = {p: Span(self._log_range(p, _ASK_SECONDS)[0]) for p in partitions if p not in self._spans}
        except (KafkaException, BrokerUnreachableError):
            return {}
        if found:
            self._consumer.incremental_assign([self._topic_partition(p, span.next) for p, span in found.items()])
            self._spans |= found
        return found

    def poll(self, rows: int, seconds: float) -> Polled | None:
        """Read the next rows, at most `rows`, waiting at most `seconds`; None if nothing has arrived.

        While no broker can be reached nothing arrives; the client reconnects by itself, at growing intervals.

        Raises:
            InputError: A position is no longer in the log, the topic no longer exists, or the login is refused.
        """
        messages = self._consumer.consume(rows, seconds)
        if self._login_error is not None:
            raise unreachable(self._range.cluster.servers, self._login_error)
        offsets: dict[int, int] = {}
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._check_error(error, cast(int, message.partition()), cast(int, message.offset()), offsets)
            messages = [message for message in messages if not message.error()]
        polled = self._read(messages, offsets)
        for partition, offset in offsets.items():
            self._spans[partition] = Span(offset, self._spans[partition].end)
        done = [p for p in offsets if self._spans[p].is_done]
        if done:
            self._consumer.incremental_unassign([TopicPartition(self._range.topic, p) for p in done])
        return polled

    def at_end(self, partitions: Iterable[int]) -> set[int]:
        """The partitions whose brokers say that nothing more is to be read; none whose broker does not answer."""
        ended, answers = set(), True
        for partition in partitions:
            offset = self._spans[partition].next
            at, asked_at, is_end = self._end_checks.get(partition, (-_ASK_AGAIN_SECONDS, -1, False))
            if answers and (asked_at != offset or time.monotonic() - at >= _ASK_AGAIN_SECONDS):
                try:
                    is_end = self._log_range(partition, _ASK_SECONDS)[1] <= offset
                except KafkaException:
                    is_end = answers = False
                self._end_checks[partition] = (time.monotonic(), offset, is_end)
            elif asked_at != offset:
                is_end = False
            if is_end:
                ended.add(partition)
        return ended

    @property
    def lag(self) -> int:
        """Number of records in the partitions that are not read yet, as of the last fetch."""
        total = 0
        for partition, span in self._spans.items():
            _, end = self._consumer.get_watermark_offsets(self._topic_partition(partition), cached=True)
            total += max(end - span.next, 0)
        return total

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit offsets for the group, if there is one; a failure is only logged."""
        if self._range.group:
            commit_offsets(self._consumer, self._range.topic, dict(offsets))

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTHENTICATION:
            self._login_error = error

    def _request_error(self, error: KafkaException) -> InputError:
        self._consumer.poll(0)  # lets the client call `error_cb` with the reason
        return unreachable(self._range.cluster.servers, self._login_error or error.args[0])

    def _topic_partition(self, partition: int, offset: int = -1) -> TopicPartition:
        return TopicPartition(self._range.topic, partition, offset)

    def _partitions(self, seconds: float) -> list[int]:
        topic, cluster = self._range.topic, self._range.cluster
        try:
            metadata = self._consumer.list_topics(topic, timeout=seconds)
        except KafkaException as error:
            raise self._request_error(error) from error
        return sorted(known_topic(metadata, topic, cluster.servers).partitions)

    def _log_range(self, partition: int, seconds: float) -> tuple[int, int]:
        """The first offset in a partition's log, and the offset after its last record."""
        answer = self._consumer.get_watermark_offsets(self._topic_partition(partition), timeout=seconds, cached=False)
        if answer is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        first, end = answer
        return first, end

    def _offsets(self, place: Start | Until, logs: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Resolve a start or an end to an offset in each partition."""
        if isinstance(place, Mapping):
            return {p: place[p] for p in logs}
        if isinstance(place, datetime):
            # rounded up, because a record's time is in milliseconds
            millis = -((_EPOCH - place) // timedelta(milliseconds=1))
            asked = [self._topic_partition(p, millis) for p in logs]
            found = self._consumer.offsets_for_times(asked, timeout=_REQUEST_SECONDS) if asked else []
            for answer in found:
                if answer.error:
                    raise KafkaException(answer.error)
            # a negative offset means that no record is that recent
            return {a.partition: a.offset if a.offset >= 0 else logs[a.partition][1] for a in found}
        return {p: first if place == "earliest" else end for p, (first, end) in logs.items()}

    def _check_error(self, error: KafkaError, partition: int, offset: int, offsets: dict[int, int]) -> None:
        """Note a partition's end, and raise errors that a retry does not fix; the client handles the others."""
        if error.code() == KafkaError._PARTITION_EOF:
            span = self._spans[partition]
            offsets[partition] = max(span.next, offset if span.end is None else min(offset, span.end))
        elif error.code() in _OFFSET_LOST:
            raise self._offset_error(partition)
        elif error.code() in _REFUSED:
            raise InputError(f"topic {self._range.topic}, partition {partition} cannot be read: {error.str()}")

    def _offset_error(self, partition: int) -> InputError:
        wanted = self._spans[partition].next
        where = f"topic {self._range.topic}, partition {partition}"
        try:
            first, end = self._log_range(partition, _REQUEST_SECONDS)
        except KafkaException:
            return InputError(f"{where}: offset {wanted} is not in the log")
        if wanted < first:
            return InputError(
                f"{where}: offsets {wanted} to {first - 1} are no longer in the log, deleted before they were read"
            )
        return InputError(f"{where}: offset {wanted} is past the log's end {end}; was the topic recreated?")

    def _read(self, messages: Sequence[Message], offsets: dict[int, int]) -> Polled | None:
        """Convert the messages to a table, and note the next offset of their partitions."""
        size = len(messages)
        partitions = np.fromiter(map(Message.partition, messages), np.int32, size)
        places = np.fromiter(map(Message.offset, messages), np.int64, size)
        for partition in np.unique(partitions).tolist():
            last = int(places[partitions == partition][-1])
            offsets[partition] = max(last + 1, offsets.get(partition, 0))
        ends = {p: end for p in offsets if (end := self._spans[p].end) is not None}
        if any(offsets[p] > end for p, end in ends.items()):
            offsets |= {p: min(offsets[p], end) for p, end in ends.items()}
            limit = np.zeros(max(ends) + 1, np.int64)
            limit[list(ends)] = list(ends.values())
            wanted = np.flatnonzero(places < limit[partitions])
            messages = [messages[row] for row in wanted.tolist()]
            partitions, places = partitions[wanted], places[wanted]
        if not messages:
            return Polled(RAW.empty(), offsets, {}, 0) if offsets else None
        stamps = np.fromiter((stamp for _, stamp in map(Message.timestamp, messages)), np.int64, len(messages))
        payloads = pa.array(list(map(Message.value, messages)), pa.binary())
        return _polled(payloads, self._range.topic, partitions, places, stamps, offsets)


def _polled(
    payloads: pa.Array, topic: str, partitions: np.ndarray, places: Ints, stamps: Ints, offsets: dict[int, int]
) -> Polled:
    """The messages' table and its event times. Stamps are in milliseconds; negative if a message has none."""
    size = len(payloads)
    arrivals = pa.array(stamps * MILLISECOND, mask=stamps < 0).cast(TIMESTAMP)
    columns = [payloads, pa.repeat(topic, size), pa.array(partitions), pa.array(places), arrivals]
    now = int(time.time() * SECOND)
    arrived = np.where(stamps < 0, now, stamps * MILLISECOND)
    times = trusted_times(event_times(payloads), arrived)
    known = times[times != NO_TIME]
    newest = np.full(int(partitions.max()) + 1, NO_TIME)
    np.maximum.at(newest, partitions, np.minimum(times, arrived))
    return Polled(
        rows=pa.Table.from_arrays(columns, schema=RAW.schema),
        offsets=offsets,
        newest={p: int(newest[p]) if newest[p] != NO_TIME else None for p in np.unique(partitions).tolist()},
        earliest=int(known.min() if len(known) else arrived.min()),
    )


def _listed(partitions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(partitions))) or "none"
