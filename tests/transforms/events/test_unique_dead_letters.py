"""A dead letter stands in the lake once, however often its record stands in the log."""

from datetime import UTC, datetime

import apache_beam as beam
import pyarrow as pa
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Script
from apache_beam.testing.util import assert_that, equal_to

from runners.beam_options import parse_beam_options
from schemas.dead_letters import DEAD_LETTER
from schemas.keys import stable_digest
from transforms.events.unique_dead_letters import UniqueDeadLetters
from transforms.tables import TableCoder

DAY = datetime(2026, 4, 12, tzinfo=UTC).date()


def letters(*offsets: int) -> pa.Table:
    rows = [
        {
            "dead_letter_id": stable_digest([str(offset)]),
            "arrival_date": DAY,
            "source": "clicks",
            "partition": 0,
            "offset": offset,
            "step": "decode",
            "reason": "not_json",
            "message": "the text is not JSON",
            "payload": b"{" * offset,
        }
        for offset in offsets
    ]
    return pa.Table.from_pylist(rows, schema=DEAD_LETTER.schema)


def test_copies_in_one_table_and_in_others_are_dropped_with_all_columns_kept() -> None:
    with beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        tables = [letters(*range(40)), letters(7, 7, 41), letters(*range(30, 45))]
        unique = pipeline | beam.Create(tables) | UniqueDeadLetters()
        rows = unique | beam.FlatMap(lambda table: table.to_pylist())
        assert_that(rows, equal_to(letters(*range(45)).to_pylist()))


def test_letters_of_a_stream_pass_as_they_come() -> None:
    stream = Script(coder=TableCoder()).add_elements([letters(1), letters(1, 2)]).advance_watermark_to_infinity()
    with beam.Pipeline(runner=BundleBasedDirectRunner(), options=parse_beam_options(["--streaming"])) as pipeline:
        passed = pipeline | stream.with_output_types(pa.Table) | UniqueDeadLetters()
        offsets = passed | beam.FlatMap(lambda table: table["offset"].to_pylist())
        assert_that(offsets, equal_to([1, 1, 2]))
