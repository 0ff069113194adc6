"""The rules of the envelope, as SQL for any row; and a few vector operations that recognise most valid rows.

docs/envelope.md has the rules. decode.sql and `decode_query` state all of them. `plain_rows` finds rows that break none
of them, and computes the same columns in a fraction of the time.
"""

from datetime import datetime
from importlib import resources
from string import Template
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dead_letters import Reason
from schemas.durations import HOUR, micros_of
from schemas.records import MONEY
from transforms.events.json_members import Kind, Members

MAX_ID_LENGTH = 255
MAX_AHEAD = 1 * HOUR
YEAR_1_MS, YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000

_REQUIRED = ("event_id", "event_type", "timestamp")
_ACTOR = ("device_id", "user_id", "entity_id", "entity_type")
_TEXTS = (*_REQUIRED, *_ACTOR, "sent_at", "session_id")
_OPTIONAL_IDS = ("user_id", "entity_id", "entity_type", "session_id")
_CONTEXT_IDS = ("device_id", "user_id")
_AMOUNTS = ("revenue", "amount")
CONTEXT_ATTRIBUTES = ("country", "device_type", "os", "app_version")
OBJECTS = {"properties": ("page_url", *_AMOUNTS), "context": (*_CONTEXT_IDS, *CONTEXT_ATTRIBUTES)}
ENVELOPE: dict[str, tuple[str, ...]] = dict.fromkeys(_TEXTS, ()) | OBJECTS
DECIDED = ("event_time", "client_time", "sent_at", "device_id", "user_id", "revenue")
"""The columns of an event that the rules decide."""

_RFC3339 = r"\d{4}-\d{2}-\d{2}[Tt ]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_RFC3339_PLAIN = r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?Z"
_TEMPLATE = Template(resources.files(__package__).joinpath("decode.sql").read_text(encoding="utf-8"))


class PlainRows(NamedTuple):
    """Rows that break no rule.

    Attributes:
        rows: By row of the batch: is it one of them?
        columns: `DECIDED` of these rows.
    """

    rows: npt.NDArray[np.bool_]
    columns: pa.Table


def plain_rows(members: Members, arrival: pa.ChunkedArray, now: datetime) -> PlainRows:
    """Find rows that are valid by few and simple tests. A valid row may be missed: the query decides on the others.

    Args:
        members: The members of the rows.
        arrival: The arrival time of the rows, or null.
        now: The arrival time where it is null.
    """
    times, readable = members.times("timestamp")
    sent, sent_readable = members.times("sent_at")
    has_sent = members.kinds("sent_at") > Kind.NULL
    arrived = arrival.cast(pa.int64()).fill_null(micros_of(now)).to_numpy()
    corrected = has_sent & arrival.is_valid().to_numpy()
    event_times = np.where(corrected, arrived - (sent - times), times)

    rows = (members.document == Kind.OBJECT) & ~members.repeated_key & readable & (sent_readable | ~has_sent)
    for name in ("event_id", "event_type", "device_id"):
        # A text of at most n bytes has at most n characters
        size = members.sizes(name)
        rows &= (members.kinds(name) == Kind.TEXT) & (size >= 1) & (size <= MAX_ID_LENGTH)
    for name in _OPTIONAL_IDS:
        rows &= (members.kinds(name) <= Kind.TEXT) & (members.sizes(name) <= MAX_ID_LENGTH)
    for name in OBJECTS:
        rows &= (members.kinds(name) <= Kind.NULL) | (members.kinds(name) == Kind.OBJECT)
    for name in _CONTEXT_IDS:
        rows &= members.kinds("context", name) <= Kind.NULL
    for name in _AMOUNTS:
        rows &= members.kinds("properties", name) <= Kind.NULL
    for micros in (times, event_times, np.where(has_sent, sent, times)):
        rows &= in_years(micros)
    rows &= event_times <= arrived + MAX_AHEAD

    user, entity = (_not_empty(members.texts(name)) for name in ("user_id", "entity_id"))
    user = pc.coalesce(user, pc.if_else(pc.equal(members.texts("entity_type"), "user"), entity, None))
    columns = {
        "event_time": event_times,
        "client_time": times,
        "sent_at": pa.array(sent, mask=~has_sent),
        "device_id": members.texts("device_id"),
        "user_id": user,
        "revenue": pa.nulls(len(rows), MONEY),
    }
    return PlainRows(rows, pa.table(columns).filter(pa.array(rows)))


def in_years(micros: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each time is in the years 1 to 9999, which all parts of the product can represent."""
    return (micros >= YEAR_1_MS * 1000) & (micros < YEAR_10000_MS * 1000)


def _not_empty(texts: pa.Array) -> pa.Array:
    empty = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(empty, None, texts) if pc.any(empty).as_py() else texts


def given_columns(members: Members, arrival: pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The table that the query reads, of some rows."""
    columns = {
        **{name: members.texts(name, rows=rows) for name in _TEXTS},
        **{f"context_{name}": members.texts("context", name, rows=rows) for name in _CONTEXT_IDS},
        **{name: members.texts("properties", name, rows=rows) for name in _AMOUNTS},
        **{f"{name}_kind": members.kinds(name)[rows] for name in ENVELOPE},
        **{f"context_{name}_kind": members.kinds("context", name)[rows] for name in _CONTEXT_IDS},
        "document": members.document[rows],
        "repeated_key": members.repeated_key[rows],
        "arrival_time": arrival.take(pa.array(rows)).cast(pa.int64()),
    }
    return pa.table(columns)


def decode_query() -> str:
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
    for name in OBJECTS:
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
    return "CASE " + "\n".join(cases) + " END"
