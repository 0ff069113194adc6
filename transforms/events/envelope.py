"""Decodes the envelope of the bus: RAW rows to EVENT_BATCH rows and DEAD_LETTER rows. No Beam here.

A whole batch is decoded at once, broken lines included: one pass finds the members of the envelope in each line
(json_members.py), and the rules are applied to them (envelope_rules.py). The result for a line does not depend on the
other lines of the batch.
"""

import re
from datetime import date, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import to_polars, whole
from schemas.dead_letters import DEAD_LETTER, Reason
from schemas.durations import micros_of
from schemas.events import EVENT_BATCH
from schemas.keys import stable_digest_sql, user_keys
from schemas.table_query import TableQuery
from transforms.events.envelope_rules import (
    CONTEXT_ATTRIBUTES,
    DECIDED,
    ENVELOPE,
    MAX_ID_LENGTH,
    OBJECTS,
    decode_query,
    given_columns,
    plain_rows,
)
from transforms.events.json_members import MemberFinder, Members

MAX_EVENT_BYTES = 1 << 20
_FEW_ROWS = 64
"""Up to this many rows are handled one by one."""

Columns = dict[str, pa.Array | pa.ChunkedArray]

_MESSAGES = {
    Reason.NULL_PAYLOAD: "the record has no value (a tombstone)",
    Reason.EMPTY_PAYLOAD: "the record's value is empty (zero bytes)",
    Reason.OVERSIZED_EVENT: f"the event is larger than {MAX_EVENT_BYTES} bytes",
    Reason.BAD_UTF8: "the bytes are not UTF-8",
    Reason.NOT_JSON: "the text is not JSON",
    Reason.NOT_AN_OBJECT: "the JSON is not an object",
    Reason.DUPLICATE_KEY: "a key of the envelope occurs twice",
    Reason.FIELD_MISSING: "{field} is missing",
    Reason.FIELD_NULL: "{field} is null",
    Reason.FIELD_EMPTY: "{field} is empty",
    Reason.FIELD_WRONG_TYPE: "{field} has the wrong type",
    Reason.FIELD_TOO_LONG: f"{{field}} is longer than {MAX_ID_LENGTH} characters",
    Reason.BAD_TIMESTAMP: "timestamp is neither RFC 3339 with an offset nor integer epoch milliseconds",
    Reason.TIMESTAMP_AHEAD: "the event's time is more than one hour after its arrival",
    Reason.TRUNCATED_INPUT: "{field}",
    Reason.PROPERTY_MISSING: "the property {field} is missing or null, and required",
    Reason.PROPERTY_WRONG_TYPE: "the property {field} is not of its declared type",
}
_FAULT = pa.schema([DEAD_LETTER.schema.field(name) for name in ("reason", "field")])
_LETTER_IDS = TableQuery(
    "SELECT {} AS id FROM given".format(
        stable_digest_sql(
            "source",
            "CAST(partition AS VARCHAR)",
            'CAST("offset" AS VARCHAR)',
            "coalesce(lower(hex(payload)), '')",
        )
    )
)

# An escaped backslash, a complete surrogate pair, or (captured) half of a pair
_SURROGATES = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


class Decoded(NamedTuple):
    """The result of decoding a batch of RAW rows: each row is in exactly one of the two tables."""

    events: pa.Table
    dead_letters: pa.Table


class EnvelopeDecoder:
    """Decodes batches of RAW rows; thread-safe."""

    def __init__(self, user_key_secret: str) -> None:
        self._secret = user_key_secret
        self._finder = MemberFinder(ENVELOPE)
        self._query = TableQuery(decode_query())

    def decode(self, raw: pa.Table, now: datetime) -> Decoded:
        """Decode one batch.

        Args:
            raw: Rows of `schemas.events.RAW`.
            now: The arrival time of rows for which the input gives none.

        Returns:
            Events as EVENT_BATCH, and dead letters with the original bytes. The rules are in docs/envelope.md.
        """
        unreadable = _unreadable(raw["payload"])
        members = self._finder.find(raw["payload"], np.flatnonzero(unreadable.is_null()))
        plain = plain_rows(members, raw["arrival_time"], now)
        others = np.flatnonzero(~plain.rows)
        judged = self._query.run(given_columns(members, raw["arrival_time"], others), micros_of(now))
        reasons = pc.coalesce(unreadable.take(others), judged["reason"])
        refused = np.flatnonzero(reasons.is_valid())
        accepted = np.flatnonzero(reasons.is_null())

        rows = np.concatenate([np.flatnonzero(plain.rows), others[accepted]])
        decided = pa.concat_tables([plain.columns, judged.take(accepted).select(DECIDED)]).combine_chunks()
        fields = judged["field"].take(refused)
        letters = dead_letters(raw.take(others[refused]), reasons.take(refused), fields, "decode", now.date())
        return Decoded(self._events(_given(raw, members, rows), decided), letters)

    def _events(self, given: Columns, decided: pa.Table) -> pa.Table:
        """Rows of EVENT_BATCH."""
        schema = EVENT_BATCH.schema
        columns = {**given, **{name: decided[name].cast(schema.field(name).type) for name in DECIDED}}
        columns["user_key"] = keys = user_keys(decided["user_id"], self._secret)
        if decided["device_id"].null_count:
            # An event with a user but no device gets a device named after the user's key, so that no user id leaks
            # into a store's key
            columns["device_id"] = pc.coalesce(decided["device_id"], pc.binary_join_element_wise("user", keys, ":"))
        columns["event_date"] = columns["event_time"].cast(pa.date32())
        return pa.table([columns[name] for name in schema.names], schema=schema)


def _given(raw: pa.Table, members: Members, rows: npt.NDArray[np.int64]) -> Columns:
    """The columns of some events that are as they stand in the envelope or in RAW."""

    def texts(*path: str) -> pa.Array:
        return members.texts(*path, rows=rows)

    halves = members.lone_surrogate[rows]
    return {
        **{name: texts(name) for name in ("event_id", "event_type", "entity_id", "entity_type")},
        "tracker_session_id": texts("session_id"),
        "page_url": texts("properties", "page_url"),
        **{name: texts("context", name) for name in CONTEXT_ATTRIBUTES},
        **{name: _mended(texts(name), halves) for name in OBJECTS},
        "extra_properties": _mended(members.others().take(pa.array(rows)), halves),
        **{name: raw[name].take(pa.array(rows)) for name in raw.column_names if name != "payload"},
    }


def dead_letters(
    raw: pa.Table, reasons: pa.ChunkedArray, fields: pa.ChunkedArray, step: str, first_met: date
) -> pa.Table:
    """Make DEAD_LETTER rows from refused RAW rows.

    Args:
        raw: The rows, with their original bytes.
        reasons: The reason code of each row.
        fields: The envelope field at fault in each row, or null.
        step: The step that refused the rows.
        first_met: The arrival date of rows for which the input gives no arrival time.
    """
    fault = pa.table({"reason": reasons, "field": fields}).cast(_FAULT)
    columns = {
        **{name: raw[name] for name in raw.column_names},
        **{name: fault[name] for name in fault.column_names},
        "dead_letter_id": _LETTER_IDS.run(raw.select(["source", "partition", "offset", "payload"]))["id"],
        "arrival_date": pc.fill_null(raw["arrival_time"].cast(pa.date32()), first_met),
        "step": pa.repeat(step, raw.num_rows),
        "message": _messages(fault),
    }
    schema = DEAD_LETTER.schema
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _messages(fault: pa.Table) -> pa.Array:
    """The message for each reason and field; few of them differ."""
    faults = to_polars(fault)
    distinct = faults.unique()
    texts = [_MESSAGES[Reason(reason)].format(field=field) for reason, field in distinct.rows()]
    told = distinct.with_columns(pl.Series("message", texts, pl.String))
    joined = faults.join(told, on=fault.column_names, nulls_equal=True, maintain_order="left")
    return joined["message"].to_arrow().cast(pa.string())


def _unreadable(payload: pa.ChunkedArray) -> pa.ChunkedArray:
    """By row, the reason why there is no text to read, or null."""
    size = pc.binary_length(payload)
    reason = pc.case_when(
        pc.make_struct(
            pc.is_null(payload),
            pc.fill_null(pc.equal(size, 0), False),
            pc.fill_null(pc.greater(size, MAX_EVENT_BYTES), False),
        ),
        Reason.NULL_PAYLOAD.value,
        Reason.EMPTY_PAYLOAD.value,
        Reason.OVERSIZED_EVENT.value,
    )
    bad = np.zeros(len(payload), np.bool_)
    bad[_rows_not_utf8(whole(payload), 0)] = True
    return pc.coalesce(reason, pc.if_else(pa.array(bad), Reason.BAD_UTF8.value, None))


def _rows_not_utf8(payload: pa.Array, start: int) -> list[int]:
    """The numbers, counted from `start`, of the values that are not UTF-8.

    Found by bisection, because Arrow reports only that an array contains such a value, not which.
    """
    try:
        payload.cast(pa.string())
    except pa.ArrowInvalid:
        if len(payload) <= _FEW_ROWS:
            return [start + row for row, value in enumerate(payload.to_pylist()) if not _is_utf8(value)]
        half = len(payload) // 2
        return _rows_not_utf8(payload[:half], start) + _rows_not_utf8(payload[half:], start + half)
    return []


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _mended(texts: pa.Array, rows: npt.NDArray[np.bool_]) -> pa.Array:
    """JSON texts with each lone surrogate escape replaced by that of U+FFFD; `rows` says which texts have some."""
    if not rows.any():
        return texts
    with_halves = pa.array(rows)
    mended = [
        text and _SURROGATES.sub(lambda half: r"\ufffd" if half[1] else half[0], text)
        for text in texts.filter(with_halves).to_pylist()
    ]
    return pc.replace_with_mask(texts, with_halves, pa.array(mended, pa.string()))
