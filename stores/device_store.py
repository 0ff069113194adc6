"""The device store: a device's latest events and sessions in milliseconds. One protocol, opened by URI."""

from types import TracebackType
from typing import Protocol, Self

import pyarrow as pa

from schemas.errors import OptionError


class DeviceStore(Protocol):
    """Rows keyed by device, newest first. Writing the same rows again changes nothing.

    Times are microseconds since 1970, UTC. Every method raises `StoreError` where the store cannot do its
    work. A store may be used from several threads.
    """

    def write_events(self, events: pa.Table) -> int:
        """Write events: EVENT's columns (others are ignored), in any order. Returns their number."""

    def write_sessions(self, panes: pa.Table) -> int:
        """Apply session panes, a table with SESSION_PANE's columns: each is the session's state from now on.

        A retraction takes the session out. Of several panes of a session the one with the highest pane_index
        counts, whatever their order in the table. Returns the number of sessions touched.
        """

    def recent_events(
        self, device_id: str, since: int | None = None, until: int | None = None, limit: int = 100
    ) -> pa.Table:
        """EVENT rows of a device with since <= event_time < until, newest first, at most `limit`."""

    def recent_sessions(
        self, device_id: str, since: int | None = None, until: int | None = None, limit: int = 100
    ) -> pa.Table:
        """SESSION rows of a device with since <= session_start < until, newest first, at most `limit`."""

    def delete_device(self, device_id: str) -> int:
        """Take out all rows of a device, durably; returns their number. `compact` erases their bytes."""

    def expire(self, before: int) -> None:
        """Hide from now on what began before this time, durably; `compact` erases the bytes."""

    def compact(self) -> None:
        """Erase the bytes of deleted and expired rows. Rewrites the store: delete many, then compact once."""

    def flush(self) -> None:
        """Make every write that has returned durable."""

    def close(self) -> None:
        """Flush and let go of the store. Closing twice is allowed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_device_store(uri: str, read_only: bool = False) -> DeviceStore:
    """Open a device store.

    Args:
        uri: ``rocksdb:PATH``, a bare path (RocksDB too), or ``memory:NAME`` for tests, one a process.
        read_only: Read beside a process that writes; what that process has flushed is seen.

    Raises:
        OptionError: The URI names no kind of store.
        StoreBusyError: Another process has the store open for writing, and read_only is false.
        StoreError: The store cannot be opened or, with read_only, does not exist.
    """
    kind, colon, rest = uri.partition(":")
    if not colon or "/" in kind:
        kind, rest = "rocksdb", uri
    if kind == "memory":
        from stores.memory_store import MemoryDeviceStore

        return MemoryDeviceStore(rest, read_only)
    if kind != "rocksdb":
        raise OptionError(f"{uri!r}: no device store of kind {kind!r}; use rocksdb:PATH, a path or memory:NAME")
    if not rest:
        raise OptionError(f"{uri!r}: a RocksDB device store needs a path, as in rocksdb:/data/devices")
    from stores.rocksdb_store import RocksDBDeviceStore

    return RocksDBDeviceStore(rest, read_only)
