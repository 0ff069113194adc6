"""The relationships of Activity Schema 2.0: which activities of the customer are appended to a cohort row, and how.

The activities of a customer are totally ordered by (ts, activity_id). So the activities before a cohort row, the row
itself and the activities after it together are all of the customer's activities, each once. An activity is in between
if it is after the cohort row and before the customer's next activity that matches the cohort.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from schemas.durations import parse_duration
from schemas.errors import OptionError
from transforms.relationships.aggregates import Aggregate, Function, count
from transforms.relationships.columns import Column, as_column, identifier
from transforms.relationships.conditions import Condition, Value, at_least, less_than

TIME = Column("ts")
DONE = Column("done")
"""A pseudo-column that says whether the appended activity exists."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Checked(Protocol):
    """A part of a question that can be checked."""

    def problems(self) -> list[str]:
        """The errors, one line each."""
        ...


class Period(StrEnum):
    """The activities that a relationship considers, relative to a cohort row."""

    EVER = "ever"
    BEFORE = "before"
    AFTER = "after"
    IN_BETWEEN = "in_between"


@dataclass(frozen=True)
class Appended:
    """An item appended to a cohort: columns of one activity of a period, or aggregates over all of them.

    Attributes:
        relationship: The relationship's name, such as ``first_after``.
        activity: The name of the appended activity.
        period: The period in which activities are considered.
        pick: Function.MIN to pick the first activity, Function.MAX for the last; None to aggregate.
        columns: The columns taken of the picked activity.
        aggregates: The aggregates over all activities of the period.
        within: Maximum distance from the cohort row, as text; None for any distance.
        where: Conditions on the appended activities.
        nth: For nth_ever, the number of the occurrence; else None.
        name: Prefix of the column names; None for the relationship and the activity.
    """

    relationship: str
    activity: str
    period: Period
    pick: Function | None = None
    columns: tuple[Column, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    within: str | None = None
    where: tuple[Condition, ...] = ()
    nth: int | None = None
    name: str | None = None

    @property
    def labels(self) -> list[str]:
        """The names of the appended columns.

        >>> first_after("click", within="1h", columns=("ts", "done")).labels
        ['first_after_click_ts', 'first_after_click_done']
        """
        which = self.relationship if self.nth is None else f"{self.relationship}_{self.nth}"
        name = self.name or identifier(f"{which}_{self.activity}")
        parts = [column.label for column in self.columns] + [aggregate.label for aggregate in self.aggregates]
        return [f"{name}_{part}" for part in parts]

    @property
    def distance(self) -> int | None:
        """Maximum distance from the cohort row, inclusive, in microseconds; None for any distance."""
        return None if self.within is None else parse_duration(self.within)

    @property
    def is_nearest(self) -> bool:
        """Whether it picks the activity next to the cohort row; then only that one's distance has to be checked."""
        return (self.period, self.pick) in ((Period.BEFORE, Function.MAX), (Period.AFTER, Function.MIN))

    @property
    def is_timed(self) -> bool:
        """Whether only the time of the picked activity is needed: a MIN or MAX gives it, and no row is fetched.

        >>> first_after("click").is_timed, first_after("click", columns=("ts", "link")).is_timed
        (True, False)
        """
        return self.pick is not None and {TIME, DONE}.issuperset(self.columns)

    def problems(self) -> list[str]:
        """The errors in the item, one line each."""
        found = [] if self.activity else ["an activity has no name"]
        checked: list[Checked] = [*self.aggregates, *self.where, *(c for c in self.columns if c != DONE)]
        for part in checked:
            found += part.problems()
        if self.pick is not None and not self.columns:
            found.append("no columns are requested")
        if self.nth is not None and not (isinstance(self.nth, int) and self.nth >= 1):
            found.append(f"{self.nth!r} is no occurrence: take a number from 1")
        if self.name is not None and not _NAME.fullmatch(self.name):
            found.append(f"name {self.name!r}: use letters, digits and underscores, and no digit in front")
        found += self._problems_of_within()
        return [f"{self.relationship} {self.activity}: {problem}" for problem in found]

    def _problems_of_within(self) -> list[str]:
        if self.within is None:
            return []
        if self.period is Period.EVER:
            return ["within does not apply to ever"]
        try:
            parse_duration(self.within)
        except OptionError as error:
            return [f"within: {error}"]
        distinct = any(aggregate.function is Function.COUNT_DISTINCT for aggregate in self.aggregates)
        if distinct and self.period is not Period.IN_BETWEEN:
            return [
                f"count_distinct within a time {self.period} the row is unsupported; drop within, or use in_between"
            ]
        return []


@dataclass(frozen=True)
class Picking:
    """A relationship that appends one activity: the first or the last of a period."""

    name: str
    period: Period
    pick: Function

    def __call__(
        self,
        activity: str,
        *,
        within: str | None = None,
        where: Sequence[Condition] = (),
        columns: Sequence[str | Column] = ("ts",),
        name: str | None = None,
    ) -> Appended:
        """Append an activity.

        Args:
            activity: The activity's name.
            within: Maximum distance from the cohort row, inclusive, such as ``1h``; None for any distance.
            where: Conditions on the activity; the first or last is picked among those that meet them.
            columns: The columns taken of the activity; ``done`` is whether it exists.
            name: Prefix of the column names; None for the relationship and the activity.
        """
        chosen = tuple(map(as_column, columns))
        return Appended(self.name, activity, self.period, self.pick, chosen, (), within, tuple(where), None, name)


@dataclass(frozen=True)
class Aggregating:
    """A relationship that appends aggregates over all activities of a period."""

    name: str
    period: Period

    def __call__(
        self,
        activity: str,
        *aggregates: Aggregate,
        within: str | None = None,
        where: Sequence[Condition] = (),
        name: str | None = None,
    ) -> Appended:
        """Append aggregates of an activity.

        Args:
            activity: The activity's name.
            aggregates: The aggregates; the count by default.
            within: Maximum distance from the cohort row, inclusive, such as ``30d``; None for any distance.
            where: Conditions on the activities.
            name: Prefix of the column names; None for the relationship and the activity.
        """
        wanted = aggregates or (count(),)
        return Appended(self.name, activity, self.period, None, (), wanted, within, tuple(where), None, name)


first_ever = Picking("first_ever", Period.EVER, Function.MIN)
last_ever = Picking("last_ever", Period.EVER, Function.MAX)
first_before = Picking("first_before", Period.BEFORE, Function.MIN)
last_before = Picking("last_before", Period.BEFORE, Function.MAX)
first_after = Picking("first_after", Period.AFTER, Function.MIN)
last_after = Picking("last_after", Period.AFTER, Function.MAX)
first_in_between = Picking("first_in_between", Period.IN_BETWEEN, Function.MIN)
last_in_between = Picking("last_in_between", Period.IN_BETWEEN, Function.MAX)
aggregate_before = Aggregating("aggregate_before", Period.BEFORE)
aggregate_after = Aggregating("aggregate_after", Period.AFTER)
aggregate_in_between = Aggregating("aggregate_in_between", Period.IN_BETWEEN)
aggregate_all_ever = Aggregating("aggregate_all_ever", Period.EVER)


def nth_ever(
    activity: str,
    nth: int,
    *,
    where: Sequence[Condition] = (),
    columns: Sequence[str | Column] = ("ts",),
    name: str | None = None,
) -> Appended:
    """Append the customer's nth activity of this name, counted from 1; for the other arguments see `Picking`."""
    chosen = tuple(map(as_column, columns))
    return Appended("nth_ever", activity, Period.EVER, Function.MIN, chosen, (), None, tuple(where), nth, name)


def within_next(activity: str, within: str, *, where: Sequence[Condition] = ()) -> Appended:
    """Whether the customer did the activity after the cohort row, within this time."""
    name = identifier(f"within_next_{activity}")
    return first_after(activity, within=within, where=where, columns=(DONE,), name=name)


def ever_done(activity: str, *, where: Sequence[Condition] = ()) -> Appended:
    """Whether the customer ever did the activity, before or after the cohort row."""
    return first_ever(activity, where=where, columns=(DONE,), name=identifier(f"ever_{activity}"))


def count_between(activity: str, start: Value, end: Value, *, where: Sequence[Condition] = ()) -> Appended:
    """How often the customer did the activity from `start`, inclusive, to `end`, exclusive."""
    times = (at_least("ts", start), less_than("ts", end))
    return aggregate_all_ever(activity, where=(*times, *where), name=identifier(f"between_{activity}"))
