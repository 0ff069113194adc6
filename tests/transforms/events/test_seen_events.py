from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.durations import HOUR
from tests.transforms.events.event_copies import EPOCH, batch, batches, copy, order
from transforms.events.seen_events import Expiries, Fresh, Seen, bucket_of, drop_seen, pack, unpack


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """Copies agree in the hour of the client's clock too."""
    return row["device_id"], row["event_id"], (row["client_time"] - EPOCH) // timedelta(hours=1)


@settings(max_examples=60)
@given(batches, st.data())
def test_each_event_is_let_through_once_whatever_the_bundles(rows: list[dict[str, Any]], data: Any) -> None:
    seen: dict[int, Seen] = {}
    passed: set[tuple[Any, ...]] = set()
    remaining = rows
    while remaining:
        size = data.draw(st.integers(1, len(remaining)))
        bundle, remaining = remaining[:size], remaining[size:]
        table = batch(*bundle)
        unique, fresh = drop_seen(table, seen, HOUR)
        # of the copies in a bundle the first to arrive, none of what went before, and the rows' order stays
        first = {identity(row): row for row in sorted(table.to_pylist(), key=order, reverse=True)}
        expected = [row for row in table.to_pylist() if first[identity(row)] is row or first[identity(row)] == row]
        assert unique.to_pylist() == [row for row in expected if identity(row) not in passed]
        for part in fresh:
            seen.setdefault(part.bucket, Seen()).add(part.digests)
        passed |= {identity(row) for row in unique.to_pylist()}
    assert sum(map(len, seen.values())) == len(passed)


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        ({"arrived": 1, "source": "z"}, {"arrived": 2, "source": "a"}),
        ({"arrived": 9}, {"arrived": None}),
        ({"source": "a", "partition": 9}, {"source": "b", "partition": 0}),
        ({"partition": 1, "offset": 9}, {"partition": 2, "offset": 0}),
        ({"arrived": None, "offset": 1}, {"arrived": None, "offset": 2}),
    ],
)
def test_order_is_arrival_then_source_then_partition_then_offset(winner: Any, loser: Any) -> None:
    for rows in ((winner, loser), (loser, winner)):
        assert drop_seen(batch(*(copy(**row) for row in rows)), {}, HOUR)[0].equals(batch(copy(**winner)))


def test_equal_copies_leave_one() -> None:
    assert drop_seen(batch(copy(), copy(), copy()), {}, HOUR)[0].equals(batch(copy()))


def test_same_id_on_another_device_is_another_event() -> None:
    assert drop_seen(batch(copy(device_id="phone"), copy(device_id="tablet")), {}, HOUR)[0].num_rows == 2


def test_table_without_copies_is_passed_on_and_not_copied() -> None:
    table = batch(copy("a"), copy("b"))
    assert drop_seen(table, {}, HOUR)[0] is table


def test_client_time_before_1970_falls_in_the_hour_below() -> None:
    _, fresh = drop_seen(batch(copy(at=-1), copy(at=0)), {}, HOUR)
    assert [(part.bucket, part.latest) for part in fresh] == [(-1, -1), (0, 0)]


words = st.integers(0, 3) | st.sampled_from([2**63, 2**64 - 1])
digest_lists = st.lists(st.lists(st.tuples(words, words), max_size=8), max_size=8)


def digests(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, np.uint64).reshape(-1, 2).T


@given(digest_lists, st.lists(st.tuples(words, words), max_size=20))
def test_seen_holds_what_was_added_even_where_half_a_digest_collides(
    added: list[list[tuple[int, int]]], asked: list[tuple[int, int]]
) -> None:
    seen, known = Seen(), set()
    pieces = []
    for piece in added:
        new = sorted(set(piece) - known)
        known |= set(new)
        seen.add(digests(new))
        pieces.append(pack(-7, digests(new)))
    assert len(seen) == len(known)
    assert seen.holds(digests(asked)).tolist() == [one in known for one in asked]
    # what comes back from the runner's state is the same
    assert {bucket_of(piece) for piece in pieces} <= {-7}
    restored = unpack(pieces).get(-7, Seen())
    assert restored.holds(digests(asked)).tolist() == [one in known for one in asked]


def test_buckets_come_apart_again_from_their_pieces() -> None:
    found = unpack([pack(1, digests([(1, 1)])), pack(5, digests([(2, 2)])), pack(1, digests([(3, 3)]))])
    assert {bucket: len(seen) for bucket, seen in found.items()} == {1: 2, 5: 1}


def fresh(bucket: int, latest: int) -> Fresh:
    return Fresh(bucket, digests([]), latest)


def test_bucket_is_kept_after_its_end_or_that_of_its_latest_event() -> None:
    expiries = Expiries(HOUR).with_fresh([fresh(5, 5 * HOUR), fresh(2, 7 * HOUR + 1)], keep=10)
    assert expiries.of == {5: 6 * HOUR + 10, 2: 8 * HOUR + 10}
    assert expiries.next == 6 * HOUR + 10


def test_bucket_is_kept_longer_for_a_later_event_and_never_shorter() -> None:
    expiries = Expiries(HOUR).with_fresh([fresh(2, 7 * HOUR)], keep=0)
    assert expiries.with_fresh([fresh(2, 2 * HOUR)], keep=0) == expiries
    assert expiries.with_fresh([fresh(2, 9 * HOUR)], keep=0).of == {2: 10 * HOUR}


def test_bucket_that_is_over_is_not_remembered() -> None:
    expiries = Expiries(HOUR).with_fresh([fresh(1, HOUR), fresh(2, 2 * HOUR)], keep=0).at(2 * HOUR)
    assert expiries.of == {2: 3 * HOUR}
    assert expiries.with_fresh([fresh(1, HOUR)], keep=0) == expiries
    assert expiries.at(3 * HOUR).next is None
