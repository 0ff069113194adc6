"""The dimensions as the graph keeps them: of a bounded input, of an endless one, and of the same input again."""

from datetime import timedelta
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Script

from runners.beam_options import parse_beam_options
from schemas.dimensions import DEVICE, PAGE, USER
from stores.lake import find_table, read_table
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.events.pages import PageRules
from transforms.identity.write_dimensions import COMMIT_SECONDS, WriteDimensions
from transforms.tables import TableCoder

TABLES = {DEVICE.record.name: "device_id", USER.record.name: "user_key", PAGE.name: "page_key"}
RULES = PageRules((("product", "^/p/"),))
EVENTS = [
    click(at(minutes=n), f"d{n % 4}", user_key=f"u{n % 3}" if n % 5 == 0 else None, page_url=f"/p/{n % 7}?n={n}")
    for n in range(60)
]


def bounded(lake: Path, *tables: pa.Table) -> None:
    with beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        _ = pipeline | beam.Create(list(tables)) | WriteDimensions(str(lake), RULES)


def streamed(lake: Path, *tables: pa.Table) -> None:
    """Send each table at a watermark of its own, the time between two commits gone by."""
    stream = Script(coder=TableCoder())
    for minute, table in enumerate(tables):
        stream = stream.advance_watermark_to(minute * 60).add_elements([table])
        stream = stream.advance_processing_time(COMMIT_SECONDS + 1)
    options = parse_beam_options([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    tables_in = pipeline | stream.advance_watermark_to_infinity().with_output_types(pa.Table)
    _ = tables_in | WriteDimensions(str(lake), RULES)
    pipeline.run().wait_until_finish()


def rows_of(lake: Path) -> dict[str, pa.Table]:
    return {name: read_table(str(lake), name).sort_by(key).combine_chunks() for name, key in TABLES.items()}


def versions_of(lake: Path) -> dict[str, int]:
    tables = {name: find_table(str(lake), name) for name in TABLES}
    return {name: table.version() for name, table in tables.items() if table is not None}


def test_stream_in_any_order_with_repeats_ends_in_the_rows_of_a_batch(tmp_path: Path) -> None:
    bounded(tmp_path / "batch", batch(EVENTS))
    parts = [EVENTS[40:], EVENTS[:25], EVENTS[20:45], EVENTS[10:15]]
    streamed(tmp_path / "stream", *map(batch, parts))
    assert rows_of(tmp_path / "stream") == rows_of(tmp_path / "batch")
    assert versions_of(tmp_path / "stream")[DEVICE.record.name] > 1, "committed as the stream goes on"


def test_end_of_a_stream_lets_go_what_is_held_back(tmp_path: Path) -> None:
    stream = Script(coder=TableCoder()).add_elements([batch(EVENTS)]).advance_watermark_to_infinity()
    options = parse_beam_options([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    _ = pipeline | stream.with_output_types(pa.Table) | WriteDimensions(str(tmp_path), RULES, commit_seconds=3600)
    pipeline.run().wait_until_finish()
    assert read_table(str(tmp_path), DEVICE.record.name).num_rows == 4


def test_same_input_again_commits_nothing(tmp_path: Path) -> None:
    bounded(tmp_path, batch(EVENTS[:30]), batch(EVENTS[30:]))
    before, versions = rows_of(tmp_path), versions_of(tmp_path)
    bounded(tmp_path, batch(EVENTS[15:50]))
    assert versions_of(tmp_path) == versions
    assert rows_of(tmp_path) == before


def test_later_input_adds_to_the_rows_that_are_there(tmp_path: Path) -> None:
    bounded(tmp_path, batch(EVENTS[:30]))
    bounded(tmp_path, batch(EVENTS[30:]))
    bounded(tmp_path / "whole", batch(EVENTS))
    assert rows_of(tmp_path) == rows_of(tmp_path / "whole")
    first = rows_of(tmp_path)[DEVICE.record.name].to_pylist()[0]
    assert first["last_seen_at"] - first["first_seen_at"] == timedelta(minutes=56)


def test_pages_of_a_batch_are_one_row_each(tmp_path: Path) -> None:
    bounded(tmp_path, batch(EVENTS))
    pages = rows_of(tmp_path)[PAGE.name]
    assert sorted(pages.column("url").to_pylist()) == [f"/p/{n}" for n in range(7)]
    assert set(pages.column("category").to_pylist()) == {"product"}
