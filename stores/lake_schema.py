"""Schema evolution: a table gains its record's new columns and wider types; any other difference is an error."""

from typing import Any, NamedTuple

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from deltalake.schema import Field, Schema
from pyarrow import types

from schemas.errors import SchemaMismatchError, StoreError, first_line
from schemas.records import Record

_ADDED = "clickstream.added"
"""Metadata key of a column that was added after the table was created: older files lack it."""


class Evolution(NamedTuple):
    """The changes that bring a table's columns up to its record.

    Attributes:
        added: Nullable columns that the table lacks.
        widened: Names of columns that get a wider type.
        relaxed: Names of columns that become nullable.
    """

    added: list[Field]
    widened: list[str]
    relaxed: list[str]


def delta_schema(record: Record) -> Schema:
    """A record's schema for Delta, with each field's description as its comment."""
    fields = [pa.field(f.name, f.type, nullable=f.nullable, metadata={"comment": f.doc}) for f in record.fields]
    return Schema.from_arrow(pa.schema(fields))


def check_evolution(table: DeltaTable, record: Record) -> Evolution:
    """Determine the changes that `evolve` would make.

    Raises:
        SchemaMismatchError: The table has a column that the record lacks, or one whose type does not widen to the
            record's; or a column is missing or nullable in the table and not nullable in the record; or the
            partitioning differs.
    """
    existing = {field.name: field for field in table.schema().fields}
    arrow = pa.schema(table.schema().to_arrow())
    evolution = Evolution([], [], [])
    for field in delta_schema(record).fields:
        found = existing.pop(field.name, None)
        ours = _type_name(field)
        if found is None:
            if not field.nullable:
                raise SchemaMismatchError(
                    f"{record.name}: column {field.name} ({ours}) is not in the table, and never null"
                )
            evolution.added.append(field)
            continue
        widens = is_wider(record.schema.field(field.name).type, arrow.field(field.name).type)
        if (found.type != field.type and not widens) or (found.nullable and not field.nullable):
            raise SchemaMismatchError(
                f"{record.name}: column {field.name} is {_type_name(found)} in the table and {ours} in this program"
            )
        if found.type != field.type:
            evolution.widened.append(field.name)
        if field.nullable and not found.nullable:
            evolution.relaxed.append(field.name)
    for name, field in existing.items():
        raise SchemaMismatchError(
            f"{record.name}: column {name} ({_type_name(field)}) of the table is unknown to this program"
        )
    partition_by = table.metadata().partition_columns
    if partition_by != list(record.partition_by):
        raise SchemaMismatchError(
            f"{record.name}: the table is partitioned by {partition_by} and in this program by {[*record.partition_by]}"
        )
    return evolution


def evolve(table: DeltaTable, record: Record) -> None:
    """Bring the table's columns up to its record.

    Adding a nullable column, or making a column nullable, changes only metadata: no file is written, and old rows read
    as null. Widening a type rewrites all files in one transaction, because Delta has no other way that every reader
    supports. Stop the runs that write the table first.

    Args:
        table: The table; updated to its new version.
        record: The record.

    Raises:
        SchemaMismatchError: As `check_evolution`.
        StoreError: The table cannot be written; or the wider type cannot hold a value, and nothing was changed.
    """
    added, widened, relaxed = check_evolution(table, record)
    try:
        if widened:
            _rewrite(table, record, widened)
        if added:
            marked = [Field(f.name, f.type, nullable=True, metadata={**f.metadata, _ADDED: "true"}) for f in added]
            table.alter.add_columns(marked)
        for name in relaxed:
            table.alter.drop_column_not_null(name)
    except (DeltaError, OSError, pa.ArrowInvalid) as error:
        table.update_incremental()
        if not any(check_evolution(table, record)):
            return  # another run has done it
        raise StoreError(f"{record.name}: cannot change the table's columns: {first_line(error)}") from error


def has_added_columns(table: DeltaTable) -> bool:
    """Whether some files of the table may lack one of its columns."""
    return any(_ADDED in field.metadata for field in table.schema().fields)


def is_wider(new: pa.DataType, old: pa.DataType) -> bool:
    """Whether `new` widens `old`: to a longer integer or decimal, or from an integer or float to a 64-bit float.

    >>> is_wider(pa.int64(), pa.int32()), is_wider(pa.int32(), pa.int64()), is_wider(pa.string(), pa.int64())
    (True, False, False)
    """
    if types.is_decimal(new) and types.is_decimal(old):
        return bool(new.scale >= old.scale and new.precision - new.scale >= old.precision - old.scale)
    if types.is_float64(new):
        return bool(types.is_integer(old) or types.is_floating(old))
    return bool(types.is_signed_integer(new) and types.is_signed_integer(old) and new.bit_width >= old.bit_width)


def _rewrite(table: DeltaTable, record: Record, widened: list[str]) -> None:
    dataset = table.to_pyarrow_dataset()
    schema = dataset.schema
    for name in widened:
        place = schema.get_field_index(name)
        schema = schema.set(place, schema.field(place).with_type(record.schema.field(name).type))
    batches = (
        batch for part in dataset.to_batches() for batch in pa.Table.from_batches([part]).cast(schema).to_batches()
    )
    write_deltalake(
        table,
        pa.RecordBatchReader.from_batches(schema, batches),
        mode="overwrite",
        schema_mode="overwrite",
        partition_by=list(record.partition_by),
    )
    table.update_incremental()


def _type_name(field: Any) -> str:
    text = getattr(field.type, "type", str(field.type))
    name = text if isinstance(text, str) else str(field.type)
    return name if field.nullable else f"{name} not null"
