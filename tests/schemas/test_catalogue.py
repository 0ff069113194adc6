"""The event catalogue: what ships, what a team adds, and how mistakes are told."""

from pathlib import Path

import pytest

from schemas.catalogue import CATALOGUE_VARIABLE, CatalogueError, load_catalogue, parse_catalogue, shipped_catalogue
from schemas.errors import OptionError
from schemas.event_types import Property, PropertyType
from schemas.silver import COMMON, silver_records

SHIPPED = {
    "page_view", "click", "product_view", "search", "add_to_cart", "purchase", "login", "email_open", "video_view",
    "choice_presented", "choice_selected", "outcome_viewed", "branch_completed", "episode_end",
}  # fmt: skip

OWN = """\
[daily]
segment = "os"

[event.click]
description = "ours"

[event."Video Played"]
description = "a video was played"
table = "video_played"
feature_2 = "Video ID"
revenue = ["price", "value"]
link = "url"
category = "url"
metrics.watch_time = "seconds"

[event."Video Played".properties]
"Video ID" = { type = "string", description = "the video", column = "video_id", required = true }
price = { type = "decimal", description = "its price", unit = "EUR" }
value = { type = "decimal", description = "its value" }
url = { type = "string", description = "where" }
seconds = { type = "number", unit = "s", description = "how long" }
"""


def mistakes(text: str, *, extend: bool = True) -> list[str]:
    with pytest.raises(CatalogueError) as raised:
        parse_catalogue(text, "own.toml", extend=extend)
    return str(raised.value).split("\n")


def test_shipped_catalogue_declares_the_known_types() -> None:
    assert set(shipped_catalogue().by_name) == SHIPPED


def test_choice_has_the_features_of_the_source_document() -> None:
    assert shipped_catalogue().by_name["choice_selected"].features == ("choice_node_id", "choice_option_id", "path_id")


def test_own_file_adds_types_and_replaces_those_it_names() -> None:
    found = parse_catalogue(OWN, "own.toml")
    assert set(found.by_name) == SHIPPED | {"Video Played"}
    assert found.by_name["click"].properties == ()
    assert found.segment == "os"
    played = found.by_name["Video Played"]
    assert played.table == "video_played"
    assert played.features == (None, "Video ID", None)
    assert (played.revenue, played.link, played.category) == (("price", "value"), "url", "url")
    assert played.metrics == {"watch_time": "seconds"}
    assert played.property("Video ID") == Property(
        "Video ID", PropertyType.STRING, "the video", "video_id", required=True
    )


def test_own_file_stands_alone_where_it_says_so() -> None:
    assert set(parse_catalogue("extends = false\n" + OWN, "own.toml").by_name) == {"click", "Video Played"}


def test_catalogue_is_that_of_the_argument_else_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN, encoding="utf-8")
    assert "Video Played" in load_catalogue(file).by_name
    monkeypatch.setenv(CATALOGUE_VARIABLE, str(file))
    assert "Video Played" in load_catalogue().by_name
    with pytest.raises(OptionError, match=r"cannot read the catalogue .*none\.toml"):
        load_catalogue(tmp_path / "none.toml")


def test_every_mistake_is_told_with_its_line() -> None:
    text = """\
extends = 1
colour = "red"
[daily]
segment = "user"
[event.x]
feature_1 = "q"
link = "n"
revenue = ["n", 5]
metrics.watch_time = "n"
metrics.clicks = "n"
[event.x.properties]
n = { type = "number", description = "a number" }
p = { type = "strin", description = "text", units = "m" }
P = { type = "string", description = "text", required = "yes" }
country = { type = "string", description = "a country" }
"a.b" = { type = "string", description = "a text" }
r = 5
s = { type = "string" }
n = { type = "integer", description = "again" }
broken
[event."a b"]
description = "a type"
[event.other]
description = "taken"
[event.Click]
description = "as a table the same as click"
"""
    found = mistakes(text)
    expected = [
        (1, "extends is true or false"),
        (2, "unknown setting colour"),
        (4, "segment is 'user'"),
        (5, "event x has no description"),
        (6, "feature_1 names q, which is none of the event's properties"),
        (7, "link names n, a number: it takes string"),
        (8, "revenue is a list of names"),
        (8, "revenue names n, a number: it takes decimal"),
        (9, 'watch_time counts seconds: n needs unit = "s"'),
        (10, "unknown setting clicks"),
        (13, "the type of property p is 'strin'"),
        (13, "unknown setting units"),
        (14, "column P is that of property p already"),
        (14, "required is true or false"),
        (15, "column country of property country is one that each silver table has"),
        (16, "'a.b' cannot name a column"),
        (17, "r is a table"),
        (18, "property s has no description"),
        (19, "event.x.properties.n is defined twice, first in line 12"),
        (20, "not TOML"),
        (21, "'a b' cannot name a table"),
        (23, "table other is that of the events of undeclared types already"),
        (25, "table Click is that of event click already"),
    ]
    assert len(found) == len(expected)
    for message, (line, beginning) in zip(found, expected, strict=True):
        assert message.startswith(f"own.toml:{line}: {beginning}")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "page-view", "", "x" * 300, 'quo"te', "é"])
def test_name_that_is_no_plain_identifier_never_becomes_a_path_or_sql(name: str) -> None:
    quoted = name.replace('"', '\\"')
    text = f'[event."{quoted}"]\ndescription = "d"\n'
    assert any("cannot name a table" in message for message in mistakes(text))
    with_table = text + f'table = "{quoted}"\n'
    assert any("cannot name a table" in message for message in mistakes(with_table))


def test_silver_tables_begin_with_the_common_columns_and_end_with_the_extra_ones() -> None:
    records = silver_records(parse_catalogue(OWN, "own.toml"))
    assert {record.name for record in records} == {f"silver/{n}" for n in (SHIPPED | {"video_played", "other"})}
    for record in records:
        assert record.names[: len(COMMON)] == [field.name for field in COMMON]
        assert record.names[-1] == "extra_properties"
        assert len({name.casefold() for name in record.names}) == len(record.names)
