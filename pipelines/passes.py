"""A command's work once, or again and again until Ctrl-C."""

import time
from collections.abc import Callable

from schemas.durations import SECOND


def repeat(work: Callable[[], None], every: int | None) -> None:
    """Do the work, and again each time so many microseconds have gone by after it; once where it is None."""
    try:
        work()
        while every is not None:
            time.sleep(every / SECOND)
            work()
    except KeyboardInterrupt:
        return
