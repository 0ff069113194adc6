"""Declarations of event types: their properties, and how these are used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class PropertyType(StrEnum):
    """The type of a property's values. docs/layers.md lists the JSON values that each type accepts."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    JSON = "json"


@dataclass(frozen=True)
class Property:
    """A property of an event type.

    Attributes:
        name: The key in the envelope's properties.
        type: The type of its values.
        description: What the property means.
        column: The column in the event type's silver table.
        unit: The unit of its values; None without one.
        required: Whether an event without the property is rejected.
    """

    name: str
    type: PropertyType
    description: str
    column: str
    unit: str | None = None
    required: bool = False


@dataclass(frozen=True)
class EventType:
    """The declaration of an event type.

    Attributes:
        name: The envelope's event_type.
        table: The silver table's name, without the folder.
        description: What happened.
        properties: The properties, in the order of their declaration.
        features: Names of the properties that become feature_1, feature_2 and feature_3.
        revenue: Names of decimal properties; the first one that an event has is its revenue.
        link: Name of the property that becomes link.
        category: Name of the property that is the category in daily_metrics; None for the category of the page.
        metrics: Name of the property that each metric, such as watch_time, is computed from.
    """

    name: str
    table: str
    description: str
    properties: tuple[Property, ...] = ()
    features: tuple[str | None, str | None, str | None] = (None, None, None)
    revenue: tuple[str, ...] = ()
    link: str | None = None
    category: str | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)

    def property(self, name: str) -> Property:
        """The property with the given name."""
        return next(declared for declared in self.properties if declared.name == name)


@dataclass(frozen=True)
class Catalogue:
    """All declared event types.

    Attributes:
        events: The event types, in the order of their declaration.
        segment: The column of fact_events by which daily_metrics segments users.
    """

    events: tuple[EventType, ...]
    segment: str = "country"

    @cached_property
    def by_name(self) -> dict[str, EventType]:
        """The event types by the envelope's event_type."""
        return {event.name: event for event in self.events}
