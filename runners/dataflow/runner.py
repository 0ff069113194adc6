"""The Dataflow runner for the live job, which submits the job and leaves it to the service."""

from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from runners.dataflow.options import DataflowOptions
from schemas.errors import OptionError


@contextmanager
def dataflow_runner(options: PipelineOptions) -> Iterator[PipelineRunner]:
    """The runner for a job on Dataflow. Completes `options` with `DataflowOptions`; pass them to the pipeline as well.

    Raises:
        OptionError: Options are missing or malformed, one line each; or the extra ``dataflow`` is not installed.
    """
    try:
        from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
    except ImportError as error:
        raise OptionError(f"Dataflow needs this package with its extra, clickstream[dataflow]: {error}") from error
    DataflowOptions.read(options).apply(options)
    yield DataflowRunner()
