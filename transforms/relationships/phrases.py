r"""Parses appended items and conditions from one line of text.

An item is a relationship and an activity (for nth_ever also a number), followed in any order by ``within DURATION``,
``where CONDITION`` (repeatable), ``columns NAME,NAME`` or aggregates (``count``, ``sum COLUMN`` …), and ``as NAME``.
Quote a word that contains blanks.

>>> parse_item("first_after click within 1h columns ts,link").labels
['first_after_click_ts', 'first_after_click_link']
>>> parse_item("aggregate_before purchase count sum revenue_impact as bought").labels
['bought_count', 'bought_sum_revenue_impact']
"""

import re
import shlex
from collections.abc import Callable

from schemas.errors import OptionError
from transforms.relationships import appended as relationships
from transforms.relationships.aggregates import Aggregate, Function
from transforms.relationships.appended import Aggregating, Appended, Picking
from transforms.relationships.columns import Column
from transforms.relationships.conditions import Condition

RELATIONSHIPS: dict[str, Picking | Aggregating | Callable[..., Appended]] = {
    value.name: value for value in vars(relationships).values() if isinstance(value, Picking | Aggregating)
} | {
    "nth_ever": relationships.nth_ever,
    "within_next": relationships.within_next,
    "ever_done": relationships.ever_done,
    "count_between": relationships.count_between,
}
_CONDITION = re.compile(r"(.+?)\s*(>=|<=|!=|=|>|<)\s*(.*)", re.DOTALL)
_NUMBER = "number:"
"""The prefix of a column whose text is read as a number."""


def parse_item(text: str) -> Appended:
    """Parse an appended item such as ``first_after click within 1h``.

    Raises:
        OptionError: The text is not an item.
    """
    words = _words(text)
    name = words.pop(0) if words else ""
    relationship = RELATIONSHIPS.get(name)
    if relationship is None:
        raise OptionError(f"{text!r}: {name!r} is none of {', '.join(RELATIONSHIPS)}")
    given: dict[str, object] = {}
    arguments: list[object] = []
    where: list[Condition] = []
    while words:
        word = words.pop(0)
        if word in ("within", "as", "columns", "where") and arguments:
            if not words:
                raise OptionError(f"{text!r}: nothing follows {word}")
            value = words.pop(0)
            if word == "where":
                where.append(parse_condition(value))
            elif word == "columns":
                given[word] = [parse_column(column) for column in value.split(",")]
            else:
                given["name" if word == "as" else word] = value
        elif isinstance(relationship, Aggregating) and arguments:
            arguments.append(_aggregate(text, word, words))
        else:
            arguments.append(int(word) if name == "nth_ever" and arguments and word.isdecimal() else word)
    if where:
        given["where"] = where
    try:
        return relationship(*arguments, **given)  # type: ignore[arg-type]
    except TypeError as error:
        raise OptionError(f"{text!r}: wrong arguments for {name}; see docs/activities.md") from error


def parse_condition(text: str) -> Condition:
    """Parse a condition such as ``feature_1=spring``, ``revenue_impact>=10``, ``link missing`` or ``link present``.

    Raises:
        OptionError: The text is not a condition.

    >>> parse_condition("number:feature_2 >= 3").operator
    '>='
    """
    found = _CONDITION.fullmatch(text.strip())
    if found:
        return Condition(parse_column(found[1]), found[2], (found[3],))
    column, _, state = text.strip().rpartition(" ")
    if state not in ("missing", "present"):
        raise OptionError(f"{text!r} is no condition: write it like feature_1=spring, or 'link missing'")
    return Condition(parse_column(column), state)


def parse_column(text: str) -> Column:
    """Parse a column's name; with the prefix ``number:`` the column's text is read as a number."""
    name = text.strip()
    return Column(name.removeprefix(_NUMBER), as_number=name.startswith(_NUMBER))


def _aggregate(text: str, word: str, following: list[str]) -> Aggregate:
    if word not in list(Function):
        raise OptionError(f"{text!r}: {word!r} is none of {', '.join(Function)}")
    function = Function(word)
    if function is Function.COUNT:
        return Aggregate(function)
    if not following:
        raise OptionError(f"{text!r}: {word} of which column?")
    return Aggregate(function, parse_column(following.pop(0)))


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OptionError(f"{text!r}: a quotation mark is not closed") from error
