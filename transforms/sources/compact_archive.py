"""Compacts the raw log: merges each hour's small files into large ones, while the log is written and read. No Beam.

A pass merges the files of closed hours and writes a receipt that lists the merged files. A later pass deletes these
files once they are older than `KEEP`. In between, a reader sees their rows twice, as it may after any restart of the
writer, but every file it has listed still exists when it opens it. If a pass dies, the next one repairs it: it finds
the same rows, and so writes the same file under the same name.

Files whose offset ranges do not overlap hold no copies of each other's rows. Their Avro blocks are copied unchanged,
which takes a tenth of the time of decoding. The other files are decoded, and their rows are deduplicated.
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl
import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem

from schemas.columns import to_polars
from schemas.errors import InputError, StoreError, first_line
from schemas.events import RAW
from stores.locations import open_location
from stores.raw_log_buffer import RawLogBuffer
from stores.raw_log_files import (
    TEMPORARY_SUFFIX,
    Summary,
    hour_end,
    hour_folder,
    read_summary,
    write_whole,
)
from transforms.sources.raw_files import Damage, FileFormat, FileSlice, read_slice

TARGET_BYTES = 32 << 20
"""Compressed size of a merged file. A merge holds the file's rows in memory, ten times as much."""

SETTLE = timedelta(minutes=10)
"""An hour is closed this long after its end. A file that arrives even later is merged by a later pass."""

KEEP = timedelta(hours=1)
"""How long merged files are kept for readers that have already listed them."""

_ABANDONED = timedelta(days=1)
_RECEIPT = "_merged-"
_ORDER = ("arrival_time", "source", "partition", "offset")


class Compaction(NamedTuple):
    """What a pass did, in numbers of files and rows.

    Attributes:
        merged: Small files that were merged.
        written: Files that were written in their place.
        copies: Duplicate rows that were removed.
        deleted: Files that were deleted: merged by earlier passes, or left behind by failed writers.
        damaged: Files that cannot be read completely; they are left unchanged.
    """

    merged: int = 0
    written: int = 0
    copies: int = 0
    deleted: int = 0
    damaged: int = 0

    def __add__(self, other: object) -> "Compaction":
        assert isinstance(other, Compaction)
        return Compaction(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def compact_archive(root: str, now: datetime, target_bytes: int = TARGET_BYTES) -> Compaction:
    """Merge the small files of every closed hour of a raw log, and delete those that an earlier pass merged.

    Args:
        root: The raw log's root, a path or URI, as `Archive` takes it.
        now: The current time.
        target_bytes: Approximate size of a merged file; files of half this size or more are left alone.

    Raises:
        StoreError: The log cannot be listed, read or written.
    """
    filesystem, path = open_location(root)
    done = Compaction()
    try:
        listed = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        folders: dict[str, list[FileInfo]] = {}
        for file in listed:
            if file.is_file:
                folders.setdefault(file.path.removesuffix(f"/{file.base_name}"), []).append(file)
        for folder, files in sorted(folders.items()):
            if _is_closed(folder.removeprefix(f"{path}/"), now):
                done += _Hour(root, filesystem, folder, files).compact(now, target_bytes)
    except OSError as error:
        raise StoreError(f"cannot compact the raw log in {root}: {first_line(error)}") from error
    return done


def without_copies(rows: pa.Table) -> pa.Table:
    """RAW rows in the order of their arrival, without duplicates.

    Duplicates are equal in all columns; the offset alone does not identify a row, as a recreated topic reuses offsets.

    >>> row = {"payload": b"{}", "source": "t", "partition": 0, "offset": 1, "arrival_time": None}
    >>> len(without_copies(pa.Table.from_pylist([row, row, {**row, "offset": 2}], schema=RAW.schema)))
    2
    """
    frame = to_polars(rows).unique().sort(*_ORDER, "payload", nulls_last=True)
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(RAW.schema)


def _is_closed(folder: str, now: datetime) -> bool:
    end = hour_end(folder)
    return folder == hour_folder(None) if end is None else end + SETTLE <= now


class _Hour:
    """The files of one folder."""

    def __init__(self, root: str, filesystem: FileSystem, folder: str, files: list[FileInfo]) -> None:
        self._root, self._filesystem, self._folder = root, filesystem, folder
        self._files = {file.base_name: file for file in files}

    def compact(self, now: datetime, target_bytes: int) -> Compaction:
        merged, deleted = self._expire_receipts(now)
        deleted += self._delete(
            name
            for name, file in self._files.items()
            if name.endswith(TEMPORARY_SUFFIX) and file.mtime < now - _ABANDONED
        )
        done = Compaction(deleted=deleted)
        small = {
            name: file.size
            for name, file in sorted(self._files.items())
            if name.endswith(".avro") and name[0] not in "._" and name not in merged and file.size < target_bytes / 2
        }
        for group in _groups(small, target_bytes):
            done += self._merge(group, now)
        return done

    def _expire_receipts(self, now: datetime) -> tuple[set[str], int]:
        """Delete the files of expired receipts.

        Returns:
            The names of merged files that other receipts still keep, and the number of files deleted.
        """
        kept: set[str] = set()
        deleted = 0
        for name in [name for name in self._files if name.startswith(_RECEIPT)]:
            receipt = json.loads(self._read(name))
            names = set(receipt["files"])
            if datetime.fromisoformat(receipt["merged_at"]) + KEEP > now:
                kept |= names
                continue
            deleted += self._delete(names & self._files.keys())
            # last, so that the next pass finishes the job if this one dies before
            self._delete([name])
            for gone in names:
                self._files.pop(gone, None)
        return kept, deleted

    def _merge(self, names: list[str], now: datetime) -> Compaction:
        files = {name: self._read(name) for name in names}
        summaries = {name: _summary(data) for name, data in files.items()}
        overlapping = _overlapping(summaries)
        buffer = RawLogBuffer(self._root)
        merged: list[str] = []
        tables = [RAW.empty()]
        for name, data in files.items():
            summary = summaries[name]
            if name in overlapping or summary is None:
                rows = _decode(name, data)
                if rows is not None:
                    tables.append(rows)
                    merged.append(name)
            elif _copy_blocks(buffer, data, summary):
                merged.append(name)
        damaged = len(names) - len(merged)
        if len(merged) < 2:
            return Compaction(damaged=damaged)
        found = pa.concat_tables(tables)
        rows = without_copies(found)
        buffer.add(rows)
        written = [file.path.rpartition("/")[2] for file in buffer.write()]
        replaced = sorted(set(merged) - set(written))
        receipt = json.dumps({"merged_at": now.isoformat(), "into": written, "files": replaced})
        # the time in the name keeps receipts apart: another merge may write the same file
        name = f"{_RECEIPT}{now.astimezone(UTC):%Y%m%dT%H%M%S%f}-{written[0]}.json"
        write_whole(self._filesystem, f"{self._folder}/{name}", receipt.encode())
        return Compaction(len(replaced), len(written), len(found) - len(rows), damaged=damaged)

    def _read(self, name: str) -> bytes:
        with self._filesystem.open_input_file(f"{self._folder}/{name}") as stream:
            return bytes(stream.read())

    def _delete(self, names: Iterable[str]) -> int:
        deleted = 0
        for name in names:
            try:
                self._filesystem.delete_file(f"{self._folder}/{name}")
            except FileNotFoundError:
                continue
            deleted += 1
        return deleted


def _overlapping(summaries: dict[str, Summary | None]) -> set[str]:
    """Names of the files that may share a row with another: their offset ranges overlap."""
    ranges = sorted(
        (summary.source, partition, first, last, name)
        for name, summary in summaries.items()
        if summary is not None
        for partition, (first, last) in summary.offsets.items()
    )
    found: set[str] = set()
    furthest = None
    for source, partition, first, last, name in ranges:
        if furthest is None or furthest[:2] != (source, partition):
            furthest = source, partition, last, name
            continue
        if first <= furthest[2]:
            found |= {name, furthest[3]}
        if last > furthest[2]:
            furthest = source, partition, last, name
    return found


def _summary(data: bytes) -> Summary | None:
    with suppress(Exception):  # fastavro raises many kinds for a damaged header
        return read_summary(data)
    return None


def _copy_blocks(buffer: RawLogBuffer, data: bytes, summary: Summary) -> bool:
    """Copy a file's blocks; False if it cannot be read, as an unreadable file must not be deleted."""
    try:
        buffer.add_file(data, summary)
    except Exception:  # fastavro and its codecs raise many kinds for damage
        return False
    return True


def _decode(name: str, data: bytes) -> pa.Table | None:
    """A file's rows, or None if it is damaged, as an unreadable file must not be deleted."""
    tables = [RAW.empty()]
    try:
        for piece in read_slice(io.BytesIO(data), FileSlice(name, FileFormat.AVRO, 0, len(data))):
            if isinstance(piece, Damage):
                return None
            tables.append(piece)
    except InputError:
        return None
    return pa.concat_tables(tables)


def _groups(sizes: dict[str, int], target_bytes: int) -> Iterator[list[str]]:
    """Group file names, in order, by the target size of a merged file; a single file is not a group."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > target_bytes:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if len(group) > 1:
        yield group
