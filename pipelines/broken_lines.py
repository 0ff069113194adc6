"""Generates broken lines of every kind, each with the dead-letter reason to expect."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from schemas.dead_letters import Reason

Envelope = dict[str, Any]


class BrokenLine(NamedTuple):
    """A line without its line end, and its expected reason and field. A payload of None is a message without one."""

    payload: bytes | None
    reason: Reason
    field: str | None


class _Kind(NamedTuple):
    reason: Reason
    field: str | None
    write: Callable[[Envelope], bytes | None]


def broken_line(nth: int, envelope: Envelope, *, from_bus: bool) -> BrokenLine:
    """Break an event in one of the ways, which take turns.

    Args:
        nth: Running number that selects the way.
        envelope: A valid event, with device_id and user_id at the top level, properties and a context.
        from_bus: Whether to include null and empty payloads, which a bus can deliver and a file of lines cannot.
    """
    kinds = _KINDS + _BUS_KINDS if from_bus else _KINDS
    kind = kinds[nth % len(kinds)]
    return BrokenLine(kind.write(envelope), kind.reason, kind.field)


def _text(envelope: Envelope) -> bytes:
    return json.dumps(envelope, separators=(",", ":")).encode()


def _with(field: str, value: Any) -> Callable[[Envelope], bytes]:
    return lambda envelope: _text(envelope | {field: value})


def _without(*names: str) -> Callable[[Envelope], bytes]:
    return lambda envelope: _text({k: v for k, v in envelope.items() if k not in names})


def _replaced(old: bytes, new: bytes) -> Callable[[Envelope], bytes]:
    return lambda envelope: _text(envelope).replace(old, new, 1)


_KINDS = (
    _Kind(Reason.NOT_JSON, None, lambda e: f"GET /pixel.gif?id={e['event_id']} HTTP/1.1".encode()),
    _Kind(Reason.NOT_JSON, None, lambda e: _text(e)[: len(_text(e)) // 2]),
    _Kind(Reason.NOT_JSON, None, lambda e: _text(e)[:-1] + b",}"),
    _Kind(Reason.NOT_JSON, None, lambda e: _text(e)[:-1] + b',"score":NaN}'),
    _Kind(Reason.NOT_JSON, None, lambda e: _text(e) + _text(e)),
    _Kind(Reason.NOT_JSON, None, lambda e: _text(e).replace(b'"', b"'")),
    _Kind(Reason.NOT_AN_OBJECT, None, lambda e: b"[" + _text(e) + b"]"),
    _Kind(Reason.NOT_AN_OBJECT, None, lambda e: json.dumps(e["event_id"]).encode()),
    _Kind(Reason.BAD_UTF8, None, _replaced(b'"properties":{', b'"properties":{"caf\xe9":1,')),
    _Kind(Reason.BAD_UTF8, None, _replaced(b'"event_type":"', b'"event_type":"\xc3\x28')),
    _Kind(Reason.DUPLICATE_KEY, None, lambda e: _text(e)[:-1] + b',"event_id":"another"}'),
    _Kind(Reason.FIELD_MISSING, "event_id", _without("event_id")),
    _Kind(Reason.FIELD_MISSING, "event_type", _without("event_type")),
    _Kind(Reason.FIELD_MISSING, "timestamp", _without("timestamp")),
    _Kind(Reason.FIELD_MISSING, "device_id", _without("device_id", "user_id")),
    _Kind(Reason.FIELD_NULL, "event_id", _with("event_id", None)),
    _Kind(Reason.FIELD_NULL, "event_type", _with("event_type", None)),
    _Kind(Reason.FIELD_NULL, "timestamp", _with("timestamp", None)),
    _Kind(Reason.FIELD_EMPTY, "event_id", _with("event_id", "")),
    _Kind(Reason.FIELD_EMPTY, "event_type", _with("event_type", "")),
    _Kind(Reason.FIELD_WRONG_TYPE, "event_id", _with("event_id", 17)),
    _Kind(Reason.FIELD_WRONG_TYPE, "event_type", _with("event_type", ["click"])),
    _Kind(Reason.FIELD_WRONG_TYPE, "timestamp", _with("timestamp", {"seconds": 1})),
    _Kind(Reason.FIELD_WRONG_TYPE, "device_id", _with("device_id", 42)),
    _Kind(Reason.FIELD_WRONG_TYPE, "properties", _with("properties", "none")),
    _Kind(Reason.FIELD_WRONG_TYPE, "context", _with("context", [])),
    _Kind(Reason.FIELD_TOO_LONG, "event_id", lambda e: _text(e | {"event_id": e["event_id"] * 400})),
    _Kind(Reason.BAD_TIMESTAMP, "timestamp", _with("timestamp", "yesterday")),
    _Kind(Reason.BAD_TIMESTAMP, "timestamp", _with("timestamp", "2026-13-45T00:00:00Z")),
    _Kind(Reason.BAD_TIMESTAMP, "timestamp", _with("timestamp", "2026-04-12T00:00:00")),
    _Kind(Reason.TIMESTAMP_AHEAD, "timestamp", _with("timestamp", "2999-01-01T00:00:00Z")),
)
_BUS_KINDS = (
    _Kind(Reason.NULL_PAYLOAD, None, lambda _: None),
    _Kind(Reason.EMPTY_PAYLOAD, None, lambda _: b""),
)
