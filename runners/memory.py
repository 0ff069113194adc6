"""Memory allocation in a worker process, shared by all its threads and libraries."""

import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

FLOOR, GROWTH = 864 << 20, 0.08
"""A replay without the layers stays near this floor: a higher one costs memory, a lower one time."""
_CHECK_SECONDS = 0.02
_RESIDENT = Path("/proc/self/statm")


def share_memory(floor: int = FLOOR, growth: float = GROWTH) -> None:
    """Make all threads allocate from two glibc arenas, and make glibc keep freed memory.

    Arrow does so too if ARROW_DEFAULT_MEMORY_POOL is "system" when it is loaded, as `pipelines` sets it.

    Every batch needs the same buffers of megabytes again. By default, freed buffers return to the system and come back
    as fresh pages, with a page fault for every 4 KiB: a fifth of the run's time. And each thread or library with a heap
    of its own keeps its own peak: together a third of the run's memory.

    The memory that glibc keeps becomes fragmented and would grow the process by half, so a thread returns free memory
    to the system whenever the process has grown and is large. Other C libraries lack these calls and keep their
    defaults.

    Args:
        floor: Bytes up to which the process may grow without returning memory.
        growth: Share by which a larger process may grow beyond its size after the last return.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)
        libc.mallopt(arena_max, 2)
        if _RESIDENT.exists() and not any(thread.name == _trim_on_growth.__name__ for thread in threading.enumerate()):
            threading.Thread(
                target=_trim_on_growth,
                args=(libc.malloc_trim, floor, growth),
                name=_trim_on_growth.__name__,
                daemon=True,
            ).start()


def _trim_on_growth(trim: Any, floor: int, growth: float) -> None:
    least = _resident()
    while True:
        time.sleep(_CHECK_SECONDS)
        resident = _resident()
        least = min(least, resident)
        if resident > max(floor, (1 + growth) * least):
            trim(0)
            least = _resident()


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(_RESIDENT.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
