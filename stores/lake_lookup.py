"""Lookup of a few rows in a large table of the lake by key and time, without reading most files."""

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from schemas.errors import StoreError, first_line
from schemas.records import Record
from stores.lake import find_table, table_uri
from stores.lake_bounds import TimeBounds
from stores.locations import open_location

REFRESH_SECONDS = 10
APART_US = 1_000_000
"""A longer gap between consecutive times in a file separates two stretches of time."""
Stretches = npt.NDArray[np.int64]
"""Array of two rows: the first and the last time of each stretch."""


class StoredRows:
    """Looks up a table's rows by key and by a time that all copies of a row share.

    A lookup first selects the files whose time bounds in the table's log contain one of the times. Bounds alone are too
    coarse: one late row widens those of a file of some seconds to hours. So each selected file is read once for the
    stretches of time that it has rows in, and is not opened again for a time outside them. From the remaining files,
    the lookup reads the time and the first key column, and the other key columns only if a row matches both.

    The table's log is refreshed when it is older than `refresh` seconds; rows committed since the last refresh are
    not found. Answers are not cached: a runner that restores a checkpoint asks again, and must get the same answer.

    Attributes:
        record: The table's record.
        time: The time column.
    """

    def __init__(self, lake_uri: str, record: Record, time: str, refresh: float = REFRESH_SECONDS) -> None:
        self.record, self.time = record, time
        self._lake, self._refresh = lake_uri, refresh
        self._table: DeltaTable | None = None
        self._read_at = -refresh
        self._bounds: dict[str, Stretches] = {}
        self._stretches: dict[str, Stretches] = {}

    def keys_of(self, rows: pa.Table) -> pa.Table:
        """The keys of `rows` that the table has, and possibly others.

        These are the keys of all table rows whose first key column and whose time both occur in `rows`.

        Args:
            rows: Rows with the key columns and the time column.

        Raises:
            StoreError: The table cannot be read.
        """
        if rows.num_rows == 0:
            return self._no_keys
        self._renew()
        return self._keys(rows)

    @property
    def _no_keys(self) -> pa.Table:
        return pa.schema([self.record.schema.field(name) for name in self.record.key]).empty_table()

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
                folder = open_location(table_uri(self._lake, self.record.name))[1]
                bounds = TimeBounds.read(self._table, self.time).of
                self._bounds = {f"{folder}/{path}": np.array(both).reshape(2, 1) for path, both in bounds.items()}
                self._stretches = {path: self._stretches[path] for path in self._bounds.keys() & self._stretches}
        except (DeltaError, OSError) as error:
            raise StoreError(f"{self.record.name}: cannot read: {first_line(error)}") from error
        self._read_at = now

    def _keys(self, rows: pa.Table) -> pa.Table:
        key, none = self.record.key, self._no_keys
        times = np.sort(pc.cast(rows[self.time], pa.int64()).to_numpy())
        filesystem = open_location(self._lake)[0]
        types = {name: self.record.schema.field(name).type for name in (*key, self.time)}
        wanted = pc.scalar(True)
        for name in (key[0], self.time):
            wanted &= pc.field(name).isin(rows[name].unique().cast(types[name]))

        def scan(files: list[str], columns: list[str]) -> pa.Table:
            dataset = ds.dataset(files, pa.schema(types), "parquet", filesystem=filesystem)
            # keeps one batch of one file in memory at a time
            return dataset.to_table(columns, filter=wanted, batch_readahead=1, fragment_readahead=1, use_threads=False)

        try:
            paths = self._files_with(times, filesystem)
            if paths:
                paths = scan(paths, ["__filename"]).column(0).unique().to_pylist()
            found = scan(paths, list(key)) if paths else none
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{self.record.name}: cannot read: {first_line(error)}") from error
        return found.cast(none.schema)

    def _files_with(self, times: npt.NDArray[np.int64], filesystem: pa.fs.FileSystem) -> list[str]:
        """The files that may have a row with one of the sorted times."""
        fresh = [path for path in _files_covering(self._bounds, times) if path not in self._stretches]
        for path in fresh:
            with pq.ParquetFile(path, filesystem=filesystem) as file:
                self._stretches[path] = _stretches_of(file.read([self.time], use_threads=False)[self.time])
        return _files_covering(self._stretches, times)


def _files_covering(files: Mapping[str, Stretches], times: npt.NDArray[np.int64]) -> list[str]:
    """The files with a stretch that contains one of the sorted times."""
    if not files:
        return []
    first, last = np.concatenate(list(files.values()), axis=1)
    hold = np.searchsorted(times, first, "left") < np.searchsorted(times, last, "right")
    of = np.repeat(np.arange(len(files)), [stretches.shape[1] for stretches in files.values()])
    paths = list(files)
    return [paths[number] for number in np.unique(of[hold]).tolist()]


def _stretches_of(column: pa.ChunkedArray) -> Stretches:
    """The stretches of time that cover a file's times."""
    times = np.sort(column.drop_null().cast(pa.int64()).to_numpy())
    if not len(times):
        return np.empty((2, 0), np.int64)
    breaks = np.flatnonzero(np.diff(times) > APART_US)
    return np.stack([times[np.append(0, breaks + 1)], times[np.append(breaks, -1)]])
