"""Identifiers derived from content, so that a replay derives the same ones.

Unlike Python's hash(), they are stable across processes, machines and versions. A shard is computed by plain
arithmetic, an id by MD5, and by HMAC-SHA-256 if the input must stay secret.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import whole
from schemas.records import TIMESTAMP
from schemas.table_query import TableQuery

_USED_BITS = np.array([(1 << 8 * used) - 1 for used in range(9)], np.uint64)
_SHA256_BLOCK = 64
_KEYS_REMEMBERED = 1 << 15
"""Users whose keys are remembered, because the users of one batch of events occur in the next ones too."""
_MURMUR3 = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))


def session_id_sql(device_id: str, session_start_us: str) -> str:
    """A SQL expression for a session's id: 32 hexadecimal digits, from the device and the start in microseconds."""
    return f"md5(concat({device_id}, chr(0), CAST({session_start_us} AS VARCHAR)))"


def shards_of(device_ids: pa.Array | pa.ChunkedArray, shards: int) -> np.ndarray:
    """The shard of each device: integers from 0 to shards − 1.

    Combines the id's little-endian 8-byte words into a hash word by word, vectorised over all rows, and mixes it with
    the finaliser of MurmurHash3 so that every bit of every byte has an effect.

    >>> shards_of(pa.array(["device-1", "device-2", "device-1"]), 16).tolist()
    [14, 6, 14]
    """
    if isinstance(device_ids, pa.ChunkedArray):
        device_ids = whole(device_ids)
    offsets = np.frombuffer(device_ids.buffers()[1], np.int32)[device_ids.offset :][: len(device_ids) + 1]
    text = device_ids.buffers()[2] or pa.py_buffer(b"")
    padded = np.frombuffer(memoryview(text)[offsets[0] : offsets[-1]].tobytes() + bytes(8), np.uint8)
    word_at = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    rows: Any = slice(None)
    for place in range(0, int(lengths.max(initial=0)), 8):
        if place:
            rows = np.flatnonzero(lengths > place)
        used = _USED_BITS[np.minimum(lengths[rows] - place, 8)]
        hashes[rows] = (hashes[rows] ^ (word_at[starts[rows] + place] & used)) * _MURMUR3[0]
        hashes[rows] ^= hashes[rows] >> np.uint64(33)
    hashes *= _MURMUR3[1]
    hashes ^= hashes >> np.uint64(33)
    return (hashes % np.uint64(shards)).astype(np.int32)


_SESSION_IDS = TableQuery(f"SELECT {session_id_sql('device_id', 'start')} FROM given")


def session_ids(device_ids: pa.Array | pa.ChunkedArray, starts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The session id of each (device, start) pair; starts are timestamps in microseconds, UTC."""
    table = pa.table({"device_id": device_ids, "start": pc.cast(starts, TIMESTAMP).cast(pa.int64())})
    return whole(_SESSION_IDS.run(table).column(0))


def user_keys(user_ids: pa.ChunkedArray, secret: str) -> pa.Array:
    """The keyed hash of each user id: the first 128 bits of HMAC-SHA-256 (RFC 2104), as 32 hexadecimal digits.

    Null stays null. Hashes each distinct id once.
    """
    encoded = whole(user_ids).dictionary_encode()
    keys = [_user_key(user_id, secret) for user_id in encoded.dictionary.to_pylist()]
    return pa.array(keys, pa.string()).take(encoded.indices)


@lru_cache(_KEYS_REMEMBERED)
def _user_key(user_id: str, secret: str) -> str:
    inner, outer = (begun.copy() for begun in _begun_hmac(secret))
    inner.update(user_id.encode())
    outer.update(inner.digest())
    return str(outer.hexdigest()[:32])


@lru_cache(1)
def _begun_hmac(secret: str) -> tuple[Any, Any]:
    """The two hashes of HMAC, which begin with the key: copying them takes half the time of hmac.digest."""
    key = secret.encode()
    if len(key) > _SHA256_BLOCK:
        key = hashlib.sha256(key).digest()
    padded = np.frombuffer(key.ljust(_SHA256_BLOCK, b"\0"), np.uint8)
    inner, outer = (hashlib.sha256((padded ^ pad).tobytes()) for pad in (0x36, 0x5C))
    return inner, outer


def stable_digest_sql(*parts: str) -> str:
    """A SQL expression for the `stable_digest` of expressions of type text that are not null."""
    joined = " || ".join(f"unhex(printf('%016x', strlen({part}))) || encode({part})" for part in parts)
    return f"md5({joined})"


def stable_digest(parts: Iterable[str]) -> str:
    """A hash of several strings as 32 hexadecimal digits; it includes their lengths, so the parts are unambiguous."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
