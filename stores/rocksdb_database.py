"""The RocksDB database of the embedded device store: one column family per kind of row, and one-line errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from schemas.errors import StoreBusyError, StoreError, first_line
from stores.device_rows import EARLIEST, decode_key, key_range

EVENTS, SESSIONS = "events", "sessions"
FAMILIES = (EVENTS, SESSIONS)
BATCH_ROWS = 4_096
"""A batch of this size stays in the CPU cache between being built and written."""

_HORIZON_KEY = b"expired_before"
_MIB = 1 << 20


class Database:
    """An open RocksDB database whose errors are raised as `StoreError`."""

    def __init__(self, path: str, access: AccessType, max_open_files: int = 256) -> None:
        self._path = path
        with _explained(path):
            Path(path).mkdir(parents=True, exist_ok=True)
            options = _options(max_open_files)
            self._root: Any = Rdict(path, options, column_families=dict.fromkeys(FAMILIES, options), access_type=access)
            self._families: dict[str, Any] = {name: self._root.get_column_family(name) for name in FAMILIES}
            self._handles = {name: self._root.get_column_family_handle(name) for name in FAMILIES}
        self._logged = WriteOptions()
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True

    def batch(self, family: str) -> WriteBatch:
        """A new write batch for a column family."""
        batch = WriteBatch(raw_mode=True)
        batch.set_default_column_family(self._handles[family])
        return batch

    def write(self, batch: WriteBatch, logged: bool) -> None:
        """Write a batch, with or without the write-ahead log."""
        with _explained(self._path):
            self._root.write(batch, self._logged if logged else self._unlogged)

    def read(
        self, family: str, device_id: str, since: int | None, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """A device's rows that have not expired, newest first; times in microseconds."""
        oldest = max(self.horizon(), EARLIEST if since is None else since)
        rows: list[tuple[bytes, bytes]] = []
        for row in self.scan(family, *key_range(device_id, oldest, until)):
            if len(rows) >= limit:
                break
            rows.append(row)
        return rows

    def scan(self, family: str, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with first <= key < end."""
        with _explained(self._path):
            for key, value in self._families[family].items(from_key=first):
                if key >= end:
                    return
                yield key, value

    def expired_keys(self, family: str, horizon: int) -> Iterator[list[bytes]]:
        """Keys older than the horizon, in lists of bounded length. Seeks from device to device."""
        with _explained(self._path):
            cursor = self._families[family].iter()
            cursor.seek_to_first()
            keys: list[bytes] = []
            while cursor.valid():
                device_id = decode_key(cursor.key())[0]
                first, end = key_range(device_id, None, horizon)
                cursor.seek(first)
                while cursor.valid() and (key := cursor.key()) < end:
                    keys.append(key)
                    cursor.next()
                    if len(keys) >= BATCH_ROWS:
                        yield keys
                        keys = []
            if keys:
                yield keys

    def horizon(self) -> int:
        """The expiry horizon in microseconds: rows before it have expired."""
        with _explained(self._path):
            written = self._root.get(_HORIZON_KEY)
        return EARLIEST if written is None else int(written)

    def set_horizon(self, before: int) -> None:
        """Set the expiry horizon: rows before it expire."""
        with _explained(self._path):
            self._root.put(_HORIZON_KEY, str(before).encode())

    def flush(self) -> None:
        """Flush the memtables to files."""
        with _explained(self._path):
            for family in (self._root, *self._families.values()):
                family.flush(True)

    def sync_log(self) -> None:
        """Sync the write-ahead log, which makes logged writes durable."""
        with _explained(self._path):
            self._root.flush_wal(True)

    def compact(self) -> None:
        """Rewrite all files, so that no deleted bytes remain in them."""
        options = CompactOptions()
        # without force, RocksDB may skip the bottommost level
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        with _explained(self._path):
            for family in (self._root, *self._families.values()):
                family.compact_range(None, None, options)

    def catch_up(self) -> None:
        """Read what the writer has logged since. For a secondary instance only."""
        with _explained(self._path):
            self._root.try_catch_up_with_primary()

    def close(self) -> None:
        """Close the database and release RocksDB's lock."""
        if self._root is None:
            return
        # RocksDB releases its lock with the last reference, and each family holds one
        self._families.clear()
        self._handles.clear()
        root, self._root = self._root, None
        with _explained(self._path):
            root.close()


def _options(max_open_files: int) -> Options:
    """Options of the database and of each family, which bound memory to some 100 MB."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_max_open_files(max_open_files)
    options.set_write_buffer_size(32 * _MIB)
    options.set_max_write_buffer_number(2)
    options.set_db_write_buffer_size(64 * _MIB)
    options.set_max_total_wal_size(64 * _MIB)
    # the store's lock admits one writer at a time; without concurrency a memtable inserts faster
    options.set_allow_concurrent_memtable_write(False)
    options.set_compression_type(DBCompressionType.lz4())
    # A bulk load leaves files of some 10 MB. Merging them four at a time, the default, would rewrite the store again
    # and again. A read has to look into each of them, which still takes only milliseconds.
    options.set_level_zero_file_num_compaction_trigger(32)
    options.set_level_zero_slowdown_writes_trigger(48)
    options.set_level_zero_stop_writes_trigger(64)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(1)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(32 * _MIB))
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_block_size(16 * 1024)
    options.set_block_based_table_factory(blocks)
    return options


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Convert errors of the system or RocksDB to a one-line StoreError; rocksdict raises bare `Exception`."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        text = first_line(error)
        if "/LOCK" in text:
            raise StoreBusyError(
                f"{path}: another process has this device store open; stop it, or open the store read-only"
            ) from error
        for sign, meaning in _MEANINGS.items():
            if sign in text:
                raise StoreError(f"{path}: {meaning}") from error
        raise StoreError(f"{path}: {text}") from error


_MEANINGS = {
    "No space left": "the disk is full",
    "Disk quota exceeded": "the disk quota is used up",
    "File too large": "a file grew past the size that the system allows",
    "Permission denied": "no permission to read and write the device store here",
    "Read-only file system": "the file system is read-only",
    "Not a directory": "is, or lies under, a file; a device store is a directory",
    "File exists": "is a file; a device store is a directory",
}
