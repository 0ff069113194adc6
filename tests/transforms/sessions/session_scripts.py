"""Builders of events, and an oracle that finds sessions event by event, with none of the program's code."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import apache_beam as beam
import pyarrow as pa
import pyarrow.feather as feather
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_stream as streams
from apache_beam.utils.timestamp import Timestamp

from runners.beam_options import parse_beam_options
from schemas.durations import DAY, HOUR, MINUTE, SECOND
from schemas.events import EVENT_BATCH
from schemas.sessions import SESSION_PANE
from transforms.metrics import SEEN_HERE
from transforms.sessions.policy import SessionPolicy
from transforms.tables import at_earliest

BASE = int(datetime(2026, 4, 12, 10, tzinfo=UTC).timestamp()) * SECOND
"""Ten o'clock UTC: on every grid that the tests use, hours away from midnight."""


def at(hours: int = 0, minutes: int = 0, seconds: int = 0, micros: int = 0) -> int:
    """Microseconds since the epoch, counted from `BASE`."""
    return BASE + hours * HOUR + minutes * MINUTE + seconds * SECOND + micros


def click(event_time: int, device: str = "d1", event_id: str | None = None, **columns: Any) -> dict[str, Any]:
    """An event as a row; its id tells its time unless given."""
    row = {
        "event_id": event_id or f"{device}@{event_time}",
        "event_type": "page_view",
        "event_time": event_time,
        "device_id": device,
        "revenue": None,
        **dict.fromkeys(("page_url", "user_key", "country", "device_type", "os", "app_version")),
    }
    return row | columns


def batch(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows of `click` as a table of EVENT_BATCH."""
    rows = [
        {
            **dict.fromkeys(EVENT_BATCH.names),
            **row,
            "event_date": date.fromordinal(date(1970, 1, 1).toordinal() + row["event_time"] // DAY),
            "client_time": row["event_time"],
            "source": "script",
            "partition": 0,
            "offset": 0,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(rows, EVENT_BATCH.schema)


def brute_force_sessions(rows: Iterable[dict[str, Any]], policy: SessionPolicy) -> list[dict[str, Any]]:
    """Sessions of some events, found by walking over them one by one."""
    found: list[list[dict[str, Any]]] = []
    reasons: list[str | None] = []
    mark, reason = 0, None
    for row in sorted(rows, key=lambda row: (row["device_id"], row["event_time"], row["event_id"])):
        previous = found[-1][-1] if found else None
        time = row["event_time"]
        goes_on = (
            previous is not None
            and previous["device_id"] == row["device_id"]
            and time - previous["event_time"] <= policy.gap
        )
        if goes_on and time < mark:
            found[-1].append(row)
            continue
        if goes_on:
            reasons[-1] = reason
        found.append([row])
        reasons.append(None)
        mark, reason = _mark(time, policy)
    return [_summary(events, cut) for events, cut in zip(found, reasons, strict=True)]


def _mark(start: int, policy: SessionPolicy) -> tuple[float, str | None]:
    mark: float = float("inf")
    reason = None
    if policy.cap is not None:
        mark, reason = start + policy.cap, "cap"
        while mark % policy.cell:
            mark += policy.cell - mark % policy.cell
    if policy.cut_at_midnight:
        midnight = start - start % DAY + DAY
        if midnight <= mark:
            mark, reason = midnight, "midnight"
    return mark, reason


def _summary(events: list[dict[str, Any]], cut: str | None) -> dict[str, Any]:
    def known(column: str) -> list[Any]:
        return [event[column] for event in events if event[column] is not None] or [None]

    return {
        "device_id": events[0]["device_id"],
        "user_key": known("user_key")[-1],
        "session_start": events[0]["event_time"],
        "session_end": events[-1]["event_time"],
        "duration_secs": (events[-1]["event_time"] - events[0]["event_time"]) / 1_000_000,
        "event_count": len(events),
        "page_view_count": sum(event["event_type"] == "page_view" for event in events),
        "had_purchase": any(event["event_type"] == "purchase" for event in events),
        "revenue": sum((event["revenue"] or Decimal(0) for event in events), Decimal("0.0000")),
        "entry_page": known("page_url")[0],
        "exit_page": known("page_url")[-1],
        **{column: known(column)[0] for column in ("country", "device_type", "os", "app_version")},
        "cut_reason": cut,
    }


def rows_of(sessions: pa.Table, *more: str) -> list[dict[str, Any]]:
    """Sessions or panes as rows comparable to `brute_force_sessions`, in order of device and start."""
    columns = [
        *("device_id", "user_key", "session_start", "session_end", "duration_secs", "event_count"),
        *("page_view_count", "had_purchase", "revenue", "entry_page", "exit_page"),
        *("country", "device_type", "os", "app_version", "cut_reason"),
    ]
    table = sessions.select([*columns, *more])
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.int64()))
    return sorted(table.to_pylist(), key=lambda row: (row["device_id"], row["session_start"]))


class KeepTables(beam.PTransform):
    """Writes each table to a file of its own, for a test to read once the pipeline has run."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[None]:
        return tables | beam.Map(
            lambda table, folder: feather.write_feather(table, f"{folder}/{uuid4()}"), self._folder
        )


def kept_tables(folder: Path, schema: pa.Schema) -> pa.Table:
    """Every table that `KeepTables` wrote."""
    return pa.concat_tables([schema.empty_table(), *(feather.read_table(path) for path in folder.iterdir())])


Script = list[int | list[dict[str, Any]]]
"""What happens in order: a watermark that is reached, or a batch of events that comes."""


def run_script(folder: Path, script: Script, sessions: beam.PTransform) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Run a session engine on a script; at its end the watermark goes to infinity.

    Returns:
        The panes as rows, and what was counted.
    """
    stream = streams.TestStream()
    for step in script:
        if isinstance(step, int):
            stream = stream.advance_watermark_to(Timestamp(micros=step))
        else:
            stream = stream.add_elements([at_earliest(batch(step))])
    folder = folder / uuid4().hex
    folder.mkdir()
    before = SEEN_HERE.copy()
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=parse_beam_options(["--streaming"]))
    _ = pipeline | stream.advance_watermark_to_infinity() | sessions | KeepTables(str(folder))
    pipeline.run().wait_until_finish()
    panes = kept_tables(folder, SESSION_PANE.schema)
    rows = rows_of(panes, "session_id", "pane_timing", "pane_index", "is_retraction", "fired_at")
    return rows, dict(SEEN_HERE - before)
