"""Daily facts: metrics per date, user segment, content category and event type."""

import pyarrow as pa

from schemas.records import MONEY, Field, Record

UNKNOWN = "unknown"
"""Segment or category of an event that has none."""

SECONDS = pa.decimal128(18, 3)

_SKETCH = "Apache DataSketches HLL sketch, compact, of the {}: merges over rows, 1.6% standard error"

DAILY_METRICS = Record(
    name="daily_metrics",
    grain="one UTC date, segment, category and event type",
    fields=(
        Field("date", pa.date32(), "event_date of the events", nullable=False),
        Field(
            "segment",
            pa.string(),
            "user segment from the event's context: country unless the catalogue names another column; or unknown",
            nullable=False,
        ),
        Field(
            "category",
            pa.string(),
            "the property that the catalogue names for the event type, else the page's category; or unknown",
            nullable=False,
        ),
        Field("event_type", pa.string(), "event_type of the events", nullable=False),
        Field("events", pa.int64(), "number of events; additive", nullable=False),
        Field("users", pa.int64(), "distinct user_key of the events, exact; not additive", nullable=False),
        Field("devices", pa.int64(), "distinct device_id of the events, exact; not additive", nullable=False),
        Field(
            "sessions",
            pa.int64(),
            "sessions of fact_sessions with such an event on the date, exact count; not additive",
            nullable=False,
        ),
        Field("purchases", pa.int64(), "number of events of type purchase; additive", nullable=False),
        Field("revenue", MONEY, "sum of revenue, major currency units; additive", nullable=False),
        Field("watch_time", SECONDS, "sum of the property that the catalogue names, seconds; additive", nullable=False),
        Field("users_sketch", pa.binary(), _SKETCH.format("user_key"), nullable=False),
        Field("devices_sketch", pa.binary(), _SKETCH.format("device_id"), nullable=False),
        Field("sessions_sketch", pa.binary(), _SKETCH.format("session_id"), nullable=False),
    ),
    partition_by=("date",),
    sort_by=("segment", "category", "event_type"),
    key=("date", "segment", "category", "event_type"),
)
