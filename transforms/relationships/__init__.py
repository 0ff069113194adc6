"""Relationships of Activity Schema 2.0 between the activities of a customer, as SQL (docs/activities.md)."""

from transforms.relationships.aggregates import avg_of, count, count_distinct, max_of, min_of, sum_of
from transforms.relationships.appended import (
    aggregate_after,
    aggregate_all_ever,
    aggregate_before,
    aggregate_in_between,
    count_between,
    ever_done,
    first_after,
    first_before,
    first_ever,
    first_in_between,
    last_after,
    last_before,
    last_ever,
    last_in_between,
    nth_ever,
    within_next,
)
from transforms.relationships.cohort import Cohort, cohort
from transforms.relationships.columns import number
from transforms.relationships.conditions import (
    at_least,
    at_most,
    differs,
    equals,
    less_than,
    missing,
    more_than,
    present,
)

__all__ = [
    "Cohort", "aggregate_after", "aggregate_all_ever", "aggregate_before", "aggregate_in_between", "at_least",
    "at_most", "avg_of", "cohort", "count", "count_between", "count_distinct", "differs", "equals", "ever_done",
    "first_after", "first_before", "first_ever", "first_in_between", "last_after", "last_before", "last_ever",
    "last_in_between", "less_than", "max_of", "min_of", "missing", "more_than", "nth_ever", "number", "present",
    "sum_of", "within_next",
]  # fmt: skip
