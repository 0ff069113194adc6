"""Identifiers derived from content, so that a replay derives the same ones.

Each is a SQL expression (for use inside a larger query) and a function over an Arrow array. They are stable across
processes, machines and versions: MD5 where only spread is wanted, HMAC-SHA-256 where the input must stay secret.
"""

import hashlib
import hmac
from collections.abc import Iterable

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from schemas.records import TIMESTAMP


def shard_sql(device_id: str, shards: int) -> str:
    """SQL for the shard of a device: an integer from 0 to shards − 1."""
    return f"CAST(md5_number_lower({device_id}) % {int(shards)} AS INTEGER)"


def session_id_sql(device_id: str, session_start_us: str) -> str:
    """SQL for a session's id: 32 hexadecimal digits, from the device and the start in microseconds."""
    return f"md5(concat({device_id}, chr(0), CAST({session_start_us} AS VARCHAR)))"


def shards_of(device_ids: pa.Array | pa.ChunkedArray, shards: int) -> pa.Array:
    """Shard of each device.

    >>> shards_of(pa.array(["a", "b"]), 16).to_pylist() == shards_of(pa.array(["a", "b"]), 16).to_pylist()
    True
    """
    table = pa.table({"device_id": device_ids})
    return _column(f"SELECT {shard_sql('device_id', shards)} FROM keyed", table)


def session_ids(device_ids: pa.Array | pa.ChunkedArray, starts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Session id of each (device, start) pair; starts are timestamps in microseconds, UTC."""
    table = pa.table({"device_id": device_ids, "start": pc.cast(starts, TIMESTAMP).cast(pa.int64())})
    return _column(f"SELECT {session_id_sql('device_id', 'start')} FROM keyed", table)


def user_key(user_id: str, secret: str) -> str:
    """Keyed hash of a user id: the first 128 bits of HMAC-SHA-256, 32 hexadecimal digits.

    >>> user_key("user-1", "k") == user_key("user-1", "k") != user_key("user-1", "another")
    True
    """
    return hmac.new(secret.encode(), user_id.encode(), hashlib.sha256).hexdigest()[:32]


def user_keys(user_ids: pa.Array, secret: str) -> pa.Array:
    """`user_key` of each id; null stays null. Hashes each distinct id once."""
    encoded = pc.dictionary_encode(user_ids)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    keys = pa.array((user_key(value, secret) for value in encoded.dictionary.to_pylist()), pa.string())
    return keys.take(encoded.indices)


def _column(query: str, table: pa.Table) -> pa.Array:
    """Run a one-column query over `table`, there named ``keyed``, keeping its row order."""
    with duckdb.connect() as connection:
        connection.register("keyed", table)
        return connection.sql(query).to_arrow_table().column(0).combine_chunks()


def stable_digest(parts: Iterable[str]) -> str:
    """Hash of a few strings, unambiguous in their lengths: 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
