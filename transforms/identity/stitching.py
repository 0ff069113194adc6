"""Stitching: assign anonymous sessions to users who logged in later, and find users who are one person.

docs/identity.md describes the rules. A session with a login belongs to the user of its last login and is never assigned
to another. An anonymous session is assigned to the user that its device resolves to, if it began after the first login
on the device, or before it by at most the lookback.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.columns import to_polars
from schemas.dimensions import PUBLIC_DEVICE_USERS, IdentityReason
from transforms.runs import Integers

_FIRST_TIME = datetime(1, 1, 1, tzinfo=UTC)

SESSION_COLUMNS = ("device_id", "session_start", "user_key", "resolved_user_key")
"""The columns of a session that its resolution depends on, and the resolution."""

DEVICE_COLUMNS = (
    "device_id",
    "first_seen_at",
    "last_seen_at",
    "first_login_at",
    "resolved_user_key",
    "users_seen",
    "user_keys",
    "identity_key",
    "identity_reason",
    "stitched_user_key",
    "stitched_from",
)
"""The columns of a device that stitching depends on, and those that it writes."""

OWNER_COLUMNS = ("device_id", "session_start", "session_end", "user_key", "resolved_user_key")
"""The columns of a session that decide the user of its activities."""

ACTIVITY_COLUMNS = ("anonymous_customer_id", "ts", "customer", "customer_is_stitched")
"""The columns of an activity that its customer depends on, and the customer."""

RULE = ("stitched_user_key", "stitched_from")
"""The columns of a device that its sessions depend on: the user assigned to them, and from which session_start on."""

STITCHED = ("identity_key", "identity_reason", *RULE)
"""The columns that stitching writes on a device."""


@dataclass(frozen=True)
class Caps:
    """How many users and devices may be connected into one person by logins.

    Attributes:
        users: The most users in a connected component.
        devices: The most devices in a connected component. A user with more devices connects nobody.
    """

    users: int = PUBLIC_DEVICE_USERS
    devices: int = 100


def keep_resolution(existing: pa.Table, sessions: pa.Table) -> pa.Table:
    """New states of sessions, in which anonymous sessions keep the user that stitching had assigned to them.

    Args:
        existing: Rows of SESSION in the table.
        sessions: Rows of SESSION that replace them.
    """
    given = to_polars(existing.select(["session_id", "resolved_user_key"]))
    new = to_polars(sessions.select(["session_id", "user_key"])).join(
        given, on="session_id", how="left", maintain_order="left"
    )
    anonymous = pl.when(pl.col("user_key").is_null()).then(pl.col("resolved_user_key"))
    return _replaced(sessions, new.select(anonymous.alias("resolved_user_key")))


def stitched_devices(devices: pa.Table, lookback: int | None, caps: Caps | None = None) -> pa.Table:
    """Compute the columns that stitching writes on each device.

    Args:
        devices: Rows with `DEVICE_COLUMNS`.
        lookback: How long before the first login an anonymous session may have begun, microseconds; None for any time.
        caps: The limits of a component.

    Returns:
        The same rows. stitched_user_key and stitched_from say which user sessions are assigned to, and from which
        session_start on; identity_key and identity_reason say which users are one person.
    """
    frame = to_polars(devices)
    back = pl.lit(None, pl.Duration("us")) if lookback is None else pl.duration(microseconds=lookback)
    known = pl.col("resolved_user_key").is_not_null()
    rule = frame.select(
        pl.col("resolved_user_key").alias("stitched_user_key"),
        pl.when(known).then((pl.col("first_login_at") - back).clip(_FIRST_TIME)).alias("stitched_from"),
    )
    identities = _identities(frame.select("users_seen", "user_keys"), caps or Caps())
    return _replaced(devices, pl.concat([rule, identities], how="horizontal"))


def stitched_sessions(sessions: pa.Table, devices: pa.Table) -> pa.Table | None:
    """Assign anonymous sessions to the users of their devices.

    Args:
        sessions: Rows with `SESSION_COLUMNS`.
        devices: device_id, stitched_user_key and stitched_from of `stitched_devices`, unique by device_id.

    Returns:
        The same rows in the same order, with resolved_user_key updated; None if no row changes.
    """
    rules = to_polars(devices.select(["device_id", "stitched_user_key", "stitched_from"]))
    frame = to_polars(sessions.select(list(SESSION_COLUMNS))).join(
        rules, on="device_id", how="left", maintain_order="left"
    )
    in_time = (pl.col("session_start") >= pl.col("stitched_from")).fill_null(value=True)
    found = frame.select(
        pl.when(pl.col("user_key").is_null() & in_time).then(pl.col("stitched_user_key")).alias("resolved_user_key")
    )
    if frame["resolved_user_key"].eq_missing(found["resolved_user_key"]).all():
        return None
    return _replaced(sessions, found)


def stitched_activities(activities: pa.Table, sessions: pa.Table) -> pa.Table | None:
    """Assign anonymous activities to the users of their sessions, or to nobody if the session has no user.

    Args:
        activities: Rows with `ACTIVITY_COLUMNS`. A customer that is not stitched comes from the activity itself and is
            kept.
        sessions: Rows with `OWNER_COLUMNS`: all sessions that may contain one of the activities.

    Returns:
        The same rows in the same order, with customer and customer_is_stitched updated; None if no row changes.
    """
    owners = to_polars(sessions.select(list(OWNER_COLUMNS))).select(
        "device_id",
        "session_start",
        "session_end",
        pl.coalesce("user_key", "resolved_user_key").alias("owner"),
    )
    frame = to_polars(activities.select(list(ACTIVITY_COLUMNS))).with_row_index("row")
    own = pl.col("customer").is_not_null() & ~pl.col("customer_is_stitched")
    found = frame.sort("ts").join_asof(
        owners.sort("session_start"),
        left_on="ts",
        right_on="session_start",
        by_left="anonymous_customer_id",
        by_right="device_id",
        check_sortedness=False,
    )
    inside = pl.when(pl.col("ts") <= pl.col("session_end")).then(pl.col("owner"))
    new = found.sort("row").select(
        pl.when(own).then(pl.col("customer")).otherwise(inside).alias("customer"),
        (~own & inside.is_not_null()).alias("customer_is_stitched"),
    )
    if frame["customer"].eq_missing(new["customer"]).all():
        return None
    return _replaced(activities, new)


def changes_of(before: pa.Table, after: pa.Table, columns: Sequence[str] = STITCHED) -> pa.BooleanArray:
    """A flag for each row: whether one of the columns has changed. Both tables have the same devices in order."""
    old, new = to_polars(before.select(list(columns))), to_polars(after.select(list(columns)))
    differs = pl.Series(np.zeros(old.height, bool))
    for name in columns:
        differs |= old[name].ne_missing(new[name])
    return differs.to_arrow()


def apply_stitched(devices: pa.Table, changed: pa.Table) -> pa.Table | None:
    """Write the results of stitching into rows of dim_devices; None if no row changes.

    Args:
        devices: Rows with device_id and `STITCHED`; other columns are kept.
        changed: Rows of `stitched_devices`, of some of the devices.
    """
    update = to_polars(changed.select(["device_id", *STITCHED])).with_columns(pl.lit(value=True).alias("__updated"))
    frame = to_polars(devices.select(["device_id", *STITCHED])).join(
        update, on="device_id", how="left", maintain_order="left", suffix="__new"
    )
    updated = pl.col("__updated").fill_null(value=False)
    new = frame.select(
        pl.when(updated).then(pl.col(f"{name}__new")).otherwise(pl.col(name)).alias(name) for name in STITCHED
    )
    if all(frame[name].eq_missing(new[name]).all() for name in STITCHED):
        return None
    return _replaced(devices, new)


def _identities(devices: pl.DataFrame, caps: Caps) -> pl.DataFrame:
    """identity_key and identity_reason of each device; null where logins connect no two users."""
    pairs = (
        devices.with_row_index("device")
        .filter(pl.col("user_keys").is_not_null(), pl.col("users_seen") <= PUBLIC_DEVICE_USERS)
        .select("device", pl.col("user_keys").str.split(",").alias("user"))
        .explode("user")
        .with_columns(pl.len().over("user").alias("on_devices"))
    )
    connecting = pairs.filter(pl.col("on_devices") <= caps.devices)
    users = connecting["user"].unique().sort()
    user = connecting["user"].rank("dense").to_numpy().astype(np.int64) - 1
    components = connecting.with_columns(pl.Series("component", components_of(connecting["device"].to_numpy(), user)))
    sizes = components.group_by("component").agg(pl.col("user", "device").n_unique().name.prefix("count_"))
    reason = (
        pl.when(pl.col("count_user") < 2)
        .then(pl.lit(None))
        .when(pl.col("count_user") > caps.users)
        .then(pl.lit(IdentityReason.TOO_MANY_USERS.value))
        .when(pl.col("count_device") > caps.devices)
        .then(pl.lit(IdentityReason.TOO_MANY_DEVICES.value))
        .otherwise(pl.lit(IdentityReason.SHARED_DEVICES.value))
    )
    least = pl.DataFrame({"component": np.arange(len(users)), "least": users})
    of_device = (
        components.select("device", "component")
        .unique()
        .join(sizes.with_columns(reason.alias("identity_reason")), on="component")
        .join(least, on="component")
        .select(
            "device",
            "identity_reason",
            pl.when(pl.col("identity_reason") == IdentityReason.SHARED_DEVICES.value)
            .then(pl.col("least"))
            .alias("identity_key"),
        )
    )
    busy = (
        pairs.filter(pl.col("on_devices") > caps.devices)
        .select("device")
        .unique()
        .with_columns(busy=pl.lit(value=True))
    )
    apart = pl.col("busy").fill_null(value=False) & (pl.col("users_seen") > 1) & pl.col("identity_reason").is_null()
    return (
        devices.with_row_index("device")
        .join(of_device, on="device", how="left", maintain_order="left")
        .join(busy, on="device", how="left", maintain_order="left")
        .select(
            pl.col("identity_key").cast(pl.String),
            pl.when(apart)
            .then(pl.lit(IdentityReason.TOO_MANY_DEVICES.value))
            .otherwise(pl.col("identity_reason"))
            .cast(pl.String)
            .alias("identity_reason"),
        )
    )


def components_of(devices: Integers, users: Integers) -> Integers:
    """The connected component of each pair, identified by the smallest user number in it.

    Args:
        devices: A device's number for each pair.
        users: A user's number for each pair, from 0.

    >>> components_of(np.array([7, 7, 8, 9]), np.array([3, 1, 2, 3])).tolist()
    [1, 1, 2, 1]
    """
    if len(users) == 0:
        return users
    _, devices = np.unique(devices, return_inverse=True)
    least = np.arange(users.max() + 1)
    while True:
        of_device = np.full(devices.max() + 1, len(least))
        np.minimum.at(of_device, devices, least[users])
        found = least.copy()
        np.minimum.at(found, users, of_device[devices])
        found = found[found]  # pointer jumping: a chain of n devices takes about log n rounds
        if np.array_equal(found, least):
            return np.asarray(least[users])
        least = found


def _replaced(table: pa.Table, columns: pl.DataFrame) -> pa.Table:
    """The table with some columns replaced."""
    for name in columns.columns:
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(
            place, field, columns[name].to_arrow(compat_level=pl.CompatLevel.oldest()).cast(field.type)
        )
    return table
