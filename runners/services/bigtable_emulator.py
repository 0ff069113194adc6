"""Google's Bigtable emulator on this machine, for trials and tests. It keeps its tables in memory."""

import os
import shutil
import subprocess
from pathlib import Path

from runners.services.home import cache_home, locked, state_home
from runners.services.jars import say
from runners.services.processes import DetachedProcess, free_port, listens
from schemas.errors import ServiceError

VERSION = "v1.58.0"
_PACKAGE = "cloud.google.com/go/bigtable/cmd/emulator"
START_SECONDS = 20.0


class BigtableEmulator:
    """An emulator whose log and process file are below a folder. Several can run side by side in separate folders.

    Args:
        home: The folder; by default the user's state folder.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.process = DetachedProcess("bigtable-emulator", (home or state_home()).absolute() / "bigtable")

    def up(self, port: int | None = None) -> str:
        """Start a fresh emulator, with no tables, and wait until it listens.

        Args:
            port: Port to listen on; by default any free port.

        Returns:
            The emulator's address, the value for BIGTABLE_EMULATOR_HOST.

        Raises:
            ServiceError: Go is missing, or the emulator is already running or cannot start.
        """
        program = install_emulator()
        if self.process.pid is not None:
            raise ServiceError("the Bigtable emulator runs already: take it down first")
        address = f"127.0.0.1:{port or free_port()}"
        if listens(address):
            raise ServiceError(f"the Bigtable emulator cannot have {address}: another program listens there")
        host, _, number = address.rpartition(":")
        self.process.start([str(program), "-host", host, "-port", number])
        self.process.wait_until(lambda: listens(address), START_SECONDS)
        return address

    def down(self) -> None:
        """Stop the emulator if it is running; its tables are lost."""
        self.process.stop()


def install_emulator() -> Path:
    """The emulator's program, built with Go on first use and then taken from the cache folder.

    Raises:
        ServiceError: Go is missing, or cannot build the emulator.
    """
    folder = cache_home() / "go" / f"bigtable-emulator-{VERSION}"
    program = folder / "emulator"
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            raise ServiceError("Go (the command go) is needed to build the Bigtable emulator, and is not installed")
        with locked(folder):
            if not program.exists():
                say("building the Bigtable emulator with Go, once; this takes a minute")
                _build(go, folder)
    return program


def _build(go: str, folder: Path) -> None:
    done = subprocess.run(  # noqa: S603
        [go, "install", f"{_PACKAGE}@{VERSION}"],
        env=os.environ | {"GOBIN": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ServiceError(f"Go cannot build the Bigtable emulator: {lines[-1]}")
