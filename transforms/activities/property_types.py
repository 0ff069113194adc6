"""The query that converts the properties of events of one type to typed columns. docs/layers.md has the rules."""

import json
from collections.abc import Iterable
from importlib import resources
from string import Template

from schemas.dead_letters import Reason
from schemas.event_types import EventType, Property, PropertyType
from schemas.records import MONEY
from stores.sql_text import json_pointer, literal, quoted
from transforms.events.envelope_rules import YEAR_1_MS, YEAR_10000_MS, time_sql

_TEMPLATE = Template(resources.files(__package__).joinpath("type_properties.sql").read_text(encoding="utf-8"))

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
"""A double represents all integers up to this exactly, so 5.0 is as exact as 5."""


def type_query(event: EventType) -> str:
    """Build the SQL over ``given``, a table with the text column properties.

    The result has these columns:

    - v1, v2, v3 … for the type's properties in order; null if the value is missing, null or of another type. Times are
      microseconds since 1970.
    - fault: [reason, property] for the first wrong property; null if all are right.
    - extra_properties: the properties that are not declared; null if there are none.
    - declared_properties: the declared ones, if there are extra properties; else null.

    Args:
        event: An event type with at least one property.
    """
    declared = event.properties
    names = [item.name for item in declared]
    faults = [fault for place, item in enumerate(declared, 1) for fault in _faults(item, place)]
    return _TEMPLATE.substitute(
        structure=literal(json.dumps({item.name: _PARSED_AS[item.type] for item in declared})),
        pointers=_list(map(json_pointer, names)),
        values=", ".join(f"{_value(item, place)} AS v{place}" for place, item in enumerate(declared, 1)),
        columns=", ".join(f"v{place}" for place in range(1, len(declared) + 1)),
        faults=" ".join(faults),
        without_declared=literal(json.dumps(dict.fromkeys(names))),
        keys=_list(literal(json.dumps(name)) for name in names),
    )


def _value(item: Property, place: int) -> str:
    """SQL for a property's value; null if the value is not of the property's type."""
    parsed, type_ = f"e.{quoted(item.name)}", f"types[{place}]"
    whole = f"{type_} IN ('UBIGINT', 'BIGINT')"
    money = f"DECIMAL({MONEY.precision}, {MONEY.scale})"
    # DuckDB rounds 1.5 when it parses it as an integer, so the original value is read again
    double = f"TRY_CAST(json_extract_string(properties, {json_pointer(item.name)}) AS DOUBLE)"
    written_double = f"{type_} = 'DOUBLE' AND {double} = trunc({double}) AND abs({double}) <= {_MOST_EXACT}"
    in_range = f"lambda time: time BETWEEN {YEAR_1_MS} * 1000 AND {YEAR_10000_MS} * 1000 - 1"
    instant = time_sql(parsed, f"{type_} = 'VARCHAR'", f"{type_} = 'DOUBLE'")
    time = f"list_filter([{instant}], {in_range})[1]"
    test, value = {
        PropertyType.STRING: (f"{type_} = 'VARCHAR'", parsed),
        PropertyType.INTEGER: (f"{whole} OR ({written_double})", parsed),
        PropertyType.NUMBER: (f"({whole} OR {type_} = 'DOUBLE') AND isfinite({parsed})", parsed),
        PropertyType.DECIMAL: (f"{type_} NOT IN ('BOOLEAN', 'OBJECT', 'ARRAY')", f"TRY_CAST({parsed} AS {money})"),
        PropertyType.BOOLEAN: (f"{type_} = 'BOOLEAN'", parsed),
        PropertyType.TIMESTAMP: ("true", time),
        PropertyType.JSON: ("true", f"CAST({parsed} AS VARCHAR)"),
    }[item.type]
    return f"CASE WHEN {test} THEN {value} END"


def _faults(item: Property, place: int) -> Iterable[str]:
    """SQL for the branches of a CASE that report what is wrong with a property."""
    given = f"coalesce(types[{place}], 'NULL') <> 'NULL'"
    name = literal(item.name)
    yield f"WHEN v{place} IS NULL AND {given} THEN ['{Reason.PROPERTY_WRONG_TYPE}', {name}]"
    if item.required:
        yield f"WHEN v{place} IS NULL THEN ['{Reason.PROPERTY_MISSING}', {name}]"


def _list(literals: Iterable[str]) -> str:
    return f"[{', '.join(literals)}]"
