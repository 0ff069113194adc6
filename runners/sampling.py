"""Shortens the wait of a bundle's end for Beam's state-sampling thread."""

from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.runners.worker.statesampler import StateSampler

_SAMPLING_MS = 5


@contextmanager
def short_waits() -> Iterator[None]:
    """Make bundles end sooner: at a bundle's end Beam waits for its sampling thread to wake, by default up to 200 ms.

    In a replay this costs a second over twenty stages; in a live job it delays every event. Nothing here uses the
    sampled times.
    """
    period = StateSampler.__init__.__defaults__
    StateSampler.__init__.__defaults__ = (_SAMPLING_MS,)
    try:
        yield
    finally:
        StateSampler.__init__.__defaults__ = period
