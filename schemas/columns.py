"""Columns of Arrow tables as one array, and tables without some of their rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def whole(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array, dictionaries unified; the chunk itself where there is one, which Arrow would copy.

    >>> whole(pa.chunked_array([["a"], ["b"]])).to_pylist()
    ['a', 'b']
    """
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def without_rows(table: pa.Table, rows: Sequence[int] | npt.NDArray[np.integer]) -> pa.Table:
    """A copy of the table without the rows of some numbers.

    >>> without_rows(pa.table({"n": [0, 1, 2]}), [1])["n"].to_pylist()
    [0, 2]
    """
    kept = np.ones(table.num_rows, bool)
    kept[rows] = False
    return table.filter(pa.array(kept))
