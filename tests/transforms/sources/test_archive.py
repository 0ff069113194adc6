"""The raw log as a step of the graph."""

from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Script
from apache_beam.testing.util import assert_that, equal_to

from runners.beam_options import parse_beam_options
from schemas.events import RAW
from transforms.metrics import read_counters
from transforms.sources import archive
from transforms.sources.archive import Archive
from transforms.sources.raw_files import FileFormat, FileSlice, read_slice
from transforms.sources.read_files import list_files
from transforms.tables import TableCoder

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)


def arrived(*offsets: int, payload: bytes | None = b"{}") -> pa.Table:
    rows = [
        {"payload": payload, "source": "clicks", "partition": 3, "offset": n, "arrival_time": NOON + timedelta(hours=n)}
        for n in offsets
    ]
    return pa.Table.from_pylist(rows, schema=RAW.schema)


def replayed(root: Path) -> list[dict[str, object]]:
    """The log's rows as `run --input` reads them, by offset."""
    rows: list[dict[str, object]] = []
    for path, size in list_files([str(root)]).items():
        with Path(path).open("rb") as stream:
            for table in read_slice(stream, FileSlice(path, FileFormat.AVRO, 0, size)):
                assert isinstance(table, pa.Table)
                rows += table.to_pylist()
    return sorted(rows, key=itemgetter("offset"))


def archived(root: Path, *tables: pa.Table) -> dict[str, int]:
    with beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        written = pipeline | beam.Create(tables) | Archive(str(root))
        total = sum(len(table) for table in tables)
        assert_that(written | beam.CombineGlobally(sum), equal_to([total]))
    return read_counters(pipeline.result.metrics())


def test_archived_rows_are_replayed_with_their_positions_and_arrivals(tmp_path: Path) -> None:
    tables = [arrived(1, 2), arrived(3, payload=None), arrived(4, payload=b"\xff"), arrived(5, payload=b"")]
    counters = archived(tmp_path, *tables)
    assert replayed(tmp_path) == pa.concat_tables(tables).to_pylist()
    files = list_files([str(tmp_path)])
    assert counters == {"archive_rows": 5, "archive_files": len(files), "archive_bytes": sum(files.values())}


def test_every_bundle_of_a_stream_is_in_the_log(tmp_path: Path) -> None:
    stream = Script(coder=TableCoder())
    tables = [arrived(1, 2), arrived(3), arrived(4, 5)]
    for minute, table in enumerate(tables):
        # each move of the watermark ends a bundle
        stream = stream.advance_watermark_to(minute * 60).add_elements([table])
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=parse_beam_options(["--streaming"]))
    _ = pipeline | stream.advance_watermark_to_infinity().with_output_types(pa.Table) | Archive(str(tmp_path))
    pipeline.run().wait_until_finish()
    assert replayed(tmp_path) == pa.concat_tables(tables).to_pylist()


def test_bundle_that_fills_its_buffer_writes_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "HELD_BYTES", 1)
    assert archived(tmp_path, arrived(1), arrived(25))["archive_files"] == 2
    assert [row["offset"] for row in replayed(tmp_path)] == [1, 25]


def test_failure_to_write_fails_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="cannot write the raw log"):
        archived(tmp_path / "file" / "log", arrived(1))
