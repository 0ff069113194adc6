"""Sketches: near the exact count, the same in any order, mergeable."""

import random
from collections.abc import Iterable

import pytest

from schemas.sketches import LG_K, Sketch, estimate

STANDARD_ERROR = 1.04 / (1 << LG_K) ** 0.5


def sketch_of(values: Iterable[str]) -> bytes:
    return bytes(Sketch(values))


@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_few_values_are_counted_exactly(count: int) -> None:
    assert estimate([sketch_of(f"user-{n}" for n in range(count))]) == count


def test_sketches_of_overlapping_days_merge_to_within_their_error_of_the_distinct_values() -> None:
    days = [[f"user-{n}" for n in range(day * 4_000, day * 4_000 + 10_000)] for day in range(7)]
    sketches = [sketch_of(day) for day in days]
    exact = len(set().union(*days))
    assert abs(estimate(sketches) - exact) <= 3 * STANDARD_ERROR * exact
    assert estimate(reversed(sketches)) == estimate([*sketches, *sketches])
    assert max(map(len, sketches)) < 2_200


def test_repeats_change_nothing() -> None:
    values = [f"user-{n}" for n in range(5_000)]
    assert estimate([sketch_of(values * 3)]) == estimate([sketch_of(values)])
    random.Random(1).shuffle(values)
    assert estimate([sketch_of(values)]) == pytest.approx(5_000, rel=3 * STANDARD_ERROR)


def test_texts_added_in_parts_leave_the_bytes_of_all_at_once() -> None:
    values = [f"user-{n}" for n in range(5_000)]
    sketch = Sketch(values[:100])
    for start in range(100, 5_000, 700):
        sketch.add(values[start : start + 700])
    assert bytes(sketch) == sketch_of(values)


@pytest.mark.parametrize("text", [b"", b"no sketch", b"\x00" * 40])
def test_bytes_that_are_no_sketch_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no sketch"):
        estimate([text])
