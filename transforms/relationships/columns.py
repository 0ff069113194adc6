"""Columns of a question: those of user_stream, and the features inside feature_json."""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
from sqlglot import exp

from schemas.records import TIMESTAMP
from schemas.user_stream import COMPUTED, USER_STREAM

FEATURES = "feature_json."
"""The prefix of a feature that has no column of its own, as in feature_json.campaign."""


class Kind(StrEnum):
    """The kind of values in a column."""

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
"""The columns of the view user_stream, and their kinds."""


@dataclass(frozen=True)
class Column:
    """A column to select, to compare or to aggregate.

    Attributes:
        name: A column of `STREAM`, or ``feature_json.`` followed by a feature's name.
        as_number: Whether the column's text is read as a number.
    """

    name: str
    as_number: bool = False

    @property
    def label(self) -> str:
        """The column's name in SQL.

        >>> Column("feature_json.page-type").label, number("feature_1").label
        ('feature_json_page_type', 'feature_1_number')
        """
        return identifier(self.name) + ("_number" if self.as_number else "")

    @property
    def kind(self) -> Kind:
        """The kind of the column's values."""
        return Kind.NUMBER if self.as_number else STREAM.get(self.name, Kind.TEXT)

    @property
    def sql(self) -> exp.Expr:
        """The column's value in a row of user_stream; null if text to be read as a number is not a number."""
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
        """The errors in the column, one line each."""
        if self.name not in STREAM and self.name.removeprefix(FEATURES) in ("", self.name):
            return [f"{self.name!r} is no column: take {', '.join(STREAM)} or {FEATURES}NAME"]
        if self.as_number and STREAM.get(self.name, Kind.TEXT) is not Kind.TEXT:
            return [f"number({self.name!r}): only text can be read as a number, and {self.name} is not text"]
        return []


def number(name: str) -> Column:
    """A text column read as a number; null if the text is not a number."""
    return Column(name, as_number=True)


def as_column(column: str | Column) -> Column:
    """Convert a column's name to a `Column`; a `Column` is returned unchanged."""
    return column if isinstance(column, Column) else Column(column)


def identifier(text: str) -> str:
    """Make a text part of a column name: every character but ASCII letters and digits becomes an underscore.

    >>> identifier("email open")
    'email_open'
    """
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)
