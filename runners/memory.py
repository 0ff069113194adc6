"""How a process that runs steps allocates memory: the same for all its threads and libraries."""

import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

GROWTH = 128 << 20
_LOOK_SECONDS = 0.05
_RESIDENT = Path("/proc/self/statm")


def share_memory(growth: int = GROWTH) -> None:
    """Let Arrow and all threads allocate from the same few glibc arenas, and let glibc keep what is freed.

    Each batch needs the same buffers of megabytes again. By default they go back to the system and come back as fresh
    pages, one fault for every four kilobytes: a fifth of the run's time. And each thread and library that has a heap of
    its own keeps its own peak: together a third of the run's memory. What glibc keeps lies scattered, and grows by a
    half of the run's memory: so it is given back whenever the process has grown. Other C libraries have no such calls
    and go on as they are.

    Args:
        growth: Bytes by which the process may grow before what is free is given back.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)
        libc.mallopt(arena_max, 2)
        if _RESIDENT.exists() and not any(thread.name == _give_back.__name__ for thread in threading.enumerate()):
            threading.Thread(
                target=_give_back, args=(libc.malloc_trim, growth), name=_give_back.__name__, daemon=True
            ).start()


def _give_back(trim: Any, growth: int) -> None:
    least = _resident()
    while True:
        time.sleep(_LOOK_SECONDS)
        least = min(least, _resident())
        if _resident() - least > growth:
            trim(0)
            least = _resident()


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(_RESIDENT.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
