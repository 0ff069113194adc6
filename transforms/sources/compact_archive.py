"""Large files of the raw log's many small ones, hour by hour, beside the job that writes and the readers; no Beam.

A pass merges what closed hours hold and leaves a receipt of the files that it merged; a pass after `KEEP` deletes
those. In between a reader meets their rows twice, as it may after any restart of the writer, and what a reader has
listed is there when it opens it. A pass that dies is mended by the next: it finds the same rows, and so writes the
same file under the same name.

Files whose offsets do not meet hold no copy of each other's rows: their blocks are taken over as they are, for a tenth
of the time that decoding takes. The others are decoded, and each row is kept once.
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
"""Of a file, compressed. A merge holds its rows: ten times as much."""

SETTLE = timedelta(minutes=10)
"""After its end an hour counts as closed. A file that comes later still is merged by a later pass."""

KEEP = timedelta(hours=1)
"""Files that were merged stay so long for readers who have listed them."""

_ABANDONED = timedelta(days=1)
_RECEIPT = "_merged-"
_ORDER = ("arrival_time", "source", "partition", "offset")


class Compaction(NamedTuple):
    """What a pass did.

    Attributes:
        merged: Small files that were merged.
        written: Files they became.
        copies: Rows that were there twice and now are once.
        deleted: Files of earlier passes and of lost writers that were deleted.
        damaged: Files that cannot be read whole; they are left as they are.
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
        now: The time.
        target_bytes: Size of a file, roughly; files of half of it are left alone.

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
    """RAW rows in the order of their arrival, each once.

    A copy is equal in all columns: a topic that was made anew has the same offsets, and other payloads.

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
        merged, deleted = self._settle_receipts(now)
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

    def _settle_receipts(self, now: datetime) -> tuple[set[str], int]:
        """The names that receipts say are merged and must stay a while; the number of files deleted."""
        kept: set[str] = set()
        deleted = 0
        for name in [name for name in self._files if name.startswith(_RECEIPT)]:
            receipt = json.loads(self._read(name))
            names = set(receipt["files"])
            if datetime.fromisoformat(receipt["merged_at"]) + KEEP > now:
                kept |= names
                continue
            deleted += self._delete(names & self._files.keys())
            # last, so that a pass that dies before is taken up again
            self._delete([name])
            for gone in names:
                self._files.pop(gone, None)
        return kept, deleted

    def _merge(self, names: list[str], now: datetime) -> Compaction:
        files = {name: self._read(name) for name in names}
        summaries = {name: _summary(data) for name, data in files.items()}
        mixed = _overlapping(summaries)
        buffer = RawLogBuffer(self._root)
        merged: list[str] = []
        tables = [RAW.empty()]
        for name, data in files.items():
            summary = summaries[name]
            if name in mixed or summary is None:
                rows = _decoded(name, data)
                if rows is not None:
                    tables.append(rows)
                    merged.append(name)
            elif _added(buffer, data, summary):
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
        # named after the time too: another merge may end in the same file, and must not take this one's place
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
    """Names of the files that may share a row with another: a range of offsets of theirs meets one of the other's."""
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
    with suppress(Exception):  # whatever fastavro meets in a damaged header
        return read_summary(data)
    return None


def _added(buffer: RawLogBuffer, data: bytes, summary: Summary) -> bool:
    """Whether a file could be taken over: what cannot be read must not be deleted."""
    try:
        buffer.add_file(data, summary)
    except Exception:  # whatever fastavro and its codecs meet
        return False
    return True


def _decoded(name: str, data: bytes) -> pa.Table | None:
    """A file's rows, or None where it is damaged: what cannot be read must not be deleted."""
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
    """Names in order, as many together as make a file; a name alone is no group."""
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
