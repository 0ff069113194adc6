"""dim_devices: the attributes of each device, its logins, and the user that its anonymous sessions belong to."""

import polars as pl
import pyarrow as pa

from schemas.columns import to_polars
from schemas.dimensions import DEVICE, PUBLIC_DEVICE_USERS, ResolutionReason
from transforms.identity.dimensions import merge_rows, sum_up


def device_rows(events: pa.Table) -> pa.Table:
    """Aggregate events into devices.

    Args:
        events: A table with the columns of `schemas.dimensions.EVENT_COLUMNS`, any order. The `deciding_events` among
            them are enough.

    Returns:
        Rows of DEVICE's record, one per device.
    """
    if events.num_rows == 0:
        return DEVICE.record.empty()
    return _resolved(sum_up(events, "device_id", events.column("user_key"), DEVICE))


def merge_devices(rows: pa.Table) -> pa.Table:
    """Merge rows of the same device, in any order and grouping, and resolve each device to a user.

    A device resolves to the user of its last login. On a shared device this concerns only the anonymous sessions. A
    device on which more than `PUBLIC_DEVICE_USERS` users have logged in resolves to nobody.

    Args:
        rows: Rows of DEVICE's record.
    """
    return _resolved(merge_rows(rows, DEVICE))


def _resolved(merged: pa.Table) -> pa.Table:
    users = pl.col("users_seen")
    public = users > PUBLIC_DEVICE_USERS
    frame = to_polars(merged.select(["users_seen", "last_login_user_key"]))
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
