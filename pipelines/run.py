"""Start the main job and see it through: checks first, then the run, then its report."""

import time
from collections.abc import Callable

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.clickstream import build
from pipelines.options import RunOptions
from pipelines.report import RunReport
from runners.direct import direct_runner
from schemas.dead_letters import DEAD_LETTER
from schemas.errors import ClickstreamError
from schemas.events import EVENT
from schemas.sessions import SESSION
from stores.device_store import open_device_store
from stores.lake import check_lake, create_tables
from transforms.metrics import read_counters
from transforms.read_files import ReadFiles

TABLES = (EVENT, SESSION, DEAD_LETTER)


def check_stores(options: RunOptions) -> list[Callable[[], object]]:
    """Checks that both stores can be written, each to be called before anything starts."""
    return [
        lambda: check_lake(options.lake, TABLES),
        lambda: open_device_store(options.devices).close(),
    ]


def run(options: RunOptions, beam_options: PipelineOptions) -> RunReport:
    """Run the main job over files to its end.

    Raises:
        ClickstreamError: An input or a store failed; the message is one line. Nothing of the run is visible in the
            lake unless its commit had been made, and the same run again ends in the same stores.
    """
    began = time.monotonic()
    # Also a table that gets no row this time is there to be asked
    create_tables(options.lake, TABLES)
    with direct_runner(beam_options) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, ReadFiles(options.files, options.started_at), options)
        try:
            result = pipeline.run()
            result.wait_until_finish()
        except Exception as error:  # a runner wraps what a step raises as it likes
            raise _first_cause(error) from error
    counters = read_counters(result.metrics())
    return RunReport.of(counters, [record.name for record in TABLES], time.monotonic() - began)


def _first_cause(error: Exception) -> Exception:
    """The error of ours that a runner has wrapped or annotated, if there is one; else the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ClickstreamError):
            # Beam appends the step's name to every message
            return type(seen)(str(seen).partition(" [while running")[0])
        seen = seen.__cause__ or seen.__context__
    return error
