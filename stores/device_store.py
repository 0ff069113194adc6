"""The device store interface: reads a device's latest events and sessions in milliseconds. Opened by URI."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import urlsplit

import pyarrow as pa

from schemas.durations import DAY, SECOND, format_duration, parse_duration
from schemas.errors import OptionError
from stores.device_rows import EVENT_ROWS, SESSION_ROWS, RowCodec

# Cassandra's own limit
_LONGEST_TTL = 20 * 365 * DAY
_CASSANDRA_PORT = 9042
_KEYSPACE = re.compile(r"[A-Za-z]\w{0,47}", re.ASCII)


class DeviceStore(ABC):
    """Rows keyed by device, newest first. Writes are idempotent.

    Times are microseconds since 1970, UTC. Every method raises `StoreError` if the store fails. A store may be used
    from several threads.
    """

    @abstractmethod
    def write_events(self, events: pa.Table) -> int:
        """Write events and return their number.

        The table has EVENT's columns, with texts dictionary-encoded or not, and rows in any order; other columns are
        ignored.
        """

    @abstractmethod
    def write_sessions(self, panes: pa.Table) -> int:
        """Apply session panes (a table with SESSION_PANE's columns) and return the number of sessions touched.

        A pane replaces its session's row; a retraction removes it. Of several panes of a session in the table, the one
        with the highest pane_index wins, whatever their order.
        """

    def recent_events(
        self, device_id: str, since: int | None = None, until: int | None = None, limit: int = 100
    ) -> pa.Table:
        """A device's EVENT rows with since <= event_time < until, newest first, at most `limit`."""
        return EVENT_ROWS.decode(self.read(EVENT_ROWS, device_id, since, until, limit))

    def recent_sessions(
        self, device_id: str, since: int | None = None, until: int | None = None, limit: int = 100
    ) -> pa.Table:
        """A device's SESSION rows with since <= session_start < until, newest first, at most `limit`."""
        return SESSION_ROWS.decode(self.read(SESSION_ROWS, device_id, since, until, limit))

    @abstractmethod
    def read(
        self, codec: RowCodec, device_id: str, since: int | None, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Keys and values of a device's rows with since <= time < until, newest first, at most `limit`.

        The codec selects events or sessions.
        """

    @abstractmethod
    def delete_device(self, device_id: str) -> int:
        """Delete all rows of a device, durably; returns their number. `compact` erases their bytes."""

    @abstractmethod
    def expire(self, before: int) -> None:
        """Hide rows with a time before this one, durably; `compact` erases their bytes."""

    @abstractmethod
    def compact(self) -> None:
        """Erase the bytes of deleted and expired rows. Rewrites the store: delete many devices, then compact once."""

    @abstractmethod
    def flush(self) -> None:
        """Make every write that has returned durable."""

    @abstractmethod
    def close(self) -> None:
        """Flush and release the store. Closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_device_store(uri: str, read_only: bool = False) -> DeviceStore:
    """Open a device store.

    Args:
        uri: One of

            - ``rocksdb:PATH``, or a bare path: embedded, with a single writing process;
            - ``bigtable:PROJECT/INSTANCE/TABLE``; BIGTABLE_EMULATOR_HOST names an emulator;
            - ``cassandra:HOST[:PORT][,HOST[:PORT]…]/KEYSPACE``; CLICKSTREAM_CASSANDRA_CLIENT names a file with the
              login, see `stores.cassandra_client`;
            - ``memory:NAME`` for tests, local to the process.

            Bigtable and Cassandra accept ``?ttl=30d``: rows of that age expire. The limit is saved in the store and
            applies to whoever opens it later.
        read_only: Open for reading only, possibly beside a writing process; its flushed writes are visible.

    Raises:
        OptionError: The URI is invalid, or the client library for its kind of store is not installed.
        StoreBusyError: Another process has the store open for writing, and read_only is false.
        StoreError: The store cannot be opened or, with read_only, does not exist.
    """
    kind, rest = split_uri(uri)
    return _OPENERS[kind](uri, rest, read_only)


def split_uri(uri: str) -> tuple[str, str]:
    """Split a URI into the kind of store and the rest, which names the store.

    Raises:
        OptionError: There is no such kind of store.

    >>> split_uri("/data/devices")
    ('rocksdb', '/data/devices')
    """
    kind, colon, rest = uri.partition(":")
    if not colon or "/" in kind:
        kind, rest = "rocksdb", uri
    if kind not in _OPENERS:
        raise OptionError(
            f"{uri!r}: no device store of kind {kind!r}; use rocksdb:PATH, a path, bigtable:PROJECT/INSTANCE/TABLE, "
            "cassandra:HOST/KEYSPACE or memory:NAME"
        )
    return kind, rest


def _open_memory(uri: str, rest: str, read_only: bool) -> DeviceStore:
    del uri
    from stores.memory_store import MemoryDeviceStore

    return MemoryDeviceStore(rest, read_only)


def _open_rocksdb(uri: str, rest: str, read_only: bool) -> DeviceStore:
    if not rest:
        raise OptionError(f"{uri!r}: a RocksDB device store needs a path, as in rocksdb:/data/devices")
    from stores.rocksdb_store import RocksDBDeviceStore

    return RocksDBDeviceStore(rest, read_only)


def _open_bigtable(uri: str, rest: str, read_only: bool) -> DeviceStore:
    name, ttl = _split_ttl(rest)
    parts = name.split("/")
    if len(parts) != 3 or not all(parts):
        raise OptionError(f"{uri!r}: write it as bigtable:PROJECT/INSTANCE/TABLE")
    with _needs("Bigtable", "dataflow", "google"):
        from stores.bigtable_store import BigtableDeviceStore
    project, instance, table = parts
    return BigtableDeviceStore(project, instance, table, ttl, read_only)


def _open_cassandra(uri: str, rest: str, read_only: bool) -> DeviceStore:
    name, ttl = _split_ttl(rest)
    hosts, slash, keyspace = name.partition("/")
    addresses = [_address(host) for host in hosts.split(",")]
    if not slash or not _KEYSPACE.fullmatch(keyspace):
        raise OptionError(f"{uri!r}: write it as cassandra:HOST[:PORT]/KEYSPACE, the keyspace a plain name")
    with _needs("Cassandra", "cassandra", "cassandra"):
        from stores.cassandra_store import CassandraDeviceStore
    return CassandraDeviceStore(addresses, keyspace, ttl, read_only)


_OPENERS: dict[str, Callable[[str, str, bool], DeviceStore]] = {
    "memory": _open_memory,
    "rocksdb": _open_rocksdb,
    "bigtable": _open_bigtable,
    "cassandra": _open_cassandra,
}


def _split_ttl(rest: str) -> tuple[str, int | None]:
    """Split a URI's rest into the part before ``?`` and its ttl in microseconds, None without one."""
    name, question, options = rest.partition("?")
    if not question:
        return name, None
    key, _, value = options.partition("=")
    if key != "ttl":
        raise OptionError(f"{key!r} is no option of a device store; there is ttl, as in ?ttl=30d")
    ttl = parse_duration(value)
    if not SECOND <= ttl <= _LONGEST_TTL:
        raise OptionError(f"ttl={value} of a device store: must be between 1s and {format_duration(_LONGEST_TTL)}")
    return name, ttl


def _address(host: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{host}")
        if not parts.hostname or parts.username is not None or parts.path:
            raise ValueError
        return parts.hostname, parts.port or _CASSANDRA_PORT
    except ValueError:
        # the address is not quoted: the part before an @ may be a password
        raise OptionError(
            "a Cassandra device store is named as cassandra:HOST[:PORT][,HOST[:PORT]…]/KEYSPACE; the login is in the "
            "file that CLICKSTREAM_CASSANDRA_CLIENT names"
        ) from None


@contextmanager
def _needs(kind: str, extra: str, package: str) -> Iterator[None]:
    """Name the extra to install if a client library cannot be imported."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise OptionError(f"a {kind} device store needs its client: pip install 'clickstream[{extra}]'") from error
