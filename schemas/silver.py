"""The silver layer: a typed table per event type, with common event columns and the type's properties."""

from collections.abc import Iterator

import pyarrow as pa

from schemas.event_types import Catalogue, EventType, PropertyType
from schemas.events import EVENT
from schemas.records import MONEY, TIMESTAMP, Field, Record

FOLDER = "silver"
OTHER = "other"
"""Name of the table for events of undeclared types."""

_FROM_EVENT = (
    "event_id", "event_type", "event_time", "event_date", "device_id", "user_key", "tracker_session_id",
    "country", "device_type", "os", "app_version",
)  # fmt: skip
COMMON = tuple(field for field in EVENT if field.name in _FROM_EVENT)
"""The first columns of every silver table, as in fact_events."""

EXTRA = Field(
    "extra_properties", pa.string(), "the properties that are not declared, JSON text; null if there are none"
)

ARROW_TYPES = {
    PropertyType.STRING: pa.string(),
    PropertyType.INTEGER: pa.int64(),
    PropertyType.NUMBER: pa.float64(),
    PropertyType.DECIMAL: MONEY,
    PropertyType.BOOLEAN: pa.bool_(),
    PropertyType.TIMESTAMP: TIMESTAMP,
    PropertyType.JSON: pa.string(),
}


def silver_record(event: EventType) -> Record:
    """The silver table of an event type."""
    return _record(event.table, f"one event of type {event.name}: {event.description}", _properties(event))


def other_record() -> Record:
    """The silver table for events of undeclared types, all of whose properties are in extra_properties."""
    return _record(OTHER, "one event of a type that the catalogue does not declare", iter(()))


def stored_record(name: str, schema: pa.Schema) -> Record | None:
    """The record of a stored silver table of any catalogue; None if the table is not a silver table.

    Args:
        name: The table's name, including the folder.
        schema: The table's columns.
    """
    names = set(schema.names)
    if not name.startswith(f"{FOLDER}/") or not names >= {field.name for field in (*COMMON, EXTRA)}:
        return None
    properties = [Field(f.name, f.type, "") for f in schema if f.name not in {x.name for x in (*COMMON, EXTRA)}]
    return _record(name.removeprefix(f"{FOLDER}/"), "one event of a type", iter(properties))


def silver_records(catalogue: Catalogue) -> tuple[Record, ...]:
    """All silver tables."""
    return (*map(silver_record, catalogue.events), other_record())


def _record(table: str, grain: str, properties: Iterator[Field]) -> Record:
    return Record(
        name=f"{FOLDER}/{table}",
        grain=grain,
        fields=(*COMMON, *properties, EXTRA),
        partition_by=("event_date",),
        sort_by=("device_id", "event_time"),
        key=("device_id", "event_id"),
    )


def _properties(event: EventType) -> Iterator[Field]:
    for declared in event.properties:
        unit = f"; {declared.unit}" if declared.unit else ""
        # nullable even if required: a non-nullable column could not be added to a table that has rows
        yield Field(declared.column, ARROW_TYPES[declared.type], f"{declared.description}{unit}")
