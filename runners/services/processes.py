"""Detached processes that outlive their starter, identified reliably by a process file."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ServiceError

POLL_SECONDS = 0.05
STOP_SECONDS = 10.0
TAIL_LINES = 5


@dataclass(frozen=True)
class DetachedProcess:
    """A process in its own session, with a file that identifies it.

    Attributes:
        name: The process's name in messages.
        folder: Folder of its process file and its log.
    """

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        """Its output since its last start."""
        return self.folder / f"{self.name}.log"

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def pid(self) -> int | None:
        """Its id while it runs, otherwise None, even if another process has that id by now."""
        try:
            recorded = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        pid = int(recorded["pid"])
        return pid if birth_of(pid) == recorded["birth"] else None

    def start(self, command: list[str]) -> None:
        """Start the process detached, so that it survives this process and the terminal.

        Raises:
            ServiceError: The process ended at once.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # An intermediate shell, which ends at once, leaves the process for the system to reap
        shell = subprocess.run(  # noqa: S603
            ["/bin/sh", "-c", '"$@" >"$0" 2>&1 </dev/null & echo $!', str(self.log), *command],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            start_new_session=True,
        )
        pid = int(shell.stdout)
        birth = birth_of(pid)
        if birth is None:
            raise self.failure("did not start")
        written = self._file.with_suffix(".new")
        written.write_text(json.dumps({"pid": pid, "birth": birth}), encoding="utf-8")
        written.replace(self._file)

    def empty_tmpdir(self) -> Path:
        """An empty folder for its temporary files; files left from a killed process are deleted."""
        folder = self.folder / f"{self.name}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def wait_until(self, healthy: Callable[[], bool], seconds: float) -> None:
        """Wait until the check returns true.

        Raises:
            ServiceError: The process ended, or the check did not hold in time.
        """
        deadline = time.monotonic() + seconds
        while not healthy():
            if self.pid is None:
                raise self.failure("ended while it started")
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Terminate the process if it is running, and kill it if it does not end."""
        self._end(signal.SIGTERM)
        self.kill()
        self._file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill the process if it is running, and wait until it is gone and its resources are free."""
        self._end(signal.SIGKILL)

    def _end(self, sent: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            return
        with suppress(ProcessLookupError):  # it ended in between
            os.kill(pid, sent)
        deadline = time.monotonic() + STOP_SECONDS
        while self.pid is not None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def failure(self, what: str) -> ServiceError:
        """A one-line error about the process, with the last lines of its log."""
        return ServiceError(f"{self.name} {what}; {tail(self.log)}")


def tail(log: Path) -> str:
    """The last lines of a log joined in one line, with the log's path."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    last = " | ".join(line.strip() for line in lines[-TAIL_LINES:] if line.strip())
    return f"its log {log} ends: {last}" if last else f"its log {log} is empty"


def birth_of(pid: int) -> str | None:
    """When a process started, as text that no later process with the same id has; None if it has ended."""
    try:
        # Fields after the name, which may contain anything: 0 is the state, 17 the threads, 19 the start in ticks
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _birth_by_ps(pid)
    # A killed program whose first thread is gone holds its ports until its last thread has ended
    ended = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if ended else f"{boot} {fields[19]}"


def _birth_by_ps(pid: int) -> str | None:
    """The same on systems without /proc."""
    done = subprocess.run(  # noqa: S603
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, start = done.stdout.strip().partition(" ")
    return start.strip() if state and not state.startswith("Z") else None


def free_port() -> int:
    """A free port of the loopback interface, outside the system's ephemeral port range.

    Within that range, a client that keeps trying to reach a stopped server is eventually assigned the server's own
    port and connects to itself, and the server cannot restart.
    """
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServiceError("no free port between 20000 and 32000")


def listens(address: str) -> bool:
    """Whether something accepts connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True
