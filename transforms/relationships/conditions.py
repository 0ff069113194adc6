"""Conditions on the rows of an activity. A null meets none of them but `missing`."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlglot import exp

from schemas.durations import parse_time
from schemas.errors import OptionError
from transforms.relationships.columns import Column, Kind, as_column

Value = str | int | float | Decimal | datetime | bool
"""What a column is compared with; a time, a number and true or false may be text."""

_COMPARISONS: dict[str, type[exp.Binary]] = {
    ">=": exp.GTE,
    "<=": exp.LTE,
    ">": exp.GT,
    "<": exp.LT,
    "!=": exp.NEQ,
}


@dataclass(frozen=True)
class Condition:
    """What a row must meet.

    Attributes:
        column: The column that is looked at.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``missing`` or ``present``.
        values: What it is compared with: one value, any number for ``=``, none for ``missing`` and ``present``.
    """

    column: Column
    operator: str
    values: tuple[Value, ...] = ()

    @property
    def sql(self) -> exp.Expr:
        """The condition over a row of user_stream; may be null."""
        column = self.column.sql
        if self.operator in ("missing", "present"):
            null = exp.Is(this=column, expression=exp.null())
            return null if self.operator == "missing" else exp.Not(this=null)
        literals = [_literal(self.column.kind, value) for value in self.values]
        if self.operator == "=":
            return exp.In(this=column, expressions=literals)
        return _COMPARISONS[self.operator](this=column, expression=literals[0])

    def problems(self) -> list[str]:
        """What is wrong with it; one line each."""
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
    """The column is one of these values."""
    return Condition(as_column(column), "=", values)


def differs(column: str | Column, value: Value) -> Condition:
    """The column has another value than this one; null is no value."""
    return Condition(as_column(column), "!=", (value,))


def at_least(column: str | Column, value: Value) -> Condition:
    """The column is this or more; text compares by its code points."""
    return Condition(as_column(column), ">=", (value,))


def at_most(column: str | Column, value: Value) -> Condition:
    """The column is this or less."""
    return Condition(as_column(column), "<=", (value,))


def more_than(column: str | Column, value: Value) -> Condition:
    """The column is more than this."""
    return Condition(as_column(column), ">", (value,))


def less_than(column: str | Column, value: Value) -> Condition:
    """The column is less than this."""
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
