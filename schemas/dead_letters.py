"""Dead letters: events that cannot be decoded, with their exact bytes, their origin and the reason."""

from enum import StrEnum

import pyarrow as pa

from schemas.records import TIMESTAMP, Field, Record


class Reason(StrEnum):
    """Why an event became a dead letter. The codes are a contract: dashboards and replays select by them."""

    NULL_PAYLOAD = "null_payload"
    EMPTY_PAYLOAD = "empty_payload"
    OVERSIZED_EVENT = "oversized_event"
    BAD_UTF8 = "bad_utf8"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEY = "duplicate_key"
    FIELD_MISSING = "field_missing"
    FIELD_NULL = "field_null"
    FIELD_EMPTY = "field_empty"
    FIELD_WRONG_TYPE = "field_wrong_type"
    FIELD_TOO_LONG = "field_too_long"
    BAD_TIMESTAMP = "bad_timestamp"
    TIMESTAMP_AHEAD = "timestamp_ahead"
    TRUNCATED_INPUT = "truncated_input"
    PROPERTY_MISSING = "property_missing"
    PROPERTY_WRONG_TYPE = "property_wrong_type"


DEAD_LETTER = Record(
    name="dead_letters",
    grain="one bad event",
    fields=(
        Field("dead_letter_id", pa.string(), "hash of its origin and its bytes", nullable=False),
        Field("arrival_date", pa.date32(), "UTC date of arrival_time, else the date it was first read", nullable=False),
        Field("arrival_time", TIMESTAMP, "when the bus or collector received it; null where the input does not say"),
        Field("source", pa.string(), "file path, or topic of a bus", nullable=False),
        Field("partition", pa.int32(), "partition of a bus; 0 for a file", nullable=False),
        Field(
            "offset",
            pa.int64(),
            "offset in the partition; for a file, byte of the line or number of the record",
            nullable=False,
        ),
        Field("step", pa.string(), "the step that rejected it: read, decode, type", nullable=False),
        Field("reason", pa.string(), "reason code, from a fixed list", nullable=False),
        Field("field", pa.string(), "the invalid envelope field or property, if it is a single one"),
        Field("message", pa.string(), "a readable explanation in one line", nullable=False),
        Field(
            "payload",
            pa.binary(),
            "the exact bytes as delivered; null for a tombstone. For step type, the event written as JSON again",
        ),
    ),
    partition_by=("arrival_date",),
    sort_by=("source", "partition", "offset"),
    key=("dead_letter_id",),
)
