"""Aggregates over the activities of a period: count, sum, minimum, maximum, average, distinct count."""

from dataclasses import dataclass
from enum import StrEnum

from sqlglot import exp

from transforms.relationships.columns import Column, Kind, as_column


class Function(StrEnum):
    """An aggregate function."""

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    AVG = "avg"
    COUNT_DISTINCT = "count_distinct"


@dataclass(frozen=True)
class Aggregate:
    """A function over a column, or over rows. Nulls are ignored; without values a count is 0, and others are null."""

    function: Function
    column: Column | None = None

    @property
    def label(self) -> str:
        """The second part of its column's name, after the name of the appended item."""
        return self.function if self.column is None else f"{self.function}_{self.column.label}"

    def problems(self) -> list[str]:
        """The errors in the aggregate, one line each."""
        if self.column is None:
            return []
        found = self.column.problems()
        if not found and self.function in (Function.SUM, Function.AVG) and self.column.kind is not Kind.NUMBER:
            hint = (
                f"; number({self.column.name!r}), or number:{self.column.name}, reads it as one"
                if self.column.kind is Kind.TEXT
                else ""
            )
            found.append(f"{self.function} of {self.column.name}: it is {self.column.kind}, not a number{hint}")
        return found


def count() -> Aggregate:
    """The number of activities."""
    return Aggregate(Function.COUNT)


def sum_of(column: str | Column) -> Aggregate:
    """The sum of a numeric column."""
    return Aggregate(Function.SUM, as_column(column))


def min_of(column: str | Column) -> Aggregate:
    """The smallest value."""
    return Aggregate(Function.MIN, as_column(column))


def max_of(column: str | Column) -> Aggregate:
    """The largest value."""
    return Aggregate(Function.MAX, as_column(column))


def avg_of(column: str | Column) -> Aggregate:
    """The average of a numeric column."""
    return Aggregate(Function.AVG, as_column(column))


def count_distinct(column: str | Column) -> Aggregate:
    """The number of distinct values."""
    return Aggregate(Function.COUNT_DISTINCT, as_column(column))


def aggregated(function: Function, value: exp.Expr) -> exp.Expr:
    """Apply the function to an expression."""
    match function:
        case Function.COUNT:
            return exp.Count(this=value)
        case Function.SUM:
            return exp.Sum(this=value)
        case Function.MIN:
            return exp.Min(this=value)
        case Function.MAX:
            return exp.Max(this=value)
        case Function.AVG:
            return exp.Avg(this=value)
        case Function.COUNT_DISTINCT:
            return exp.Count(this=exp.Distinct(expressions=[value]))
