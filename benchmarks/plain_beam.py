"""The main job in plain Beam: one element per event, Beam's own session windows and sinks.

    python benchmarks/plain_beam.py INPUT_FOLDER OUTPUT_FOLDER

It follows the documentation of Beam. It does less than the product (no device store, no dates, half of the session
columns) and uses the same runner, FnApiRunner, named explicitly because DirectRunner chooses between three engines.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import BytesCoder
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.window import Sessions, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# A silence of exactly the gap continues a session here, unlike in Beam, which encodes windows in milliseconds
GAP_SECONDS = 30 * 60 + 0.001

TIME = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(18, 4)
EVENTS = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_time", TIME),
        ("device_id", pa.string()),
        ("user_id", pa.string()),
        ("page_url", pa.string()),
        ("revenue", MONEY),
        ("country", pa.string()),
        ("device_type", pa.string()),
        ("os", pa.string()),
        ("app_version", pa.string()),
        ("properties", pa.string()),
        ("context", pa.string()),
    ]
)
SESSIONS = pa.schema(
    [
        ("device_id", pa.string()),
        ("session_start", TIME),
        ("session_end", TIME),
        ("event_count", pa.int64()),
        ("page_view_count", pa.int64()),
        ("had_purchase", pa.bool_()),
        ("revenue", MONEY),
        ("entry_page", pa.string()),
        ("exit_page", pa.string()),
    ]
)

Event = dict[str, Any]


def refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object and refuse repeated keys, of which `json.loads` would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which `json.loads` would accept."""
    raise ValueError(f"{name} is not JSON")


def read_event(line: bytes) -> Event:
    """Read a line; raises ValueError, KeyError or TypeError where it is no event."""
    raw = json.loads(line, object_pairs_hook=refuse_repeated_keys, parse_constant=refuse_constant)
    properties, context = ({} if raw.get(name) is None else raw[name] for name in ("properties", "context"))
    if not isinstance(properties, dict) or not isinstance(context, dict):
        raise ValueError("properties or context is no object")
    stamp = raw["timestamp"]
    moment = EPOCH + timedelta(milliseconds=stamp) if isinstance(stamp, int) else datetime.fromisoformat(stamp)
    if moment.tzinfo is None or moment > datetime.now(UTC) + timedelta(hours=1):
        raise ValueError("the timestamp is not usable")
    entity = raw.get("entity_id") if raw.get("entity_type") == "user" else None
    user = raw.get("user_id") or context.get("user_id") or entity
    device = raw.get("device_id") or context.get("device_id") or (f"user:{user}" if user else None)
    for text in (raw["event_id"], raw["event_type"], device):
        if not isinstance(text, str) or not 0 < len(text) < 256:
            raise ValueError("a field is not usable")
    revenue = properties.get("revenue", properties.get("amount")) if raw["event_type"] == "purchase" else None
    return {
        "event_id": raw["event_id"],
        "event_type": raw["event_type"],
        "event_time": moment,
        "device_id": device,
        "user_id": user,
        "page_url": properties.get("page_url"),
        "revenue": None if revenue is None else round(Decimal(str(revenue)), 4),
        "country": context.get("country"),
        "device_type": context.get("device_type"),
        "os": context.get("os"),
        "app_version": context.get("app_version"),
        "properties": json.dumps(properties),
        "context": json.dumps(context),
    }


class Parse(beam.DoFn):
    """Parse lines into events; lines that cannot be parsed go to the output `bad`."""

    def process(self, line: bytes) -> Iterator[Any]:
        """Parse one line."""
        try:
            event = read_event(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield beam.pvalue.TaggedOutput("bad", line + b"\t" + repr(error).encode())
        else:
            yield event


def first(events: Iterable[Event]) -> Event:
    """Keep one of several copies of an event."""
    return next(iter(events))


def key_by_id(event: Event) -> tuple[tuple[str, str], Event]:
    """Key an event by its device and event id."""
    return (event["device_id"], event["event_id"]), event


def key_by_device(event: Event) -> tuple[str, Event]:
    """Key an event by its device."""
    return event["device_id"], event


def stamp(event: Event) -> TimestampedValue:
    """Give an element its event time."""
    return TimestampedValue(event, Timestamp(micros=(event["event_time"] - EPOCH) // MICROSECOND))


class Summarise(beam.CombineFn):
    """Aggregate the events of a session into its row."""

    def create_accumulator(self) -> list[Any]:
        """The empty aggregate: first and last (time, id), counts, revenue, first and last page with their times."""
        return [None, None, 0, 0, False, Decimal(0), None, None]

    def add_input(self, total: list[Any], event: Event) -> list[Any]:
        """Add one event."""
        at = (event["event_time"], event["event_id"])
        page = (at, event["page_url"]) if event["page_url"] is not None else None
        kind = event["event_type"]
        one = [at, at, 1, kind == "page_view", kind == "purchase", event["revenue"] or Decimal(0), page, page]
        return self.merge_accumulators([total, one])

    def merge_accumulators(self, totals: Iterable[list[Any]]) -> list[Any]:
        """Add up the counts and revenue, and keep the earliest and the latest times and pages."""
        columns = list(zip(*totals, strict=True))
        known = [[value for value in column if value is not None] for column in columns]
        return [
            min(known[0], default=None),
            max(known[1], default=None),
            sum(columns[2]),
            sum(columns[3]),
            any(columns[4]),
            sum(columns[5]),
            min(known[6], default=None),
            max(known[7], default=None),
        ]

    def extract_output(self, total: list[Any]) -> dict[str, Any]:
        """The row of the session without its device."""
        start, end, count, views, bought, revenue, entry, leave = total
        return {
            "session_start": start[0],
            "session_end": end[0],
            "event_count": count,
            "page_view_count": views,
            "had_purchase": bought,
            "revenue": revenue,
            "entry_page": entry and entry[1],
            "exit_page": leave and leave[1],
        }


def name_device(pair: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Add the device to the row."""
    return {"device_id": pair[0], **pair[1]}


def main(source: Path, target: Path) -> None:
    """Run the job on the *.jsonl files of a folder."""
    target.mkdir(parents=True)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        parsed = (
            pipeline
            | "Read" >> beam.io.ReadFromText(f"{source}/*.jsonl", coder=BytesCoder())
            | "Parse" >> beam.ParDo(Parse()).with_outputs("bad", main="events")
        )
        events = (
            parsed.events
            | "KeyById" >> beam.Map(key_by_id)
            | "Deduplicate" >> beam.CombinePerKey(first)
            | "Unique" >> beam.Values()
        )
        sessions = (
            events
            | "Stamp" >> beam.Map(stamp)
            | "Window" >> beam.WindowInto(Sessions(GAP_SECONDS))
            | "KeyByDevice" >> beam.Map(key_by_device)
            | "Summarise" >> beam.CombinePerKey(Summarise())
            | "NameDevice" >> beam.Map(name_device)
        )
        parsed.bad | "WriteBad" >> beam.io.WriteToText(f"{target}/dead_letters", coder=BytesCoder())
        events | "WriteEvents" >> beam.io.WriteToParquet(
            f"{target}/events", EVENTS, codec="zstd", file_name_suffix=".parquet"
        )
        (
            sessions
            | "Unwindow" >> beam.WindowInto(beam.window.GlobalWindows())
            | "WriteSessions"
            >> beam.io.WriteToParquet(f"{target}/sessions", SESSIONS, codec="zstd", file_name_suffix=".parquet")
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
