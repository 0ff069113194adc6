"""Decodes the envelope of the bus: RAW rows to EVENT_BATCH rows and DEAD_LETTER rows. No Beam here.

One DuckDB query decodes a whole batch, broken lines included, so that the result for a line does not depend on the
other lines of the batch. Python checks single rows only if they are suspect: DuckDB's parser accepts trailing commas,
NaN and Infinity, which are not JSON, and rejects lone surrogate escapes, which are.
"""

import json
import re
from datetime import date, datetime
from importlib import resources
from itertools import pairwise
from string import Template
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import without_rows
from schemas.dead_letters import DEAD_LETTER, Reason
from schemas.durations import HOUR, micros_of
from schemas.events import EVENT_BATCH
from schemas.keys import stable_digest, user_keys
from schemas.records import TIMESTAMP
from schemas.table_query import TableQuery

MAX_EVENT_BYTES = 1 << 20
MAX_ID_LENGTH = 255
MAX_AHEAD = 1 * HOUR
_FEW_ROWS = 64
"""Up to this many rows are handled one by one. More are removed in a single pass over all rows, because each slice
between two removed rows costs as much as copying thousands of rows."""

_REQUIRED = ("event_id", "event_type", "timestamp")
_ACTOR = ("device_id", "user_id", "entity_id", "entity_type")
_ENVELOPE = (*_REQUIRED, *_ACTOR, "sent_at", "session_id", "properties", "context")
_OPTIONAL_IDS = ("user_id", "entity_id", "entity_type", "session_id")
_CONTEXT_IDS = ("device_id", "user_id")
_CONTEXT = (*_CONTEXT_IDS, "country", "device_type", "os", "app_version")

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

_RFC3339 = r"\d{4}-\d{2}-\d{2}[Tt ]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_RFC3339_PLAIN = r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?Z"
_TEMPLATE = Template(resources.files(__package__).joinpath("decode.sql").read_text(encoding="utf-8"))
YEAR_1_MS, YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000

# Byte-wise and without look-ahead, so that a search is as fast as one for the bare word or bracket
_TRAILING_COMMA = r"(?-u),[ \t\r\n]*[}\]]"
_NOT_A_NUMBER = r"(?i-u)[:,\[][ \t\r\n]*-?(?:nan|inf)"

# An escaped backslash, a complete surrogate pair, or (captured) half of a pair
_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


class Decoded(NamedTuple):
    """The result of decoding a batch of RAW rows: each row is in exactly one of the two tables."""

    events: pa.Table
    dead_letters: pa.Table


class EnvelopeDecoder:
    """Decodes batches of RAW rows; thread-safe."""

    def __init__(self, user_key_secret: str) -> None:
        self._secret = user_key_secret
        self._query = TableQuery(_decode_query(), {"memory_limit": "1GB"})

    def decode(self, raw: pa.Table, now: datetime) -> Decoded:
        """Decode one batch.

        Args:
            raw: Rows of `schemas.events.RAW`.
            now: The arrival time of rows for which the input gives none.

        Returns:
            Events as EVENT_BATCH, and dead letters with the original bytes. The rules are in docs/envelope.md.
        """
        raw = raw.append_column("row", pa.array(np.arange(len(raw))))
        unreadable = _unreadable(raw)
        readable = _without(raw, unreadable["row"].to_pylist())
        judged = self._judge(readable, now)
        broken = judged.filter(pc.equal(judged["reason"], Reason.NOT_JSON))
        mended = _mend_surrogates(raw.take(broken["row"])) if len(broken) else broken
        if len(mended):
            untouched = judged.filter(pc.invert(pc.is_in(judged["row"], mended["row"])))
            judged = pa.concat_tables([untouched, self._judge(mended, now)])
        refused = np.flatnonzero(judged["reason"].is_valid())
        accepted = _without(judged, refused.tolist()).combine_chunks()
        refused = pa.concat_tables([unreadable, judged.select(["row", "reason", "field"]).take(refused)])
        rows = raw.take(refused["row"])
        return Decoded(
            events=self._finish(accepted),
            dead_letters=dead_letters(rows, refused["reason"], refused["field"], "decode", now.date()),
        )

    def _judge(self, raw: pa.Table, now: datetime) -> pa.Table:
        """Run the query. Returns an event's columns, then row, reason and field; reason is null for a valid event."""
        text = raw.set_column(0, "payload", raw["payload"].cast(pa.string()))
        times = text["arrival_time"].cast(pa.int64())
        text = text.set_column(text.schema.get_field_index("arrival_time"), "arrival_time", times)
        judged = self._query.run(text, micros_of(now))
        no_objects = judged["row"].filter(pc.equal(judged["reason"], Reason.NOT_AN_OBJECT.value))
        suspects = raw.filter(pc.or_(pc.is_in(raw["row"], _suspects(text)), pc.is_in(raw["row"], no_objects)))
        not_strict = [
            row
            for row, payload in zip(suspects["row"].to_pylist(), suspects["payload"].to_pylist(), strict=True)
            if not _is_strict_json(payload)
        ]
        if not_strict:
            refuse = pc.is_in(judged["row"], pa.array(not_strict, pa.int64()))
            reasons = pc.if_else(refuse, pa.scalar(Reason.NOT_JSON.value), judged["reason"])
            judged = judged.set_column(judged.schema.get_field_index("reason"), "reason", reasons)
        return judged

    def _finish(self, rows: pa.Table) -> pa.Table:
        """Add user_key, device_id and event_date to the accepted rows, and cast them to EVENT_BATCH."""
        keys = user_keys(rows["user_id"], self._secret)
        columns = {name: rows[name] for name in rows.column_names}
        columns["user_key"] = keys
        if rows["device_id"].null_count:
            # An event with a user but no device gets a device named after the user's key, so that no user id leaks
            # into a store's key
            columns["device_id"] = pc.coalesce(rows["device_id"], pc.binary_join_element_wise("user", keys, ":"))
        columns["event_date"] = rows["event_time"].cast(TIMESTAMP).cast(pa.date32())
        schema = EVENT_BATCH.schema
        return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


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
    rows = raw.to_pylist()
    why = list(zip(rows, reasons.to_pylist(), fields.to_pylist(), strict=True))
    letters = [
        {
            "dead_letter_id": stable_digest(
                [row["source"], str(row["partition"]), str(row["offset"]), (row["payload"] or b"").hex()]
            ),
            "arrival_date": row["arrival_time"].date() if row["arrival_time"] else first_met,
            "arrival_time": row["arrival_time"],
            "source": row["source"],
            "partition": row["partition"],
            "offset": row["offset"],
            "step": step,
            "reason": reason,
            "field": field,
            "message": _MESSAGES[Reason(reason)].format(field=field),
            "payload": row["payload"],
        }
        for row, reason, field in why
    ]
    return pa.Table.from_pylist(letters, schema=DEAD_LETTER.schema)


def _unreadable(raw: pa.Table) -> pa.Table:
    """The rows without text to parse, with columns row, reason and field (null)."""
    payload = raw["payload"]
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
    bad = pc.is_in(raw["row"], pa.array(_rows_not_utf8(payload.combine_chunks(), 0), pa.int64()))
    reason = pc.coalesce(reason, pc.if_else(bad, Reason.BAD_UTF8.value, None))
    found = pa.table({"row": raw["row"], "reason": reason, "field": pa.nulls(len(raw), pa.string())})
    return found.filter(pc.is_valid(found["reason"]))


def _without(raw: pa.Table, rows: list[int]) -> pa.Table:
    """The table without some rows; if these are few, the others are not copied."""
    if len(rows) > _FEW_ROWS:
        return without_rows(raw, rows)
    bounds = [-1, *sorted(rows), len(raw)]
    return pa.concat_tables(raw.slice(before + 1, row - before - 1) for before, row in pairwise(bounds))


def _suspects(raw: pa.Table) -> pa.Array:
    """The numbers of rows that may contain text that DuckDB accepts although it is not JSON.

    A match inside a JSON string makes a row suspect too.
    """
    texts = pl.Series(pl.from_arrow(raw["payload"]))
    trailing, words = (texts.str.contains(pattern) for pattern in (_TRAILING_COMMA, _NOT_A_NUMBER))
    return raw["row"].filter((trailing | words).to_arrow())


def _is_strict_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    except RecursionError:
        # Nested more deeply than this parser supports. DuckDB has parsed it, and nothing here reads the nested values.
        return True
    return True


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


def _mend_surrogates(raw: pa.Table) -> pa.Table:
    """The rows that contain a lone surrogate escape, with each one replaced by U+FFFD."""
    payloads = [
        _SURROGATES.sub(lambda half: rb"\ufffd" if half[1] else half[0], text) for text in raw["payload"].to_pylist()
    ]
    mended = raw.set_column(0, "payload", pa.array(payloads, pa.binary()))
    return mended.filter(pc.not_equal(mended["payload"], raw["payload"]))


def _decode_query() -> str:
    """The text of decode.sql. Its parameter is the time at which the batch is decoded, microseconds."""
    at = {name: f"types[{position + 1}]" for position, name in enumerate(_ENVELOPE)}
    return _TEMPLATE.substitute(
        structure=_quoted({name: "JSON" if name in ("properties", "context") else "VARCHAR" for name in _ENVELOPE}),
        context_structure=_quoted(dict.fromkeys(_CONTEXT, "VARCHAR")),
        paths="[" + ", ".join(f"'$.{path}'" for path in _ENVELOPE) + "]",
        client_time=time_sql("timestamp", at["timestamp"]),
        sent_time=time_sql("sent_at", at["sent_at"]),
        without_envelope=_quoted(dict.fromkeys(_ENVELOPE)),
        verdict=_verdict(at),
    )


def time_sql(column: str, json_type: str) -> str:
    """SQL for microseconds since 1970 from an RFC 3339 text or integer epoch milliseconds; null if it is neither.

    Whether a number is an integer is decided by its value: some writers print every number with a fraction or an
    exponent.
    """
    # No expression here may fail on any text: DuckDB computes an expression that occurs twice in a query before it
    # knows which rows a CASE selects.
    # Most timestamps are plain: they need neither a change of case nor the rule for a leap second. A leap second does
    # not exist in Unix time and becomes the first instant of the next minute. RFC 3339 (5.7) allows one only at the end
    # of a month, UTC.
    past_leap = f"epoch_us(TRY_CAST(upper({column}[1:17] || '59' || {column}[20:]) AS TIMESTAMPTZ)) + 1000000"
    return f"""CASE
      WHEN {json_type} = 'VARCHAR' AND regexp_full_match({column}, '{_RFC3339_PLAIN}')
      THEN epoch_us(TRY_CAST({column} AS TIMESTAMPTZ))
      WHEN {json_type} = 'VARCHAR' THEN
        CASE WHEN NOT regexp_full_match({column}, '{_RFC3339}') THEN NULL
             WHEN {column}[18:19] = '60'
             THEN CASE WHEN strftime(make_timestamp({past_leap}), '%d %H:%M:%S') = '01 00:00:00' THEN {past_leap} END
             ELSE epoch_us(TRY_CAST(upper({column}) AS TIMESTAMPTZ)) END
      WHEN {json_type} = 'DOUBLE' AND TRY_CAST({column} AS DOUBLE) % 1 <> 0 THEN NULL
      ELSE CASE WHEN TRY_CAST({column} AS BIGINT) BETWEEN {YEAR_1_MS} AND {YEAR_10000_MS - 1}
           THEN TRY_CAST(TRY_CAST({column} AS BIGINT) * 1000::HUGEINT AS BIGINT) END END"""


def _verdict(at: dict[str, str]) -> str:
    """SQL for [reason, field] of a row, null for a valid row. The first rule that a row breaks decides."""
    rules: list[tuple[str, Reason, str | None]] = [
        ("json IS NULL", Reason.NOT_JSON, None),
        ("key_count = 0 AND json_type(json) <> 'OBJECT'", Reason.NOT_AN_OBJECT, None),
        ("unusual AND len(list_distinct(json_keys(json))) < key_count", Reason.DUPLICATE_KEY, None),
    ]
    for name in _REQUIRED:
        types = "('VARCHAR', 'UBIGINT', 'BIGINT', 'DOUBLE')" if name == "timestamp" else "('VARCHAR')"
        rules += [
            (f"{at[name]} IS NULL", Reason.FIELD_MISSING, name),
            (f"{at[name]} = 'NULL'", Reason.FIELD_NULL, name),
            (f"{at[name]} NOT IN {types}", Reason.FIELD_WRONG_TYPE, name),
            (f"{name} = ''", Reason.FIELD_EMPTY, name),
        ]
    for name in _ACTOR:
        rules.append((f"{at[name]} NOT IN ('VARCHAR', 'NULL')", Reason.FIELD_WRONG_TYPE, name))
    for name in ("properties", "context"):
        rules.append((f"{at[name]} NOT IN ('OBJECT', 'NULL')", Reason.FIELD_WRONG_TYPE, name))
    for name in _CONTEXT_IDS:
        path, given = f"context.{name}", f"c.{name} IS NOT NULL"
        rules.append((f"{given} AND json_type(context, '$.{name}') <> 'VARCHAR'", Reason.FIELD_WRONG_TYPE, path))
        rules.append((f"length(c.{name}) > {MAX_ID_LENGTH}", Reason.FIELD_TOO_LONG, path))
    for name in ("event_id", "event_type", *_ACTOR, "session_id"):
        rules.append((f"length({name}) > {MAX_ID_LENGTH}", Reason.FIELD_TOO_LONG, name))
    nobody = "device IS NULL AND known_user IS NULL"
    rules += [
        (f"{nobody} AND {at['device_id']} IS NULL", Reason.FIELD_MISSING, "device_id"),
        (f"{nobody} AND {at['device_id']} = 'NULL'", Reason.FIELD_NULL, "device_id"),
        (nobody, Reason.FIELD_EMPTY, "device_id"),
        (f"client_time IS NULL OR event_time < {YEAR_1_MS} * 1000", Reason.BAD_TIMESTAMP, "timestamp"),
        (f"event_time > met_at + {MAX_AHEAD}", Reason.TIMESTAMP_AHEAD, "timestamp"),
    ]
    cases = []
    for test, reason, field in rules:
        at_fault = f"'{field}'" if field else "NULL"
        cases.append(f"WHEN {test} THEN ['{reason}', {at_fault}]")
    # Most rows are valid, and these few tests recognise them, so that only the other rows run through all the rules.
    # A text of at most n bytes has at most n characters, and strlen need not decode it
    valid = [
        "NOT unusual",
        *(
            f"{at[name]} = 'VARCHAR' AND strlen({name}) BETWEEN 1 AND {MAX_ID_LENGTH}"
            for name in ("event_id", "event_type")
        ),
        f"{at['device_id']} = 'VARCHAR' AND strlen(device_id) BETWEEN 1 AND {MAX_ID_LENGTH}",
        *(f"coalesce({at[name]} IN ('VARCHAR', 'NULL'), true)" for name in _OPTIONAL_IDS[:3]),
        f"coalesce(greatest({', '.join(f'strlen({name})' for name in _OPTIONAL_IDS)}), 0) <= {MAX_ID_LENGTH}",
        f"coalesce({at['properties']} = 'OBJECT', false) AND coalesce({at['context']} = 'OBJECT', false)",
        "c.device_id IS NULL AND c.user_id IS NULL",
        f"event_time BETWEEN {YEAR_1_MS} * 1000 AND met_at + {MAX_AHEAD}",
    ]
    return f"CASE WHEN {' AND '.join(valid)} THEN NULL ELSE CASE " + "\n".join(cases) + " END END"


def _quoted(value: object) -> str:
    """A value as a SQL string literal of JSON."""
    return "'" + json.dumps(value) + "'"
