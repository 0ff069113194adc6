"""Where the Python steps of a run work: processes of a pool on the loopback, which the cluster asks for them."""

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
"""New objects after which a worker looks for cycles among them. By default, at 700, it does so often while a batch of
some ten thousand messages is read, and now and then looks through all it holds: a tenth of a second under the lock."""

_GROWTH = 512 << 20
"""Bytes that a worker may grow by before it gives memory back: the buffers of a bundle of a backlog are some 300 MB."""

_HARNESS = f"""
import gc, os, sys, threading
from apache_beam.runners.worker.sdk_worker import SdkHarness
from runners.memory import share_memory
from runners.sampling import short_waits
share_memory({_GROWTH})
gc.set_threshold({_ALLOCATIONS}, 10, 10)
# The pipe closes when the pool's process ends, in whatever way; nobody else would end this one
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
with short_waits():
    SdkHarness(sys.argv[1], worker_id=sys.argv[2], state_cache_size=int(sys.argv[3])).run()
"""


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """A pool of workers, each a process with this interpreter and this one's modules.

    A worker that dies is started again when the job restarts. Beam's own pool starts whatever is called ``python`` and
    says nowhere what the worker prints; its ``LOOPBACK`` environment runs the steps in threads of the driver, which
    can not be lost alone. Both listen on all interfaces, and run what they are told.

    Attributes:
        address: Where a cluster on this machine asks for workers, ``host:port``.
    """

    def __init__(self, log: Path, state_cache_bytes: int) -> None:
        self.address = ""
        self._log, self._state_cache_bytes = log, state_cache_bytes
        self._lock = threading.Lock()
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def StartWorker(self, request, context):  # type: ignore[no-untyped-def]  # noqa: ARG002, N802
        """Start the worker of this id."""
        endpoint = request.control_endpoint.url
        with open(self._log, "ab") as output:
            worker = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", _HARNESS, endpoint, request.worker_id, str(self._state_cache_bytes)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # not for Ctrl-C: the job is cancelled first
            )
        with self._lock:
            self._workers[request.worker_id] = worker
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request, context):  # type: ignore[no-untyped-def]  # noqa: ARG002, N802
        """Stop the worker of this id, without its teardown: what it has acknowledged is durable by then."""
        with self._lock:
            worker = self._workers.pop(request.worker_id, None)
        if worker is not None:
            _end(worker)
        return beam_fn_api_pb2.StopWorkerResponse()

    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        with self._lock:
            return [worker.pid for worker in self._workers.values() if worker.poll() is None]

    def close(self) -> None:
        """Stop all."""
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
    """Serve workers for one run; none is left when the context ends.

    Args:
        log: File for what they print.
        state_cache_bytes: How much state a worker keeps between bundles instead of asking for it again.
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
