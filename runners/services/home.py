"""Where services keep what they write."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME_VARIABLE = "CLICKSTREAM_HOME"


def state_home() -> Path:
    """The folder for logs, data and process files: CLICKSTREAM_HOME, else in the user's state folder."""
    return _home("XDG_STATE_HOME", ".local/state")


def cache_home() -> Path:
    """The folder for what can be made again: ``cache`` in CLICKSTREAM_HOME, else in the user's cache folder."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given).absolute() / "cache" if given else _home("XDG_CACHE_HOME", ".cache")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that lock the same folder waiting; it is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _home(variable: str, default: str) -> Path:
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given).absolute()
    return Path(os.environ.get(variable) or Path.home() / default) / "clickstream"
