"""What is appended, written on one line: it means what the Python API means, and a mistake says what it is."""

import pytest

from schemas.errors import OptionError
from transforms.relationships import (
    aggregate_before,
    at_least,
    count,
    count_between,
    differs,
    equals,
    ever_done,
    first_after,
    last_in_between,
    missing,
    nth_ever,
    number,
    sum_of,
    within_next,
)
from transforms.relationships.appended import Appended
from transforms.relationships.phrases import parse_item


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("first_after click", first_after("click")),
        ("first_after click within 1h columns ts,link", first_after("click", within="1h", columns=["ts", "link"])),
        ("last_in_between 'email open' as mail", last_in_between("email open", name="mail")),
        ("aggregate_before buy", aggregate_before("buy")),
        (
            "aggregate_before buy sum revenue_impact count within 7d where revenue_impact>=5 where 'link missing'",
            aggregate_before(
                "buy",
                sum_of("revenue_impact"),
                count(),
                within="7d",
                where=[at_least("revenue_impact", "5"), missing("link")],
            ),
        ),
        (
            "aggregate_before buy sum number:feature_2 where 'feature_1 != a b' where feature_json.k=x=y",
            aggregate_before(
                "buy",
                sum_of(number("feature_2")),
                where=[differs("feature_1", "a b"), equals("feature_json.k", "x=y")],
            ),
        ),
        (
            "first_after click where 'feature_json.page type=a/b' where 'feature_1!=gone missing'",
            first_after("click", where=[equals("feature_json.page type", "a/b"), differs("feature_1", "gone missing")]),
        ),
        ("nth_ever click 3 columns done", nth_ever("click", 3, columns=["done"])),
        ("within_next click 1h", within_next("click", "1h")),
        ("within_next click within 1h", within_next("click", "1h")),
        ("ever_done buy", ever_done("buy")),
        ("count_between buy 2026-04-01 2026-05-01", count_between("buy", "2026-04-01", "2026-05-01")),
        ("first_after within within 1h", first_after("within", within="1h")),
    ],
)
def test_line_means_what_the_call_means(text: str, item: Appended) -> None:
    assert parse_item(text) == item
    assert item.problems() == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is none of first_ever"),
        ("first_afte click", "'first_afte' is none of"),
        ("first_after", "wrong arguments for first_after"),
        ("first_after click buy", "wrong arguments for first_after"),
        ("first_after click within", "nothing follows within"),
        ("within_next click", "wrong arguments for within_next"),
        ("aggregate_before buy total", "'total' is none of count, sum"),
        ("aggregate_before buy sum", "sum of which column?"),
        ("first_after click where link", "'link' is no condition"),
        ("first_after 'click", "a quotation mark is not closed"),
    ],
)
def test_line_that_is_none_says_why(text: str, problem: str) -> None:
    with pytest.raises(OptionError, match=r"^[^\n]*$") as caught:
        parse_item(text)
    assert problem in str(caught.value)
