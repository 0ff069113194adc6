"""Columns of user_stream, and the features inside feature_json, as a question names them."""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
from sqlglot import exp

from schemas.records import TIMESTAMP
from schemas.user_stream import COMPUTED, USER_STREAM

FEATURES = "feature_json."
"""Before the name of a feature that has no column of its own: feature_json.campaign."""


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    NUMBER = "a number"
    TIME = "a time"
    DATE = "a date"
    FLAG = "true or false"


def _kind(kind: pa.DataType) -> Kind:
    if pa.types.is_decimal(kind) or pa.types.is_integer(kind):
        return Kind.NUMBER
    return {TIMESTAMP: Kind.TIME, pa.date32(): Kind.DATE, pa.bool_(): Kind.FLAG}.get(kind, Kind.TEXT)


STREAM = {field.name: _kind(field.type) for field in (*USER_STREAM, *COMPUTED)}
"""The columns of the stream as the view has it, and what they hold."""


@dataclass(frozen=True)
class Column:
    """A column to select, to compare or to aggregate.

    Attributes:
        name: A column of `STREAM`, or ``feature_json.`` and a feature's name.
        as_number: Whether its text is read as a number.
    """

    name: str
    as_number: bool = False

    @property
    def label(self) -> str:
        """What the column is called in SQL.

        >>> Column("feature_json.page-type").label, number("feature_1").label
        ('feature_json_page_type', 'feature_1_number')
        """
        return identifier(self.name) + ("_number" if self.as_number else "")

    @property
    def kind(self) -> Kind:
        """What it holds."""
        return Kind.NUMBER if self.as_number else STREAM.get(self.name, Kind.TEXT)

    @property
    def sql(self) -> exp.Expr:
        """Its value in a row of user_stream; null where a text that is to be a number is none."""
        feature = self.name.removeprefix(FEATURES)
        value: exp.Expr = exp.column(self.name)
        if feature != self.name:
            path = exp.JSONPath(expressions=[exp.JSONPathRoot(), exp.JSONPathKey(this=feature)])
            value = exp.JSONExtractScalar(this=exp.column("feature_json"), expression=path)
        if self.as_number:
            number_type = exp.DataType.build("DECIMAL(38, 9)")
            value = exp.TryCast(this=value, to=number_type, safe=True, requires_string=True)
        return value

    def problems(self) -> list[str]:
        """What keeps it from being a column; one line each."""
        if self.name not in STREAM and self.name.removeprefix(FEATURES) in ("", self.name):
            return [f"{self.name!r} is no column: take {', '.join(STREAM)} or {FEATURES}NAME"]
        if self.as_number and STREAM.get(self.name, Kind.TEXT) is not Kind.TEXT:
            return [f"number({self.name!r}): only text is read as a number, and {self.name} is none"]
        return []


def number(name: str) -> Column:
    """A text column read as a number; null where it is none."""
    return Column(name, as_number=True)


def as_column(column: str | Column) -> Column:
    """A column, of its name or as it is."""
    return column if isinstance(column, Column) else Column(column)


def identifier(text: str) -> str:
    """A text as part of a column's name: what is no ASCII letter or digit becomes an underscore.

    >>> identifier("email open")
    'email_open'
    """
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)
