"""Changing rows of a table in place: only the files that hold a changed row are rewritten."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from stores.lake import LiveFile
from stores.lake_commit import PartitionWrite
from stores.lake_files import Place, write_files
from stores.lake_read import read_files

Change = Callable[[pa.Table], pa.Table | None]
"""From rows of a file, with some columns or all, to the same rows in the same order, changed; None where none changes.
The new row depends on the old one alone."""

Candidates = Mapping[LiveFile, pc.Expression | None]
"""Files that may hold a row that changes, and a filter for these rows; None for all rows."""


def rewrite_changed(place: Place, files: Candidates, columns: Sequence[str], change: Change) -> PartitionWrite:
    """Rewrite the files of a partition that hold a row which changes.

    Args:
        place: The partition.
        files: Live files of it that may hold such a row.
        columns: The columns that the change reads or writes: of a file without a change no others are read.
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
