"""dim_users: the latest attributes of each user (SCD type 1), and the number of their devices."""

import pyarrow as pa

from schemas.columns import whole
from schemas.dimensions import USER
from schemas.table_query import TableQuery
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


_DEVICE_KEYS = TableQuery("SELECT left(md5(device_id), 16) FROM given")


def device_keys(device_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """A short key for each device, without commas: 16 hexadecimal digits of its MD5. Hashes each distinct id once."""
    encoded = whole(device_ids).dictionary_encode()
    keys = _DEVICE_KEYS.run(pa.table({"device_id": encoded.dictionary})).column(0)
    return keys.take(encoded.indices)
