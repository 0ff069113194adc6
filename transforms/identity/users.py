"""dim_users: the latest attributes of each user (SCD type 1), and the number of their devices."""

import hashlib

import pyarrow as pa

from schemas.dimensions import USER
from transforms.identity.dimensions import merge_rows, sum_up


def user_rows(events: pa.Table) -> pa.Table:
    """Aggregate events into users. Events without a user are ignored.

    Args:
        events: A table with the columns of `schemas.dimensions.EVENT_COLUMNS`, any order. The `deciding_events` among
            them are enough.

    Returns:
        Rows of USER's record, one per user.
    """
    logins = events.filter(events.column("user_key").is_valid())
    if logins.num_rows == 0:
        return USER.record.empty()
    return sum_up(logins, "user_key", device_keys(logins.column("device_id")), USER)


def merge_users(rows: pa.Table) -> pa.Table:
    """Merge rows of the same user, in any order and grouping.

    Args:
        rows: Rows of USER's record.
    """
    return merge_rows(rows, USER)


def device_keys(device_ids: pa.ChunkedArray) -> pa.Array:
    """A short key for each device, without commas: 16 hexadecimal digits of its MD5. Hashes each distinct id once."""
    encoded = device_ids.combine_chunks().dictionary_encode()
    digests = (hashlib.md5(value.encode(), usedforsecurity=False) for value in encoded.dictionary.to_pylist())
    return pa.array((digest.hexdigest()[:16] for digest in digests), pa.string()).take(encoded.indices)
