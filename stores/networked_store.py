"""Common parts of device stores behind a network: write permission, expiry and retries."""

import time
from abc import abstractmethod
from collections.abc import Iterator
from random import uniform

import pyarrow as pa

from schemas.errors import StoreError
from stores.device_rows import EARLIEST, RowCodec, last_panes
from stores.device_store import DeviceStore
from stores.encoded_texts import plain

PATIENCE = 10.0
"""Seconds to wait for a store that does not answer before raising an error."""

# a table is encoded and sent in pieces of this many rows, so that memory does not grow with it
_PIECE_ROWS = 50_000
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 1.0


class NetworkedDeviceStore(DeviceStore):
    """A device store that several processes write concurrently, so that writes may arrive out of order.

    A session's pane with the highest pane_index wins across all writes, so a late write from a lost worker changes
    nothing. To restart the numbering of a session's panes, delete its device first.

    When a write returns, the store has it.

    Attributes:
        where: The store's name in messages.
        ttl: Age in microseconds at which a row expires, counted from the row's own time; None for never.
    """

    def __init__(self, where: str, read_only: bool) -> None:
        self.where = where
        self.ttl: int | None = None
        self._read_only = read_only
        self._closed = False

    def write_events(self, events: pa.Table) -> int:
        """See `DeviceStore.write_events`."""
        self._check_writable()
        for piece in _pieces(plain(events)):
            self.put_events(piece)
        return int(events.num_rows)

    def write_sessions(self, panes: pa.Table) -> int:
        """See `DeviceStore.write_sessions`."""
        self._check_writable()
        standing, withdrawn = last_panes(panes)
        for table, is_retraction in ((standing, False), (withdrawn, True)):
            for piece in _pieces(table):
                self.put_panes(piece, is_retraction)
        return int(standing.num_rows + withdrawn.num_rows)

    def read(
        self, codec: RowCodec, device_id: str, since: int | None, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """See `DeviceStore.read`."""
        self._check_open()
        oldest = EARLIEST if since is None else since
        if self.ttl is not None:
            # the store deletes expired rows at some later time
            oldest = max(oldest, now() - self.ttl)
        if limit <= 0 or (until is not None and until <= oldest):
            return []
        return self.read_rows(codec, device_id, oldest, until, limit)

    def delete_device(self, device_id: str) -> int:
        """See `DeviceStore.delete_device`."""
        self._check_writable()
        return self.take_out(device_id)

    def expire(self, before: int) -> None:
        """See `DeviceStore.expire`."""
        self._check_writable()
        self.raise_horizon(before)

    def compact(self) -> None:
        """Delete the rows that `expire` has hidden. The store's own compaction later erases all deleted bytes."""
        self._check_writable()
        self.delete_expired()

    def flush(self) -> None:
        """Do nothing: a write returns only when the store has it."""
        self._check_writable()

    def close(self) -> None:
        """See `DeviceStore.close`."""
        if not self._closed:
            self._closed = True
            self.disconnect()

    @abstractmethod
    def put_events(self, events: pa.Table) -> None:
        """Write rows of EVENT."""

    @abstractmethod
    def put_panes(self, panes: pa.Table, is_retraction: bool) -> None:
        """Write rows of SESSION_PANE, one per session; either all or none of them are retractions."""

    @abstractmethod
    def read_rows(
        self, codec: RowCodec, device_id: str, since: int, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Keys and values of a device's rows with since <= time < until that `expire` has not hidden; limit > 0."""

    @abstractmethod
    def take_out(self, device_id: str) -> int:
        """Delete a device's rows; returns their number."""

    @abstractmethod
    def raise_horizon(self, before: int) -> None:
        """Hide rows older than `before`, unless a later horizon is already set."""

    @abstractmethod
    def delete_expired(self) -> None:
        """Delete the rows that the horizon hides."""

    @abstractmethod
    def disconnect(self) -> None:
        """Release connections and threads."""

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.where}: the device store is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise StoreError(f"{self.where}: the device store is open for reading only")


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def attempts() -> Iterator[bool]:
    """Yields once per attempt, with growing delays in between; the value is True for the last attempt."""
    deadline = time.monotonic() + PATIENCE
    delay = _FIRST_DELAY
    while time.monotonic() + delay < deadline:
        yield False
        # random, so that writers that failed together do not retry together
        time.sleep(uniform(delay / 2, delay))  # noqa: S311
        delay = min(2 * delay, _LONGEST_DELAY)
    yield True


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _PIECE_ROWS):
        yield table.slice(start, _PIECE_ROWS)
