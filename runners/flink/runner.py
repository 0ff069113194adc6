"""The Flink runner for a streaming job, with its own job server, workers on this machine, and orderly shutdown."""

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions, WorkerOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import JobServiceHandle, PipelineResult, PortableRunner
from apache_beam.runners.runner import PipelineState

from runners.flink.job_server import JobServer, job_server
from runners.flink.metrics import live_metrics
from runners.flink.options import FlinkOptions
from runners.flink.rest import ENDED, FlinkRest
from runners.flink.workers import WorkerPool, worker_pool
from runners.services.home import locked, state_home
from runners.services.processes import POLL_SECONDS, listens
from schemas.errors import ClickstreamError, ServiceError

CANCEL_SECONDS = 30.0
RUNS_KEPT = 20
# The last line of a Python traceback inside a Java one
_PYTHON_ERROR = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Warning|Interrupt)): (.*)$", re.MULTILINE)


class JobFailedError(ClickstreamError):
    """A job on a cluster has failed permanently."""


@contextmanager
def flink_runner(options: PipelineOptions, flink: FlinkOptions | None = None) -> Iterator["FlinkRunner"]:
    """The runner for jobs on Flink, embedded or on a cluster. Sets up `options`; pass them to the pipeline as well.

    When the context ends, a running job is cancelled and no process is left behind.

    Args:
        options: Beam's options. A cluster of several machines cannot reach the workers on this machine: start Beam's
            worker pool beside each TaskManager and give ``--environment_type=EXTERNAL
            --environment_config=localhost:PORT``.
        flink: Flink's options.

    Raises:
        ServiceError: Java or Maven is missing, or the job server does not start.
    """
    flink = flink or FlinkOptions()
    cache = options.view_as(WorkerOptions).max_cache_memory_usage_mb << 20
    with (
        _run_folder() as folder,
        job_server(flink, folder) as server,
        worker_pool(folder / "worker.log", cache) as workers,
    ):
        options.view_as(StandardOptions).streaming = True
        portable = options.view_as(PortableOptions)
        portable.job_endpoint = server.address
        if portable.environment_type is None:
            portable.environment_type, portable.environment_config = "EXTERNAL", workers.address
        runner = FlinkRunner(server, workers, flink)
        try:
            yield runner
        finally:
            runner.cancel_all()


class FlinkRunner(PortableRunner):
    """Submits pipelines to its own job server.

    Attributes:
        job_name: The Flink name of its jobs, of which at most one runs at a time.
        log: The job server's log; the workers' log is ``worker.log`` beside it.
    """

    def __init__(self, server: JobServer, workers: WorkerPool, flink: FlinkOptions) -> None:
        super().__init__()
        self.job_name = f"clickstream-{uuid.uuid4().hex[:12]}"
        self.log = server.log
        self._server, self._workers, self._flink = server, workers, flink
        self._results: list[FlinkResult] = []

    @property
    def rest(self) -> FlinkRest:
        """The REST client of the cluster that runs its jobs."""
        return FlinkRest(self._server.rest)

    @property
    def job(self) -> str | None:
        """The job's id in Flink, or None before it exists; the embedded cluster starts with the job."""
        return self.rest.job(self.job_name) if listens(self._server.rest) else None

    def live_metrics(self) -> dict[str, int]:
        """The job's metrics so far, by name; empty before it runs.

        Raises:
            ServiceError: The cluster does not answer.
        """
        job = self.job
        return live_metrics(self.rest, job) if job else {}

    def worker_pids(self) -> list[int]:
        """Process ids of the running Python workers."""
        return self._workers.pids()

    def kill_job_server(self) -> None:
        """Kill the job server, as a crash would."""
        self._server.kill()

    def create_job_service_handle(self, job_service: Any, options: PipelineOptions) -> JobServiceHandle:
        """A handle that adds the options that only the job server knows."""
        return _Handle(job_service, options, self._flink.for_beam() | {"job_name": self.job_name})

    def run_portable_pipeline(self, pipeline: Any, options: PipelineOptions) -> "FlinkResult":
        """Submit a pipeline.

        Raises:
            ServiceError: The job server is not running any more.
            JobFailedError: The job server rejects the pipeline.
        """
        # The job server does not know the names of Python runners
        options.view_as(StandardOptions).runner = None
        try:
            handle = self.create_job_service(options)
            job, messages, states = handle.submit(self._optimize_pipeline(pipeline, options))
        except grpc.RpcError as error:
            if not self._server.alive:
                raise self._server.failure("has gone") from error
            raise JobFailedError(f"Flink refuses the job: {_cause([str(error)])}") from error
        result = FlinkResult(handle.job_service, job, messages, states, self._server)
        self._results.append(result)
        return result

    def cancel_all(self) -> None:
        """Cancel running jobs and wait until they have ended."""
        if not self._results:
            return
        # Cancels through Flink, which ends its workers in order: Beam's service forgets a job before it has ended.
        # On a cluster this also ends a job whose server is gone; it would look for its workers endlessly.
        with suppress(ServiceError):
            self._cancel_in_flink()
        for result in self._results:
            if self._server.alive:
                with suppress(grpc.RpcError):
                    result.cancel()

    def _cancel_in_flink(self) -> None:
        job = self.job
        if job is None or self.rest.state(job) in ENDED:
            return
        self.rest.cancel(job)
        deadline = time.monotonic() + CANCEL_SECONDS
        while self.rest.state(job) not in ENDED and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


class FlinkResult(PipelineResult):
    """A job on Flink."""

    def __init__(self, job_service: Any, job: str, messages: Any, states: Any, server: JobServer) -> None:
        self._errors: list[str] = []
        self._server = server
        super().__init__(job_service, job, self._without_errors(messages), states)

    def wait_until_finish(self, duration: int | None = None) -> str:
        """Wait until the job ends, or for `duration` milliseconds.

        Raises:
            JobFailedError: The job failed; the message is the cause in one line.
            ServiceError: The job server is not running any more.
        """
        try:
            return super().wait_until_finish(duration)
        except (RuntimeError, grpc.RpcError) as error:
            if self._state == PipelineState.CANCELLED:
                return PipelineState.CANCELLED
            if isinstance(error, grpc.RpcError) or not self._server.alive:
                raise self._server.failure("has gone") from error
            raise JobFailedError(f"the job failed: {_cause(self._errors)}; see {self._server.log}") from error

    def cancel(self) -> None:
        """Cancel the job if it has not ended, and wait for its end."""
        if PipelineState.is_terminal(self.state):
            return
        super().cancel()
        deadline = time.monotonic() + CANCEL_SECONDS
        while not PipelineState.is_terminal(self.state) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _without_errors(self, messages: Any) -> Iterator[Any]:
        """Messages to log. Errors, which are Java tracebacks, are kept for the one-line message at the end."""
        # the stream ends with the job server; the stream of states tells how the job ended
        with suppress(grpc.RpcError):
            for message in messages:
                response = message.message_response
                if response.importance == beam_job_api_pb2.JobMessage.JOB_MESSAGE_ERROR:
                    self._errors.append(response.message_text)
                else:
                    yield message


class _Handle(JobServiceHandle):
    """Submits a job with options that Beam's Python SDK cannot parse."""

    def __init__(self, job_service: Any, options: PipelineOptions, more: dict[str, str | bool]) -> None:
        super().__init__(job_service, options)
        self._more = more

    def get_pipeline_options(self) -> Any:
        """The pipeline's options together with the runner's."""
        encoded = super().get_pipeline_options()
        encoded.update({f"beam:option:{name}:v1": value for name, value in self._more.items()})
        return encoded


def _cause(errors: list[str]) -> str:
    """The cause in one line: the error of a Python step if there is one, otherwise the innermost Java error."""
    text = "\n".join(errors)
    python = _PYTHON_ERROR.findall(text)
    if python:
        kind, message = python[-1]
        return f"{kind}: {message.partition(' [while running')[0]}"
    java = re.findall(r"^Caused by: (.*)$", text, re.MULTILINE)
    return (java or [line for line in text.splitlines() if line.strip()] or ["no message"])[-1 if java else 0]


@contextmanager
def _run_folder() -> Iterator[Path]:
    """A new folder for a run's files, kept for its logs. The oldest folders that no run holds are deleted."""
    runs = state_home() / "flink-runs"
    folder = runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}"
    with locked(folder):
        for old in sorted(runs.iterdir())[:-RUNS_KEPT]:
            with suppress(OSError), open(old / ".lock") as held:  # another run may be cleaning up too
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old)
        yield folder
