"""The embedded device store: RocksDB, with one writing process and any number of processes that read beside it.

Writes are durable once `flush` or `close` returns. A process killed earlier may lose the last writes; running the same
input again writes the same keys. Small writes go through the write-ahead log, which `flush` syncs. A bulk write
bypasses the log, and `flush` writes out the memtables instead: this saves 0.4 µs an event, but each flush writes at
least one file.
"""

import os
import tempfile
import threading
from collections import deque
from pathlib import Path

import pyarrow as pa
from rocksdict import AccessType

from schemas.errors import StoreError
from stores.device_rows import EARLIEST, EVENT_ROWS, SESSION_ROWS, RowCodec, key_range, last_panes
from stores.device_store import DeviceStore
from stores.rocksdb_database import BATCH_ROWS, EVENTS, FAMILIES, SESSIONS, Database

# from this many rows per call, flushing memtables (files of some 10 MB) costs less than the write-ahead log
_BULK_ROWS = 32_768
# a table is encoded in pieces of this many rows, so that memory does not grow with it
_ENCODED_ROWS = 100_000
_READ_ATTEMPTS = 3


class RocksDBDeviceStore(DeviceStore):
    """A device store in a directory.

    Within a process, all stores that write to one path share one RocksDB handle, as RocksDB requires. A read-only
    store is a secondary instance: it needs no lock and catches up with the writer at every read.
    """

    def __init__(self, path: str, read_only: bool = False) -> None:
        self._path = path
        self._rows: _Writer | _Follower | None = _Follower(path) if read_only else _Writer.acquire(path)
        self._closing = threading.Lock()

    def write_events(self, events: pa.Table) -> int:
        """See `DeviceStore.write_events`."""
        writer = self._writer()
        bulk = events.num_rows >= _BULK_ROWS
        for start in range(0, events.num_rows, _ENCODED_ROWS):
            writer.put(EVENTS, *EVENT_ROWS.encode(events.slice(start, _ENCODED_ROWS)), bulk=bulk)
        return int(events.num_rows)

    def write_sessions(self, panes: pa.Table) -> int:
        """See `DeviceStore.write_sessions`."""
        writer = self._writer()
        standing, withdrawn = last_panes(panes)
        writer.put(SESSIONS, *SESSION_ROWS.encode(standing))
        writer.delete(SESSIONS, SESSION_ROWS.encode_keys(withdrawn).to_pylist())
        return int(standing.num_rows + withdrawn.num_rows)

    def read(
        self, codec: RowCodec, device_id: str, since: int | None, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """See `DeviceStore.read`."""
        family = EVENTS if codec is EVENT_ROWS else SESSIONS
        return self._reader().read(family, device_id, since, until, limit)

    def delete_device(self, device_id: str) -> int:
        """See `DeviceStore.delete_device`."""
        return self._writer().delete_device(device_id)

    def expire(self, before: int) -> None:
        """See `DeviceStore.expire`."""
        self._writer().expire(before)

    def compact(self) -> None:
        """See `DeviceStore.compact`."""
        self._writer().compact()

    def flush(self) -> None:
        """See `DeviceStore.flush`."""
        self._writer().flush()

    def close(self) -> None:
        """See `DeviceStore.close`. The last store on a path releases RocksDB's lock."""
        with self._closing:
            rows, self._rows = self._rows, None
        if rows is not None:
            rows.release()

    def _reader(self) -> "_Writer | _Follower":
        if self._rows is None:
            raise StoreError(f"{self._path}: the device store is closed")
        return self._rows

    def _writer(self) -> "_Writer":
        rows = self._reader()
        if isinstance(rows, _Follower):
            raise StoreError(f"{self._path}: the device store is open for reading only")
        return rows


class _Writer:
    """The RocksDB handle that all stores on one path in this process share; the first opens it, the last closes it."""

    _open: "dict[tuple[int, str], _Writer]" = {}  # noqa: RUF012
    _registry_lock = threading.Lock()

    def __init__(self, path: str, key: tuple[int, str]) -> None:
        self._path = path
        self._key = key
        self._users = 0
        self._lock = threading.RLock()
        self._unlogged = False
        self._database = Database(path, AccessType.read_write())

    @classmethod
    def acquire(cls, path: str) -> "_Writer":
        # a forked child inherits the registry but must not use the parent's handle
        key = (os.getpid(), os.path.realpath(path))
        with cls._registry_lock:
            handle = cls._open.get(key)
            if handle is None:
                handle = cls._open[key] = cls(path, key)
            handle._users += 1
            return handle

    def release(self) -> None:
        with self._registry_lock, self._lock:
            self._users -= 1
            if self._users:
                return
            del self._open[self._key]
            try:
                self.flush()
            finally:
                self._database.close()

    def put(self, family: str, keys: pa.Array, values: pa.Array, bulk: bool = False) -> None:
        with self._lock:
            self._unlogged |= bulk
            for start in range(0, len(keys), BATCH_ROWS):
                batch = self._database.batch(family)
                written = (
                    keys[start : start + BATCH_ROWS].to_pylist(),
                    values[start : start + BATCH_ROWS].to_pylist(),
                )
                # consumes the map without a Python frame per row
                deque(map(batch.put, *written), maxlen=0)
                self._database.write(batch, logged=not bulk)

    def delete(self, family: str, keys: list[bytes]) -> None:
        with self._lock:
            for start in range(0, len(keys), BATCH_ROWS):
                batch = self._database.batch(family)
                deque(map(batch.delete, keys[start : start + BATCH_ROWS]), maxlen=0)
                self._database.write(batch, logged=True)

    def read(
        self, family: str, device_id: str, since: int | None, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        with self._lock:
            return self._database.read(family, device_id, since, until, limit)

    def delete_device(self, device_id: str) -> int:
        with self._lock:
            # deletes row by row: the bounds of a range deletion would themselves contain the device's id
            first, end = key_range(device_id, None, None)
            deleted = 0
            for family in FAMILIES:
                keys = [key for key, _ in self._database.scan(family, first, end)]
                self.delete(family, keys)
                deleted += len(keys)
            self.flush()
            return deleted

    def expire(self, before: int) -> None:
        with self._lock:
            if before > self._database.horizon():
                self._database.set_horizon(before)
                self.flush()

    def compact(self) -> None:
        with self._lock:
            horizon = self._database.horizon()
            if horizon > EARLIEST:
                for family in FAMILIES:
                    for keys in self._database.expired_keys(family, horizon):
                        self.delete(family, keys)
            self._database.flush()
            self._unlogged = False
            self._database.compact()
            # The manifest still contains the first and last key of every file that compaction replaced: reopening
            # writes a new manifest and deletes the old one.
            self._database.close()
            self._database = Database(self._path, AccessType.read_write())

    def flush(self) -> None:
        with self._lock:
            if self._unlogged:
                self._database.flush()
                self._unlogged = False
            else:
                self._database.sync_log()


class _Follower:
    """A secondary instance, which catches up with the writer before each read.

    Catching up reads only the log. When the writer has changed its files, the instance is reopened: otherwise it would
    keep what it read from the log earlier, and could show rows that have been erased since.
    """

    def __init__(self, path: str) -> None:
        if not Path(path, "CURRENT").exists():
            raise StoreError(f"{path}: there is no device store here")
        self._path = path
        self._lock = threading.Lock()
        # holds only the secondary's own log
        self._scratch = tempfile.TemporaryDirectory(prefix="device-store-")
        self._files = self._manifest()
        self._database = self._open()

    def read(
        self, family: str, device_id: str, since: int | None, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        with self._lock:
            for attempts_left in reversed(range(_READ_ATTEMPTS)):
                try:
                    self._follow()
                    return self._database.read(family, device_id, since, until, limit)
                except StoreError:
                    # after a compaction, the writer may have deleted a file before it was opened here
                    if not attempts_left:
                        raise
                    self._files = None
        raise AssertionError("unreachable")

    def release(self) -> None:
        with self._lock:
            self._database.close()
            self._scratch.cleanup()

    def _follow(self) -> None:
        files = self._manifest()
        if files == self._files:
            self._database.catch_up()
        else:
            self._database.close()
            self._database = self._open()
            self._files = files

    def _manifest(self) -> tuple[str, int] | None:
        """Identifies the current set of files: the manifest's name and size, as it grows with every change of files."""
        try:
            name = Path(self._path, "CURRENT").read_text().strip()
            return name, Path(self._path, name).stat().st_size
        except FileNotFoundError:
            # between two manifests
            return None

    def _open(self) -> "Database":
        # a secondary must keep its files open, because the writer may delete them
        return Database(self._path, AccessType.secondary(self._scratch.name), max_open_files=-1)
