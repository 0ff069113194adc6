"""Sketches of distinct values, by Apache DataSketches: small, mergeable, the same whatever order values come in."""

from collections import deque
from collections.abc import Iterable

from datasketches import hll_sketch, hll_union, tgt_hll_type

LG_K = 12
"""Log2 of a sketch's registers: 2 KB at most, a standard error of 1.04 / sqrt(4096) = 1.6%."""


class Sketch:
    """A sketch that texts are added to, some at a time."""

    def __init__(self) -> None:
        self._sketch = hll_sketch(LG_K, tgt_hll_type.HLL_4)

    def add(self, values: Iterable[str]) -> None:
        """Add texts, in their order."""
        deque(map(self._sketch.update, values), maxlen=0)

    def __bytes__(self) -> bytes:
        """The sketch as others read it."""
        return bytes(self._sketch.serialize_compact())


def sketch_of(values: Iterable[str]) -> bytes:
    """The sketch of some texts, in their order.

    >>> estimate([sketch_of(["a", "b"]), sketch_of(["b", "c"])])
    3
    """
    sketch = Sketch()
    sketch.add(values)
    return bytes(sketch)


def estimate(sketches: Iterable[bytes]) -> int:
    """About how many distinct texts went into some sketches together.

    Raises:
        ValueError: One is no sketch.
    """
    union = hll_union(LG_K)
    for sketch in sketches:
        try:
            union.update(hll_sketch.deserialize(sketch))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"no sketch: {error}") from error
    return round(float(union.get_estimate()))
