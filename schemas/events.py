"""Records of raw events as they arrive, and of decoded events (grain of the first source document: one click)."""

from dataclasses import replace

import pyarrow as pa

from schemas.records import MONEY, TIMESTAMP, Field, Record

RAW = Record(
    name="raw",
    grain="one payload as the source delivered it",
    fields=(
        Field("payload", pa.binary(), "the bytes as delivered, without a line's end; null for a tombstone"),
        Field("source", pa.string(), "file path, or topic of a bus", nullable=False),
        Field("partition", pa.int32(), "partition of a bus; 0 for a file", nullable=False),
        Field(
            "offset",
            pa.int64(),
            "offset in the partition; for a file, byte of the line or number of the record",
            nullable=False,
        ),
        Field("arrival_time", TIMESTAMP, "when the bus or collector received it; null where the input does not say"),
    ),
)

EVENT = Record(
    name="fact_events",
    grain="one raw event",
    fields=(
        Field("event_id", pa.string(), "the producer's id, unique per device", nullable=False),
        Field("event_type", pa.string(), "what happened: page_view, add_to_cart, purchase …", nullable=False),
        Field(
            "event_time",
            TIMESTAMP,
            "when it happened, UTC; a wrong client clock is corrected if sent_at is given",
            nullable=False,
        ),
        Field("event_date", pa.date32(), "UTC date of event_time", nullable=False),
        Field("client_time", TIMESTAMP, "the envelope's timestamp as the client's clock gave it", nullable=False),
        Field("sent_at", TIMESTAMP, "the client's clock when it sent the event"),
        Field("arrival_time", TIMESTAMP, "when the bus or collector received it; null where the input does not say"),
        Field(
            "device_id", pa.string(), "device_id, else context.device_id, else user: and the user's key", nullable=False
        ),
        Field("user_id", pa.string(), "user_id, else context.user_id, else the entity's id where it is a user"),
        Field("user_key", pa.string(), "keyed hash of user_id, 32 hexadecimal digits"),
        Field("entity_id", pa.string(), "the envelope's entity_id"),
        Field("entity_type", pa.string(), "the envelope's entity_type"),
        Field("tracker_session_id", pa.string(), "the envelope's session_id: the tracker's own, never trusted"),
        Field("page_url", pa.string(), "properties.page_url"),
        Field("revenue", MONEY, "of a purchase: properties.revenue, else properties.amount; major currency units"),
        Field("country", pa.string(), "context.country"),
        Field("device_type", pa.string(), "context.device_type"),
        Field("os", pa.string(), "context.os"),
        Field("app_version", pa.string(), "context.app_version"),
        Field("properties", pa.string(), "the envelope's properties, JSON text"),
        Field("context", pa.string(), "the envelope's context, JSON text"),
        Field("extra_properties", pa.string(), "unknown top-level keys of the envelope, JSON text"),
    ),
    partition_by=("event_date",),
    sort_by=("device_id", "event_time", "event_id"),
    key=("device_id", "event_id"),
)

FACT_EVENT = replace(
    EVENT,
    fields=(
        *EVENT.fields,
        Field("page_key", pa.string(), "page_key of page_url in dim_pages"),
        Field(
            "session_user_key", pa.string(), "user_key of its session in dim_sessions; null until sessions-dim has run"
        ),
        Field("session_id", pa.int64(), "session_id of dim_sessions: 1, 2, 3 … of session_user_key"),
        Field("session_position", pa.int64(), "1, 2, 3 … in that session, by (event_time, event_id, device_id)"),
    ),
)
"""The row of the lake's table: an event and columns derived from it, of which only page_key is computed at ingest."""

POSITION = tuple(field for field in RAW if field.name in ("source", "partition", "offset"))
"""The origin of a row. It orders duplicates while events are in flight, and is not stored in fact_events."""

EVENT_BATCH = Record(
    name="event_batch",
    grain="one decoded event in flight",
    fields=(*EVENT.fields, *POSITION),
    key=EVENT.key,
)
"""Rows that flow between Decode and the sinks: EVENT's columns, then source, partition, offset."""

DEDUPLICATION_ORDER = ("arrival_time", "source", "partition", "offset")
"""Of several copies of an event, the one that sorts first is kept; a null arrival_time sorts last."""

REPEATED = (
    "event_type",
    "device_id",
    "user_id",
    "user_key",
    "entity_id",
    "entity_type",
    "tracker_session_id",
    "page_url",
    "country",
    "device_type",
    "os",
    "app_version",
    "context",
    "extra_properties",
    "source",
)
"""Text columns of EVENT_BATCH whose values repeat. After deduplication, batches of a bounded input have them
dictionary-encoded, so that later steps handle numbers."""
