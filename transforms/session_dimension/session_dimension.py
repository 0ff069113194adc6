"""The rules of the session dimension: the user of an event, sessions and their numbers, and the place of each event.

A session is the events of one user on one date of the reporting time zone with no silence longer than 30 minutes. The
functions of `transforms.sessions.cells` and `transforms.sessions.sessions` compute these sessions, with user and date
together in place of the device. So each date can be computed without the others.
"""

from collections.abc import Iterable

import polars as pl
import pyarrow as pa

from schemas.columns import to_polars
from schemas.records import TIMESTAMP
from schemas.session_dimension import ANONYMOUS_PREFIX, DIM_SESSIONS, EVENT_SESSIONS
from transforms.frames import to_arrow
from transforms.session_dimension.session_dates import StartDates, local_dates
from transforms.sessions.cells import EVENT_COLUMNS, cells_of, merge_cells
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessions import chain

POLICY = SessionPolicy(cap=None, allowed_lateness=0)
"""A gap of 30 minutes and no other rule: the fourth source document has no cap, and the date is part of the key."""

STAMP_COLUMNS = ("device_id", "event_id", "event_time", "session_user_key", "session_id", "session_position")
"""The columns of an event that its session depends on, and the session."""

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
"""The columns of an event that its place in a session depends on."""

BEFORE_SCHEMA = pa.schema([("user_key", pa.string()), ("sessions", pa.int64())])
"""The number of a user's sessions that start before some date; the rows of one user are added up."""


def resolve_users(events: pa.Table, devices: pa.Table) -> pa.Table:
    """Fill in the user of each event that has none.

    Args:
        events: Rows with device_id and user_key.
        devices: device_id and resolved_user_key, at most one row per device.

    Returns:
        The events, in their order.
    """
    frame = to_polars(events)
    known = to_polars(devices.select(["device_id", "resolved_user_key"]))
    found = frame.select("device_id").join(known, on="device_id", how="left", maintain_order="left")
    users = frame["user_key"].fill_null(found["resolved_user_key"])
    return _with_column(events, "user_key", users)


def user_events(events: pa.Table, dates: StartDates) -> pa.Table:
    """Select the events of some start dates, and add the user and the start date of each.

    Args:
        events: Rows of `EVENT_COLUMNS`, with users filled in by `resolve_users` if devices are known.
        dates: The start dates to select.

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
    """Aggregate events into cells of each user and date.

    Args:
        events: As `user_events` returns them.

    Returns:
        Rows of CELL, with user and date in place of device_id.
    """
    keys = to_polars(events.select(["user_key", "start_date", "event_id", "device_id"])).select(
        device_id=pl.concat_str("user_key", pl.col("start_date").cast(pl.String)),
        # An event_id is unique only on its device: with the device added, ties do not depend on the order of rows
        event_id=pl.concat_str("event_id", "device_id", separator="\0"),
    )
    keyed = _with_column(_with_column(events, "device_id", keys["device_id"]), "event_id", keys["event_id"])
    return cells_of(keyed.select(EVENT_COLUMNS), POLICY)


def sessions_before(counts: Iterable[pa.Table]) -> pa.Table:
    """Add up rows of `BEFORE_SCHEMA`: one row per user with any sessions, ordered by user_key."""
    table = pa.concat_tables([BEFORE_SCHEMA.empty_table(), *counts])
    summed = to_polars(table).group_by("user_key").agg(pl.col("sessions").sum()).filter(pl.col("sessions") != 0)
    return to_arrow(summed.sort("user_key"), BEFORE_SCHEMA)


def number_sessions(cells: Iterable[pa.Table], before: pa.Table, zone: str) -> pa.Table:
    """Compute sessions from cells, and continue each user's numbering.

    Args:
        cells: Rows of CELL as `user_cells` returns them: all cells of these users on the computed dates.
        before: As `sessions_before` returns them.
        zone: The reporting time zone.

    Returns:
        Rows of DIM_SESSIONS, ordered by user_key and session_id.
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
    """Find the session of each event, and the event's position in it.

    Args:
        events: Rows of `USER_EVENT_SCHEMA`: exactly the events that the sessions were computed from.
        sessions: Rows of DIM_SESSIONS, ordered by user_key and session_id.

    Returns:
        Rows of EVENT_SESSIONS, ordered by user_key, session_id and session_position.

    Raises:
        ValueError: The number of events is not that of the sessions.
    """
    counts = to_polars(sessions.select(["user_key", "session_id", "start_date", "event_count"]))
    # In this order the events of a session are adjacent, and sessions are in the order of their numbers
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
    """Write the session of each event into its session columns.

    Args:
        events: Rows with `STAMP_COLUMNS`; other columns are kept.
        places: Rows of EVENT_SESSIONS: all rows of the dates. An event without a row has no session.
        dates: The start dates; events before them keep their session.

    Returns:
        The same rows in the same order; None if no row changes.
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
