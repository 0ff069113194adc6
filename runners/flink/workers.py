"""Where the Python steps of a local run work: a pool on the loopback that the cluster asks for workers."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc  # type: ignore[import-untyped]
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

from runners.services.processes import STOP_SECONDS

_HARNESS = """
import os, sys, threading
from apache_beam.runners.worker.sdk_worker import SdkHarness
# The pipe closes when the pool's process ends, in whatever way; nobody else would end this one
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
SdkHarness(sys.argv[1], worker_id=sys.argv[2], state_cache_size=int(sys.argv[3])).run()
"""


class _ProcessPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts each worker as a process with this interpreter and this one's modules.

    Beam's own pool starts whatever is called ``python``, and says nowhere what the worker prints.
    """

    def __init__(self, log: Path, state_cache_bytes: int) -> None:
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
        """Stop the worker of this id."""
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


@dataclass(frozen=True)
class Workers:
    """A pool of workers that serves.

    Attributes:
        address: Where a cluster asks for workers, ``host:port``.
        pids: Gives the process ids of the workers that live, none where they are threads.
    """

    address: str
    pids: Callable[[], list[int]]


@contextmanager
def worker_pool(kind: str, log: Path, state_cache_bytes: int) -> Iterator[Workers]:
    """Serve workers for one run.

    Beam's ``LOOPBACK`` environment does the same and listens on all interfaces; what it runs is whatever it is told.

    Args:
        kind: ``thread`` of this process, or ``process``.
        log: File for what worker processes print.
        state_cache_bytes: How much state a worker keeps between bundles instead of asking for it.
    """
    processes = _ProcessPool(log, state_cache_bytes)
    servicer = processes if kind == "process" else BeamFnExternalWorkerPoolServicer(state_cache_size=state_cache_bytes)
    executor = futures.ThreadPoolExecutor(max_workers=4)
    server = grpc.server(executor)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Workers(f"127.0.0.1:{port}", processes.pids)
    finally:
        server.stop(grace=1).wait()
        executor.shutdown()
        processes.close()
