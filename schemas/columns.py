"""Arrow tables: a column as one array, a table without some of its rows, and as a Polars frame."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
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


def to_polars(table: pa.Table) -> pl.DataFrame:
    """The table as a frame, without a copy where Polars has the types; to Polars' types a table may be a series too."""
    return pl.DataFrame(pl.from_arrow(table))
