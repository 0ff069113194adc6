"""Reads the event catalogue from TOML into event types, and reports every mistake with its line.

docs/layers.md describes how to write a catalogue; schemas/catalogue.toml is the built-in one.
"""

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from schemas.errors import OptionError
from schemas.event_types import Catalogue, EventType, Property, PropertyType
from schemas.silver import COMMON, EXTRA, OTHER
from schemas.toml_lines import Document, Mistake, read_toml
from schemas.toml_lines import Path as Keys

CATALOGUE_VARIABLE = "CLICKSTREAM_CATALOGUE"
SEGMENTS = ("country", "device_type", "os", "app_version")
METRICS = ("watch_time",)
"""Metrics of daily_metrics that are computed from a property; each is in seconds."""

_SHIPPED = files(__package__) / "catalogue.toml"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_FEATURES = ("feature_1", "feature_2", "feature_3")
_LONGEST_NAME = 255
_RESERVED = {field.name for field in (*COMMON, EXTRA)}

_FILE_KEYS = {"extends": bool, "daily": dict, "event": dict}
_EVENT_KEYS = {
    "description": str, "table": str, "properties": dict, **dict.fromkeys(_FEATURES, str),
    "revenue": list, "link": str, "category": str, "metrics": dict,
}  # fmt: skip
_PROPERTY_KEYS = {"type": str, "description": str, "unit": str, "required": bool, "column": str}
_TYPE_NAMES = {bool: "true or false", dict: "a table", str: "text", list: "a list of names"}


class CatalogueError(OptionError):
    """A catalogue has mistakes: one line each, prefixed with the file and the line number."""


def load_catalogue(named: str | os.PathLike[str] | None = None) -> Catalogue:
    """Load the named catalogue, or else the one that CLICKSTREAM_CATALOGUE names, or else the built-in one.

    Raises:
        CatalogueError: The file has mistakes.
        OptionError: The file cannot be read.
    """
    found = named or os.environ.get(CATALOGUE_VARIABLE)
    if not found:
        return shipped_catalogue()
    try:
        text = Path(found).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the catalogue {found}: {error}") from error
    return parse_catalogue(text, str(found))


def shipped_catalogue() -> Catalogue:
    """The built-in catalogue."""
    return parse_catalogue(_SHIPPED.read_text(encoding="utf-8"), str(_SHIPPED), extend=False)


def parse_catalogue(text: str, source: str, *, extend: bool = True) -> Catalogue:
    """Parse a catalogue.

    Args:
        text: TOML, as docs/layers.md describes it.
        source: The file's name for error messages.
        extend: Whether to add the event types of the built-in catalogue that it does not declare, unless it sets
            ``extends = false``.

    Raises:
        CatalogueError: The catalogue has mistakes; the error lists all of them.
    """
    reader = _Reader(read_toml(text))
    found = reader.catalogue(shipped_catalogue() if extend else None)
    if reader.mistakes:
        mistakes = sorted(reader.mistakes)
        raise CatalogueError("\n".join(f"{source}:{line}: {message}" for line, message in mistakes))
    return found


class _Reader:
    """Converts a document to event types. Notes mistakes on the way and goes on with a default for each."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.mistakes: list[Mistake] = list(document.mistakes)

    def catalogue(self, shipped: Catalogue | None) -> Catalogue:
        values = self._table((), self._document.values, _FILE_KEYS)
        extended = shipped if values.get("extends", True) else None
        daily = self._table(("daily",), values.get("daily", {}), {"segment": str})
        segment = daily.get("segment", extended.segment if extended else SEGMENTS[0])
        if segment not in SEGMENTS:
            self._note(("daily", "segment"), f"segment is {segment!r}: one of {', '.join(SEGMENTS)}")
        declared = {
            name: self._event(name, value)
            for name, value in values.get("event", {}).items()
            if self._is_table(("event", name), value)
        }
        inherited = {event.name: event for event in extended.events} if extended else {}
        events = inherited | declared
        self._check_tables(events, declared)
        return Catalogue(tuple(events.values()), segment)

    def _event(self, name: str, found: dict[str, Any]) -> EventType:
        path = ("event", name)
        values = self._table(path, found, _EVENT_KEYS)
        if not 0 < len(name) <= _LONGEST_NAME:
            self._note(path, f"the name of an event type has 1 to {_LONGEST_NAME} characters")
        if not values.get("description"):
            self._note(path, f"event {name} has no description")
        properties = tuple(
            self._property((*path, "properties", key), key, value)
            for key, value in values.get("properties", {}).items()
            if self._is_table((*path, "properties", key), value)
        )
        self._check_columns(path, properties)
        types = {declared.name: declared.type for declared in properties}
        revenue = self._revenue((*path, "revenue"), values.get("revenue", []), types)
        metrics = self._table((*path, "metrics"), values.get("metrics", {}), dict.fromkeys(METRICS, str))
        for metric, fed_by in metrics.items():
            numbers = (PropertyType.INTEGER, PropertyType.NUMBER, PropertyType.DECIMAL)
            if self._names((*path, "metrics", metric), metric, fed_by, types, numbers):
                unit = next(declared.unit for declared in properties if declared.name == fed_by)
                if unit != "s":
                    self._note((*path, "metrics", metric), f'{metric} counts seconds: {fed_by} needs unit = "s"')
        for key in (*_FEATURES, "link", "category"):
            if key in values:
                only = None if key in _FEATURES else (PropertyType.STRING,)
                self._names((*path, key), key, values[key], types, only)
        return EventType(
            name=name,
            table=self._identifier(path, name, values.get("table"), "table"),
            description=values.get("description", ""),
            properties=properties,
            features=(values.get("feature_1"), values.get("feature_2"), values.get("feature_3")),
            revenue=revenue,
            link=values.get("link"),
            category=values.get("category"),
            metrics=metrics,
        )

    def _property(self, path: Keys, name: str, found: dict[str, Any]) -> Property:
        values = self._table(path, found, _PROPERTY_KEYS)
        if not name:
            self._note(path, "the name of a property is empty")
        if not values.get("description"):
            self._note(path, f"property {name} has no description")
        try:
            type_ = PropertyType(values.get("type", ""))
        except ValueError:
            given = repr(values["type"]) if "type" in values else "missing"
            self._note((*path, "type"), f"the type of property {name} is {given}: one of {', '.join(PropertyType)}")
            type_ = PropertyType.JSON
        column = self._identifier(path, name, values.get("column"), "column")
        return Property(
            name, type_, values.get("description", ""), column, values.get("unit"), values.get("required", False)
        )

    def _revenue(self, path: Keys, names: list[Any], types: dict[str, PropertyType]) -> tuple[str, ...]:
        for name in names:
            if not isinstance(name, str):
                self._note(path, f"revenue is {_TYPE_NAMES[list]}")
            else:
                self._names(path, "revenue", name, types, (PropertyType.DECIMAL,))
        return tuple(name for name in names if isinstance(name, str))

    def _names(
        self,
        path: Keys,
        what: str,
        name: str,
        types: dict[str, PropertyType],
        only: tuple[PropertyType, ...] | None,
    ) -> bool:
        """Whether a setting names a declared property of a suitable type."""
        if name not in types:
            self._note(path, f"{what} names {name}, which is none of the event's properties")
            return False
        if only is not None and types[name] not in only:
            self._note(path, f"{what} names {name}, a {types[name]}: it takes {' or '.join(only)}")
            return False
        return True

    def _identifier(self, path: Keys, name: str, given: str | None, setting: str) -> str:
        """The name of a table or column: the given one, or else the name of the event type or property."""
        chosen = name if given is None else given
        if not _IDENTIFIER.fullmatch(chosen):
            where = path if given is None else (*path, setting)
            self._note(
                where,
                f'{chosen!r} cannot name a {setting}: letters, digits and _, 63 at most; give one with {setting} = "…"',
            )
        return chosen

    def _check_columns(self, path: Keys, properties: tuple[Property, ...]) -> None:
        """Check that columns are unique, regardless of case, as in SQL."""
        seen: dict[str, str] = {}
        for declared in properties:
            column, where = declared.column.casefold(), (*path, "properties", declared.name)
            if column in _RESERVED:
                self._note(
                    where,
                    f"column {declared.column} of property {declared.name} is one that each silver table has; "
                    'give another with column = "…"',
                )
            elif column in seen:
                self._note(where, f"column {declared.column} is that of property {seen[column]} already")
            seen.setdefault(column, declared.name)

    def _check_tables(self, events: dict[str, EventType], declared: dict[str, EventType]) -> None:
        seen: dict[str, str] = {OTHER: "the events of undeclared types"}
        for name, event in sorted(events.items(), key=lambda item: item[0] in declared):
            table = event.table.casefold()
            if table in seen:
                self._note(
                    ("event", name),
                    f'table {event.table} is that of {seen[table]} already; give another with table = "…"',
                )
            seen.setdefault(table, f"event {name}")

    def _table(self, path: Keys, values: dict[str, Any], keys: Mapping[str, type]) -> dict[str, Any]:
        """The settings of a table that are known and have the right type."""
        taken: dict[str, Any] = {}
        for name, value in values.items():
            if name not in keys:
                self._note((*path, name), f"unknown setting {name}; known are {', '.join(keys)}")
            elif not isinstance(value, keys[name]):
                self._note((*path, name), f"{name} is {_TYPE_NAMES[keys[name]]}")
            else:
                taken[name] = value
        return taken

    def _is_table(self, path: Keys, value: Any) -> bool:
        if not isinstance(value, dict):
            self._note(path, f"{path[-1]} is {_TYPE_NAMES[dict]}")
        return isinstance(value, dict)

    def _note(self, path: Keys, message: str) -> None:
        self.mistakes.append(Mistake(self._document.line(path), message))
