"""Translates a graph into a Dataflow job with Beam's own runner, without calling the service."""

from collections.abc import Callable
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, TestOptions

from runners.dataflow.options import DataflowOptions
from schemas.errors import OptionError


class DataflowJob(NamedTuple):
    """A job as Dataflow would receive it.

    Attributes:
        job: The job message, with name and type.
        environment: The job's environment: worker pools, experiments, service options.
        pipeline: The graph, in Beam's portable form.
    """

    job: Any
    environment: Any
    pipeline: Any


def translate(
    compose: Callable[[beam.Pipeline], object], dataflow: DataflowOptions, options: PipelineOptions | None = None
) -> DataflowJob:
    """Translate a graph for Dataflow. Needs no network, no account and no credentials.

    Args:
        compose: Applies the graph to a pipeline.
        dataflow: The job's options.
        options: Other Beam options; `dataflow` is written into them.

    Raises:
        OptionError: Dataflow's client is not installed, or the options are invalid.
        ValueError: The runner rejects the graph.
    """
    try:
        from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
        from apache_beam.runners.dataflow.internal import apiclient
    except ImportError as error:
        raise OptionError(f"Dataflow needs this package with its extra, clickstream[dataflow]: {error}") from error
    options = dataflow.apply(options or PipelineOptions([]))
    # With these, Beam neither creates a client of the service nor checks the bucket
    options.view_as(TestOptions).dry_run = True
    options.view_as(GoogleCloudOptions).no_auth = True
    pipeline = beam.Pipeline(runner=DataflowRunner(), options=options)
    compose(pipeline)
    job = pipeline.run().job
    environment = apiclient.Environment(
        packages=[],
        options=job.options,
        environment_version=apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION,
        proto_pipeline_staged_url=f"{job.google_cloud_options.staging_location}/pipeline.pb",
        proto_pipeline=job.proto_pipeline,
    )
    return DataflowJob(job.proto, environment.proto, job.proto_pipeline)
