"""Builds the bytes of a sorted Parquet file; repeated texts are sorted, gathered and written as small numbers."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.columns import to_polars, whole
from stores.encoded_texts import encode_text, plain_type

ROW_GROUP_ROWS = 128 << 10
ZSTD_LEVEL = 1  # level 3 saves no more than 4% of the bytes and costs 60% more time
DICTIONARY_BYTES = 1 << 20
"""Size limit of a column's dictionary in a row group; beyond it, the column is written without a dictionary."""

_FEW_TEXTS = 1 << 10
_KEY_BITS = 63


def sort_encoded(tables: Sequence[pa.Table], sort_by: Sequence[str]) -> pa.Table:
    """Concatenate and sort tables from `encode_texts`; each column gets one chunk and at most one dictionary.

    Args:
        tables: The tables, with the same columns; a column may be encoded in some and not in others.
        sort_by: The columns to sort by; if empty, the order of rows is kept.
    """

    def join(name: str) -> pa.Array:
        parts = [table.column(name) for table in tables]
        if len(parts) == 1:
            return whole(parts[0])
        if len({part.type for part in parts}) > 1:
            parts = [part.cast(plain_type(part.type)) for part in parts]
        column = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
        return encode_text(column.unify_dictionaries())

    names = tables[0].column_names
    if not sort_by:
        return pa.table({name: join(name) for name in names})
    order = pa.array(sorted_order(pa.table({name: join(name) for name in sort_by}), sort_by))
    # column by column, so that the unsorted joined columns are never all in memory at once
    return pa.table({name: join(name).take(order) for name in names})


def sorted_order(table: pa.Table, sort_by: Sequence[str]) -> npt.NDArray[np.int64]:
    """Row numbers in the order of the given columns: nulls first, texts by their bytes, ties in their current order.

    Packs as many leading columns as fit into one integer to sort by. Only rows that tie on it are compared by the
    remaining columns.

    Args:
        table: Columns of one chunk each, with repeated texts dictionary-encoded.
        sort_by: Names of the columns.
    """
    key = np.zeros(table.num_rows, np.int64)
    width, used = 0, 0
    for name in sort_by:
        codes = _codes(whole(table.column(name)), first=used == 0)
        bits = int(codes.max(initial=0)).bit_length() if codes is not None else _KEY_BITS + 1
        if codes is None or width + bits > _KEY_BITS:
            break
        key = (key << bits) | codes
        width, used = width + bits, used + 1
    order = np.argsort(key, kind="stable")
    ranked = key[order]
    ties = np.flatnonzero(ranked[1:] == ranked[:-1])
    rest = list(sort_by[used:])
    if not (len(ties) and rest):
        return order
    places = np.union1d(ties, ties + 1)
    rows = order[places]
    tied = table.select(rest).take(pa.array(rows))
    plain = pa.schema([pa.field(field.name, plain_type(field.type)) for field in tied.schema])
    frame = to_polars(tied.cast(plain)).with_columns(pl.Series("__key", key[rows]))
    order[places] = rows[frame.select(pl.arg_sort_by("__key", *rest, maintain_order=True)).to_series().to_numpy()]
    return order


def _codes(column: pa.Array, *, first: bool) -> npt.NDArray[np.int64] | None:
    """Integers from 1 in the order of the values, 0 for null; None if the values have no such (or no cheap) codes."""
    if first and pa.types.is_string(column.type):
        column = pc.dictionary_encode(column)
    if pa.types.is_dictionary(column.type):
        ranks = pc.rank(column.dictionary, sort_keys="ascending").to_numpy().astype(np.int64)
        codes = np.append(ranks, 0)[pc.fill_null(column.indices, len(ranks)).to_numpy()]
        return np.asarray(codes, np.int64)
    if not (pa.types.is_signed_integer(column.type) or pa.types.is_temporal(column.type)):
        return None
    whole = (
        column.view(pa.int64() if column.type.bit_width == 64 else pa.int32())
        if column.type.bit_width >= 32
        else column
    )
    bounds = pc.min_max(whole)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low is None:
        return np.zeros(len(column), np.int64)
    if (high - low + 1).bit_length() > _KEY_BITS:
        return None
    values = pc.fill_null(whole, low).to_numpy().astype(np.int64) - low + 1
    if column.null_count:
        values[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return values


def parquet_bytes(table: pa.Table, bounded: Collection[str]) -> pa.Buffer:
    """The bytes of a Parquet file, in row groups, with statistics for some columns.

    Args:
        table: Columns of one chunk each. Dictionary-encoded columns are dictionary-encoded in the file.
        bounded: Columns for which row groups have minimum and maximum values.
    """
    texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=texts or False,
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        column_encoding={f.name: code for f in table.schema if (code := _encoding(f.type)) is not None},
        write_statistics=[name for name in table.column_names if name in bounded],
        # an embedded Arrow schema would say which columns were dictionary-encoded, and readers would return them so
        store_schema=False,
    ) as writer:
        for start in range(0, table.num_rows, ROW_GROUP_ROWS):
            group = table.slice(start, ROW_GROUP_ROWS)
            writer.write_table(group if group.num_rows == table.num_rows else _only_used(group))
    return sink.getvalue()


def _encoding(type_: pa.DataType) -> str | None:
    """Delta encoding for times, as neighbours in a sorted file are close; text lengths compress better on their own."""
    if pa.types.is_timestamp(type_) or pa.types.is_int64(type_):
        return "DELTA_BINARY_PACKED"
    return "DELTA_LENGTH_BYTE_ARRAY" if pa.types.is_string(type_) or pa.types.is_binary(type_) else None


def _only_used(group: pa.Table) -> pa.Table:
    """Drop unused texts from large dictionaries, as each row group is written with its own dictionary."""
    for number, column in enumerate(group.columns):
        if pa.types.is_dictionary(column.type) and len(column.chunk(0).dictionary) > _FEW_TEXTS:
            array = column.chunk(0)
            used = pc.dictionary_encode(array.indices)
            texts = array.dictionary.take(used.dictionary)
            group = group.set_column(number, group.field(number), pa.DictionaryArray.from_arrays(used.indices, texts))
    return group
