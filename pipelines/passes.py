"""A command's work once, or again and again until Ctrl-C."""

import time
from collections.abc import Callable
from contextlib import suppress

from schemas.durations import SECOND
from schemas.errors import StoreBusyError


def repeat(work: Callable[[], None], every: int | None) -> None:
    """Do the work once, or, given a pause in microseconds, again after each pause.

    With a pause a pass that another run kept from committing is passed over: the next makes up for it.

    Raises:
        StoreBusyError: The only pass was kept from committing.
    """
    with suppress(KeyboardInterrupt):
        if every is None:
            work()
            return
        while True:
            with suppress(StoreBusyError):
                work()
            time.sleep(every / SECOND)
