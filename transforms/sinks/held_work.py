"""The subprocess's side of `HoldBack`: runs the work on the held tables, in a process that does not load Beam."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from stores.held_tables import read_held

Work = Callable[[Iterator[pa.Table]], Any]
"""A function from tables to a result. The tables are read lazily. The function and its result must be picklable."""


def work_on(pickled: bytes, folder: str, names: Sequence[str]) -> Any:
    """Run the work on the tables of some files.

    Args:
        pickled: The pickled work. Equal bytes are unpickled once, so the object can keep state between calls.
        folder: The folder of the files.
        names: The names that `stores.held_tables.write_held` returned.

    Raises:
        StoreError: A file cannot be read.
    """
    work = _unpickled(pickled)
    try:
        return work(read_held(folder, name) for name in names)
    finally:
        # the pool keeps freed memory, which no other work would use
        pa.default_memory_pool().release_unused()


@lru_cache(maxsize=16)
def _unpickled(pickled: bytes) -> Work:
    work: Work = pickle.loads(pickled)  # noqa: S301  (it comes from the parent process)
    return work
