"""dim_devices: what each device is, who has logged in on it, and whom its anonymous sessions belong to."""

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dimensions import DEVICE, PUBLIC_DEVICE_USERS, ResolutionReason
from schemas.records import TIMESTAMP
from transforms.dimensions import merge_rows, rows_of_events


def device_rows(events: pa.Table) -> pa.Table:
    """The devices of some events.

    Args:
        events: A table with the columns of `schemas.dimensions.EVENT_COLUMNS`, any order; or those that decide.

    Returns:
        Rows of DEVICE's record, one a device.
    """
    logins = events.column("user_key").is_valid()
    never = pa.scalar(None, TIMESTAMP)
    columns = {
        "device_id": events.column("device_id"),
        "first_login_at": pc.if_else(logins, events.column("event_time"), never),
        "user_keys": events.column("user_key"),
        "users_seen": logins.cast(pa.int32()),
    }
    return merge_devices(rows_of_events(events, DEVICE, columns))


def merge_devices(rows: pa.Table) -> pa.Table:
    """Merge rows of the same device, in any order and grouping, and say whose each device is.

    A device is its last login's user's: a shared one belongs to whom used it last, for its anonymous sessions alone.
    One on which more than `PUBLIC_DEVICE_USERS` have logged in is nobody's.

    Args:
        rows: Rows of DEVICE's record.
    """
    merged = merge_rows(rows, DEVICE)
    if merged.num_rows == 0:
        return merged
    users = pl.col("users_seen")
    public = users > PUBLIC_DEVICE_USERS
    frame = pl.DataFrame(pl.from_arrow(merged.select(["users_seen", "last_login_user_key"])))
    resolved = frame.select(
        pl.when(~public).then(pl.col("last_login_user_key")).alias("resolved_user_key"),
        pl.when(public)
        .then(pl.lit(ResolutionReason.PUBLIC_DEVICE.value))
        .when(users > 1)
        .then(pl.lit(ResolutionReason.LAST_LOGIN.value))
        .when(users == 1)
        .then(pl.lit(ResolutionReason.ONE_USER.value))
        .alias("resolution_reason"),
    )
    for name in resolved.columns:
        place = merged.schema.get_field_index(name)
        merged = merged.set_column(place, merged.schema.field(place), resolved[name].to_arrow().cast(pa.string()))
    return merged
