"""Runs a command's work once, or repeatedly until Ctrl-C."""

import time
from collections.abc import Callable
from contextlib import suppress

from schemas.durations import SECOND
from schemas.errors import StoreBusyError


def repeat(work: Callable[[], None], every: int | None) -> None:
    """Do the work once, or repeatedly with a pause of `every` microseconds.

    When repeating, a pass that conflicts with another run's commit is skipped; the next pass makes up for it.

    Raises:
        StoreBusyError: A single pass conflicted with another run's commit.
    """
    with suppress(KeyboardInterrupt):
        if every is None:
            work()
            return
        while True:
            with suppress(StoreBusyError):
                work()
            time.sleep(every / SECOND)
