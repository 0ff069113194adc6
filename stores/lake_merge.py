"""Merging rows into one partition of a table by their keys: existing rows win, or new ones do."""

from collections.abc import Iterable, Iterator, Sequence

import polars as pl
import pyarrow as pa

from stores.lake import LiveFile
from stores.lake_commit import PartitionWrite, fingerprint
from stores.lake_files import TARGET_FILE_BYTES, Place, read_files, write_files

KEYS_HELD = 4_000_000
"""Keys of existing rows held at once; of a larger partition they are read again for each table merged."""


def add_missing(
    place: Place,
    live: Sequence[LiveFile],
    tables: Iterable[pa.Table],
    target_bytes: int = TARGET_FILE_BYTES,
) -> PartitionWrite:
    """Write the rows whose key the partition does not hold; of existing rows only the key columns are read.

    Keys are unique within the rows written: the caller sees to it.

    Raises:
        StoreError: A file cannot be read or written.
    """
    if not live:
        files = write_files(place, tables, target_bytes)
        return PartitionWrite(place.partition, tuple(files), seen=fingerprint(live))
    skipped = 0
    known = _ExistingKeys(place, live)

    def missing() -> Iterator[pa.Table]:
        nonlocal skipped
        for incoming in tables:
            kept = incoming
            for keys in known.batches():
                kept = without_keys(kept, keys, place.record.key)
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
) -> PartitionWrite:
    """Put rows in the place of those with the same key, and take withdrawn ones out.

    Only files that hold a row which changes are rewritten: the same rows again leave the partition as it is.

    Args:
        place: The partition.
        live: The partition's files in the table's current version.
        rows: New rows, unique by key.
        withdrawn: Key columns of rows that no longer exist; none of them a key of `rows`.
        target_bytes: Size of a file, roughly.

    Raises:
        StoreError: A file cannot be read or written.
    """
    seen = fingerprint(live)
    key, names = list(place.record.key), place.record.names
    fresh = rows
    touched: list[str] = []
    kept: list[pa.Table] = []
    if live:
        fresh = rows
        for file in live:
            fresh = without_keys(fresh, read_files(place, [file.path]), names)
        going = pa.concat_tables([fresh.select(key), withdrawn.select(key)])
        for file in live if going.num_rows else ():
            existing = read_files(place, [file.path])
            staying = without_keys(existing, going, place.record.key)
            if staying.num_rows < existing.num_rows:
                touched.append(file.path)
                kept.append(staying)
    files = write_files(place, [fresh, *kept], target_bytes)
    return PartitionWrite(place.partition, tuple(files), tuple(touched), seen, rows.num_rows - fresh.num_rows)


def without_keys(rows: pa.Table, keys: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows whose key is not among the keys, in their order."""
    if rows.num_rows == 0 or keys.num_rows == 0:
        return rows
    names = list(key)
    wanted = pl.DataFrame(pl.from_arrow(rows.select(names))).with_row_index("__row")
    known = pl.DataFrame(pl.from_arrow(keys.select(names).cast(rows.select(names).schema)))
    left = wanted.join(known, on=names, how="anti", nulls_equal=True, maintain_order="left")["__row"]
    return rows if len(left) == rows.num_rows else rows.take(left.to_arrow())


class _ExistingKeys:
    """Key columns of a partition's files, in batches of about `KEYS_HELD`; one batch is read once."""

    def __init__(self, place: Place, live: Sequence[LiveFile]) -> None:
        self._place = place
        self._groups: list[list[str]] = [[]]
        rows = 0
        for file in live:
            if rows and rows + file.rows > KEYS_HELD:
                self._groups.append([])
                rows = 0
            self._groups[-1].append(file.path)
            rows += file.rows
        self._only = self._read(self._groups[0]) if len(self._groups) == 1 else None

    def batches(self) -> Iterator[pa.Table]:
        if self._only is not None:
            yield self._only
        else:
            yield from map(self._read, self._groups)

    def _read(self, files: list[str]) -> pa.Table:
        return read_files(self._place, files, self._place.record.key)
