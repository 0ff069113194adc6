"""A pool of Python worker processes on the loopback interface, which the cluster requests for a run's Python steps."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc  # type: ignore[import-untyped]
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from runners.services.processes import STOP_SECONDS

_ALLOCATIONS = 100_000
"""New objects after which a worker's garbage collector runs. The default of 700 runs it often while a batch of some ten
thousand messages is read, with an occasional full collection that holds Python's lock for a tenth of a second."""

_FLOOR, _GROWTH = 320 << 20, 0.25
"""When a worker returns memory; see `share_memory`. A worker that has loaded all it imports takes some 270 MB, and the
buffers of a bundle of a backlog some 300 MB more."""

_HARNESS = f"""
import gc, os, sys, threading
from runners.load_beam import load_beam
load_beam(google_cloud=sys.argv[4] == "True")
from apache_beam.runners.worker.sdk_worker import SdkHarness
from runners.memory import share_memory
from runners.sampling import short_waits
share_memory({_FLOOR}, {_GROWTH})
gc.set_threshold({_ALLOCATIONS}, 10, 10)
# The pipe closes when the pool's process ends, in whatever way; nobody else would end this one
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
with short_waits():
    SdkHarness(sys.argv[1], worker_id=sys.argv[2], state_cache_size=int(sys.argv[3])).run()
"""


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """A pool of workers, each a process with this process's interpreter and module path.

    A worker that dies is started again when the job restarts. Beam's own pool starts any program named ``python`` and
    discards the worker's output; its ``LOOPBACK`` environment runs the steps in threads of the driver, so that a worker
    cannot fail without the driver. Both listen on all interfaces and run any code sent to them.

    Attributes:
        address: Where a cluster on this machine requests workers, ``host:port``.
    """

    def __init__(self, log: Path, state_cache_bytes: int) -> None:
        self.address = ""
        self._log, self._state_cache_bytes = log, state_cache_bytes
        self._lock = threading.Lock()
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def StartWorker(self, request, context):  # type: ignore[no-untyped-def]  # noqa: ARG002, N802
        """Start the worker with the requested id."""
        endpoint = request.control_endpoint.url
        with open(self._log, "ab") as output:
            worker = subprocess.Popen(  # noqa: S603
                [
                    *(sys.executable, "-c", _HARNESS, endpoint, request.worker_id, str(self._state_cache_bytes)),
                    # a worker reads what this process can read
                    str("apache_beam.io.gcp" in sys.modules),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # so that Ctrl-C does not reach the worker: the job is cancelled first
            )
        with self._lock:
            self._workers[request.worker_id] = worker
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request, context):  # type: ignore[no-untyped-def]  # noqa: ARG002, N802
        """Stop the worker with the requested id, without teardown: everything it acknowledged is durable already."""
        with self._lock:
            worker = self._workers.pop(request.worker_id, None)
        if worker is not None:
            _end(worker)
        return beam_fn_api_pb2.StopWorkerResponse()

    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        with self._lock:
            return [worker.pid for worker in self._workers.values() if worker.poll() is None]

    def close(self) -> None:
        """Stop all workers."""
        with self._lock:
            workers, self._workers = self._workers, {}
        for worker in workers.values():
            _end(worker)


def _end(worker: "subprocess.Popen[bytes]") -> None:
    assert worker.stdin is not None
    with worker.stdin:
        worker.terminate()
        try:
            worker.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


@contextmanager
def worker_pool(log: Path, state_cache_bytes: int) -> Iterator[WorkerPool]:
    """Run a worker pool for one run; all workers are stopped when the context ends.

    Args:
        log: Log file of the workers.
        state_cache_bytes: State that a worker caches between bundles instead of requesting it again.
    """
    pool = WorkerPool(log, state_cache_bytes)
    executor = futures.ThreadPoolExecutor(max_workers=4)
    server = grpc.server(executor)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    pool.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield pool
    finally:
        server.stop(grace=1).wait()
        executor.shutdown()
        pool.close()
