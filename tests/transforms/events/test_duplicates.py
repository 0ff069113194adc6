from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import EVENT_BATCH
from tests.transforms.events.event_copies import batch, batches, copy, order
from transforms.events.duplicates import (
    digests_of,
    drop_rows,
    find_copies,
    keys_of,
    split_keys,
)


def first_copies(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rule by brute force."""
    groups = defaultdict(list)
    for row in batch(*rows).to_pylist():
        groups[row["device_id"], row["event_id"]].append(row)
    winners = [min(group, key=order) for group in groups.values()]
    return sorted(winners, key=lambda row: (row["device_id"].encode(), row["event_time"], row["event_id"].encode()))


def test_empty_table_stays_empty() -> None:
    assert drop_copies([EVENT_BATCH.empty()], 4) == [EVENT_BATCH.empty()]
    assert digests_of(EVENT_BATCH.empty()).shape == (2, 0)


def drop_copies(tables: list[pa.Table], shards: int, together: int = 1) -> list[pa.Table]:
    """The bounded rule whole: keys out, of some batches together; rows to drop back; what is left of each batch."""
    pieces, rows = defaultdict(list), defaultdict(list)
    keys = [keys_of(table) for table in tables]
    named = {name: table for (name, _), table in zip(keys, tables, strict=True)}
    for start in range(0, len(keys), together):
        for shard, piece in split_keys(dict(keys[start : start + together]).values(), shards):
            pieces[shard].append(piece)
    for shard in pieces.values():
        for name, found in find_copies(shard):
            rows[name].append(found)
    return [drop_rows(table, rows[name]) for name, table in named.items()]


@given(
    batches,
    st.lists(st.integers(0, 30), max_size=4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_any_cut_into_batches_and_shards_keeps_the_first_to_arrive(
    rows: list[dict[str, Any]], cuts: list[int], shards: int, together: int, random: Any
) -> None:
    expected = first_copies(rows)
    random.shuffle(rows)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    tables = [batch(*rows[start:end]) for start, end in pairwise(bounds) if start < end]
    random.shuffle(tables)
    # a batch that is read twice counts once, with whatever batches its keys come each time
    tables += tables[: random.randint(0, 2)]
    left = [row for table in drop_copies(tables, shards, together) for row in table.to_pylist()]
    key = lambda row: (row["device_id"], row["event_id"])  # noqa: E731
    assert sorted(left, key=key) == sorted(expected, key=key)


def test_batch_without_copies_is_passed_on_and_not_copied() -> None:
    table = batch(copy("a"), copy("b"))
    assert drop_copies([table], 2)[0] is table


def test_order_across_batches_is_arrival_then_source_then_partition_then_offset() -> None:
    places = [
        {"arrived": 1, "source": "z", "partition": 9, "offset": 9},
        {"arrived": 2, "source": "a", "partition": 9, "offset": 9},
        {"arrived": 2, "source": "b", "partition": 1, "offset": 9},
        {"arrived": 2, "source": "b", "partition": 2, "offset": 1},
        {"arrived": 2, "source": "b", "partition": 2, "offset": 2},
        {"arrived": None, "source": "a", "partition": 0, "offset": 0},
    ]
    for first in range(len(places)):
        tables = [batch(copy(**place)) for place in reversed(places[first:])]
        left = [table for table in drop_copies(tables, 1) if table.num_rows]
        assert [table.to_pylist() for table in left] == [batch(copy(**places[first])).to_pylist()]


def test_batches_of_other_content_have_other_names() -> None:
    different = [
        batch(copy()),
        batch(copy(), copy()),
        batch(copy(offset=1)),
        batch(copy(partition=1)),
        batch(copy(source="other")),
        batch(copy(arrived=None)),
        batch(copy(event_id="other")),
        batch(copy(source="a"), copy(source="b")),
        batch(copy(source="b"), copy(source="a")),
    ]
    assert len({keys_of(table)[0] for table in different}) == len(different)
    chunked = pa.concat_tables([batch(copy()), batch(copy())])
    assert keys_of(chunked)[0] == keys_of(different[1])[0]


def test_digests_that_share_one_half_are_no_copies() -> None:
    keys = keys_of(batch(copy("a"), copy("b"), copy("c")))[1]
    for half in ("high", "low"):
        same = keys.set_column(keys.column_names.index(half), half, pa.array(np.zeros(3, np.uint64)))
        assert list(find_copies([same])) == []


def test_digests_tell_ids_apart_wherever_the_boundary_lies() -> None:
    digests = digests_of(batch(copy("bc", "a"), copy("c", "ab"), copy("", "abc"), copy("1:a", ""), copy("a", "1:")))
    assert len({tuple(column) for column in digests.T.tolist()}) == 5


def test_digest_is_the_md5_of_the_ids_on_every_machine() -> None:
    # printf '5:phonee' | md5sum
    high, low = digests_of(batch(copy("e", "phone")))[:, 0].tolist()
    assert ((high << 64) | low).to_bytes(16, "little").hex() == "a89f584d78ba9c0580d94f988a977192"
