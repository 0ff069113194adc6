"""Beam's Flink job server, one per run, which never outlives the run."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runners.flink.options import FlinkOptions
from runners.services.flink import NETWORK
from runners.services.jars import JAVA_17, QUICK_COMPILER, STEADY_HEAP, class_path, java, resolve_jars
from runners.services.processes import POLL_SECONDS, free_port, listens, tail
from schemas.errors import ServiceError

POM = Path(__file__).with_name("pom.xml")
PATCHES = sorted(Path(__file__).with_name("java").glob("*.java"))
START_SECONDS = 60.0
_FIRST_HEAP_MB, _YOUNG_HEAP_MB = 256, 128
"""The default first heap is a share of the machine's memory, which Java fills with garbage before it collects
thoroughly. With less room for new objects than this, a job takes more time per event while records wait."""

# The pipe on standard input closes when the process at its other end ends, in whatever way, and the server is killed.
# If it stayed, its job would restart endlessly without the Python workers that it calls.
_GUARD = """
exec 3<&0
"$@" 3<&- </dev/null & server=$!
(cat <&3 >/dev/null; kill -KILL $server 2>/dev/null) &
exec 3<&-
wait $server
"""


@dataclass(frozen=True)
class JobServer:
    """A running job server.

    Attributes:
        address: Where jobs are submitted, ``host:port``.
        rest: The REST address of the cluster that runs the jobs; also serves Flink's web page.
        log: Log file of the server and the embedded cluster.
    """

    address: str
    rest: str
    log: Path
    _process: "subprocess.Popen[bytes]"

    @property
    def alive(self) -> bool:
        """Whether the server is running."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the server and all processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def failure(self, what: str) -> ServiceError:
        """A one-line error about the server, with the last lines of its log."""
        return ServiceError(f"the Flink job server {what}; {tail(self.log)}")


@contextmanager
def job_server(options: FlinkOptions, folder: Path) -> Iterator[JobServer]:
    """Start a job server for one run; when the context ends, stop it and all processes that it started.

    The server listens on all interfaces, as Beam's server has no option to restrict it. On an untrusted network, run it
    in a network namespace or behind a firewall. The embedded cluster listens on the loopback interface.

    Args:
        options: The run's options.
        folder: Folder for the log and temporary files.

    Raises:
        ServiceError: The server's jars cannot be resolved, or it does not start.
    """
    jars = [jar for jar in resolve_jars(POM, PATCHES) if not _is_unneeded(jar, options)]
    log = folder / "job-server.log"
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder, ignore_cleanup_errors=True) as work:
        rest = options.master or f"127.0.0.1:{free_port()}"
        port = free_port()
        _write_settings(Path(work), options, rest)
        command = [
            *(java(), f"-Xms{min(_FIRST_HEAP_MB, options.heap_mb)}m", f"-Xmx{options.heap_mb}m"),
            f"-Xmn{min(_YOUNG_HEAP_MB, options.heap_mb // 2)}m",
            *(STEADY_HEAP, "-XX:+ExitOnOutOfMemoryError", QUICK_COMPILER),
            *("-Dfile.encoding=UTF-8", f"-Djava.io.tmpdir={work}", *JAVA_17),
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
            *("-cp", class_path(jars), "org.apache.beam.runners.flink.FlinkJobServerDriver"),
            *("--job-host=127.0.0.1", f"--job-port={port}", "--artifact-port=0", "--expansion-port=-1"),
            *(f"--artifacts-dir={work}/artifacts", f"--flink-conf-dir={work}"),
            f"--flink-master={options.master or '[local]'}",
        ]
        with open(log, "wb") as output:
            process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", _GUARD, "job-server", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that Ctrl-C reaches only this process, which then ends the job in order
            )
        server = JobServer(f"127.0.0.1:{port}", rest, log, process)
        try:
            _wait_until_it_listens(server)
            yield server
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()


def _is_unneeded(jar: Path, options: FlinkOptions) -> bool:
    """Whether to leave out a jar that only a cluster or RocksDB state needs: they are a third of a job's bytes."""
    ours = ["flink-rpc-akka-loader-", "flink-runtime-web-"] if options.master else []
    if options.state_backend != "rocksdb":
        ours.append("frocksdbjni-")
    return jar.name.startswith(tuple(ours))


def _write_settings(folder: Path, options: FlinkOptions, rest: str) -> None:
    settings = options.for_flink()
    if options.master is None:
        settings |= {
            "rest.bind-address": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.bind-port": rest.rpartition(":")[2],
            "io.tmp.dirs": str(folder),
            "metrics.fetcher.update-interval": "1000",
            **NETWORK,
        }
    lines = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (folder / "flink-conf.yaml").write_text(lines, encoding="utf-8")


def _wait_until_it_listens(server: JobServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not listens(server.address):
        if not server.alive:
            raise server.failure("ended while it started")
        if time.monotonic() > deadline:
            raise server.failure(f"did not answer within {START_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
