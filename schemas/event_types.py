"""What an event type is declared to be: its properties, and what becomes of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class PropertyType(StrEnum):
    """What values a property has. docs/layers.md says which JSON values each takes."""

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
        name: Its key in the envelope's properties.
        type: Its values.
        description: What it means.
        column: Its column in the type's silver table.
        unit: What it is counted in; None where that says nothing.
        required: Whether an event without it is refused.
    """

    name: str
    type: PropertyType
    description: str
    column: str
    unit: str | None = None
    required: bool = False


@dataclass(frozen=True)
class EventType:
    """What an event of one type is.

    Attributes:
        name: The envelope's event_type.
        table: Its silver table, without the folder.
        description: What happened.
        properties: In the order of their declaration.
        features: Names of the properties that become feature_1, feature_2 and feature_3.
        revenue: Names of the decimal properties of which the first that is there is the revenue.
        link: Name of the property that becomes link.
        category: Name of the property that daily_metrics has as category; None for the category of the page.
        metrics: Name of the property that feeds each metric, such as watch_time.
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
        """The property of a name."""
        return next(declared for declared in self.properties if declared.name == name)


@dataclass(frozen=True)
class Catalogue:
    """All declared event types.

    Attributes:
        events: In the order of their declaration.
        segment: The column of fact_events that daily_metrics splits users by.
    """

    events: tuple[EventType, ...]
    segment: str = "country"

    @cached_property
    def by_name(self) -> dict[str, EventType]:
        """The event types by the envelope's event_type."""
        return {event.name: event for event in self.events}
