"""The view events_wide over the silver tables: one row per event, one column per declared property."""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from schemas.silver import COMMON, EXTRA, FOLDER
from stores.sql_text import quoted, sql_type


class _Column(NamedTuple):
    """A column of the view: its SQL type, and the source column of each table that has one; null in the others."""

    type: str
    sources: dict[str, str]


def events_wide_sql(tables: Mapping[str, pa.Schema]) -> str:
    """The SQL of the view. A property that several event types declare with the same type is one column.

    If they declare it with different types, each table gets a column of its own, prefixed with the table's name.

    Args:
        tables: The schemas of the silver tables, by name without the folder; at least one.
    """
    columns = _columns(tables)
    selects = []
    for table in tables:
        values = ", ".join(
            f"{quoted(column.sources[table]) if table in column.sources else f'CAST(NULL AS {column.type})'}"
            f" AS {quoted(name)}"
            for name, column in columns.items()
        )
        selects.append(f"SELECT {values} FROM {quoted(FOLDER)}.{quoted(table)}")
    return " UNION ALL ".join(selects)


def _columns(tables: Mapping[str, pa.Schema]) -> dict[str, _Column]:
    """The columns of the view by name; names are unique regardless of case, as in SQL."""
    common = {field.name: _Column(sql_type(field.type), dict.fromkeys(tables, field.name)) for field in COMMON}
    extra = {EXTRA.name: _Column(sql_type(EXTRA.type), dict.fromkeys(tables, EXTRA.name))}
    declared = [
        (table, field.name, sql_type(field.type))
        for table, schema in tables.items()
        for field in schema
        if field.name not in common | extra
    ]
    types: dict[str, set[str]] = {}
    for _, name, type_ in declared:
        types.setdefault(name.casefold(), set()).add(type_)
    found: dict[str, tuple[str, _Column]] = {}
    for table, name, type_ in declared:
        wide = name if len(types[name.casefold()]) == 1 else f"{table}_{name}"
        while wide.casefold() in found and found[wide.casefold()][1].type != type_:
            wide += "_"
        found.setdefault(wide.casefold(), (wide, _Column(type_, {})))[1].sources[table] = name
    return common | dict(found.values()) | extra
