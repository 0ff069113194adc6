"""Columns of Arrow tables as one array."""

import pyarrow as pa


def whole(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array, dictionaries unified; the chunk itself where there is one, which Arrow would copy.

    >>> whole(pa.chunked_array([["a"], ["b"]])).to_pylist()
    ['a', 'b']
    """
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
