"""The DirectRunner on one machine: its engine named, its shuffles on disk."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.runners.worker.statesampler import StateSampler

from schemas.errors import StoreError
from transforms.tables import Spill

_SAMPLING_MS = 5


@contextmanager
def direct_runner(options: PipelineOptions) -> Iterator[PipelineRunner]:
    """The runner for a bounded job in this process.

    DirectRunner itself would choose between three engines by what the pipeline holds and whether a binary can be
    downloaded, so that a laptop and a closed network run different ones; this is always FnApiRunner. It keeps its
    shuffles in memory; tables go to a temporary file instead (TMPDIR says where) for as long as the context is open.

    Raises:
        StoreError: The temporary folder cannot be written.
    """
    del options
    _share_memory()
    # What the imports have made stays: the collector need not walk it again and again
    gc.freeze()
    try:
        spill = Spill()
    except OSError as error:
        raise StoreError(f"cannot make a temporary file for the shuffle: {error}") from error
    with spill, _short_waits():
        try:
            yield FnApiRunner()
        finally:
            gc.unfreeze()


@contextmanager
def _short_waits() -> Iterator[None]:
    """Let a stage end at once: Beam waits for the thread that samples its state to wake, by default every 200 ms.

    Of twenty stages that is a second. Nothing asks here for the times that it samples.
    """
    period = StateSampler.__init__.__defaults__
    StateSampler.__init__.__defaults__ = (_SAMPLING_MS,)
    try:
        yield
    finally:
        StateSampler.__init__.__defaults__ = period


def _share_memory() -> None:
    """Let Arrow and all threads allocate from the same few glibc arenas, and let glibc keep what is freed.

    Each batch needs the same buffers of megabytes again. By default they go back to the system and come back as fresh
    pages, one fault for every four kilobytes: a fifth of the run's time. And each thread and library that has a heap of
    its own keeps its own peak: together a third of the run's memory. Other C libraries have no such call and go on as
    they are.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)
        libc.mallopt(arena_max, 2)
