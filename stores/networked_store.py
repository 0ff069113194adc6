"""What device stores behind a network have in common: who may write, what is hidden, how long they are waited for."""

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
"""Seconds for which a store that does not answer is waited for before that is an error."""

# a table is encoded and sent in pieces of this many rows, so that memory does not grow with it
_PIECE_ROWS = 50_000
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 1.0


class NetworkedDeviceStore(DeviceStore):
    """A device store that several processes write at once, so that writes may overtake each other.

    Of a session's panes the one with the highest pane_index counts whatever write it came in: one that a lost worker
    sends late changes nothing. To number a session's panes anew, delete its device first.

    A write has reached the store once it returns.

    Attributes:
        where: The store's name in messages.
        ttl: Microseconds after which a row expires by itself, counted from its own time; None for never.
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
            # the store itself takes expired rows out at its leisure
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
        """Delete the rows that `expire` has hidden; the store's own compaction then erases the bytes of all deleted."""
        self._check_writable()
        self.delete_expired()

    def flush(self) -> None:
        """Nothing is left to do: a write returns once the store has it."""
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
        """Write rows of SESSION_PANE, one a session, all of them retractions or none."""

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
        """Hide what is older, unless more is hidden already."""

    @abstractmethod
    def delete_expired(self) -> None:
        """Delete the rows that are hidden."""

    @abstractmethod
    def disconnect(self) -> None:
        """Let go of connections and threads."""

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
    """Times to try something, with growing delays between; each says whether it is the last."""
    deadline = time.monotonic() + PATIENCE
    delay = _FIRST_DELAY
    while time.monotonic() + delay < deadline:
        yield False
        # writers that failed together must not come back together
        time.sleep(uniform(delay / 2, delay))  # noqa: S311
        delay = min(2 * delay, _LONGEST_DELAY)
    yield True


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _PIECE_ROWS):
        yield table.slice(start, _PIECE_ROWS)
