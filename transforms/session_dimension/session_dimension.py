"""The session dimension as functions: whose an event is, a user's sessions, their numbers, each event's place.

A session is the events of one user on one date of the reporting time zone with no silence longer than 30 minutes.
User and date together stand where a device does in `transforms.sessions.cells` and `transforms.sessions.sessions`, so
that the same functions find these sessions, and one date can be computed without another.
"""

from collections.abc import Iterable, Iterator

import polars as pl
import pyarrow as pa

from schemas.columns import to_polars
from schemas.keys import shards_of
from schemas.records import TIMESTAMP
from schemas.session_dimension import ANONYMOUS_PREFIX, DIM_SESSIONS, EVENT_SESSIONS
from transforms.frames import to_arrow
from transforms.session_dimension.session_dates import StartDates, local_dates
from transforms.sessions.cells import EVENT_COLUMNS, cells_of, merge_cells
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessions import chain

POLICY = SessionPolicy(cap=None, allowed_lateness=0)
"""30 minutes, nothing else: the fourth source document has no cap, and the date is part of the key."""

STAMP_COLUMNS = ("device_id", "event_id", "event_time", "session_user_key", "session_id", "session_position")
"""What of an event its session depends on, and the session."""

_DATE_LETTERS = len("2026-04-12")

USER_EVENT_SCHEMA = pa.schema(
    [
        ("user_key", pa.string()),
        ("start_date", pa.date32()),
        ("event_time", TIMESTAMP),
        ("event_id", pa.string()),
        ("device_id", pa.string()),
    ]
)
"""An event reduced to what its place in a session depends on."""

BEFORE_SCHEMA = pa.schema([("user_key", pa.string()), ("sessions", pa.int64())])
"""How many sessions of a user begin before some date; rows of one user add up."""


def resolve_users(events: pa.Table, devices: pa.Table) -> pa.Table:
    """Fill each event's user in where it has none of its own.

    Args:
        events: Rows with device_id and user_key.
        devices: device_id and resolved_user_key, at most one row a device.

    Returns:
        The events, in their order.
    """
    frame = to_polars(events)
    known = to_polars(devices.select(["device_id", "resolved_user_key"]))
    found = frame.select("device_id").join(known, on="device_id", how="left", maintain_order="left")
    users = frame["user_key"].fill_null(found["resolved_user_key"])
    return _with_column(events, "user_key", users)


def user_events(events: pa.Table, dates: StartDates) -> pa.Table:
    """The events of some start dates, each with its user and its date.

    Args:
        events: Rows of `EVENT_COLUMNS`, devices resolved as far as they are.
        dates: The start dates wanted.

    Returns:
        The columns of `events`, user_key never null, and start_date.
    """
    frame = to_polars(events).with_columns(
        pl.col("user_key").fill_null(pl.concat_str(pl.lit(ANONYMOUS_PREFIX), "device_id")),
        local_dates(pl.col("event_time"), dates.zone.key).alias("start_date"),
    )
    frame = frame.filter(pl.col("start_date").is_between(dates.first, dates.last))
    return to_arrow(frame, events.schema.append(pa.field("start_date", pa.date32())))


def user_cells(events: pa.Table) -> pa.Table:
    """The cells of each user and date.

    Args:
        events: As `user_events` gives them.

    Returns:
        Rows of CELL, user and date in the place of device_id.
    """
    keys = to_polars(events.select(["user_key", "start_date", "event_id", "device_id"])).select(
        device_id=pl.concat_str("user_key", pl.col("start_date").cast(pl.String)),
        # ids are unique on a device, and these may be of several: a tie must not depend on the order of rows
        event_id=pl.concat_str("event_id", "device_id", separator="\0"),
    )
    keyed = _with_column(_with_column(events, "device_id", keys["device_id"]), "event_id", keys["event_id"])
    return cells_of(keyed.select(EVENT_COLUMNS), POLICY)


def split_by_user(table: pa.Table, shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Cut a table with a user_key column into one table a shard of users."""
    if table.num_rows:
        shard = pl.Series("__shard", shards_of(table.column("user_key"), shards))
        parts = to_polars(table).with_columns(shard).partition_by("__shard", include_key=False, as_dict=True)
        for (key, *_), part in parts.items():
            yield int(key), to_arrow(part, table.schema)


def sessions_before(counts: Iterable[pa.Table]) -> pa.Table:
    """Rows of `BEFORE_SCHEMA` added up: one a user who has any, by user_key."""
    table = pa.concat_tables([BEFORE_SCHEMA.empty_table(), *counts])
    summed = to_polars(table).group_by("user_key").agg(pl.col("sessions").sum()).filter(pl.col("sessions") != 0)
    return to_arrow(summed.sort("user_key"), BEFORE_SCHEMA)


def number_sessions(cells: Iterable[pa.Table], before: pa.Table, zone: str) -> pa.Table:
    """The sessions of some users, numbered on from those they had before.

    Args:
        cells: Rows of CELL as `user_cells` gives them: all of these users' on the dates computed.
        before: As `sessions_before` gives them.
        zone: The reporting time zone.

    Returns:
        Rows of DIM_SESSIONS by user_key and session_id.
    """
    sessions = to_polars(chain(merge_cells(cells), POLICY)).with_columns(
        pl.col("device_id")
        .str.slice(pl.col("device_id").str.len_chars() - _DATE_LETTERS)
        .str.to_date()
        .alias("start_date")
    )
    numbered = (
        sessions.sort("user_key", "start_date", "session_start")
        .join(to_polars(before), on="user_key", how="left", maintain_order="left")
        .with_columns(
            (pl.int_range(1, pl.len() + 1).over("user_key") + pl.col("sessions").fill_null(0)).alias("session_id"),
            pl.col("start_date").alias("end_date"),
            pl.lit(zone).alias("time_zone"),
        )
    )
    return to_arrow(numbered, DIM_SESSIONS.schema)


def place_events(events: Iterable[pa.Table], sessions: pa.Table) -> pa.Table:
    """The session of each event, and its place in it.

    Args:
        events: Rows of `USER_EVENT_SCHEMA`: those that the sessions were computed from, no more and no fewer.
        sessions: Rows of DIM_SESSIONS by user_key and session_id.

    Returns:
        Rows of EVENT_SESSIONS by user_key, session_id and session_position.

    Raises:
        ValueError: The events are others than those of the sessions.
    """
    counts = to_polars(sessions.select(["user_key", "session_id", "start_date", "event_count"]))
    # in this order the events of a session stand together, and its events follow those of the session before it
    order = ["user_key", "start_date", "event_time", "event_id", "device_id"]
    rows = to_polars(pa.concat_tables([USER_EVENT_SCHEMA.empty_table(), *events])).sort(order)
    total = int(counts["event_count"].sum())
    if total != rows.height:
        raise ValueError(f"{rows.height} events for sessions that hold {total}")
    of_session = counts.select(
        pl.col("session_id").repeat_by("event_count").explode(),
        pl.int_ranges(1, pl.col("event_count") + 1).explode().alias("session_position"),
    )
    placed = rows.hstack(of_session).with_columns(pl.col("event_time").dt.date().alias("event_date"))
    return to_arrow(placed, EVENT_SESSIONS.schema)


def stamp_events(events: pa.Table, places: pa.Table, dates: StartDates) -> pa.Table | None:
    """Events with the sessions that they are in.

    Args:
        events: Rows with `STAMP_COLUMNS`, others kept as they are.
        places: Rows of EVENT_SESSIONS: all of the dates. An event without one is in no session.
        dates: The start dates; events of those before keep the session that they have.

    Returns:
        The same rows in their order; None where none changes.
    """
    keys, stamps = list(STAMP_COLUMNS[:2]), list(STAMP_COLUMNS[3:])
    found = to_polars(places.select([*keys, "user_key", "session_id", "session_position"])).rename(
        {"user_key": "session_user_key"}
    )
    old = to_polars(events.select(list(STAMP_COLUMNS)))
    new = old.select(keys).join(found, on=keys, how="left", maintain_order="left")
    before = old.select(local_dates(pl.col("event_time"), dates.zone.key) < dates.first).to_series()
    new = new.select(pl.when(before).then(old[name]).otherwise(pl.col(name)).alias(name) for name in stamps)
    if all(old[name].eq_missing(new[name]).all() for name in stamps):
        return None
    for name in stamps:
        events = _with_column(events, name, new[name])
    return events


def _with_column(table: pa.Table, name: str, values: pl.Series) -> pa.Table:
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    return table.set_column(place, field, values.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(field.type))
