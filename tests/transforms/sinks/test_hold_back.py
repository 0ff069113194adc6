"""Tables of an endless input that wait for each other, in files."""

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_stream import TestStream as Script

from schemas.errors import StoreError
from stores.held_tables import delete_held, read_held, write_held
from transforms.sinks.hold_back import HoldBack
from transforms.tables import TableCoder


class Append(beam.DoFn):
    """A line a bundle, of the numbers that came in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start_bundle(self) -> None:
        self._numbers: list[int] = []

    def process(self, table: pa.Table) -> None:
        self._numbers += table["n"].to_pylist()

    def finish_bundle(self) -> Iterator[None]:
        if self._numbers:
            with open(self._path, "a") as out:
                out.write(f"{sorted(self._numbers)}\n")
        yield from ()


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())})


def test_tables_wait_for_their_time_or_the_end_and_their_files_go(tmp_path: Path) -> None:
    held, out = tmp_path / "held", tmp_path / "out"
    script = (
        Script(coder=TableCoder())
        .add_elements([numbers(1, 2)])
        .add_elements([numbers(3)])
        .advance_processing_time(11)
        .add_elements([numbers(4)])
        .advance_watermark_to_infinity()
    )
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    tables = pipeline | script.with_output_types(pa.Table)
    _ = tables | HoldBack(str(held), seconds=10) | beam.ParDo(Append(out))
    pipeline.run().wait_until_finish()
    assert out.read_text().splitlines() == ["[1, 2, 3]", "[4]"]
    assert list(held.iterdir()) == []


def test_held_tables_are_read_as_they_were_until_they_are_deleted(tmp_path: Path) -> None:
    name = write_held(str(tmp_path / "held"), [numbers(1), numbers(), numbers(2, 3)])
    for _ in range(2):  # a restored run reads it again
        assert read_held(str(tmp_path / "held"), name).equals(numbers(1, 2, 3))
    for _ in range(2):  # and deletes it again
        delete_held(str(tmp_path / "held"), [name])
    with pytest.raises(StoreError, match="cannot read from"):
        read_held(str(tmp_path / "held"), name)
