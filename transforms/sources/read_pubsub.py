"""A Pub/Sub subscription as a source, for Dataflow: emits the same batches of RAW rows as files and Kafka.

Dataflow itself reads, deduplicates by the id attribute and tracks the watermark by the timestamp attribute; this module
gathers the messages into tables. Each message arrives as one element, so Beam's cost per element limits the throughput.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub, parse_subscription
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.errors import OptionError
from schemas.events import RAW
from schemas.keys import stable_digest
from transforms.sources.raw_input import DEAD_LETTERS, RawInput, count_read

_BATCH_ROWS = 20_000
_BATCH_BYTES = 32 << 20
_LARGEST_OFFSET = 2**63 - 1


@dataclass(eq=False)
class ReadPubSub(beam.PTransform):
    """Reads a subscription.

    In the rows the partition is 0, the offset is the message's id, which Pub/Sub never reuses, and arrival_time is the
    publish time. Counters: ``events_read``, ``bytes_read``.

    Attributes:
        subscription: The subscription's full name, ``projects/P/subscriptions/S``.
        id_attribute: Attribute with the event's id; messages that repeat an id within ten minutes are dropped.
        timestamp_attribute: Attribute with the event time, in RFC 3339 or epoch milliseconds; the watermark follows it.
            None to use the publish time instead.

    Raises:
        OptionError: The subscription's name is not a full name.
    """

    subscription: str
    id_attribute: str | None = None
    timestamp_attribute: str | None = None

    def __post_init__(self) -> None:
        try:
            parse_subscription(self.subscription)
        except ValueError as error:
            raise OptionError(str(error)) from error

    @no_annotations
    def expand(self, pipeline: beam.Pipeline) -> RawInput:
        """Pipeline → RawInput; its dead letters are empty, as no message is rejected before decoding."""
        read = (
            pipeline
            | "ReadMessages"
            >> ReadFromPubSub(
                subscription=self.subscription,
                id_label=self.id_attribute,
                with_attributes=True,
                timestamp_attribute=self.timestamp_attribute,
            )
            | "GatherMessages"
            >> beam.ParDo(_GatherMessages(self.subscription))
            .with_output_types(pa.Table, **{DEAD_LETTERS: pa.Table})
            .with_outputs(DEAD_LETTERS, main="batches")
        )
        return RawInput(read["batches"], read[DEAD_LETTERS])


class _GatherMessages(beam.DoFn):
    """PubsubMessage → RAW tables with the earliest timestamp of their messages. All are emitted by the bundle's end."""

    def __init__(self, source: str) -> None:
        self._source = source

    def start_bundle(self) -> None:
        self._messages: list[PubsubMessage] = []
        self._bytes = 0
        self._earliest: Timestamp | None = None

    def process(
        self,
        element: PubsubMessage,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[WindowedValue]:
        self._messages.append(element)
        self._bytes += len(element.data)
        self._earliest = timestamp if self._earliest is None else min(self._earliest, timestamp)
        if len(self._messages) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            yield self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._messages:
            yield self._flush()

    def _flush(self) -> WindowedValue:
        table, earliest = raw_rows(self._messages, self._source), self._earliest
        count_read(table)
        self.start_bundle()
        return WindowedValue(table, earliest, [GlobalWindow()])


def raw_rows(messages: list[PubsubMessage], source: str) -> pa.Table:
    """Convert messages of the subscription `source` to RAW rows.

    >>> raw_rows([PubsubMessage(b"{}", {}, "8123456789")], "s")["offset"].to_pylist()
    [8123456789]
    """
    size = len(messages)
    columns = [
        pa.array([message.data for message in messages], pa.binary()),
        pa.repeat(source, size),
        pa.repeat(pa.scalar(0, pa.int32()), size),
        pa.array([_offset(message) for message in messages], pa.int64()),
        pa.array([message.publish_time for message in messages], RAW.schema.field("arrival_time").type),
    ]
    return pa.Table.from_arrays(columns, schema=RAW.schema)


def _offset(message: PubsubMessage) -> int:
    """A number that is the same for every delivery of the message: its id, or else a hash."""
    name = message.message_id or ""
    if name.isdecimal() and int(name) <= _LARGEST_OFFSET:
        return int(name)
    return int(stable_digest([name or message.data.hex()])[:16], 16) >> 1
