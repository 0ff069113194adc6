"""The in-memory device store, for tests. Rows are encoded as in RocksDB; stores of one name share their contents."""

import threading

import pyarrow as pa

from schemas.errors import StoreError
from stores.device_rows import (
    EARLIEST,
    EVENT_ROWS,
    SESSION_ROWS,
    RowCodec,
    decode_key,
    device_prefix,
    key_range,
    last_panes,
)
from stores.device_store import DeviceStore


class _Contents:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.horizon = EARLIEST
        self.events: dict[bytes, bytes] = {}
        self.sessions: dict[bytes, bytes] = {}


class MemoryDeviceStore(DeviceStore):
    """A device store whose contents live as long as the process and are shared by all stores of the same name."""

    _contents: dict[str, _Contents] = {}  # noqa: RUF012

    def __init__(self, name: str, read_only: bool = False) -> None:
        self._read_only = read_only
        self._rows: _Contents | None = self._contents.setdefault(name, _Contents())

    def write_events(self, events: pa.Table) -> int:
        """See `DeviceStore.write_events`."""
        rows = self._writable()
        keys, values = EVENT_ROWS.encode(events)
        with rows.lock:
            rows.events.update(zip(keys.to_pylist(), values.to_pylist(), strict=True))
        return int(events.num_rows)

    def write_sessions(self, panes: pa.Table) -> int:
        """See `DeviceStore.write_sessions`."""
        rows = self._writable()
        current, withdrawn = last_panes(panes)
        keys, values = SESSION_ROWS.encode(current)
        with rows.lock:
            rows.sessions.update(zip(keys.to_pylist(), values.to_pylist(), strict=True))
            for key in SESSION_ROWS.encode_keys(withdrawn).to_pylist():
                rows.sessions.pop(key, None)
        return int(current.num_rows + withdrawn.num_rows)

    def read(
        self, codec: RowCodec, device_id: str, since: int | None, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """See `DeviceStore.read`."""
        rows = self._open()
        with rows.lock:
            family = rows.events if codec is EVENT_ROWS else rows.sessions
            first, end = key_range(device_id, max(rows.horizon, EARLIEST if since is None else since), until)
            return sorted(row for row in family.items() if first <= row[0] < end)[:limit]

    def delete_device(self, device_id: str) -> int:
        """See `DeviceStore.delete_device`."""
        rows, prefix = self._writable(), device_prefix(device_id)
        with rows.lock:
            doomed = [
                (family, key) for family in (rows.events, rows.sessions) for key in family if key.startswith(prefix)
            ]
            for family, key in doomed:
                del family[key]
        return len(doomed)

    def expire(self, before: int) -> None:
        """See `DeviceStore.expire`."""
        rows = self._writable()
        with rows.lock:
            rows.horizon = max(rows.horizon, before)

    def compact(self) -> None:
        """See `DeviceStore.compact`."""
        rows = self._writable()
        with rows.lock:
            for family in (rows.events, rows.sessions):
                for key in [key for key in family if decode_key(key)[1] < rows.horizon]:
                    del family[key]

    def flush(self) -> None:
        """Do nothing: no write outlives the process."""
        self._writable()

    def close(self) -> None:
        """See `DeviceStore.close`. The contents are kept."""
        self._rows = None

    def _open(self) -> _Contents:
        if self._rows is None:
            raise StoreError("the device store is closed")
        return self._rows

    def _writable(self) -> _Contents:
        if self._read_only:
            raise StoreError("the device store is open for reading only")
        return self._open()
