"""Merge of rows into one partition of a table by key: either existing or new rows win."""

import itertools
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable

from schemas.columns import to_polars
from schemas.records import Record
from stores.encoded_texts import plain_type
from stores.lake import LiveFile, live_files, table_uri
from stores.lake_bounds import TimeBounds
from stores.lake_commit import CommitResult, PartitionWrite, Planned, WriteMode, commit_planned, fingerprint
from stores.lake_files import TARGET_FILE_BYTES, Partition, Place, write_files
from stores.lake_read import read_files
from stores.patience import Patience

MergeRows = Callable[[pa.Table, pa.Table], pa.Table]
"""Takes the existing rows with the keys of the new rows, and the new rows; returns the rows to store."""

KEYS_HELD = 4_000_000
"""Keys of existing rows held at once, 16 bytes each. For a larger partition, they are read again for each table."""


_APART = 4
"""A file of at least a quarter of the target size is rewritten by itself."""


class KnownKeys:
    """Cache of the keys in partitions of a table, thread-safe. A partition that fits is read once.

    A key is held as a 128-bit hash with a random seed, so that nobody can construct colliding keys.
    """

    def __init__(self, keys_held: int = KEYS_HELD) -> None:
        self._keys_held = keys_held
        self._seeds = {"high": secrets.randbits(64), "low": secrets.randbits(64)}
        self._lock = threading.Lock()
        self._held: dict[Partition, pl.DataFrame] = {}

    def without_known(self, rows: pa.Table, place: Place, live: Sequence[LiveFile]) -> pa.Table:
        """The rows whose key is in no live file of the partition, in their order.

        Raises:
            StoreError: A file cannot be read.
        """
        if not (rows.num_rows and live):
            return rows
        key = rows.select(list(place.record.key))
        # a dictionary-encoded text has a different hash
        plain = key.cast(pa.schema([(field.name, plain_type(field.type)) for field in key.schema]))
        left = self._hashes(plain).with_row_index("__row")
        for known in self._batches(place, live):
            left = left.join(known, on=list(self._seeds), how="anti", maintain_order="left")
        return rows if len(left) == rows.num_rows else rows.take(left["__row"].to_arrow())

    def _batches(self, place: Place, live: Sequence[LiveFile]) -> Iterator[pl.DataFrame]:
        if sum(file.rows for file in live) > self._keys_held:
            yield from (self._read(place, file) for file in live)
        else:
            yield self._all(place, live)

    def _all(self, place: Place, live: Sequence[LiveFile]) -> pl.DataFrame:
        with self._lock:
            held = self._held.get(place.partition)
            if held is None:
                held = pl.concat([self._read(place, file) for file in live])
                # evicts the first partition read: in a replay in time order, it is the first to be finished
                while self._held and sum(map(len, self._held.values())) + len(held) > self._keys_held:
                    del self._held[next(iter(self._held))]
                self._held[place.partition] = held
            return held

    def _read(self, place: Place, file: LiveFile) -> pl.DataFrame:
        return self._hashes(read_files(place, [file.path], place.record.key))

    def _hashes(self, keys: pa.Table) -> pl.DataFrame:
        frame = to_polars(keys)
        return pl.DataFrame({name: frame.hash_rows(seed) for name, seed in self._seeds.items()})


def add_missing(
    place: Place,
    live: Sequence[LiveFile],
    tables: Iterable[pa.Table],
    target_bytes: int = TARGET_FILE_BYTES,
    known: KnownKeys | None = None,
) -> PartitionWrite:
    """Write the rows whose key is not yet in the partition. Of existing rows, only the key columns are read.

    The caller makes sure that keys are unique within the given rows.

    Args:
        place: The partition.
        live: The partition's files in the table's current version.
        tables: Rows of the partition.
        target_bytes: Approximate size of a file.
        known: Cache of keys across calls; valid only while the live files are the same.

    Raises:
        StoreError: A file cannot be read or written.
    """
    skipped = 0
    known = known or KnownKeys()

    def missing() -> Iterator[pa.Table]:
        nonlocal skipped
        for incoming in tables:
            kept = known.without_known(incoming, place, live)
            skipped += incoming.num_rows - kept.num_rows
            yield kept

    files = write_files(place, missing(), target_bytes)
    return PartitionWrite(place.partition, tuple(files), seen=fingerprint(live), skipped=skipped)


def replace_changed(
    place: Place,
    live: Sequence[LiveFile],
    rows: pa.Table,
    withdrawn: pa.Table,
    target_bytes: int = TARGET_FILE_BYTES,
    merge: MergeRows | None = None,
    bounds: TimeBounds | None = None,
) -> PartitionWrite:
    """Replace rows by key, and remove withdrawn rows.

    Rewrites only the files with a row that changes: merging the same rows again leaves the partition as it is.

    Args:
        place: The partition.
        live: The partition's files in the table's current version.
        rows: New rows, unique by key.
        withdrawn: Rows to remove: their key columns and the column of `bounds`. No key is also in `rows`.
        target_bytes: Approximate size of a file.
        merge: Combines existing and new rows of the same keys; None: the new rows win.
        bounds: Bounds of a time that a row's key determines: files without any of the rows' times are not read.

    Raises:
        StoreError: A file cannot be read or written.
    """
    key, names = place.record.key, place.record.names
    candidates = live
    if bounds is not None:
        times = [*rows.column(bounds.column).chunks, *withdrawn.column(bounds.column).chunks]
        candidates = bounds.files_with(live, pa.chunked_array(times, rows.schema.field(bounds.column).type))
    rows = rows.select(names)
    affected_keys = pa.concat_tables([rows.select(list(key)), withdrawn.select(list(key))])
    matched = {file: found for file in candidates if (found := _rows_with_keys(place, file, affected_keys)).num_rows}
    existing = pa.concat_tables([rows.slice(0, 0), *matched.values()])
    if merge is not None and existing.num_rows:
        rows = merge(existing, rows)
    fresh = without_keys(rows, existing, names)
    replaced_keys = pa.concat_tables([fresh.select(list(key)), withdrawn.select(list(key))])
    touched = [file for file, found in matched.items() if with_keys(found, replaced_keys, key).num_rows]
    # larger files are rewritten one by one: if all became one file, each change of a row would rewrite the partition
    apart = [file for file in touched if file.size * _APART >= target_bytes]
    together = [file for file in touched if file not in apart]

    def kept(file: LiveFile) -> pa.Table:
        return without_keys(read_files(place, [file.path]), replaced_keys, key)

    files = write_files(place, itertools.chain([fresh], map(kept, together)), target_bytes)
    for file in apart:
        files += write_files(place, [kept(file)], target_bytes)
    removed = tuple(file.path for file in touched)
    return PartitionWrite(place.partition, tuple(files), removed, fingerprint(live), rows.num_rows - fresh.num_rows)


def merge_into_table(lake_uri: str, record: Record, rows: pa.Table, merge: MergeRows) -> CommitResult:
    """Merge rows into an unpartitioned table in one transaction; if nothing changes, nothing is committed.

    Args:
        lake_uri: The lake's root.
        record: The table's record; a missing table is created.
        rows: New rows, unique by key.
        merge: Combines existing and new rows of the same keys. Must be idempotent.

    Raises:
        StoreError: The table still cannot be read or written after several attempts.
    """
    place = Place(table_uri(lake_uri, record.name), record, ())

    def plan(table: DeltaTable, done: int) -> Planned:
        live = live_files(table).get((), [])
        return Planned(done + 1, [replace_changed(place, live, rows, rows.slice(0, 0), merge=merge)])

    result, failures = Patience().attempt(
        lambda: commit_planned(lake_uri, record, WriteMode.MERGE, f"{record.name}:merged", plan)
    )
    return result._replace(failures=failures)


def _rows_with_keys(place: Place, file: LiveFile, keys: pa.Table) -> pa.Table:
    """The rows of a file whose key is among the keys. Most files have none, and only their keys are read."""
    key = place.record.key
    if not (keys.num_rows and with_keys(read_files(place, [file.path], key), keys, key).num_rows):
        return place.record.empty()
    return with_keys(read_files(place, [file.path]), keys, key)


def with_keys(rows: pa.Table, keys: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows whose key is among the keys, in their order."""
    return _joined(rows, keys, key, "semi")


def without_keys(rows: pa.Table, keys: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows whose key is not among the keys, in their order."""
    return _joined(rows, keys, key, "anti")


def _joined(rows: pa.Table, keys: pa.Table, key: Sequence[str], how: Literal["semi", "anti"]) -> pa.Table:
    if rows.num_rows == 0 or keys.num_rows == 0:
        return rows if how == "anti" else rows.slice(0, 0)
    names = list(key)
    wanted = to_polars(rows.select(names)).with_row_index("__row")
    known = to_polars(keys.select(names).cast(rows.select(names).schema))
    found = wanted.join(known, on=names, how=how, nulls_equal=True, maintain_order="left")["__row"]
    return rows if len(found) == rows.num_rows else rows.take(found.to_arrow())
