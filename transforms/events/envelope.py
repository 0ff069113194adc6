"""Decodes the envelope of the bus: RAW rows to EVENT_BATCH rows and DEAD_LETTER rows. No Beam here.

A whole batch is decoded at once, broken lines included: one pass finds the members of the envelope in each line
(json_members.py), and one DuckDB query applies the rules to them. The result for a line does not depend on the other
lines of the batch.
"""

import re
from datetime import date, datetime
from importlib import resources
from itertools import pairwise
from string import Template
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import without_rows
from schemas.dead_letters import DEAD_LETTER, Reason
from schemas.durations import HOUR, micros_of
from schemas.events import EVENT_BATCH
from schemas.keys import stable_digest, user_keys
from schemas.records import TIMESTAMP
from schemas.table_query import TableQuery
from transforms.events.json_members import Kind, MemberFinder, Members

MAX_EVENT_BYTES = 1 << 20
MAX_ID_LENGTH = 255
MAX_AHEAD = 1 * HOUR
_FEW_ROWS = 64
"""Up to this many rows are handled one by one. More are removed in a single pass over all rows, because each slice
between two removed rows costs as much as copying thousands of rows."""

_REQUIRED = ("event_id", "event_type", "timestamp")
_ACTOR = ("device_id", "user_id", "entity_id", "entity_type")
_TEXTS = (*_REQUIRED, *_ACTOR, "sent_at", "session_id")
_OPTIONAL_IDS = ("user_id", "entity_id", "entity_type", "session_id")
_CONTEXT_IDS = ("device_id", "user_id")
_CONTEXT_ATTRIBUTES = ("country", "device_type", "os", "app_version")
_OBJECTS = {"properties": ("page_url", "revenue", "amount"), "context": (*_CONTEXT_IDS, *_CONTEXT_ATTRIBUTES)}
_ENVELOPE: dict[str, tuple[str, ...]] = dict.fromkeys(_TEXTS, ()) | _OBJECTS

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
        self._finder = MemberFinder(_ENVELOPE)
        self._query = TableQuery(_decode_query())

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
        given = _given(raw, members)
        judged = self._query.run(pa.table(given), micros_of(now))
        reasons = pc.coalesce(unreadable, judged["reason"])
        refused = np.flatnonzero(reasons.is_valid())
        columns = {
            **{name: given[name] for name in ("event_id", "event_type", "entity_id", "entity_type")},
            "tracker_session_id": given["session_id"],
            "page_url": members.texts("properties", "page_url"),
            **{name: members.texts("context", name) for name in _CONTEXT_ATTRIBUTES},
            **{name: _mended(members.texts(name), members.lone_surrogate) for name in _OBJECTS},
            "extra_properties": _mended(members.others(), members.lone_surrogate),
            **{name: judged[name] for name in judged.column_names if name not in ("reason", "field")},
            **{name: raw[name] for name in raw.column_names if name != "payload"},
        }
        fields = judged["field"].take(refused)
        return Decoded(
            events=self._finish(_without(pa.table(columns), refused.tolist()).combine_chunks()),
            dead_letters=dead_letters(raw.take(refused), reasons.take(refused), fields, "decode", now.date()),
        )

    def _finish(self, rows: pa.Table) -> pa.Table:
        """Add user_key, device_id and event_date to the accepted rows, and cast them to EVENT_BATCH."""
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        columns["user_key"] = keys = user_keys(rows["user_id"], self._secret)
        if rows["device_id"].null_count:
            # An event with a user but no device gets a device named after the user's key, so that no user id leaks
            # into a store's key
            columns["device_id"] = pc.coalesce(rows["device_id"], pc.binary_join_element_wise("user", keys, ":"))
        columns["event_date"] = rows["event_time"].cast(TIMESTAMP).cast(pa.date32())
        schema = EVENT_BATCH.schema
        return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def _given(raw: pa.Table, members: Members) -> dict[str, pa.Array]:
    """The columns of `given` in decode.sql."""
    return {
        **{name: members.texts(name) for name in _TEXTS},
        **{f"context_{name}": members.texts("context", name) for name in _CONTEXT_IDS},
        **{name: members.texts("properties", name) for name in ("revenue", "amount")},
        **{f"{name}_kind": pa.array(members.kinds(name)) for name in _ENVELOPE},
        **{f"context_{name}_kind": pa.array(members.kinds("context", name)) for name in _CONTEXT_IDS},
        "document": pa.array(members.document),
        "repeated_key": pa.array(members.repeated_key),
        "arrival_time": raw["arrival_time"].cast(pa.int64()),
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
    bad[_rows_not_utf8(payload.combine_chunks(), 0)] = True
    return pc.coalesce(reason, pc.if_else(pa.array(bad), Reason.BAD_UTF8.value, None))


def _without(raw: pa.Table, rows: list[int]) -> pa.Table:
    """The table without some rows; if these are few, the others are not copied."""
    if len(rows) > _FEW_ROWS:
        return without_rows(raw, rows)
    bounds = [-1, *sorted(rows), len(raw)]
    return pa.concat_tables(raw.slice(before + 1, row - before - 1) for before, row in pairwise(bounds))


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


def _decode_query() -> str:
    """The text of decode.sql. Its parameter is the time at which the batch is decoded, microseconds."""

    def time(name: str) -> str:
        return time_sql(name, f"{name}_kind = {Kind.TEXT}", f"{name}_kind = {Kind.NUMBER}")

    return _TEMPLATE.substitute(client_time=time("timestamp"), sent_time=time("sent_at"), verdict=_verdict())


def time_sql(column: str, is_text: str, is_number: str) -> str:
    """SQL for microseconds since 1970 from an RFC 3339 text or integer epoch milliseconds; null if it is neither.

    Args:
        column: The value as text.
        is_text: A condition: the value is a JSON string.
        is_number: A condition: the value is a number with a fraction or an exponent.

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
      WHEN {is_text} AND regexp_full_match({column}, '{_RFC3339_PLAIN}')
      THEN epoch_us(TRY_CAST({column} AS TIMESTAMPTZ))
      WHEN {is_text} THEN
        CASE WHEN NOT regexp_full_match({column}, '{_RFC3339}') THEN NULL
             WHEN {column}[18:19] = '60'
             THEN CASE WHEN strftime(make_timestamp({past_leap}), '%d %H:%M:%S') = '01 00:00:00' THEN {past_leap} END
             ELSE epoch_us(TRY_CAST(upper({column}) AS TIMESTAMPTZ)) END
      WHEN {is_number} AND TRY_CAST({column} AS DOUBLE) % 1 <> 0 THEN NULL
      ELSE CASE WHEN TRY_CAST({column} AS BIGINT) BETWEEN {YEAR_1_MS} AND {YEAR_10000_MS - 1}
           THEN TRY_CAST(TRY_CAST({column} AS BIGINT) * 1000::HUGEINT AS BIGINT) END END"""


def _verdict() -> str:
    """SQL for [reason, field] of a row, null for a valid row. The first rule that a row breaks decides."""
    rules: list[tuple[str, Reason, str | None]] = [
        (f"document = {Kind.ABSENT}", Reason.NOT_JSON, None),
        (f"document <> {Kind.OBJECT}", Reason.NOT_AN_OBJECT, None),
        ("repeated_key", Reason.DUPLICATE_KEY, None),
    ]
    for name in _REQUIRED:
        kinds = (Kind.TEXT, Kind.INTEGER, Kind.NUMBER) if name == "timestamp" else (Kind.TEXT,)
        rules += [
            (f"{name}_kind = {Kind.ABSENT}", Reason.FIELD_MISSING, name),
            (f"{name}_kind = {Kind.NULL}", Reason.FIELD_NULL, name),
            (f"{name}_kind NOT IN ({', '.join(map(str, kinds))})", Reason.FIELD_WRONG_TYPE, name),
            (f"{name} = ''", Reason.FIELD_EMPTY, name),
        ]
    for name in _ACTOR:
        rules.append((f"{name}_kind > {Kind.TEXT}", Reason.FIELD_WRONG_TYPE, name))
    for name in _OBJECTS:
        rules.append((f"{name}_kind > {Kind.NULL} AND {name}_kind <> {Kind.OBJECT}", Reason.FIELD_WRONG_TYPE, name))
    for name in _CONTEXT_IDS:
        rules.append((f"context_{name}_kind > {Kind.TEXT}", Reason.FIELD_WRONG_TYPE, f"context.{name}"))
        rules.append((f"length(context_{name}) > {MAX_ID_LENGTH}", Reason.FIELD_TOO_LONG, f"context.{name}"))
    for name in ("event_id", "event_type", *_ACTOR, "session_id"):
        rules.append((f"length({name}) > {MAX_ID_LENGTH}", Reason.FIELD_TOO_LONG, name))
    nobody = "device IS NULL AND known_user IS NULL"
    rules += [
        (f"{nobody} AND device_id_kind = {Kind.ABSENT}", Reason.FIELD_MISSING, "device_id"),
        (f"{nobody} AND device_id_kind = {Kind.NULL}", Reason.FIELD_NULL, "device_id"),
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
        f"document = {Kind.OBJECT} AND NOT repeated_key",
        *(
            f"{name}_kind = {Kind.TEXT} AND strlen({name}) BETWEEN 1 AND {MAX_ID_LENGTH}"
            for name in ("event_id", "event_type", "device_id")
        ),
        f"greatest({', '.join(f'{name}_kind' for name in _OPTIONAL_IDS[:3])}) <= {Kind.TEXT}",
        f"coalesce(greatest({', '.join(f'strlen({name})' for name in _OPTIONAL_IDS)}), 0) <= {MAX_ID_LENGTH}",
        f"properties_kind = {Kind.OBJECT} AND context_kind = {Kind.OBJECT}",
        "context_device_id IS NULL AND context_user_id IS NULL",
        f"event_time BETWEEN {YEAR_1_MS} * 1000 AND met_at + {MAX_AHEAD}",
    ]
    return f"CASE WHEN {' AND '.join(valid)} THEN NULL ELSE CASE " + "\n".join(cases) + " END END"
