"""Keys that outlive a process: the same input gives the same key for ever, however it lies in memory."""

import hashlib
import hmac
from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import session_ids, shards_of, stable_digest, stable_digest_sql, user_keys

IDS = ["device-1", "", "d", "é", "设备", "a\0b", "a\0", "12345678", "123456789", "x" * 1000, "user:0f" * 5]


def one_by_one(device_id: str, shards: int) -> int:
    """What `shards_of` documents, written with Python's integers."""
    data, mask = device_id.encode(), (1 << 64) - 1
    value = len(data)
    for place in range(0, len(data), 8):
        value = ((value ^ int.from_bytes(data[place : place + 8], "little")) * 0xFF51AFD7ED558CCD) & mask
        value ^= value >> 33
    value = (value * 0xC4CEB9FE1A85EC53) & mask
    return (value ^ value >> 33) % shards


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=20), st.integers(1, 1000))
def test_shard_is_what_the_documented_arithmetic_gives(ids: list[str], shards: int) -> None:
    assert shards_of(pa.array(ids, pa.string()), shards).tolist() == [one_by_one(text, shards) for text in ids]


def test_shard_does_not_change_with_versions() -> None:
    # A changed value here moves devices to other keys: state of a running job would be lost
    assert shards_of(pa.array(["device-1", "device-2", "é"]), 1 << 20).tolist() == [279838, 188646, 522820]


def test_shard_depends_on_the_id_alone_and_not_on_its_place_in_memory() -> None:
    whole = shards_of(pa.array(IDS), 97)
    assert shards_of(pa.array(["other", *IDS, "other"]).slice(1, len(IDS)), 97).tolist() == whole.tolist()
    assert shards_of(pa.chunked_array([IDS[:3], [], IDS[3:]]), 97).tolist() == whole.tolist()
    assert [int(shards_of(pa.array([text]), 97)[0]) for text in IDS] == whole.tolist()


def test_shards_of_nothing_are_none() -> None:
    assert shards_of(pa.array([], pa.string()), 16).tolist() == []
    assert shards_of(pa.chunked_array([], pa.string()), 16).tolist() == []


@pytest.mark.parametrize("shape", ["device-{:d}", "{:08x}", "{:032x}", "{:d}"])
def test_devices_spread_evenly_over_the_shards(shape: str) -> None:
    per_shard = np.bincount(shards_of(pa.array([shape.format(n) for n in range(16_000)]), 16), minlength=16)
    # 1000 each; six standard deviations of a fair draw are 184
    assert per_shard.min() > 816
    assert per_shard.max() < 1184


def test_user_key_is_the_head_of_the_keyed_hash() -> None:
    # RFC 4231, test case 2
    (key,) = user_keys(pa.chunked_array([["what do ya want for nothing?"]]), "Jefe").to_pylist()
    assert key == "5bdcc146bf60754e6a042426089575c7"


@given(
    st.lists(st.one_of(st.none(), st.sampled_from(["", "u1", "ü", "x" * 64]), st.text(max_size=70)), max_size=6),
    st.one_of(st.text(max_size=5), st.integers(62, 66).map("k".__mul__), st.integers(31, 33).map("é".__mul__)),
    st.integers(0, 6),
)
def test_user_keys_equal_those_of_the_standard_library_and_keep_nulls(
    ids: list[str | None], secret: str, split: int
) -> None:
    expected = [
        None if text is None else hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]
        for text in ids
    ]
    chunks = pa.chunked_array([ids[:split], ids[split:]], pa.string())
    assert user_keys(chunks, secret).to_pylist() == expected


@pytest.mark.parametrize("times_over", [1, 2_000])
def test_session_id_is_the_hash_of_device_and_start_of_few_and_of_many(times_over: int) -> None:
    start = datetime(2026, 4, 12, tzinfo=UTC)
    devices = ["d", "é"] * times_over
    times = pa.array([start] * len(devices), pa.timestamp("us", tz="UTC"))
    expected = [hashlib.md5(f"{d}\0{1775952000000000}".encode()).hexdigest() for d in ("d", "é")] * times_over
    assert session_ids(pa.array(devices), times).to_pylist() == expected


def test_digest_of_parts_tells_where_a_part_ends() -> None:
    assert stable_digest(["ab", "c"]) != stable_digest(["a", "bc"])
    assert stable_digest(["ab"]) != stable_digest(["ab", ""])
    assert stable_digest(["a"]) == hashlib.md5((1).to_bytes(8, "big") + b"a").hexdigest()


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300), min_size=1, max_size=4))
def test_digest_in_sql_is_that_of_python(parts: list[str]) -> None:
    expression = stable_digest_sql(*(f"${number}" for number in range(1, len(parts) + 1)))
    assert duckdb.execute(f"SELECT {expression}", parts).fetchone() == (stable_digest(parts),)
