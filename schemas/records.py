"""Declarations of records, from which the Arrow, Avro and Delta schemas and the data dictionary are derived."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(18, 4)
"""Major currency units. No currency in ISO 4217 has more than four decimals."""


@dataclass(frozen=True)
class Field:
    """A column: its name, Arrow type, whether it may be null, and its meaning and unit in one line."""

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = True


@dataclass(frozen=True)
class Record:
    """A kind of row.

    Attributes:
        name: The table's name.
        grain: What one row represents.
        fields: The columns, in order.
        partition_by: The partition columns in the lake.
        sort_by: The columns by which rows are sorted within a file of the lake.
        key: The columns that identify a row; merges match rows by them.
    """

    name: str
    grain: str
    fields: tuple[Field, ...]
    partition_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    key: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    @property
    def names(self) -> list[str]:
        """The column names in order."""
        return [field.name for field in self.fields]

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with each field's description as metadata."""
        return pa.schema([pa.field(f.name, f.type, nullable=f.nullable, metadata={"doc": f.doc}) for f in self.fields])

    def empty(self) -> pa.Table:
        """A table of this record with no rows."""
        return self.schema.empty_table()
