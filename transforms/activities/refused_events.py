"""Dead letters of decoded events whose properties are not as the catalogue declares them."""

import json
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.events import RAW
from transforms.events.envelope import dead_letters

_TEXTS = {
    "event_id": "event_id", "event_type": "event_type", "device_id": "device_id", "user_id": "user_id",
    "entity_id": "entity_id", "entity_type": "entity_type", "session_id": "tracker_session_id",
}  # fmt: skip
_TIMES = {"timestamp": "client_time", "sent_at": "sent_at"}
_OBJECTS = ("properties", "context")


def refused_letters(events: pa.Table, faults: pa.ChunkedArray, first_met: date) -> pa.Table:
    """DEAD_LETTER rows of refused events.

    The bytes as delivered are not available at this step. The payload is the event serialised again, and decodes into
    the same event. Its source, partition and offset lead to the original bytes.

    Args:
        events: Rows of EVENT_BATCH.
        faults: [reason, property] of each event.
        first_met: The arrival date for events whose input has no arrival time.
    """
    payloads = pa.array([envelope_of(row) for row in events.to_pylist()], pa.binary())
    raw = pa.table([payloads, *(events[name] for name in RAW.names[1:])], schema=RAW.schema)
    return dead_letters(raw, pc.list_element(faults, 0), pc.list_element(faults, 1), "type", first_met)


def envelope_of(event: dict[str, Any]) -> bytes:
    """Serialise an event as one line of JSON that decodes into the same event.

    Args:
        event: The event's columns, as in EVENT.
    """
    members = {key: _text(event[column]) for key, column in _TEXTS.items()}
    members |= {key: _text(_stamp(event[column])) for key, column in _TIMES.items()}
    members |= {key: event[key] for key in _OBJECTS}
    parts = [f'"{key}":{text}' for key, text in members.items() if text is not None]
    if event["extra_properties"]:
        parts.append(event["extra_properties"].strip()[1:-1])
    return f"{{{','.join(parts)}}}".encode()


def _text(value: str | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _stamp(time: datetime | None) -> str | None:
    return None if time is None else f"{time.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
