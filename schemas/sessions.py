"""Records of sessions: the row of fact_sessions, and the pane that carries a change to it."""

from dataclasses import replace
from enum import StrEnum

import pyarrow as pa

from schemas.records import MONEY, TIMESTAMP, Field, Record


class PaneTiming(StrEnum):
    """The timing of a pane, in Beam's terms."""

    EARLY = "EARLY"
    ON_TIME = "ON_TIME"
    LATE = "LATE"


class CutReason(StrEnum):
    """Why a session was cut before its device became inactive."""

    CAP = "cap"
    MIDNIGHT = "midnight"


SESSION = Record(
    name="fact_sessions",
    grain="one session, in its current state",
    fields=(
        Field("session_id", pa.string(), "hash of device_id and session_start, 32 hexadecimal digits", nullable=False),
        Field("device_id", pa.string(), "the device; a session never spans two", nullable=False),
        Field("user_key", pa.string(), "user_key of the last login inside the session; null while anonymous"),
        Field("session_start", TIMESTAMP, "event_time of the first event", nullable=False),
        Field("session_end", TIMESTAMP, "event_time of the last event", nullable=False),
        Field("start_date", pa.date32(), "UTC date of session_start", nullable=False),
        Field("end_date", pa.date32(), "UTC date of session_end", nullable=False),
        Field("duration_secs", pa.float64(), "session_end minus session_start, seconds", nullable=False),
        Field("event_count", pa.int64(), "number of events", nullable=False),
        Field("page_view_count", pa.int64(), "number of events of type page_view", nullable=False),
        Field("had_purchase", pa.bool_(), "whether any event was a purchase", nullable=False),
        Field("revenue", MONEY, "sum over its purchases; major currency units", nullable=False),
        Field("entry_page", pa.string(), "first page_url in event-time order"),
        Field("exit_page", pa.string(), "last page_url in event-time order"),
        Field("country", pa.string(), "first non-null country, never overwritten (SCD type 0)"),
        Field("device_type", pa.string(), "first non-null device_type (SCD type 0)"),
        Field("os", pa.string(), "first non-null os (SCD type 0)"),
        Field("app_version", pa.string(), "first non-null app_version (SCD type 0)"),
        Field("cut_reason", pa.string(), "cap or midnight if the session was cut; null if inactivity ended it"),
        Field("pane_timing", pa.string(), "timing of the pane with this state: EARLY, ON_TIME, LATE", nullable=False),
        Field("pane_index", pa.int32(), "number of panes of this session that fired before it", nullable=False),
        Field("resolved_user_key", pa.string(), "user that stitching gave an anonymous session to; null until then"),
    ),
    partition_by=("start_date",),
    sort_by=("device_id", "session_start"),
    key=("session_id",),
)

FACT_SESSION = replace(
    SESSION,
    fields=(
        *SESSION.fields,
        Field("entry_page_key", pa.string(), "page_key of entry_page in dim_pages"),
        Field("exit_page_key", pa.string(), "page_key of exit_page in dim_pages"),
    ),
)
"""The row of the lake's table: a session with the keys of its entry and exit pages."""

SESSION_PANE = Record(
    name="session_panes",
    grain="one firing of a session",
    fields=(
        *SESSION.fields,
        Field("is_retraction", pa.bool_(), "true: the session no longer exists, withdraw it", nullable=False),
        Field("fired_at", TIMESTAMP, "the watermark tick that fired the pane", nullable=False),
    ),
    key=("session_id", "pane_index"),
)
