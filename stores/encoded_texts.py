"""Columns of texts that repeat, dictionary-encoded: a text is held, moved, compared and sorted as a number.

Such a column is of its plain type wherever it matters to a reader: `plain_type` says which.
"""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import whole

_SAMPLE_ROWS = 8 << 10


def encode_columns(table: pa.Table, names: Collection[str]) -> pa.Table:
    """Dictionary-encode some columns, whatever they hold; a chunk a column."""
    columns = [
        whole(pc.dictionary_encode(column) if name in names else column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    fields = [field.with_type(column.type) for field, column in zip(table.schema, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def encode_texts(table: pa.Table) -> pa.Table:
    """Dictionary-encode the columns of text or bytes whose values repeat; a chunk a column.

    Hashed once here, a text is held, sorted, gathered and written as a number of four bytes: of the 400 bytes of an
    event 160 are left.
    """
    return pa.table([encode_text(column) for column in table.columns], table.column_names)


def encode_text(column: pa.ChunkedArray) -> pa.Array:
    """As `encode_texts`, one column."""
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        sample = column.slice(0, _SAMPLE_ROWS)
        if 2 * pc.count_distinct(sample).as_py() <= len(sample):
            return whole(pc.dictionary_encode(column))
    return whole(column)


def plain(table: pa.Table) -> pa.Table:
    """The table without dictionaries; itself where it has none."""
    schema = pa.schema([field.with_type(plain_type(field.type)) for field in table.schema])
    return table if schema == table.schema else table.cast(schema)


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type of the values, dictionary-encoded or not."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_
