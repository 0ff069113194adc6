"""Start the main job and see it through: checks first, then the run, then its report."""

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
    """Checks that both stores can be written as the run is going to, each to be called before anything starts."""
    tables = tables_of(options.catalogue)
    checks: list[Callable[[], object]] = [
        lambda: check_lake(options.lake, tables),
        lambda: open_device_store(options.devices).close(),
    ]
    if endless and not options.onto_existing:
        checks.append(lambda: check_fresh(options.lake, tables))
    return checks


def unseen(_: PipelineRunner) -> AbstractContextManager[None]:
    """Shows nothing while a job runs."""
    return nullcontext()


def run(
    options: RunOptions,
    source: beam.PTransform,
    beam_options: PipelineOptions,
    open_runner: OpenRunner,
    follow: Follow = unseen,
) -> RunReport:
    """Run the main job until its input ends, or it is interrupted.

    Args:
        options: Of the graph.
        source: Gives `RawInput`.
        beam_options: Beam's and the runner's.
        open_runner: Makes the runner ready, and cleans up after it.
        follow: Shows what the runner's job does while it runs.

    Raises:
        ClickstreamError: An input, a store or the runner failed; the message is one line. Nothing of a bounded run is
            visible in the lake unless its commit had been made, and the same run again ends in the same stores.
    """
    began = time.monotonic()
    # Also a table that gets no row this time is there to be asked
    create_tables(options.lake, tables_of(options.catalogue))
    with scratch(), open_runner(beam_options) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, source, options)
        # A runner in this process counts here as it works
        read_live = getattr(runner, "live_metrics", lambda: dict(SEEN_HERE))
        try:
            result = pipeline.run()
            with follow(runner):
                result.wait_until_finish()
            counters = read_counters(result.metrics())
        except KeyboardInterrupt:
            # An endless input ends like this; the job is cancelled when the runner's context ends
            counters = read_live()
        except Exception as error:  # a runner wraps what a step raises as it likes
            raise first_cause(error) from error
    return RunReport.of(counters, [record.name for record in tables_of(options.catalogue)], time.monotonic() - began)


def run_here(compose: Callable[[beam.Pipeline], None]) -> dict[str, int]:
    """Run a bounded graph in this process until it ends; returns its counters.

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
        except Exception as error:  # the runner wraps what a step raises
            raise first_cause(error) from error
    return read_counters(result.metrics())


def shards_for(rows: int) -> int:
    """How many shards a graph that is run here has for so many rows: those of a shard are in memory at once."""
    return max(_LEAST_SHARDS, -(-rows // _ROWS_A_SHARD))


def submit(options: RunOptions, source: beam.PTransform, beam_options: PipelineOptions, open_runner: OpenRunner) -> str:
    """Hand the main job to a service that runs it without this process; returns the job's id.

    Raises:
        ClickstreamError: The options, a store or the service refuse it.
    """
    create_tables(options.lake, tables_of(options.catalogue))
    with scratch(), open_runner(beam_options) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, source, options)
        return str(pipeline.run().job_id())


def first_cause(error: Exception) -> Exception:
    """The error of ours that a runner has wrapped or annotated, if there is one; else the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ClickstreamError):
            # Beam appends the step's name to every message
            return type(seen)(str(seen).partition(" [while running")[0])
        seen = seen.__cause__ or seen.__context__
    return error
