"""Folders for the files of services."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME_VARIABLE = "CLICKSTREAM_HOME"


def state_home() -> Path:
    """The folder for logs, data and process files: CLICKSTREAM_HOME, or else below the user's state folder."""
    return _home("XDG_STATE_HOME", ".local/state")


def cache_home() -> Path:
    """The folder for cached files: ``cache`` in CLICKSTREAM_HOME, or else below the user's cache folder."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given).absolute() / "cache" if given else _home("XDG_CACHE_HOME", ".cache")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder across processes. Creates the folder if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _home(variable: str, default: str) -> Path:
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given).absolute()
    return Path(os.environ.get(variable) or Path.home() / default) / "clickstream"
