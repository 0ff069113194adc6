"""Changing rows of a table in their places: only the files that hold one are written anew."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from stores.lake import LiveFile
from stores.lake_commit import PartitionWrite
from stores.lake_files import Place, write_files
from stores.lake_read import read_files

Change = Callable[[pa.Table], pa.Table | None]
"""Rows of a file, of some columns or all, to the same rows in the same order as they are to be; None: as they are.
What becomes of a row depends on no other."""

Looked = Mapping[LiveFile, pc.Expression | None]
"""Files to look at, and which of their rows may change; None for any."""


def rewrite_changed(place: Place, files: Looked, columns: Sequence[str], change: Change) -> PartitionWrite:
    """Write the files of a partition anew that hold a row which changes.

    Args:
        place: The partition.
        files: Live files of it, and which rows to look at.
        columns: The columns that the change depends on and makes: of a file without a change no other is read.
        change: Says what the rows are to be.

    Raises:
        StoreError: A file cannot be read or written.
    """
    changed: list[str] = []

    def rewritten() -> Iterator[pa.Table]:
        for file, rows in files.items():
            if change(read_files(place, [file.path], columns, rows)) is not None:
                whole = change(read_files(place, [file.path]))
                assert whole is not None
                changed.append(file.path)
                yield whole

    # one file's rows at a time
    written = write_files(place, rewritten())
    return PartitionWrite(place.partition, tuple(written), tuple(changed))
