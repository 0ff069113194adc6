"""The reference engine: Beam's own session windows, with one key per device and one element per event.

It is slow and simple, and the runner owns its state. Conformance tests compare the columnar engine with it. It has no
cap, no cut at midnight and no retractions: if a late event moves a session's start or joins two sessions, the sessions
of the old ids remain. Of several panes with one id, the one with the most events is the last. `pane_index` does not
tell: every new event merges windows, and on a merge Beam's Python driver counts panes from 0 again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms import trigger
from apache_beam.transforms.window import GlobalWindows, Sessions, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from schemas.durations import DAY, MILLISECOND, SECOND
from schemas.keys import session_ids
from schemas.records import TIMESTAMP
from schemas.sessions import SESSION_PANE, PaneTiming
from transforms.sessions.cells import ATTRIBUTES, EVENT_COLUMNS
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessionize import count_panes

Row = dict[str, Any]


@dataclass(eq=False)
class BeamSessions(beam.PTransform):
    """Turns event batches into session panes with `WindowInto(Sessions)`.

    Input and output elements are those of `Sessionize`. The Python SDK cannot read the watermark, so `fired_at` of
    every pane is the tick at which the session in the pane would close.

    Attributes:
        policy: Gap, lateness and early firing; cap and cut are ignored.
    """

    policy: SessionPolicy

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pcoll: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Use windows a millisecond longer than the gap, because Beam splits at exactly the gap."""
        # A bounded input is complete before the first pane, so no pane is early
        early = None if pcoll.is_bounded else self.policy.early_firing
        windows = beam.WindowInto(
            # A Duration, because Beam may convert a float of seconds to a millisecond less
            Sessions(Duration(micros=self.policy.gap + MILLISECOND)),
            trigger=trigger.AfterWatermark(
                # In processing time, because Beam has no periodic trigger in event time
                early=trigger.AfterProcessingTime(max(early // SECOND, 1)) if early else None,
                late=trigger.AfterCount(1),
            ),
            accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
            allowed_lateness=Duration(micros=self.policy.allowed_lateness),
        )
        return (
            pcoll
            | "ExplodeEvents" >> beam.ParDo(_Explode()).with_output_types(tuple[str, Row])
            | "IntoSessionWindows" >> windows
            | "GroupByDevice" >> beam.GroupByKey()
            | "SummarizeSession" >> beam.ParDo(_Summarize(self.policy)).with_output_types(pa.Table)
            | "IntoGlobalWindow" >> beam.WindowInto(GlobalWindows())
        )


class _Explode(beam.DoFn):
    """Splits an event batch into its events, keyed by device and stamped with their event time in milliseconds."""

    def process(self, events: pa.Table) -> Iterator[TimestampedValue]:
        events = events.select(EVENT_COLUMNS)
        times = events.column("event_time").cast(pa.int64())
        for row in events.set_column(events.schema.get_field_index("event_time"), "event_time", times).to_pylist():
            millis = row["event_time"] // MILLISECOND
            yield TimestampedValue((row["device_id"], row), Timestamp(micros=millis * MILLISECOND))


class _Summarize(beam.DoFn):
    """Computes the pane of a session window from its events.

    Runners keep windows in milliseconds, so a window may join events whose distance exceeds the gap by less than a
    millisecond. Such a window is split into its sessions.
    """

    def __init__(self, policy: SessionPolicy) -> None:
        self._policy = policy

    def process(
        self, element: tuple[str, Iterable[Row]], pane: PaneInfo = beam.DoFn.PaneInfoParam
    ) -> Iterator[pa.Table]:
        device, rows = element
        events = sorted(rows, key=lambda row: (row["event_time"], row["event_id"]))
        apart = [
            place
            for place, (event, following) in enumerate(pairwise(events), start=1)
            if following["event_time"] - event["event_time"] > self._policy.gap
        ]
        sessions = [self._row(device, events[first:end], pane) for first, end in pairwise([0, *apart, len(events)])]
        arrays = [
            pa.array([row[field.name] for row in sessions], _plain(field.type)).cast(field.type)
            for field in SESSION_PANE
        ]
        panes = pa.Table.from_arrays(arrays, schema=SESSION_PANE.schema)
        count_panes(panes)
        yield panes

    def _row(self, device: str, events: list[Row], pane: PaneInfo) -> Row:
        start, end = events[0]["event_time"], events[-1]["event_time"]
        row = {
            "session_id": session_ids(pa.array([device]), pa.array([start], TIMESTAMP))[0].as_py(),
            "device_id": device,
            "session_start": start,
            "session_end": end,
            "start_date": start // DAY,
            "end_date": end // DAY,
            "duration_secs": (end - start) / SECOND,
            "event_count": len(events),
            "page_view_count": sum(event["event_type"] == "page_view" for event in events),
            "had_purchase": any(event["event_type"] == "purchase" for event in events),
            "revenue": sum((event["revenue"] or Decimal(0) for event in events), Decimal("0.0000")),
            "cut_reason": None,
            "resolved_user_key": None,
            "pane_timing": _TIMINGS[pane.timing].value,
            "pane_index": pane.index,
            "is_retraction": False,
            "fired_at": ((end + self._policy.gap) // self._policy.cell + 1) * self._policy.cell,
        }
        for name, source, keep in ATTRIBUTES:
            known = [event[source] for event in events if event[source] is not None] or [None]
            row[name] = known[0 if keep == "first" else -1]
        return row


_TIMINGS = {
    PaneInfoTiming.EARLY: PaneTiming.EARLY,
    PaneInfoTiming.ON_TIME: PaneTiming.ON_TIME,
    PaneInfoTiming.LATE: PaneTiming.LATE,
    PaneInfoTiming.UNKNOWN: PaneTiming.ON_TIME,  # batch runners fire once and give no timing
}


def _plain(kind: pa.DataType) -> pa.DataType:
    """The integer type for a date, whose rows hold days since 1970; any other type unchanged."""
    return pa.int32() if pa.types.is_date32(kind) else kind
