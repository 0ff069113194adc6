"""The views over the layers: all events as one wide table, and the stream with what depends on a customer's history."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.catalogue import parse_catalogue
from schemas.records import Record
from schemas.silver import silver_records
from schemas.user_stream import USER_STREAM
from stores.lake import create_tables
from stores.lake_sql import connect
from tests.stores.test_lake_views import ask, fill

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
CATALOGUE = """\
extends = false
[event.a]
description = "an event"
[event.a.properties]
url = { type = "string", description = "same type in both" }
size = { type = "integer", description = "another type in b" }
[event.b]
description = "an event"
[event.b.properties]
URL = { type = "string", description = "same type in both" }
size = { type = "string", description = "another type in a" }
[event.c]
description = "an event whose column has the name that the clash gives to one of a"
[event.c.properties]
a_size = { type = "boolean", description = "of c" }
"""


def rows(record: Record, *given: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(given), record.schema)


def event(number: int, event_type: str, **columns: Any) -> dict[str, Any]:
    common = {"event_id": f"e{number}", "event_type": event_type, "event_time": NOON, "event_date": NOON.date()}
    return {**common, "device_id": "d", **columns}


@pytest.fixture
def lake(tmp_path: Path) -> str:
    lake = str(tmp_path)
    records = {record.name: record for record in silver_records(parse_catalogue(CATALOGUE, "own"))}
    create_tables(lake, [*records.values(), USER_STREAM])
    fill(lake, records["silver/a"], rows(records["silver/a"], event(1, "a", url="/1", size=1)))
    fill(lake, records["silver/b"], rows(records["silver/b"], event(2, "b", URL="/2", size="two")))
    fill(lake, records["silver/c"], rows(records["silver/c"], event(3, "c", a_size=True, extra_properties="{}")))
    fill(lake, records["silver/other"], rows(records["silver/other"], event(4, "?", extra_properties='{"x":1}')))
    return lake


def test_wide_view_has_each_event_once_and_a_column_a_property(lake: str) -> None:
    found = ask(lake, "SELECT * FROM events_wide ORDER BY event_id")
    assert [row["event_type"] for row in found] == ["a", "b", "c", "?"]
    values = [{name: row[name] for name in ("url", "b_size", "extra_properties")} for row in found]
    assert values == [
        {"url": "/1", "b_size": None, "extra_properties": None},
        {"url": "/2", "b_size": "two", "extra_properties": None},
        {"url": None, "b_size": None, "extra_properties": "{}"},
        {"url": None, "b_size": None, "extra_properties": '{"x":1}'},
    ]
    # a's size is an integer and c's a_size a boolean: both are there
    assert sorted([row[name] for row in found if row[name] is not None] for name in ("a_size", "a_size_")) == [
        [1],
        [True],
    ]
    assert list(found[0])[-1] == "extra_properties"


def test_wide_view_reads_no_table_without_the_column(lake: str) -> None:
    with connect(lake) as connection:
        ((_, plan),) = connection.sql("EXPLAIN SELECT b_size FROM events_wide WHERE event_type = 'b'").fetchall()
    assert "URL" not in plan


def activity(number: int, minute: int, **columns: Any) -> dict[str, Any]:
    row = {
        "activity_id": f"a{number}", "ts": NOON + timedelta(minutes=minute), "date": NOON.date(),
        "activity": "view", "anonymous_customer_id": "d", "customer_is_stitched": False,
    }  # fmt: skip
    return row | columns


def test_occurrence_and_repetition_are_counted_by_customer_and_activity(lake: str) -> None:
    given = [
        activity(
            number,
            # ties in time
            minute=(number * 7) % 11,
            customer=("ann", None, "bob")[number % 3],
            anonymous_customer_id=f"d{number % 4}",
            activity=("view", "click")[number % 5 == 0],
        )
        for number in range(60)
    ]
    fill(lake, USER_STREAM, rows(USER_STREAM, *given))
    found = ask(lake, "SELECT activity_id, activity_occurrence, activity_repeated_at FROM user_stream")
    groups = defaultdict(list)
    for row in sorted(given, key=lambda row: (row["ts"], row["activity_id"])):
        groups[row["customer"] or row["anonymous_customer_id"], row["activity"]].append(row)
    expected = {
        row["activity_id"]: (number, group[number]["ts"] if number < len(group) else None)
        for group in groups.values()
        for number, row in enumerate(group, 1)
    }
    assert {row["activity_id"]: (row["activity_occurrence"], row["activity_repeated_at"]) for row in found} == expected


@pytest.mark.parametrize(
    ("columns", "counted"), [("count(*)", False), ("customer", False), ("max(activity_occurrence)", True)]
)
def test_occurrences_are_counted_only_where_they_are_asked_for(lake: str, columns: str, counted: bool) -> None:
    fill(lake, USER_STREAM, rows(USER_STREAM, activity(1, 1)))
    with connect(lake) as connection:
        ((_, plan),) = connection.sql(f"EXPLAIN SELECT {columns} FROM user_stream").fetchall()
    assert ("Window" in plan) is counted


def test_document_has_the_views_own_sql() -> None:
    sql = (ROOT / "stores" / "user_stream.sql").read_text(encoding="utf-8")
    statement = sql[sql.index("SELECT") :].replace("$stored", "user_stream")
    assert f"```sql\n{statement}```" in (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")


def test_documents_catalogue_is_one() -> None:
    text = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    found = parse_catalogue(example, "docs/layers.md").by_name["Song Played"]
    assert (found.table, found.revenue, found.metrics) == ("song_played", ("paid",), {"watch_time": "seconds"})
