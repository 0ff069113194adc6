"""Windows over a customer's activities that all dialects support: unbounded ROWS frames, and RANGE over integers."""

from collections.abc import Sequence

from sqlglot import exp

from transforms.relationships.aggregates import Function

KEY, MICROS, PLACE, VISIT, HEAD = "customer_key", "micros", "place", "visit", "visit_micros"
"""Columns of the plan: an activity's customer, its time, its place in the customer's order, its visit (the number of
cohort rows so far), and the time of the visit's cohort row."""

ORDER = (MICROS, "activity_id")
"""The order of a customer's activities."""

BEFORE = exp.WindowSpec(
    kind="ROWS", start="UNBOUNDED", start_side="PRECEDING", end=exp.Literal.number(1), end_side="PRECEDING"
)
AFTER = exp.WindowSpec(
    kind="ROWS", start=exp.Literal.number(1), start_side="FOLLOWING", end="UNBOUNDED", end_side="FOLLOWING"
)
_UPTO_HERE = exp.WindowSpec(kind="ROWS", start="UNBOUNDED", start_side="PRECEDING", end="CURRENT ROW")


def window(
    value: exp.Expr, keys: Sequence[str | exp.Expr], order: Sequence[str], frame: exp.WindowSpec | None = None
) -> exp.Window:
    """A window over the rows with equal keys, in this order; a name with a leading minus is descending."""
    # ascending columns are written without NULLS FIRST or LAST: none is null, and not every dialect has the clause
    by = [exp.Ordered(this=exp.column(name[1:]), desc=True) if name[0] == "-" else exp.column(name) for name in order]
    partition = [exp.column(key) if isinstance(key, str) else key.copy() for key in keys]
    return exp.Window(
        this=value, partition_by=partition, order=exp.Order(expressions=by), spec=frame.copy() if frame else None
    )


def upto_here(value: exp.Expr) -> exp.Window:
    """A window over the customer's rows up to and including the current one."""
    return window(value, (KEY,), ORDER, _UPTO_HERE)


def range_before(distance: int) -> exp.WindowSpec:
    """Rows earlier by 1 to `distance` microseconds. Rows with the same time need a `BEFORE` window over that time."""
    start, end = exp.Literal.number(distance), exp.Literal.number(1)
    return exp.WindowSpec(kind="RANGE", start=start, start_side="PRECEDING", end=end, end_side="PRECEDING")


def range_after(distance: int) -> exp.WindowSpec:
    """Rows later by 1 to `distance` microseconds. Rows with the same time need an `AFTER` window over that time."""
    start, end = exp.Literal.number(1), exp.Literal.number(distance)
    return exp.WindowSpec(kind="RANGE", start=start, start_side="FOLLOWING", end=end, end_side="FOLLOWING")


def merged(function: Function, one: exp.Expr, other: exp.Expr) -> exp.Expr:
    """Combine the function's values over two disjoint sets of rows; null if both are null."""
    if function is Function.COUNT:
        return exp.Add(this=one, expression=other)
    first, second = _either(one, other), _either(other, one)
    if function is Function.SUM:
        return _either(exp.Add(this=one, expression=other), one, other)
    compares = exp.LTE if function is Function.MIN else exp.GTE
    # not LEAST, which some dialects evaluate to null if one argument is null
    return exp.Case().when(compares(this=first, expression=second), first).else_(second)


def _either(*values: exp.Expr) -> exp.Expr:
    return exp.Coalesce(this=values[0].copy(), expressions=[value.copy() for value in values[1:]])
