"""Queries over user_stream: a cohort of activities, to which other activities of the same customer are appended."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import pyarrow as pa
from sqlglot import ErrorLevel, exp

from schemas.errors import OptionError
from schemas.user_stream import USER_STREAM
from stores.lake_sql import query
from transforms.relationships.appended import Appended, Checked
from transforms.relationships.columns import Column, as_column
from transforms.relationships.conditions import Condition
from transforms.relationships.plan import plan

Dialect = Literal["duckdb", "bigquery", "snowflake", "spark"]
DIALECTS: tuple[str, ...] = get_args(Dialect)
_OCCURRENCES = ("all", "first", "last")
_COLUMNS = ("activity_id", "ts", "customer", "anonymous_customer_id")


@dataclass(frozen=True)
class Cohort:
    """The activities that are the rows of the result, and the items appended to each of them as columns.

    The result has exactly one row for each activity of the cohort, whatever is appended. The rows are unordered unless
    an order is requested.

    Attributes:
        activity: The activity's name.
        occurrence: Which of a customer's activities: ``all``, ``first``, ``last``, or the nth, counted from 1.
        where: Conditions on the cohort's activities; occurrences are counted among those that meet them.
        columns: The columns of the cohort's activities in the result.
        appended: The appended items.
    """

    activity: str
    occurrence: int | str = "all"
    where: tuple[Condition, ...] = ()
    columns: tuple[Column, ...] = tuple(map(Column, _COLUMNS))
    appended: tuple[Appended, ...] = ()

    def append(self, *appended: Appended) -> "Cohort":
        """This cohort with more appended items."""
        return replace(self, appended=(*self.appended, *appended))

    @property
    def labels(self) -> list[str]:
        """The names of the result's columns, in order."""
        return [*(column.label for column in self.columns), *(name for item in self.appended for name in item.labels)]

    def problems(self) -> list[str]:
        """The errors in the question, one line each."""
        found = [] if self.activity else ["the cohort's activity has no name"]
        numbered = isinstance(self.occurrence, int) and self.occurrence >= 1
        if self.occurrence not in _OCCURRENCES and not numbered:
            found.append(f"occurrence {self.occurrence!r}: take {', '.join(_OCCURRENCES)} or a number from 1")
        parts: list[Checked] = [*self.columns, *self.where, *self.appended]
        for part in parts:
            found += part.problems()
        if not self.labels:
            found.append("the result has no columns")
        for name, times in Counter(label.lower() for label in self.labels).items():
            if times > 1:
                found.append(f"{times} columns are called {name}: rename appended items with name= or 'as NAME'")
        return found

    def sql(self, dialect: Dialect = "duckdb", *, ordered: bool = False, table: str = USER_STREAM.name) -> str:
        """The question as one SELECT.

        Args:
            dialect: The SQL dialect: ``duckdb``, ``bigquery``, ``snowflake`` or ``spark``.
            ordered: Whether to order the rows by (ts, activity_id).
            table: The stream's table, qualified as the warehouse requires.

        Raises:
            OptionError: The question has errors; the message lists all, one line each.
        """
        found = self.problems()
        if dialect not in DIALECTS:
            found.append(f"dialect {dialect!r} is none of {', '.join(DIALECTS)}")
        if found:
            raise OptionError("\n".join(found))
        select = plan(self.activity, self.occurrence, self.columns, self.where, self.appended, table)
        if ordered:
            select = select.order_by("cohort.micros", "cohort.activity_id")
        tree = select.transform(_snowflake) if dialect == "snowflake" else select
        return tree.sql(dialect, pretty=True, unsupported_level=ErrorLevel.RAISE)

    def run(self, lake: str) -> pa.Table:
        """Run the question on a lake.

        Args:
            lake: The lake's URI.

        Raises:
            OptionError: The question has errors; the message lists all, one line each.
            InputError: The lake has no user_stream.
            StoreError: The lake cannot be read.
        """
        with query(lake, self.sql()) as reader:
            return reader.read_all()


def cohort(
    activity: str,
    *,
    occurrence: int | str = "all",
    where: Sequence[Condition] = (),
    columns: Sequence[str | Column] = _COLUMNS,
) -> Cohort:
    """Start a question; the arguments are the attributes of `Cohort`.

    >>> from transforms.relationships import first_after
    >>> question = cohort("email_open", columns=["ts"]).append(first_after("click", within="1h"))
    >>> question.labels
    ['ts', 'first_after_click_ts']
    """
    return Cohort(activity, occurrence, tuple(where), tuple(map(as_column, columns)))


def _snowflake(node: exp.Expr) -> exp.Expr:
    """Write UNIX_MICROS as Snowflake's DATE_PART, which sqlglot does not do."""
    if isinstance(node, exp.UnixMicros):
        return exp.Anonymous(this="DATE_PART", expressions=[exp.var("EPOCH_MICROSECOND"), node.this])
    return node
