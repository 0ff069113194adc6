"""Conditions on the rows of an activity. A null meets no condition except `missing`."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlglot import exp

from schemas.durations import parse_time
from schemas.errors import OptionError
from transforms.relationships.columns import Column, Kind, as_column

Value = str | int | float | Decimal | datetime | bool
"""A value to compare a column with; times, numbers and booleans may be given as text."""

_COMPARISONS: dict[str, type[exp.Binary]] = {
    ">=": exp.GTE,
    "<=": exp.LTE,
    ">": exp.GT,
    "<": exp.LT,
    "!=": exp.NEQ,
}


@dataclass(frozen=True)
class Condition:
    """A condition that a row must meet.

    Attributes:
        column: The column that is tested.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``missing`` or ``present``.
        values: The values to compare with: one or more for ``=``, none for ``missing`` and ``present``, else one.
    """

    column: Column
    operator: str
    values: tuple[Value, ...] = ()

    @property
    def sql(self) -> exp.Expr:
        """The condition on a row of user_stream; its value may be null."""
        column = self.column.sql
        if self.operator in ("missing", "present"):
            null = exp.Is(this=column, expression=exp.null())
            return null if self.operator == "missing" else exp.Not(this=null)
        literals = [_literal(self.column.kind, value) for value in self.values]
        if self.operator == "=":
            return exp.In(this=column, expressions=literals)
        return _COMPARISONS[self.operator](this=column, expression=literals[0])

    def problems(self) -> list[str]:
        """The errors in the condition, one line each."""
        found = self.column.problems()
        if self.operator in ("missing", "present"):
            return found
        if not self.values:
            return [*found, f"{self.column.name} {self.operator}: nothing to compare with"]
        for value in self.values if not found else ():
            try:
                _literal(self.column.kind, value)
            except (OptionError, ValueError) as error:
                found.append(f"{self.column.name} {self.operator} {value!r}: {error}")
        return found


def equals(column: str | Column, *values: Value) -> Condition:
    """The column equals one of these values."""
    return Condition(as_column(column), "=", values)


def differs(column: str | Column, value: Value) -> Condition:
    """The column has another value than this one; a null does not differ."""
    return Condition(as_column(column), "!=", (value,))


def at_least(column: str | Column, value: Value) -> Condition:
    """The column is this value or more; text is compared by code points."""
    return Condition(as_column(column), ">=", (value,))


def at_most(column: str | Column, value: Value) -> Condition:
    """The column is this value or less."""
    return Condition(as_column(column), "<=", (value,))


def more_than(column: str | Column, value: Value) -> Condition:
    """The column is more than this value."""
    return Condition(as_column(column), ">", (value,))


def less_than(column: str | Column, value: Value) -> Condition:
    """The column is less than this value."""
    return Condition(as_column(column), "<", (value,))


def missing(column: str | Column) -> Condition:
    """The column is null."""
    return Condition(as_column(column), "missing")


def present(column: str | Column) -> Condition:
    """The column is not null."""
    return Condition(as_column(column), "present")


def _literal(kind: Kind, value: Value) -> exp.Expr:
    if kind is Kind.NUMBER:
        try:
            exact = Decimal(str(value))
        except ArithmeticError as error:
            raise OptionError("not a number") from error
        if not exact.is_finite():
            raise OptionError("not a number")
        return exp.cast(exp.Literal.string(format(exact, "f")), "DECIMAL(38, 9)")
    if kind is Kind.TIME:
        time = value if isinstance(value, datetime) and value.tzinfo else parse_time(str(value))
        return exp.cast(exp.Literal.string(time.isoformat()), "TIMESTAMPTZ")
    if kind is Kind.DATE:
        return exp.cast(exp.Literal.string(parse_time(str(value)).date().isoformat()), "DATE")
    if kind is Kind.FLAG:
        if str(value).lower() not in ("true", "false"):
            raise OptionError("neither true nor false")
        return exp.Boolean(this=str(value).lower() == "true")
    if not isinstance(value, str):
        raise OptionError("the column is text; number() reads it as a number")
    return exp.Literal.string(value)
