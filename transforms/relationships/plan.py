"""Plans a cohort and its appended items as one SELECT over user_stream.

No range joins are used. The activities in question are ordered once, and each gets the number of its visit, which is
the number of cohort rows so far. *Before* and *after* are windows over that order; *in between* and *ever* are
groupings by visit and by customer. For a picked activity they give its time or, if other columns are needed, its place,
by which its row is joined. Every join is an outer join on a unique key, so that no cohort row is duplicated or lost.
"""

from collections.abc import Sequence
from functools import partial

from sqlglot import exp

from transforms.relationships.appended import DONE, TIME, Appended, Period
from transforms.relationships.columns import Column
from transforms.relationships.conditions import Condition
from transforms.relationships.frames import HEAD, KEY, MICROS, ORDER, PLACE, VISIT, upto_here, window
from transforms.relationships.measures import grouped, marks_new, measures, picks_by_place, values, windows

_NOBODY = "activity:"
"""The prefix for the key of an activity without a customer: with its activity_id it is a customer of its own."""

_SOURCES = {Period.EVER: "customers", Period.IN_BETWEEN: "visits", Period.BEFORE: "cohort", Period.AFTER: "cohort"}
"""The part of the plan that computes the measures of a period."""

Items = Sequence[tuple[int, Appended]]


def plan(
    activity: str,
    occurrence: int | str,
    columns: Sequence[Column],
    where: Sequence[Condition],
    appended: Sequence[Appended],
    table: str,
) -> exp.Select:
    """Build the query for a cohort; the arguments must be valid.

    Args:
        activity: The cohort's activity.
        occurrence: ``all``, ``first``, ``last`` or a number.
        columns: The columns of the cohort's rows.
        where: Conditions on the cohort's rows.
        appended: The appended items.
        table: The table or view of the stream.
    """
    items = tuple(enumerate(appended, start=1))
    sources = {_SOURCES[item.period] for item in appended}
    is_placed = any(_SOURCES[item.period] == "cohort" and _looks_at_order(item) for item in appended)
    rows = "placed" if is_placed else "ordered"
    query = exp.select(*(exp.alias_(_of("cohort", column.label), column.label) for column in columns))
    query = query.from_(_aliased(rows, "cohort")).where(_of("cohort", "is_cohort"))
    query = query.with_("activities", as_=_activities(activity, columns, where, items, table))
    query = query.with_("ordered", as_=_ordered(items, visits=occurrence != "all" or "visits" in sources))
    if is_placed:
        query = query.with_("placed", as_=_placed(items))
    if "visits" in sources:
        query = query.with_("visits", as_=_grouped(items, Period.IN_BETWEEN, KEY, VISIT))
        query = query.join("visits", on=_same("visits", KEY, VISIT), join_type="left")
    if "customers" in sources or occurrence == "last":
        query = query.with_("customers", as_=_grouped(items, Period.EVER, KEY))
        query = query.join("customers", on=_same("customers", KEY), join_type="left")
    if occurrence != "all":
        numbers = {"first": exp.Literal.number(1), "last": _of("customers", "visits")}
        wanted = numbers.get(str(occurrence)) or exp.Literal.number(occurrence)
        query = query.where(exp.EQ(this=_of("cohort", VISIT), expression=wanted))
    for number, item in items:
        query = _append(query, number, item)
    return query


def _append(query: exp.Select, number: int, item: Appended) -> exp.Select:
    """Add the columns of one item to the query, and the join that fetches a picked activity."""
    found = values(number, item, partial(_of, _SOURCES[item.period]))
    if item.is_timed:
        (time,) = found
        time = _near(time, item) if _has_to_be_near(item) else time
        found = [_is_there(time) if column == DONE else time for column in item.columns]
    elif picks_by_place(item):
        picked = f"picked_{number}"
        query = query.join(_aliased("ordered", picked), on=_picks(number, item, *found), join_type="left")
        there = _is_there(_of(picked, PLACE))
        found = [there if column == DONE else _of(picked, column.label) for column in item.columns]
    return query.select(*(exp.alias_(value.copy(), label) for value, label in zip(found, item.labels, strict=True)))


def _picks(number: int, item: Appended, place: exp.Expr) -> exp.Expr:
    """The condition that a row is the one at this place and, for the nearest activity, that it is near enough."""
    picked = f"picked_{number}"
    at = exp.EQ(this=_of(picked, PLACE), expression=place)
    # the row at this place is always a hit; the condition lets the join skip all other rows
    same = exp.and_(_same(picked, KEY), at, _of(picked, f"hit_{number}"))
    return exp.and_(same, _is_near(_of(picked, MICROS), item)) if _has_to_be_near(item) else same


def _has_to_be_near(item: Appended) -> bool:
    """Whether the picked activity counts only if it is within the item's distance."""
    return item.is_nearest and item.distance is not None


def _near(time: exp.Expr, item: Appended) -> exp.Expr:
    """The time of the nearest activity; null if it is too far away."""
    return exp.Case().when(_is_near(exp.UnixMicros(this=time.copy()), item), time)


def _is_near(micros: exp.Expr, item: Appended) -> exp.Expr:
    cohort = _of("cohort", MICROS)
    late, early = (micros, cohort) if item.period is Period.AFTER else (cohort, micros)
    return exp.LTE(this=exp.Sub(this=late, expression=early), expression=exp.Literal.number(item.distance))


def _is_there(value: exp.Expr) -> exp.Expr:
    return exp.Not(this=exp.Is(this=value.copy(), expression=exp.null()))


def _activities(
    activity: str, columns: Sequence[Column], where: Sequence[Condition], items: Items, table: str
) -> exp.Select:
    """The activities in question, each with its customer, its time, and a flag for the cohort and for each item."""
    nobody = exp.Concat(expressions=[exp.Literal.string(_NOBODY), exp.column("activity_id")], safe=True)
    key = exp.Coalesce(this=exp.column("customer"), expressions=[exp.column("anonymous_customer_id"), nobody])
    needed = [Column("activity_id"), *columns]
    for _, item in items:
        needed += [TIME] if item.is_timed else []
        needed += [column for column in item.columns if column != DONE]
        needed += [aggregate.column for aggregate in item.aggregates if aggregate.column]
    names = dict.fromkeys([activity, *(item.activity for _, item in items)])
    return (
        exp.select(exp.alias_(key, KEY), exp.alias_(exp.UnixMicros(this=exp.column("ts")), MICROS))
        .select(exp.alias_(_matches(activity, where), "is_cohort"))
        .select(*(exp.alias_(_matches(item.activity, item.where), f"hit_{number}") for number, item in items))
        .select(*(exp.alias_(column.sql, column.label) for column in dict.fromkeys(needed)))
        .from_(exp.to_table(table))
        .where(exp.In(this=exp.column("activity"), expressions=list(map(exp.Literal.string, names))))
    )


def _ordered(items: Items, *, visits: bool) -> exp.Select:
    """The activities with windows over their order: places, visits, ranks and marks, each only if it is needed."""
    query = exp.select("*").from_("activities")
    if any(picks_by_place(item) for _, item in items):
        query = query.select(exp.alias_(window(exp.RowNumber(), (KEY,), ORDER), PLACE))
    if visits:
        query = query.select(exp.alias_(upto_here(_counted("is_cohort")), VISIT))
    if any(item.period is Period.IN_BETWEEN and item.within for _, item in items):
        head = exp.Case().when(exp.column("is_cohort"), exp.column(MICROS))
        query = query.select(exp.alias_(upto_here(exp.Max(this=head)), HEAD))
    for number, item in items:
        if item.nth is not None:
            query = query.select(exp.alias_(upto_here(_counted(f"hit_{number}")), f"rank_{number}"))
        for index, aggregate in enumerate(item.aggregates, start=1):
            if marks_new(item, aggregate) and aggregate.column:
                new = _is_new(f"hit_{number}", aggregate.column, item.period)
                query = query.select(exp.alias_(new, f"is_new_{number}_{index}"))
    return _with_windows(query, [(number, item) for number, item in items if not _looks_at_order(item)])


def _placed(items: Items) -> exp.Select:
    """The ordered rows with the windows over columns that `_ordered` has computed."""
    return _with_windows(exp.select("*").from_("ordered"), [one for one in items if _looks_at_order(one[1])])


def _looks_at_order(item: Appended) -> bool:
    """Whether its windows use columns that `_ordered` computes: the places of rows, or the marks of new values."""
    return picks_by_place(item) or any(marks_new(item, aggregate) for aggregate in item.aggregates)


def _with_windows(query: exp.Select, items: Items) -> exp.Select:
    """Add the windows before and after each row to the query."""
    for number, item in items:
        if _SOURCES[item.period] == "cohort":
            for measure in measures(number, item):
                query = query.select(*(exp.alias_(value, name) for name, value in windows(item, measure)))
    return query


def _is_new(hit: str, column: Column, period: Period) -> exp.Expr:
    """Whether a row has a value that no earlier row (for the period after: no later row) of the customer has."""
    value = exp.Case().when(exp.column(hit), exp.column(column.label))
    order = ORDER if period is Period.BEFORE else [f"-{name}" for name in ORDER]
    first = exp.EQ(this=window(exp.RowNumber(), (KEY, value), order), expression=exp.Literal.number(1))
    return exp.and_(first, exp.Not(this=exp.Is(this=value, expression=exp.null())))


def _grouped(items: Items, period: Period, *keys: str) -> exp.Select:
    """One row per customer, or per visit with activities in between, with the measures over the group."""
    query = exp.select(*keys).from_("ordered").group_by(*keys)
    if period is Period.EVER:
        query = query.select(exp.alias_(_counted("is_cohort"), "visits"))
    else:
        # there are as many visits as cohort rows, most without activities in between; to omit these halves the memory
        query = query.where(exp.or_(*(exp.column(f"hit_{number}") for number, item in items if item.period is period)))
    for number, item in items:
        if item.period is period:
            found = (exp.alias_(grouped(item, number, measure), measure.name) for measure in measures(number, item))
            query = query.select(*found)
    return query


def _matches(activity: str, where: Sequence[Condition]) -> exp.Expr:
    """Whether a row has this activity and meets the conditions; never null."""
    named = exp.EQ(this=exp.column("activity"), expression=exp.Literal.string(activity))
    if not where:
        return named
    return exp.Coalesce(this=exp.and_(named, *(one.sql for one in where)), expressions=[exp.false()])


def _same(table: str, *keys: str) -> exp.Expr:
    return exp.and_(*(exp.EQ(this=_of(table, key), expression=_of("cohort", key)) for key in keys))


def _counted(flag: str) -> exp.Expr:
    return exp.Count(this=exp.Case().when(exp.column(flag), exp.Literal.number(1)))


def _aliased(table: str, alias: str) -> exp.Expr:
    return exp.alias_(exp.to_table(table), alias, table=True)


def _of(table: str, name: str) -> exp.Expr:
    return exp.column(name, table=table)
