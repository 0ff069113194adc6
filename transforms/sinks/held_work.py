"""What is done with tables that were held back, in a process that does not load Beam."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from stores.held_tables import read_held

Work = Callable[[Iterator[pa.Table]], Any]
"""From tables, each read when it is asked for, to a result. It is pickled, and so is what it returns."""


def work_on(pickled: bytes, folder: str, names: Sequence[str]) -> Any:
    """Do the work on the tables of some files.

    Args:
        pickled: The work. The same bytes again are the same object here: what it keeps from one call serves the next.
        folder: Of the files.
        names: As `stores.held_tables.write_held` gave them.

    Raises:
        StoreError: A file cannot be read.
    """
    work = _unpickled(pickled)
    try:
        return work(read_held(folder, name) for name in names)
    finally:
        # what one work has freed serves no other until it is given back
        pa.default_memory_pool().release_unused()


@lru_cache(maxsize=16)
def _unpickled(pickled: bytes) -> Work:
    work: Work = pickle.loads(pickled)  # noqa: S301  (of the process that started this one)
    return work
