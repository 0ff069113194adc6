"""Windows over the activities of a customer, in forms that every dialect has: ROWS to the ends, RANGE over integers."""

from collections.abc import Sequence

from sqlglot import exp

from transforms.relationships.aggregates import Function

KEY, MICROS, PLACE, VISIT, HEAD = "customer_key", "micros", "place", "visit", "visit_micros"
"""Whose activity it is, its time, its place among the customer's, its visit, and the time of the visit's cohort row."""

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
    """A window over the rows of the same keys in this order; a name with a minus before it is descending."""
    # bare columns where ascending: none is null, and not every dialect can say where nulls go
    by = [exp.Ordered(this=exp.column(name[1:]), desc=True) if name[0] == "-" else exp.column(name) for name in order]
    partition = [exp.column(key) if isinstance(key, str) else key.copy() for key in keys]
    return exp.Window(
        this=value, partition_by=partition, order=exp.Order(expressions=by), spec=frame.copy() if frame else None
    )


def upto_here(value: exp.Expr) -> exp.Window:
    """A window over the customer's rows up to this one, itself included."""
    return window(value, (KEY,), ORDER, _UPTO_HERE)


def range_before(distance: int) -> exp.WindowSpec:
    """Earlier rows, by at most so many microseconds; those of the very same time are in `BEFORE` within it."""
    start, end = exp.Literal.number(distance), exp.Literal.number(1)
    return exp.WindowSpec(kind="RANGE", start=start, start_side="PRECEDING", end=end, end_side="PRECEDING")


def range_after(distance: int) -> exp.WindowSpec:
    """Later rows, by at most so many microseconds; those of the very same time are in `AFTER` within it."""
    start, end = exp.Literal.number(1), exp.Literal.number(distance)
    return exp.WindowSpec(kind="RANGE", start=start, start_side="FOLLOWING", end=end, end_side="FOLLOWING")


def merged(function: Function, one: exp.Expr, other: exp.Expr) -> exp.Expr:
    """The value over two sets of rows, from that of each; null where both are."""
    if function is Function.COUNT:
        return exp.Add(this=one, expression=other)
    first, second = _either(one, other), _either(other, one)
    if function is Function.SUM:
        return _either(exp.Add(this=one, expression=other), one, other)
    compares = exp.LTE if function is Function.MIN else exp.GTE
    # not LEAST, which is null in some dialects where one of the two is
    return exp.Case().when(compares(this=first, expression=second), first).else_(second)


def _either(*values: exp.Expr) -> exp.Expr:
    return exp.Coalesce(this=values[0].copy(), expressions=[value.copy() for value in values[1:]])
