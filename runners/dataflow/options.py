"""The options of a Dataflow job: read from Beam's own options, checked together, completed and written back."""

import re
from dataclasses import dataclass

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from schemas.errors import OptionError

_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_FOLDER = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?")
_IMAGE = re.compile(r"[a-z0-9.-]+\.[a-z]+(:\d+)?(/[a-z0-9._-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class DataflowOptions:
    """Options of a streaming job on Dataflow.

    Attributes:
        project: The project that is billed.
        region: Region of the workers.
        temp_location: A ``gs://`` folder for Dataflow's temporary files.
        image: Container image of the workers, with a tag or digest, as built from the Dockerfile beside this file. It
            holds this package and every dependency in its locked version, so that a worker installs nothing.
        job_name: Name of the job. Dataflow rejects a second job of the same name while the first runs.
        staging_location: A ``gs://`` folder for the job's description; `temp_location` if not given.
        machine_type: Machine type of the workers.
        min_workers: Initial number of workers.
        max_workers: Maximum number of workers; Dataflow scales between the two by throughput and backlog.
        threads: Bundles that a worker's Python process handles concurrently. Each decodes a batch outside Python's
            global lock on a DuckDB connection of its own, so Dataflow's default of 12 would cost memory without
            gaining speed.
        service_options: Options of the Dataflow service, such as ``enable_google_cloud_profiler``.

    Raises:
        OptionError: Options are missing or malformed; one line each.
    """

    project: str
    region: str
    temp_location: str
    image: str
    job_name: str = "clickstream"
    staging_location: str | None = None
    machine_type: str = "n2-standard-4"
    min_workers: int = 1
    max_workers: int = 20
    threads: int = 4
    service_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = [
            f"--{name}: {value!r} is not {what}" if value else f"--{name}: needed on Dataflow; it is {what}"
            for name, value, pattern, what in (
                ("project", self.project, _PROJECT, "the id of a project"),
                ("region", self.region, _REGION, "a region such as europe-west1"),
                ("temp_location", self.temp_location, _FOLDER, "a folder such as gs://bucket/temp"),
                ("staging_location", self.staging_location or self.temp_location, _FOLDER, "a gs:// folder"),
                ("sdk_container_image", self.image, _IMAGE, "an image with its registry and a tag or digest"),
                ("job_name", self.job_name, _JOB_NAME, "lower-case letters, digits and hyphens"),
            )
            if not pattern.fullmatch(value)
        ]
        if not 1 <= self.min_workers <= self.max_workers:
            problems.append(f"--num_workers: {self.min_workers} is not from 1 to --max_num_workers {self.max_workers}")
        if self.threads < 1:
            problems.append(f"--number_of_worker_harness_threads: {self.threads} is not at least 1")
        if problems:
            raise OptionError("\n".join(problems))

    @classmethod
    def read(cls, options: PipelineOptions) -> "DataflowOptions":
        """Read the options that the user gave to Beam, with defaults for the others.

        Raises:
            OptionError: Options are missing or malformed; one line each.
        """
        cloud, worker = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
        given = {
            "job_name": cloud.job_name,
            "staging_location": cloud.staging_location,
            "machine_type": worker.machine_type,
            "min_workers": worker.num_workers,
            "max_workers": worker.max_num_workers,
            "threads": options.view_as(DebugOptions).number_of_worker_harness_threads,
            "service_options": tuple(cloud.dataflow_service_options or ()),
        }
        return cls(
            project=cloud.project or "",
            region=cloud.region or "",
            temp_location=cloud.temp_location or "",
            image=worker.sdk_container_image or "",
            **{name: value for name, value in given.items() if value is not None},
        )

    def apply(self, options: PipelineOptions) -> PipelineOptions:
        """Write these options, and defaults that every job needs, into Beam's options; returns the same object."""
        standard, setup = options.view_as(StandardOptions), options.view_as(SetupOptions)
        cloud, worker = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
        standard.runner, standard.streaming = "DataflowRunner", True
        cloud.project, cloud.region, cloud.job_name = self.project, self.region, self.job_name
        cloud.temp_location = self.temp_location
        cloud.staging_location = self.staging_location or self.temp_location
        cloud.enable_streaming_engine = True
        cloud.dataflow_service_options = list(self.service_options)
        worker.sdk_container_image, worker.machine_type = self.image, self.machine_type
        worker.autoscaling_algorithm = worker.autoscaling_algorithm or "THROUGHPUT_BASED"
        worker.num_workers, worker.max_num_workers = self.min_workers, self.max_workers
        options.view_as(DebugOptions).number_of_worker_harness_threads = self.threads
        # no step is defined in the main module; otherwise Beam would pickle the whole main session
        setup.save_main_session = False
        if setup.sdk_location == "default":
            # the image has the SDK and this package: nothing is staged, and no worker needs a package index
            setup.sdk_location = "container"
        return options
