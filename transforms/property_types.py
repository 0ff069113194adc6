"""The properties of events of one type as typed columns: the query that makes them. docs/layers.md tells the rules."""

import json
from collections.abc import Iterable
from importlib import resources
from string import Template

from schemas.dead_letters import Reason
from schemas.event_types import EventType, Property, PropertyType
from schemas.records import MONEY
from transforms.envelope import YEAR_1_MS, YEAR_10000_MS, time_sql

_TEMPLATE = Template(resources.files("transforms").joinpath("type_properties.sql").read_text(encoding="utf-8"))

_PARSED_AS = {
    PropertyType.STRING: "VARCHAR",
    PropertyType.INTEGER: "BIGINT",
    PropertyType.NUMBER: "DOUBLE",
    PropertyType.DECIMAL: "VARCHAR",
    PropertyType.BOOLEAN: "BOOLEAN",
    PropertyType.TIMESTAMP: "VARCHAR",
    PropertyType.JSON: "JSON",
}
_MOST_EXACT = 1 << 53
"""Whole numbers up to here are themselves as a double: one that is written 5.0 is as exact as 5."""


def type_query(event: EventType) -> str:
    """SQL over ``batch``, a table with the text column properties.

    The columns of its result: v1, v2, v3 … for the type's properties in order, null where the value is missing, null or
    not of the type (times are microseconds since 1970); fault, null or [reason, property] of the first that is wrong;
    extra_properties; and declared_properties, what is left of the properties where there are extra ones. The type has at
    least one property.
    """
    declared = event.properties
    names = [item.name for item in declared]
    faults = [fault for place, item in enumerate(declared, 1) for fault in _faults(item, place)]
    return _TEMPLATE.substitute(
        structure=_literal(json.dumps({item.name: _PARSED_AS[item.type] for item in declared})),
        pointers=_list(map(_pointer, names)),
        values=", ".join(f"{_value(item, place)} AS v{place}" for place, item in enumerate(declared, 1)),
        columns=", ".join(f"v{place}" for place in range(1, len(declared) + 1)),
        faults=" ".join(faults),
        without_declared=_literal(json.dumps(dict.fromkeys(names))),
        keys=_list(json.dumps(name) for name in names),
    )


def _value(item: Property, place: int) -> str:
    """SQL for a property's value, null where it is not of the type."""
    parsed, type_ = f"e.{_quoted(item.name)}", f"types[{place}]"
    match item.type:
        case PropertyType.STRING:
            return f"CASE WHEN {type_} = 'VARCHAR' THEN {parsed} END"
        case PropertyType.INTEGER:
            # parsed as a whole number 1.5 is rounded: what it was is read again
            double = f"TRY_CAST(json_extract_string(properties, {_literal(_pointer(item.name))}) AS DOUBLE)"
            whole = f"{double} = trunc({double}) AND abs({double}) <= {_MOST_EXACT}"
            return f"CASE WHEN {type_} IN ('UBIGINT', 'BIGINT') OR ({type_} = 'DOUBLE' AND {whole}) THEN {parsed} END"
        case PropertyType.NUMBER:
            return f"CASE WHEN {type_} IN ('UBIGINT', 'BIGINT', 'DOUBLE') AND isfinite({parsed}) THEN {parsed} END"
        case PropertyType.DECIMAL:
            money = f"DECIMAL({MONEY.precision}, {MONEY.scale})"
            return f"CASE WHEN {type_} NOT IN ('BOOLEAN', 'OBJECT', 'ARRAY') THEN TRY_CAST({parsed} AS {money}) END"
        case PropertyType.BOOLEAN:
            return f"CASE WHEN {type_} = 'BOOLEAN' THEN {parsed} END"
        case PropertyType.TIMESTAMP:
            time = time_sql(parsed, type_)
            return f"CASE WHEN {time} BETWEEN {YEAR_1_MS} * 1000 AND {YEAR_10000_MS} * 1000 - 1 THEN {time} END"
        case PropertyType.JSON:
            return f"CAST({parsed} AS VARCHAR)"


def _faults(item: Property, place: int) -> Iterable[str]:
    """SQL for the branches of a CASE that say what is wrong with a property."""
    given = f"coalesce(types[{place}], 'NULL') <> 'NULL'"
    name = _literal(item.name)
    yield f"WHEN v{place} IS NULL AND {given} THEN ['{Reason.PROPERTY_WRONG_TYPE}', {name}]"
    if item.required:
        yield f"WHEN v{place} IS NULL THEN ['{Reason.PROPERTY_MISSING}', {name}]"


def _pointer(name: str) -> str:
    """The JSON pointer (RFC 6901) to a key: unlike a path it can hold any name."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_literal, texts))}]"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
