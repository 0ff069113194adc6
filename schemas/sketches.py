"""Sketches of distinct values with Apache DataSketches: small, mergeable, and independent of the values' order."""

from collections import deque
from collections.abc import Iterable

from datasketches import hll_sketch, hll_union, tgt_hll_type

LG_K = 12
"""Log2 of a sketch's number of registers: at most 2 KB, with a standard error of 1.04 / sqrt(4096) = 1.6%."""


class Sketch:
    """The sketch of some texts, in their order; its bytes are what others read.

    >>> estimate([bytes(Sketch(["a", "b"])), bytes(Sketch(["b", "c"]))])
    3
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._sketch = hll_sketch(LG_K, tgt_hll_type.HLL_4)
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Add texts."""
        deque(map(self._sketch.update, values), maxlen=0)

    def __bytes__(self) -> bytes:
        return bytes(self._sketch.serialize_compact())


def estimate(sketches: Iterable[bytes]) -> int:
    """The estimated number of distinct texts in the union of sketches.

    Raises:
        ValueError: One of them is not a sketch.
    """
    union = hll_union(LG_K)
    for sketch in sketches:
        try:
            union.update(hll_sketch.deserialize(sketch))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"no sketch: {error}") from error
    return round(float(union.get_estimate()))
