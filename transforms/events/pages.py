"""dim_pages: which URLs are the same page, and the category of each page. docs/identity.md describes the rules."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import polars as pl
import pyarrow as pa

from schemas.columns import to_polars, whole
from schemas.dimensions import PAGE
from schemas.errors import OptionError
from schemas.table_query import TableQuery
from transforms.frames import to_arrow

RULES_VARIABLE = "CLICKSTREAM_PAGE_RULES"
OTHER = "other"


@dataclass(frozen=True)
class PageRules:
    """The categories of pages.

    Attributes:
        categories: Name and pattern of each category; the first whose pattern matches a path applies.
    """

    categories: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls) -> "PageRules":
        """Load the rules from the file that CLICKSTREAM_PAGE_RULES names, else the built-in rules.

        Raises:
            OptionError: The file cannot be read, or does not have the shape of transforms/events/page_rules.toml.
        """
        path = os.environ.get(RULES_VARIABLE)
        try:
            text = Path(path).read_text(encoding="utf-8") if path else _DEFAULT.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"cannot read the page rules {path}: {error}") from error
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> "PageRules":
        """Read rules written in TOML.

        Raises:
            OptionError: The text is not TOML or does not have the expected shape, or a pattern is not a regular
                expression.
        """
        try:
            found = tomllib.loads(text)
            unknown = set(found) - {"category"}
            if unknown:
                raise OptionError(f"page rules: unknown setting {', '.join(sorted(unknown))}")
            categories = tuple(
                (rule["name"], "|".join(f"(?:{p})" for p in rule["paths"])) for rule in found["category"]
            )
            if not all(isinstance(name, str) and name for name, _ in categories):
                raise OptionError("page rules: the name of a category is text")
            for name, pattern in categories:
                _check_pattern(name, pattern)
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise OptionError(f"page rules: {type(error).__name__}: {error}") from error
        return cls(categories)


def _check_pattern(name: str, pattern: str) -> None:
    try:
        pl.Series([""]).str.contains(f"(?i){pattern}")
    except pl.exceptions.ComputeError as error:
        reason = re.search(r"error: (.*)", str(error).partition("regex parse error:")[2])
        raise OptionError(
            f"page rules: a path of {name} is not a regular expression: {reason[1] if reason else 'too large'}"
        ) from error


_DEFAULT = files(__package__) / "page_rules.toml"


_PAGES = TableQuery(
    """SELECT md5(host || path) AS page_key, host || path AS url, nullif(host, '') AS host, path
    FROM (SELECT page_host(bare) AS host, page_path(bare) AS path FROM (SELECT page_bare(url) AS bare FROM given))""",
    macros=(files("stores") / "page_key.sql").read_text(encoding="utf-8"),
)


def normalise(urls: pl.Series) -> pl.DataFrame:
    """The page of each URL.

    Scheme, user information, default port, query and fragment are dropped. The host is lower-cased. The path keeps its
    case, but loses a trailing slash and repeated slashes.

    Args:
        urls: Absolute URLs, URLs without a scheme (``//host/path``), or paths.

    Returns:
        One row per URL with columns page_key (MD5 of url, 32 hexadecimal digits), url, host (null for a path), path;
        all null where there is no URL.

    >>> normalise(pl.Series(["HTTPS://Shop.example:443/Tea//?utm=x#top", "/cart/"]))["url"].to_list()
    ['shop.example/Tea', '/cart']
    """
    given = pl.DataFrame({"url": urls.cast(pl.String)}).to_arrow(compat_level=pl.CompatLevel.oldest())
    return to_polars(_PAGES.run(given))


def categories(paths: pl.Series, rules: PageRules) -> pl.Series:
    """The category of each path.

    >>> categories(pl.Series(["/tea", "/Cart/2"]), PageRules((("cart", "^/cart"),))).to_list()
    ['other', 'cart']
    """
    chosen = pl.lit(OTHER)
    for name, pattern in reversed(rules.categories):
        chosen = pl.when(pl.col("path").str.contains(f"(?i){pattern}")).then(pl.lit(name)).otherwise(chosen)
    return pl.DataFrame({"path": paths}).select(chosen.alias("category")).to_series()


def with_page_keys(table: pa.Table, urls: Mapping[str, str]) -> pa.Table:
    """Add columns of page keys, dictionary-encoded, to a table.

    Args:
        table: A table with columns of URLs.
        urls: For each new column of keys, the name of its column of URLs.
    """
    encoded = [whole(table.column(url)).dictionary_encode() for url in urls.values()]
    # One query for all columns: its fixed cost is higher than that of hundreds of rows
    texts = pl.concat([pl.Series("url", pl.from_arrow(column.dictionary), dtype=pl.String) for column in encoded])
    keys = normalise(texts)["page_key"].to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
    start = 0
    for name, column in zip(urls, encoded, strict=True):
        distinct = keys.slice(start, len(column.dictionary)).dictionary_encode()
        start += len(column.dictionary)
        table = table.append_column(
            name, pa.DictionaryArray.from_arrays(distinct.indices.take(column.indices), distinct.dictionary)
        )
    return table


def page_rows(events: pa.Table) -> pa.Table:
    """The pages of events. All have the category `OTHER`; `merge_pages` sets the real one, once per page.

    Args:
        events: A table with page_url and event_time, any order.

    Returns:
        Rows of PAGE, one per page.
    """
    urls = whole(events.column("page_url")).dictionary_encode()
    times = pl.Series(pl.from_arrow(events.column("event_time"))).alias("first_seen_at")
    first = pl.DataFrame([pl.Series(pl.from_arrow(urls.indices)).alias("url"), times]).drop_nulls("url")
    first = first.group_by("url").agg(pl.col("first_seen_at").min())
    texts = pl.Series(pl.from_arrow(urls.dictionary), dtype=pl.String)
    given = first.select(texts[first["url"]].alias("page_url"), "first_seen_at")
    pages = pl.concat([normalise(given["page_url"]), given.select("first_seen_at")], how="horizontal")
    pages = pages.drop_nulls("url").with_columns(category=pl.lit(OTHER))
    return to_arrow(_merge_by_key(pages), PAGE.schema)


def merge_pages(rows: pa.Table, rules: PageRules) -> pa.Table:
    """Merge rows of the same page, in any order and grouping, and set each page's category.

    Args:
        rows: Rows of PAGE.
        rules: The rules for categories.
    """
    merged = _merge_by_key(to_polars(rows))
    return to_arrow(merged.with_columns(categories(merged["path"], rules).alias("category")), PAGE.schema)


def _merge_by_key(pages: pl.DataFrame) -> pl.DataFrame:
    others = pl.col("url", "host", "path", "category").first()
    return pages.group_by("page_key").agg(others, pl.col("first_seen_at").min()).sort("page_key")
