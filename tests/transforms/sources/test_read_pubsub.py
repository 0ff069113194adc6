"""Pub/Sub as a source: what its messages become, and that the graph translates. There is no service to read here."""

from datetime import UTC, datetime

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import TimestampedValue

from runners.beam_options import parse_beam_options
from schemas.errors import OptionError
from schemas.events import RAW
from transforms.metrics import read_counters
from transforms.sources.read_pubsub import ReadPubSub, _GatherMessages, raw_rows

PUBLISHED = datetime(2026, 4, 12, 9, 30, 0, 250_000, UTC)
SUBSCRIPTION = "projects/shop-1234/subscriptions/clicks"


def message(data: bytes = b"{}", message_id: str | None = "8123456789012345") -> PubsubMessage:
    """A message as it comes off the wire."""
    sent = PubsubMessage(data, {"tracker": "web"}, message_id, PUBLISHED)
    return PubsubMessage._from_proto_str(sent._to_proto_str())


def test_message_becomes_a_row_with_its_exact_bytes() -> None:
    table = raw_rows([message(b"\xff\x00not json")], SUBSCRIPTION)
    assert table.schema == RAW.schema
    assert table.to_pylist() == [
        {
            "payload": b"\xff\x00not json",
            "source": SUBSCRIPTION,
            "partition": 0,
            "offset": 8_123_456_789_012_345,
            "arrival_time": PUBLISHED,
        }
    ]


@pytest.mark.parametrize("message_id", ["not-a-number", "9223372036854775808", "²"])
def test_id_that_is_no_offset_gives_a_stable_one(message_id: str) -> None:
    offsets = [raw_rows([message(message_id=m)], "s")["offset"][0].as_py() for m in (message_id, message_id, "other")]
    assert offsets[0] == offsets[1] != offsets[2]
    assert 0 <= offsets[0] < 2**63


def test_messages_without_an_id_are_told_apart_by_their_bytes() -> None:
    rows = raw_rows([message(b"a", None), message(b"b", None), message(b"a", None)], "s")["offset"].to_pylist()
    assert rows[0] == rows[2] != rows[1]


def test_bundle_becomes_batches_stamped_with_their_earliest_message() -> None:
    def check(batches: list[tuple[list[int], float]]) -> None:
        rows = sorted((offset, stamp) for offsets, stamp in batches for offset in offsets)
        assert [offset for offset, _ in rows] == list(range(10))
        assert all(stamp <= 100 - offset for offset, stamp in rows)
        assert min(stamp for _, stamp in rows) == 91

    def seen(table: pa.Table, timestamp: object = beam.DoFn.TimestampParam) -> tuple[list[int], float]:
        return table["offset"].to_pylist(), float(timestamp)

    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    messages = [TimestampedValue(message(message_id=str(n)), 100 - n) for n in range(10)]
    batches = (
        pipeline
        | beam.Create(messages)
        | beam.Map(lambda m: m)
        | beam.ParDo(_GatherMessages("s")).with_output_types(pa.Table)
    )
    assert_that(batches | beam.Map(seen), check)
    result = pipeline.run()
    result.wait_until_finish()
    assert read_counters(result.metrics()) == {"events_read": 10, "bytes_read": 20}


def test_source_translates_with_its_attributes() -> None:
    pipeline = beam.Pipeline(options=parse_beam_options(["--streaming"]))
    read = pipeline | ReadPubSub(subscription=SUBSCRIPTION, id_attribute="event_id", timestamp_attribute="event_time")
    assert not read.batches.is_bounded
    graph = str(pipeline.to_runner_api())
    for part in (SUBSCRIPTION, "event_id", "event_time", "GatherMessages"):
        assert part in graph


@pytest.mark.parametrize(
    "name", ["", "clicks", "projects/shop-1234/topics/clicks", "projects/Shop/subscriptions/clicks"]
)
def test_subscription_without_a_full_name_is_refused(name: str) -> None:
    with pytest.raises(OptionError):
        ReadPubSub(name)
