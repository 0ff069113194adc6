"""Types the properties of events that are plainly as declared, in a fraction of the time of the query. No Beam.

type_properties.sql states the rules for any properties. This module finds rows that break none of them by few and
simple tests, and computes the same columns. A row may be missed: the query decides on the others.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.event_types import EventType, Property, PropertyType
from schemas.records import MONEY
from transforms.events.envelope_rules import in_years
from transforms.events.json_members import Kind, MemberFinder, Members

_MOST_DIGITS = 15
"""Integers and doubles of so many digits are the same number."""
_PLAIN_MONEY = rf"^-?[0-9]{{1,{_MOST_DIGITS - MONEY.scale}}}(\.[0-9]{{1,{MONEY.scale}}})?$"
_FAULT = pa.list_(pa.string())

Flags = npt.NDArray[np.bool_]


class PlainProperties(NamedTuple):
    """The rows that are plainly as declared.

    Attributes:
        rows: Their numbers.
        typed: The columns of `property_types.type_query` for these rows.
    """

    rows: npt.NDArray[np.int64]
    typed: pa.Table


class PropertyFinder:
    """Finds the plain properties of events of one type; thread-safe."""

    def __init__(self, event: EventType) -> None:
        self._declared = event.properties
        self._finder = MemberFinder({item.name: () for item in event.properties})

    def find(self, properties: pa.ChunkedArray) -> PlainProperties:
        """Find the rows whose properties are plainly as declared, and type them.

        Args:
            properties: JSON texts, or null.
        """
        members = self._finder.find(properties.cast(pa.binary()))
        plain = (members.document == Kind.OBJECT) & ~members.repeated_key & ~members.lone_surrogate
        plain &= ~members.has_others
        for item in self._declared:
            given = members.kinds(item.name) > Kind.NULL
            plain &= _is_plain(members, item) | ~given
            if item.required:
                plain &= given
        rows = np.flatnonzero(plain)
        columns = [_values(members, item, rows) for item in self._declared]
        # A text or number may still turn out to have no such value
        lost = [
            value.is_null().to_numpy(zero_copy_only=False) & (members.kinds(item.name)[rows] > Kind.NULL)
            for item, value in zip(self._declared, columns, strict=True)
        ]
        texts = pa.nulls(len(rows), pa.string())
        typed = pa.table(
            [*columns, pa.nulls(len(rows), _FAULT), texts, texts],
            [
                *(f"v{place}" for place in range(1, len(columns) + 1)),
                "fault",
                "extra_properties",
                "declared_properties",
            ],
        )
        kept = ~np.logical_or.reduce(lost)
        return PlainProperties(rows, typed) if kept.all() else PlainProperties(rows[kept], typed.filter(pa.array(kept)))


def _is_plain(members: Members, item: Property) -> Flags:
    """By row, whether the member is likely to be of the property's type."""
    if item.type is PropertyType.TIMESTAMP:
        micros, known = members.times(item.name)
        return known & in_years(micros)
    kinds = members.kinds(item.name)
    exact = (kinds == Kind.INTEGER) & (members.sizes(item.name) <= _MOST_DIGITS)
    return {
        PropertyType.STRING: kinds == Kind.TEXT,
        PropertyType.INTEGER: exact,
        PropertyType.NUMBER: exact | (kinds == Kind.NUMBER),
        PropertyType.DECIMAL: exact | (kinds == Kind.NUMBER) | (kinds == Kind.TEXT),
        PropertyType.BOOLEAN: kinds == Kind.BOOLEAN,
        # The query writes it without white space
        PropertyType.JSON: np.zeros(len(kinds), np.bool_),
    }[item.type]


def _values(members: Members, item: Property, rows: npt.NDArray[np.int64]) -> pa.Array:
    """The values of the rows; null where there is none, or where the query has to decide."""
    if item.type is PropertyType.TIMESTAMP:
        micros, _ = members.times(item.name)
        return pa.array(micros[rows], mask=members.kinds(item.name)[rows] <= Kind.NULL)
    texts = members.texts(item.name, rows=rows)
    match item.type:
        case PropertyType.INTEGER:
            return texts.cast(pa.int64())
        case PropertyType.NUMBER:
            values = texts.cast(pa.float64())
            return pc.if_else(pc.is_finite(values), values, None)
        case PropertyType.DECIMAL:
            return pc.if_else(pc.match_substring_regex(texts, _PLAIN_MONEY), texts, None).cast(MONEY)
        case PropertyType.BOOLEAN:
            return pc.equal(texts, "true")
    return texts
