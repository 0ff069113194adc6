"""dim_devices: what each device is, who has logged in on it, and whom its anonymous sessions belong to."""

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dimensions import DEVICE, PUBLIC_DEVICE_USERS, ResolutionReason
from transforms.identity.dimensions import merge_rows, sum_up


def device_rows(events: pa.Table) -> pa.Table:
    """The devices of some events.

    Args:
        events: A table with the columns of `schemas.dimensions.EVENT_COLUMNS`, any order; or those that decide.

    Returns:
        Rows of DEVICE's record, one a device.
    """
    if events.num_rows == 0:
        return DEVICE.record.empty()
    rows = sum_up(events, "device_id", events.column("user_key").combine_chunks(), DEVICE)
    logins = events.filter(events.column("user_key").is_valid())
    first = logins.group_by("device_id").aggregate([("event_time", "min")])
    places = pc.index_in(rows.column("device_id"), first.column("device_id").combine_chunks())
    place = rows.schema.get_field_index("first_login_at")
    return _resolved(rows.set_column(place, rows.schema.field(place), first.column("event_time_min").take(places)))


def merge_devices(rows: pa.Table) -> pa.Table:
    """Merge rows of the same device, in any order and grouping, and say whose each device is.

    A device is its last login's user's: a shared one belongs to whom used it last, for its anonymous sessions alone.
    One on which more than `PUBLIC_DEVICE_USERS` have logged in is nobody's.

    Args:
        rows: Rows of DEVICE's record.
    """
    return _resolved(merge_rows(rows, DEVICE))


def _resolved(merged: pa.Table) -> pa.Table:
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
