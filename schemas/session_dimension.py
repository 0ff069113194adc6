"""Numbered sessions of users: the dimension, the bridge from which numbering continues, and each event's session."""

import pyarrow as pa

from schemas.records import Field, Record
from schemas.sessions import SESSION

ANONYMOUS_PREFIX = "device:"
"""Prefix of the user_key of a device without a known user: such a device counts as a user, `device:` and its id."""

_USER = Field(
    "user_key",
    pa.string(),
    "the event's own user_key, else the user that its device resolves to, else device: and device_id",
    nullable=False,
)
_SESSION_ID = Field(
    "session_id", pa.int64(), "1, 2, 3 … of the user, in order of start_date and session_start", nullable=False
)
_START_DATE = Field("start_date", pa.date32(), "date of the session in time_zone", nullable=False)

_AS_OF_A_DEVICE = (
    "session_start", "session_end", "duration_secs", "event_count", "page_view_count", "had_purchase", "revenue",
    "entry_page", "exit_page", "country", "device_type", "os", "app_version",
)  # fmt: skip
"""Columns that have the same meaning for a user's session as for a device's session."""

DIM_SESSIONS = Record(
    name="dim_sessions",
    grain="one session of a user, on whatever devices",
    fields=(
        _USER,
        _SESSION_ID,
        _START_DATE,
        Field("end_date", pa.date32(), "start_date: a session ends with its date", nullable=False),
        Field("time_zone", pa.string(), "the reporting time zone, one for the table", nullable=False),
        *(field for field in SESSION if field.name in _AS_OF_A_DEVICE),
    ),
    partition_by=("start_date",),
    sort_by=("user_key", "session_id"),
    key=("user_key", "session_id"),
)

SESSION_BRIDGE = Record(
    name="session_bridge",
    grain="one user who has sessions before the date that the numbering continues from",
    fields=(
        Field("user_key", pa.string(), "user_key of dim_sessions", nullable=False),
        Field("highest_session_id", pa.int64(), "highest session_id that starts before before_date", nullable=False),
        Field("before_date", pa.date32(), "a start_date, one for the table", nullable=False),
    ),
    partition_by=("before_date",),
    sort_by=("user_key",),
    key=("user_key",),
)

EVENT_SESSIONS = Record(
    name="event_sessions",
    grain="one event of fact_events on a closed date, and its session in dim_sessions",
    fields=(
        Field("device_id", pa.string(), "device_id of fact_events", nullable=False),
        Field("event_id", pa.string(), "event_id of fact_events", nullable=False),
        Field("event_date", pa.date32(), "event_date of fact_events, its partition", nullable=False),
        Field("user_key", pa.string(), "user_key of dim_sessions", nullable=False),
        Field("session_id", pa.int64(), "session_id of dim_sessions", nullable=False),
        Field(
            "session_position",
            pa.int64(),
            "1, 2, 3 … in the session, by (event_time, event_id, device_id)",
            nullable=False,
        ),
        _START_DATE,
    ),
    partition_by=("start_date",),
    sort_by=("user_key", "session_id", "session_position"),
    key=("device_id", "event_id", "event_date"),
)
