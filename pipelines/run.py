"""Runs the main job: checks the stores, runs the graph, and reports."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from pipelines.clickstream import build
from pipelines.options import RunOptions
from pipelines.report import RunReport
from pipelines.tables import tables_of
from runners.beam_options import parse_beam_options
from runners.direct import direct_runner
from runners.scratch import scratch
from schemas.errors import ClickstreamError
from stores.device_store import open_device_store
from stores.lake import check_fresh, check_lake, create_tables
from transforms.metrics import SEEN_HERE, read_counters

OpenRunner = Callable[[PipelineOptions], AbstractContextManager[PipelineRunner]]
Follow = Callable[[PipelineRunner], AbstractContextManager[None]]

_ROWS_A_SHARD = 250_000
_LEAST_SHARDS = 4


def check_stores(options: RunOptions, endless: bool) -> list[Callable[[], object]]:
    """Checks that the run can write both stores; call each before anything starts."""
    tables = tables_of(options.catalogue)
    checks: list[Callable[[], object]] = [
        lambda: check_lake(options.lake, tables),
        lambda: open_device_store(options.devices).close(),
    ]
    if endless and not options.onto_existing:
        checks.append(lambda: check_fresh(options.lake, tables))
    return checks


def unseen(_: PipelineRunner) -> AbstractContextManager[None]:
    """A `Follow` that shows nothing while a job runs."""
    return nullcontext()


def run(
    options: RunOptions,
    source: beam.PTransform,
    beam_options: PipelineOptions,
    open_runner: OpenRunner,
    follow: Follow = unseen,
) -> RunReport:
    """Run the main job until its input ends or it is interrupted.

    Args:
        options: The graph's options.
        source: Produces `RawInput`.
        beam_options: Options of Beam and the runner.
        open_runner: Opens the runner, and cleans up after it.
        follow: Shows the progress of the runner's job.

    Raises:
        ClickstreamError: An input, a store or the runner failed; the message is one line. Rows of a bounded run are
            visible in the lake only if their commit was made, and running it again leads to the same stores.
    """
    began = time.monotonic()
    # Creates all tables, so that those without rows can be queried too
    create_tables(options.lake, tables_of(options.catalogue))
    with scratch(), open_runner(beam_options) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, source, options)
        # A runner in this process updates its counters here while it runs
        read_live = getattr(runner, "live_metrics", lambda: dict(SEEN_HERE))
        try:
            result = pipeline.run()
            with follow(runner):
                result.wait_until_finish()
            counters = read_counters(result.metrics())
        except KeyboardInterrupt:
            # The usual end of an endless run; the job is cancelled when the runner's context ends
            counters = read_live()
        except Exception as error:  # each runner wraps a step's error differently
            raise first_cause(error) from error
    return RunReport.of(counters, [record.name for record in tables_of(options.catalogue)], time.monotonic() - began)


def run_here(compose: Callable[[beam.Pipeline], None]) -> dict[str, int]:
    """Run a bounded graph in this process to its end; returns its counters.

    Args:
        compose: Adds the graph's steps to a pipeline.

    Raises:
        ClickstreamError: A step failed; the message is one line.
    """
    options = parse_beam_options([])
    with scratch(), direct_runner(options) as runner:
        pipeline = beam.Pipeline(runner=runner, options=options)
        compose(pipeline)
        try:
            result = pipeline.run()
            result.wait_until_finish()
        except Exception as error:  # the runner wraps a step's error
            raise first_cause(error) from error
    return read_counters(result.metrics())


def shards_for(rows: int) -> int:
    """The number of shards for a graph run in this process over `rows` rows; all rows of a shard are held in memory."""
    return max(_LEAST_SHARDS, -(-rows // _ROWS_A_SHARD))


def submit(options: RunOptions, source: beam.PTransform, beam_options: PipelineOptions, open_runner: OpenRunner) -> str:
    """Submit the main job to a service that runs it independently of this process; returns the job's id.

    Raises:
        ClickstreamError: The options are invalid, or a store or the service fails.
    """
    create_tables(options.lake, tables_of(options.catalogue))
    with scratch(), open_runner(beam_options) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, source, options)
        return str(pipeline.run().job_id())


def first_cause(error: Exception) -> Exception:
    """The ClickstreamError that a runner has wrapped or annotated, or else the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ClickstreamError):
            # Beam appends the step's name to every message
            return type(seen)(str(seen).partition(" [while running")[0])
        seen = seen.__cause__ or seen.__context__
    return error
