"""Whether a table of the lake has a few rows, found by the bounds of its files and by their keys alone."""

import time
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from schemas.errors import StoreError
from schemas.records import Record
from stores.lake import find_table, table_uri
from stores.lake_files import first_line, open_location
from stores.lake_merge import without_keys

REFRESH_SECONDS = 10
_PRECISION_US = 1_000
"""Of the greatest time in a file's bounds: some writers keep milliseconds."""
_EARLIEST, _LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class StoredRows:
    """A table's rows, looked up by key and by a time that copies of a row share.

    Files whose bounds hold none of the times are not opened; of the others, sorted by the first column of the key, only
    row groups that may hold one of its values are read. The table's log is read again once it is older than `refresh`
    seconds: what was committed since is not found. Of what was asked nothing is remembered: a runner that goes back to
    a checkpoint asks again, and must be told the same.

    Attributes:
        record: The table's record.
        time: The column of the time.
    """

    def __init__(self, lake_uri: str, record: Record, time: str, refresh: float = REFRESH_SECONDS) -> None:
        self.record, self.time = record, time
        self._lake, self._refresh = lake_uri, refresh
        self._table: DeltaTable | None = None
        self._read_at = -refresh
        self._paths: list[str] = []
        self._bounds = np.empty((2, 0), np.int64)

    def without_stored(self, rows: pa.Table) -> pa.Table:
        """The rows that the table has not, in their order.

        Args:
            rows: Rows with the columns of the key and the time.

        Raises:
            StoreError: The table cannot be read.
        """
        if rows.num_rows == 0:
            return rows
        self._renew()
        return without_keys(rows, self._keys(rows), self.record.key)

    def _renew(self) -> None:
        now = time.monotonic()
        if now - self._read_at < self._refresh:
            return
        try:
            if self._table is None:
                self._table = find_table(self._lake, self.record.name)
            else:
                self._table.update_incremental()
            if self._table is not None:
                self._paths, self._bounds = _files(self._lake, self.record.name, self._table, self.time)
        except (DeltaError, OSError) as error:
            raise StoreError(f"{self.record.name}: cannot read: {first_line(error)}") from error
        self._read_at = now

    def _keys(self, rows: pa.Table) -> pa.Table:
        """The keys that the table has of the rows' first key columns, at the rows' times."""
        key = self.record.key
        schema = pa.schema([self.record.schema.field(name) for name in key])
        times = np.sort(pc.cast(rows[self.time], pa.int64()).to_numpy())
        low, high = self._bounds
        may_hold = np.searchsorted(times, low, "left") < np.searchsorted(times, high, "right")
        paths = [path for path, may in zip(self._paths, may_hold, strict=True) if may]
        if not paths:
            return schema.empty_table()
        wanted = pc.field(key[0]).isin(rows[key[0]].unique().cast(schema.field(key[0]).type))
        filesystem = open_location(self._lake)[0]
        try:
            found = ds.dataset(paths, schema, "parquet", filesystem=filesystem).to_table(list(key), filter=wanted)
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{self.record.name}: cannot read: {first_line(error)}") from error
        return found.cast(schema)


def _files(lake: str, name: str, table: DeltaTable, column: str) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Where a table's live files lie, and the least and the greatest of a time in each; unknown bounds hold all."""
    actions = pa.table(table.get_add_actions(flatten=True))
    root = open_location(table_uri(lake, name))[1]
    paths = [f"{root}/{unquote(path)}" for path in actions["path"].to_pylist()]
    bounds = []
    for side, unknown in (("min", _EARLIEST), ("max", _LATEST)):
        found = f"{side}.{column}"
        if found in actions.column_names:
            bounds.append(actions[found].cast(pa.int64()).fill_null(unknown).to_numpy())
        else:
            bounds.append(np.full(len(paths), unknown))
    known = bounds[1] != _LATEST
    bounds[1] = np.where(known, bounds[1] + _PRECISION_US, _LATEST)
    return paths, np.stack(bounds)
