"""The measures of an appended item: functions over its activities in a period, and how they combine to its values."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlglot import exp

from transforms.relationships.aggregates import Aggregate, Function, aggregated
from transforms.relationships.appended import TIME, Appended, Period
from transforms.relationships.frames import (
    AFTER,
    BEFORE,
    HEAD,
    KEY,
    MICROS,
    ORDER,
    PLACE,
    merged,
    range_after,
    range_before,
    window,
)


@dataclass(frozen=True)
class Measure:
    """An aggregate function over the rows of a period that a flag marks.

    Attributes:
        name: The measure's column in the plan.
        function: The aggregate function.
        flag: The column that says whether a row is included.
        value: The column that is aggregated; None to count rows.
    """

    name: str
    function: Function
    flag: str
    value: str | None = None

    def over(self, *conditions: exp.Expr) -> exp.Expr:
        """Apply the function to the marked rows that meet the conditions."""
        value = exp.column(self.value) if self.value else exp.Literal.number(1)
        return aggregated(self.function, exp.Case().when(exp.and_(exp.column(self.flag), *conditions), value))


def measures(number: int, item: Appended) -> list[Measure]:
    """The measures that an item needs: the time or place of the picked activity, or the parts of its aggregates."""
    flag = f"hit_{number}"
    if item.pick is not None:
        return [Measure(f"pick_{number}", item.pick, flag, TIME.label if item.is_timed else PLACE)]
    found = []
    for index, aggregate in enumerate(item.aggregates, start=1):
        name = f"value_{number}_{index}"
        value = aggregate.column.label if aggregate.column else None
        if marks_new(item, aggregate):
            found.append(Measure(name, Function.COUNT, f"is_new_{number}_{index}"))
        elif aggregate.function is Function.AVG and is_split(item):
            found += [Measure(f"{name}_{part}", part, flag, value) for part in (Function.SUM, Function.COUNT)]
        else:
            found.append(Measure(name, aggregate.function, flag, value))
    return found


def picks_by_place(item: Appended) -> bool:
    """Whether it picks an activity and needs more than its time."""
    return item.pick is not None and not item.is_timed


def is_split(item: Appended) -> bool:
    """Whether each measure needs two windows, because RANGE cannot separate activities of the same time."""
    return item.period in (Period.BEFORE, Period.AFTER) and item.distance is not None and not item.is_nearest


def marks_new(item: Appended, aggregate: Aggregate) -> bool:
    """Whether distinct values are counted by marking new ones: only one dialect counts them in ordered windows."""
    return aggregate.function is Function.COUNT_DISTINCT and item.period in (Period.BEFORE, Period.AFTER)


def windows(item: Appended, measure: Measure) -> list[tuple[str, exp.Expr]]:
    """The windows that compute a measure before or after each row, with the names of their columns."""
    before = item.period is Period.BEFORE
    side = BEFORE if before else AFTER
    if not is_split(item):
        return [(measure.name, window(measure.over(), (KEY,), (PLACE,) if measure.value == PLACE else ORDER, side))]
    far = (range_before if before else range_after)(item.distance or 0)
    return [
        (measure.name, window(measure.over(), (KEY,), (MICROS,), far)),
        (f"{measure.name}_same", window(measure.over(), (KEY, MICROS), ("activity_id",), side)),
    ]


def grouped(item: Appended, number: int, measure: Measure) -> exp.Expr:
    """A measure over all rows of a visit except its cohort row, or over all rows of a customer."""
    conditions: list[exp.Expr] = []
    if item.period is Period.IN_BETWEEN:
        conditions.append(exp.Not(this=exp.column("is_cohort")))
        if item.distance is not None:
            apart = exp.Sub(this=exp.column(MICROS), expression=exp.column(HEAD))
            conditions.append(exp.LTE(this=apart, expression=exp.Literal.number(item.distance)))
    if item.nth is not None:
        conditions.append(exp.EQ(this=exp.column(f"rank_{number}"), expression=exp.Literal.number(item.nth)))
    return measure.over(*conditions)


def values(number: int, item: Appended, column: Callable[[str], exp.Expr]) -> list[exp.Expr]:
    """Combine the measures of an item to its values: the picked time or place, or its aggregates in order.

    Args:
        number: The item's number.
        item: The appended item.
        column: Returns the column of the plan with a name.
    """
    found: dict[str, exp.Expr] = {}
    for measure in measures(number, item):
        value = column(measure.name)
        if item.period is Period.IN_BETWEEN and measure.function in (Function.COUNT, Function.COUNT_DISTINCT):
            value = exp.Coalesce(this=value, expressions=[exp.Literal.number(0)])  # nothing in between
        if is_split(item):
            value = merged(measure.function, value, column(f"{measure.name}_same"))
        found[measure.name] = value
    if item.pick is not None:
        return list(found.values())
    return [_whole(f"value_{number}_{index}", found) for index in range(1, len(item.aggregates) + 1)]


def _whole(name: str, found: dict[str, exp.Expr]) -> exp.Expr:
    if name in found:
        return found[name]
    count = exp.func("NULLIF", found[f"{name}_{Function.COUNT}"], exp.Literal.number(0))
    return exp.Div(this=found[f"{name}_{Function.SUM}"], expression=count)
