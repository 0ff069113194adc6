"""Which URLs are one page, and the categories of pages."""

import hashlib
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from schemas.dimensions import PAGE
from schemas.errors import OptionError
from schemas.events import EVENT, FACT_EVENT
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.events.pages import (
    RULES_VARIABLE,
    PageRules,
    categories,
    merge_pages,
    normalise,
    page_rows,
    with_page_keys,
)
from transforms.events.write_events import fact_events

RULES = PageRules((("product", "^/p/"), ("cart", "^/cart$")))


@pytest.mark.parametrize(
    ("given", "url", "host"),
    [
        ("https://shop.example/p/1", "shop.example/p/1", "shop.example"),
        ("http://SHOP.example/p/1", "shop.example/p/1", "shop.example"),
        ("//shop.example/p/1", "shop.example/p/1", "shop.example"),
        ("https://shop.example:443/p/1/", "shop.example/p/1", "shop.example"),
        ("https://shop.example:8443/p/1", "shop.example:8443/p/1", "shop.example:8443"),
        ("https://ann:secret@shop.example/p/1", "shop.example/p/1", "shop.example"),
        ("https://shop.example//p///1//", "shop.example/p/1", "shop.example"),
        ("https://shop.example", "shop.example/", "shop.example"),
        ("https://shop.example/P/1", "shop.example/P/1", "shop.example"),
        ("https://shop.example/p/1#reviews", "shop.example/p/1", "shop.example"),
        ("https://shop.example/p?utm_source=mail&lang=de&id=7#x", "shop.example/p", "shop.example"),
        ("https://shop.example/p?paid=1&next=https://other.example/?id=2", "shop.example/p", "shop.example"),
        ("/cart/?id=", "/cart", None),
        ("cart", "/cart", None),
        ("?id=3", "/", None),
        ("app://home/Screen", "home/Screen", "home"),
        ("  https://shop.example/é?x\n", "shop.example/é", "shop.example"),
        ("", None, None),
        ("  ", None, None),
        (None, None, None),
    ],
)
def test_url_is_normalised_as_documented(given: str | None, url: str | None, host: str | None) -> None:
    (row,) = normalise(pl.Series([given], dtype=pl.String)).to_dicts()
    assert (row["url"], row["host"]) == (url, host)


def test_page_is_seen_first_at_the_least_time_of_all_urls_that_are_one_page() -> None:
    rows = [
        click(at(2), page_url="https://shop.example/p/1?utm=a"),
        click(at(1), page_url="https://shop.example/p/1/"),
        click(at(3), page_url="https://shop.example/cart"),
        click(at(0), page_url=None),
        click(at(0), page_url=" "),
    ]
    found = merge_pages(page_rows(batch(rows)), RULES)
    seen = {row["url"]: (row["path"], row["category"], row["first_seen_at"]) for row in found.to_pylist()}
    times = batch(rows).column("event_time").to_pylist()
    assert seen == {
        "shop.example/p/1": ("/p/1", "product", times[1]),
        "shop.example/cart": ("/cart", "cart", times[2]),
    }
    halves = [page_rows(batch(rows[1:])), page_rows(batch(rows[:2]))]
    assert merge_pages(pa.concat_tables(halves), RULES).equals(found)


def test_new_rules_give_new_categories_when_a_page_is_merged() -> None:
    page = merge_pages(page_rows(batch([click(at(), page_url="/p/1")])), PageRules())
    assert page.column("category").to_pylist() == ["other"]
    assert merge_pages(page, RULES).column("category").to_pylist() == ["product"]


def test_events_and_pages_have_one_key_for_all_urls_of_a_page() -> None:
    urls = [
        "https://shop.example/p/1?utm=a",
        None,
        "//shop.example/p/1/",
        " ",
        "/cart",
        "https://shop.example/p/1?utm=a",
    ]
    rows = batch([click(at(n), page_url=url) for n, url in enumerate(urls)])
    pages = {row["url"]: row["page_key"] for row in page_rows(rows).to_pylist()}
    product, cart = pages["shop.example/p/1"], pages["/cart"]
    assert product == hashlib.md5(b"shop.example/p/1", usedforsecurity=False).hexdigest()
    facts = fact_events(rows)
    assert facts.column("page_key").to_pylist() == [product, None, product, None, cart, product]
    assert facts.select(EVENT.names).equals(rows.select(EVENT.names))
    assert facts.column_names == FACT_EVENT.names


def test_urls_of_none_give_no_keys() -> None:
    empty = with_page_keys(pa.table({"url": pa.nulls(2, pa.string())}), {"key": "url"})
    assert empty.column("key").to_pylist() == [None, None]
    assert with_page_keys(empty.slice(0, 0), {"again": "url"}).num_rows == 0


def test_no_urls_give_no_pages() -> None:
    assert page_rows(batch([click(at())])).equals(PAGE.empty())


def test_rules_that_come_with_the_program_know_a_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RULES_VARIABLE, raising=False)
    wanted = {
        "/": "home",
        "/product/1": "product",
        "/products": "listing",
        "/Cart": "cart",
        "/checkout/payment": "checkout",
        "/search": "search",
        "/account": "account",
        "/cartoons": "other",
    }
    found = categories(pl.Series(list(wanted)), PageRules.load()).to_list()
    assert dict(zip(wanted, found, strict=True)) == wanted


def test_rules_of_a_file_replace_those_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[category]]\nname = "tea"\npaths = ["^/tea", "^/mate"]\n')
    monkeypatch.setenv(RULES_VARIABLE, str(file))
    rules = PageRules.load()
    assert categories(pl.Series(["/mate/1", "/x"]), rules).to_list() == ["tea", "other"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("category = [", "page rules: TOMLDecodeError"),
        ("", "page rules: KeyError: 'category'"),
        ("[[category]]\nname = 1\npaths = []", "name of a category is text"),
        ('[[category]]\nname = "x"\npaths = ["("]', "not a regular expression"),
        ("category = []\ncolour = 1", "unknown setting colour"),
    ],
)
def test_rules_that_cannot_be_used_are_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        PageRules.parse(text)
    assert "\n" not in str(caught.value)


def test_rules_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RULES_VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(OptionError, match="cannot read the page rules"):
        PageRules.load()
