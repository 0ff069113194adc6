"""How long a bundle waits at its end for the thread that samples what Beam's steps do."""

from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.runners.worker.statesampler import StateSampler

_SAMPLING_MS = 5


@contextmanager
def short_waits() -> Iterator[None]:
    """Let a bundle end at once: Beam waits for the thread that samples its state to wake, by default up to 200 ms.

    Of the twenty stages of a replay that is a second; of a live job it is on every event's way. Nothing asks here for
    the times that it samples.
    """
    period = StateSampler.__init__.__defaults__
    StateSampler.__init__.__defaults__ = (_SAMPLING_MS,)
    try:
        yield
    finally:
        StateSampler.__init__.__defaults__ = period
