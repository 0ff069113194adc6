"""In-place update of a table's rows: only files with a changed row are rewritten."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from stores.lake import LiveFile
from stores.lake_commit import PartitionWrite
from stores.lake_files import Place, write_files
from stores.lake_read import read_files

Change = Callable[[pa.Table], pa.Table | None]
"""Takes rows of a file, with some or all columns; returns the updated rows in the same order, or None if none changes.
A new row must depend on its old row alone."""

Candidates = Mapping[LiveFile, pc.Expression | None]
"""Files that may have a row to change, each with a filter for such rows; None for all rows."""


def rewrite_changed(place: Place, files: Candidates, columns: Sequence[str], change: Change) -> PartitionWrite:
    """Rewrite the files of a partition that have a row to change.

    Args:
        place: The partition.
        files: Live files of the partition that may have a row to change.
        columns: The columns that the change reads or writes. If nothing in a file changes, only these are read.
        change: The change.

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
