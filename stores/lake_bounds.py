"""The minimum and maximum time in each of a table's files, read from the transaction log."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from stores.lake import LiveFile

ALL_TIME = (np.iinfo(np.int64).min, np.iinfo(np.int64).max)
"""The bounds of a file without bounds in the log."""
_PRECISION_US = 1_000
"""Added to the maximum: some writers truncate it to milliseconds."""


class TimeBounds(NamedTuple):
    """The bounds of one time column in each file.

    Attributes:
        column: The time column.
        of: The minimum and maximum time of each live file, microseconds since 1970, by the file's path in the table.
    """

    column: str
    of: Mapping[str, tuple[int, int]]

    @classmethod
    def read(cls, table: DeltaTable, column: str) -> "TimeBounds":
        """The bounds of a timestamp column in the files of a table's current version."""
        actions = pa.table(table.get_add_actions(flatten=True))
        sides = []
        for side, unknown, precision in zip(("min", "max"), ALL_TIME, (0, _PRECISION_US), strict=True):
            known = f"{side}.{column}" in actions.column_names
            times = actions[f"{side}.{column}"].cast(pa.int64()) if known else pa.nulls(len(actions), pa.int64())
            sides.append(pc.fill_null(pc.add(times, precision), unknown).to_pylist())
        paths = map(unquote, actions["path"].to_pylist())
        return cls(column, dict(zip(paths, zip(*sides, strict=True), strict=True)))

    def files_with(self, files: Sequence[LiveFile], times: pa.ChunkedArray) -> list[LiveFile]:
        """The files that may have a row with one of the given times in the column."""
        asked = np.sort(times.cast(pa.int64()).to_numpy())
        bounds = np.array([self.of[file.path] for file in files], np.int64).reshape(-1, 2)
        hold = np.searchsorted(asked, bounds[:, 0], "left") < np.searchsorted(asked, bounds[:, 1], "right")
        return [files[number] for number in np.flatnonzero(hold).tolist()]
