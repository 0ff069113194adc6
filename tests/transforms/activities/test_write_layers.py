"""Silver and the activity stream as the graph keeps them: of a bounded input, of an endless one, and of it again."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Script

from runners.beam_options import parse_beam_options
from schemas.catalogue import parse_catalogue, shipped_catalogue
from schemas.dead_letters import DEAD_LETTER
from schemas.event_types import Catalogue
from schemas.silver import silver_records
from schemas.user_stream import USER_STREAM
from stores.lake import create_tables, find_table, live_files, read_table, table_names
from stores.lake_commit import WriteMode
from stores.lake_sql import query
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.activities.write_layers import COMMIT_SECONDS, WriteLayers
from transforms.sinks.write_lake import WriteLake
from transforms.tables import TableCoder

TODAY = date(2026, 5, 1)
CATALOGUE = shipped_catalogue()
KINDS: list[tuple[str, dict[str, object]]] = [
    ("page_view", {"page_url": "/a", "load_ms": 5}),
    ("purchase", {"order_id": "o", "revenue": 9.5, "coupon": "x"}),
    ("login", {"method": 3}),
    ("unheard of", {"q": 1}),
]


def event(number: int) -> dict[str, Any]:
    kind, properties = KINDS[number % len(KINDS)]
    return click(at(hours=number), f"d{number % 3}", f"e{number}", event_type=kind, properties=json.dumps(properties))


EVENTS = [event(number) for number in range(60)]


def compose(events: Any, lake: Path, catalogue: Catalogue, **options: Any) -> None:
    layers = events | "Layers" >> WriteLayers(catalogue, TODAY, lake=str(lake), **options)
    _ = layers.dead_letters | "DeadLetters" >> WriteLake(DEAD_LETTER, str(lake), onto_existing=True)


def bounded(lake: Path, *tables: pa.Table, catalogue: Catalogue = CATALOGUE, **options: Any) -> None:
    create_tables(str(lake), (USER_STREAM, *silver_records(catalogue)))
    with beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        compose(pipeline | beam.Create(list(tables)), lake, catalogue, **options)


def streamed(lake: Path, *tables: pa.Table, seconds: int = COMMIT_SECONDS + 1) -> None:
    stream = Script(coder=TableCoder())
    for minute, table in enumerate(tables):
        stream = stream.advance_watermark_to(minute * 60).add_elements([table])
        stream = stream.advance_processing_time(seconds)
    options = parse_beam_options([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    compose(pipeline | stream.advance_watermark_to_infinity().with_output_types(pa.Table), lake, CATALOGUE)
    pipeline.run().wait_until_finish()


def rows_of(lake: Path) -> dict[str, list[str]]:
    """The rows of each table that has any, in an order of their own."""
    tables = {name: read_table(str(lake), name).to_pylist() for name in table_names(str(lake))}
    return {name: sorted(map(str, rows)) for name, rows in tables.items() if rows}


def files_of(lake: Path) -> dict[str, list[str]]:
    found = {}
    for name in table_names(str(lake)):
        table = find_table(str(lake), name)
        assert table is not None
        found[name] = sorted(file.path for files in live_files(table).values() for file in files)
    return found


def versions_of(lake: Path) -> dict[str, int]:
    tables = {name: find_table(str(lake), name) for name in table_names(str(lake))}
    return {name: table.version() for name, table in tables.items() if table is not None}


def asked(lake: Path, sql: str) -> list[tuple[object, ...]]:
    with query(str(lake), sql) as reader:
        return [tuple(row.values()) for row in reader.read_all().to_pylist()]


@pytest.mark.parametrize("seconds", [COMMIT_SECONDS + 1, 1])
def test_stream_ends_in_the_rows_of_a_batch(tmp_path: Path, seconds: int) -> None:
    bounded(tmp_path / "batch", batch(EVENTS))
    parts = [EVENTS[40:], EVENTS[:25], EVENTS[25:40]]
    streamed(tmp_path / "stream", *map(batch, parts), seconds=seconds)
    found = rows_of(tmp_path / "batch")
    assert rows_of(tmp_path / "stream") == found
    assert list(tmp_path.rglob("*.arrow")) == [], "what waited is gone"
    assert {name: len(rows) for name, rows in found.items()} == {
        "user_stream": 45, "silver/page_view": 15, "silver/purchase": 15, "silver/other": 15, "dead_letters": 15,
    }  # fmt: skip


def test_same_input_again_commits_nothing(tmp_path: Path) -> None:
    bounded(tmp_path, batch(EVENTS[:30]), batch(EVENTS[30:]))
    before, versions = rows_of(tmp_path), versions_of(tmp_path)
    bounded(tmp_path, batch(EVENTS[15:50]), batch(EVENTS[:15]))
    assert versions_of(tmp_path) == versions
    assert rows_of(tmp_path) == before


def test_overwrite_replaces_the_dates_of_the_input(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    bounded(lake, batch(EVENTS))
    kept = [row for row in EVENTS if row["event_time"] >= at(hours=14)]
    bounded(lake, batch(EVENTS[:5]), mode=WriteMode.OVERWRITE)
    bounded(tmp_path / "whole", batch(EVENTS[:5] + kept))
    del (found := rows_of(lake))["dead_letters"]
    del (expected := rows_of(tmp_path / "whole"))["dead_letters"]
    assert found == expected


def test_type_without_events_has_a_table_and_no_file(tmp_path: Path) -> None:
    bounded(tmp_path, batch(EVENTS))
    assert files_of(tmp_path)["silver/email_open"] == []
    assert asked(tmp_path, "SELECT count(*) FROM silver.email_open") == [(0,)]


def test_catalogue_that_has_grown_adds_columns_and_rewrites_nothing(tmp_path: Path) -> None:
    grown = parse_catalogue(
        """
[event.purchase]
description = "an order was placed"
revenue = ["revenue"]
[event.purchase.properties]
page_url = { type = "string", description = "the page" }
order_id = { type = "string", description = "the order" }
items = { type = "integer", description = "how many" }
revenue = { type = "decimal", description = "what it brings" }
amount = { type = "decimal", description = "the same" }
currency = { type = "string", description = "the currency" }
coupon = { type = "string", description = "the coupon" }
[event."unheard of"]
description = "heard of now"
table = "heard_of"
[event."unheard of".properties]
q = { type = "integer", description = "a number" }
""",
        "grown",
    )
    bounded(tmp_path, batch(EVENTS[:30]))
    before = files_of(tmp_path)
    bounded(tmp_path, batch(EVENTS[30:]), catalogue=grown)
    after = files_of(tmp_path)
    assert all(set(files) <= set(after[name]) for name, files in before.items()), "no file is rewritten"
    assert asked(tmp_path, "SELECT coupon, count(*) FROM silver.purchase GROUP BY 1 ORDER BY 1") == [
        ("x", 7),
        (None, 8),
    ]
    assert asked(tmp_path, "SELECT sum(q), count(*) FROM silver.heard_of") == [(8, 8)]
    # what was undeclared then is where it was
    wide = "SELECT count(*), count(coupon), count(q), sum(revenue) FROM events_wide"
    assert asked(tmp_path, wide) == [(45, 7, 8, 15 * 95 / 10)]
    old = "SELECT count(*) FROM events_wide WHERE extra_properties ->> 'coupon' = 'x' OR coupon = 'x'"
    assert asked(tmp_path, old) == [(15,)]
