"""How a process that runs steps allocates memory: the same for all its threads and libraries."""

import ctypes
from contextlib import suppress

import pyarrow as pa


def share_memory() -> None:
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
