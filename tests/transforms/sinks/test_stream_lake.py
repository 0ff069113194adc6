"""The lake's sink on an endless input."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Script

from runners.beam_options import parse_beam_options
from schemas.errors import OptionError
from schemas.records import TIMESTAMP, Field, Record
from schemas.sessions import SESSION
from stores.lake import find_table, read_table
from stores.lake_commit import WriteMode
from tests.session_panes import pane, pane_table
from transforms.sessions.write_sessions import WriteSessions
from transforms.sinks.write_lake import WriteLake
from transforms.tables import TableCoder

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
VISIT = Record(
    name="silver/visits",
    grain="one visit",
    fields=(
        Field("visit_id", pa.string(), "id", nullable=False),
        Field("day", pa.date32(), "date", nullable=False),
        Field("seen_at", TIMESTAMP, "when"),
    ),
    partition_by=("day",),
    sort_by=("visit_id",),
    key=("visit_id",),
)


def visits(*times: datetime) -> pa.Table:
    rows = [{"visit_id": f"v-{t:%d-%H}", "day": t.date(), "seen_at": t} for t in times]
    return pa.Table.from_pylist(rows, schema=VISIT.schema)


def panes(session_id: str, count: int, index: int, *, retraction: bool = False) -> pa.Table:
    return pane_table(pane(session_id, index, event_count=count, pane_timing="LATE", is_retraction=retraction))


def streamed(sink: beam.PTransform, *tables: pa.Table) -> None:
    """Send each table at a watermark of its own."""
    stream = Script(coder=TableCoder())
    for minute, table in enumerate(tables):
        # each move of the watermark ends a bundle, and so writes files
        stream = stream.advance_watermark_to(minute * 60).add_elements([table])
    options = parse_beam_options([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    _ = pipeline | stream.advance_watermark_to_infinity().with_output_types(pa.Table) | sink
    pipeline.run().wait_until_finish()


def test_every_bundle_is_in_the_table_once(tmp_path: Path) -> None:
    days = [NOON + timedelta(days=n) for n in range(3)]
    streamed(
        WriteLake(VISIT, str(tmp_path)),
        visits(days[0], days[1]),
        visits(days[1] + timedelta(hours=1)),
        visits(days[2], days[0] + timedelta(hours=1)),
    )
    found = read_table(str(tmp_path), VISIT.name).sort_by("visit_id")
    expected = ["v-12-12", "v-12-13", "v-13-12", "v-13-13", "v-14-12"]
    assert found.column("visit_id").to_pylist() == expected
    table = find_table(str(tmp_path), VISIT.name)
    assert table is not None
    assert table.version() > 1, "visible as the run goes on, not only at its end"


def test_panes_become_the_current_sessions_as_they_come(tmp_path: Path) -> None:
    streamed(
        WriteSessions(str(tmp_path)),
        panes("grows", 1, 0),
        panes("goes", 1, 0),
        panes("grows", 7, 1),
        panes("goes", 1, 1, retraction=True),
    )
    found = read_table(str(tmp_path), SESSION.name, ["session_id", "event_count"]).to_pylist()
    assert found == [{"session_id": "grows", "event_count": 7}]


@pytest.mark.parametrize(
    ("sink", "problem"),
    [
        (lambda lake: WriteLake(VISIT, lake, WriteMode.OVERWRITE), "silver/visits: mode overwrite is for a bounded"),
        (lambda lake: WriteSessions(lake, WriteMode.APPEND), "fact_sessions: changes are merged"),
    ],
)
def test_a_mode_that_an_endless_input_cannot_have_is_refused_when_the_graph_is_built(
    tmp_path: Path, sink: Callable[[str], beam.PTransform], problem: str
) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    tables = pipeline | Script(coder=TableCoder()).with_output_types(pa.Table)
    with pytest.raises(OptionError, match=problem):
        _ = tables | sink(str(tmp_path))


@pytest.mark.parametrize("asked", [True, False])
def test_stable_input_is_required_of_the_commit_alone_and_where_asked(tmp_path: Path, asked: bool) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    tables = pipeline | Script(coder=TableCoder()).with_output_types(pa.Table)
    _ = tables | WriteLake(VISIT, str(tmp_path), stable_input=asked)
    proto = pipeline.to_runner_api()
    urn = common_urns.requirements.REQUIRES_STABLE_INPUT.urn
    assert (urn in proto.requirements) is asked
    stable = [
        transform.unique_name.rpartition("/")[2]
        for transform in proto.components.transforms.values()
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn
        and api.ParDoPayload.FromString(transform.spec.payload).requires_stable_input
    ]
    assert stable == (["Commit"] if asked else [])
