"""How a table's columns follow its record: new ones are added, narrow ones widened, anything else refused."""

from typing import Any, NamedTuple

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from deltalake.schema import Field, Schema
from pyarrow import types

from schemas.errors import SchemaMismatchError, StoreError, first_line
from schemas.records import Record

_ADDED = "clickstream.added"
"""Set on a column that is younger than its table: older files lack it."""


class Evolution(NamedTuple):
    """What a table's columns lack to be those of its record.

    Attributes:
        added: Nullable columns that it has not.
        widened: Names of columns whose type becomes a wider one.
        relaxed: Names of columns that may be null from now on.
    """

    added: list[Field]
    widened: list[str]
    relaxed: list[str]


def delta_schema(record: Record) -> Schema:
    """A record's schema as Delta keeps it: each field's meaning is its comment."""
    fields = [pa.field(f.name, f.type, nullable=f.nullable, metadata={"comment": f.doc}) for f in record.fields]
    return Schema.from_arrow(pa.schema(fields))


def check_evolution(table: DeltaTable, record: Record) -> Evolution:
    """What `evolve` would change.

    Raises:
        SchemaMismatchError: A column of the table is not of the record, or its type does not widen to the record's, or
            a column that is missing, or was nullable, is not to be null; or the partitioning is another.
    """
    there = {field.name: field for field in table.schema().fields}
    arrow = pa.schema(table.schema().to_arrow())
    evolution = Evolution([], [], [])
    for field in delta_schema(record).fields:
        found = there.pop(field.name, None)
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
    for name, field in there.items():
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
    """Make the table's columns those of its record.

    A nullable column is added, and a column made nullable, by metadata: no file is written, and old rows read null. To
    widen a type all files are rewritten, in one transaction: Delta knows no other way that every reader follows. Stop
    the runs that write the table before.

    Args:
        table: Brought up to date.
        record: The record.

    Raises:
        SchemaMismatchError: As `check_evolution`.
        StoreError: The table cannot be written; or a value is lost in the wider type, and nothing was changed.
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
    """Whether files of the table may lack a column of it."""
    return any(_ADDED in field.metadata for field in table.schema().fields)


def is_wider(new: pa.DataType, old: pa.DataType) -> bool:
    """Whether a type holds what another does: longer whole or decimal numbers, floating ones for them.

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
