"""The device store in Cassandra: a partition holds a week of one device's rows, newest first.

With one partition per device, a partition would grow without bound. A week of a device that clicks every second is at
most 250 MB, and that of a person well under 1 MB. A small table lists the weeks that have rows, so that a read walks
these weeks from the newest, several at a time.

Every pane of a session is a row of its own, with the highest pane_index first; a read takes the first row of each
session. So panes may arrive in any order, and a deleted device may be written again. If the pane_index were used as the
write timestamp instead, it would have to exceed the timestamp of the deletion.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cassandra import OperationTimedOut, Unavailable, WriteTimeout
from cassandra.cluster import NoHostAvailable, PreparedStatement
from cassandra.concurrent import execute_concurrent
from cassandra.query import BatchStatement, BatchType

from schemas.durations import DAY, SECOND
from schemas.errors import StoreError
from stores.cassandra_batches import by_token, cut_batches
from stores.cassandra_client import explained, open_cluster
from stores.cassandra_tables import prepare_tables
from stores.device_rows import EARLIEST, EVENT_ROWS, LATEST, SESSION_ROWS, RowCodec, encode_key
from stores.networked_store import NetworkedDeviceStore, attempts, now

_WEEK = 7 * DAY
# all weeks before 1970 count as one, and so do those from 2100: a wrong clock must not add thousands of weeks to reads
_LAST_WEEK = 6_783

_WEEKS, _HORIZON = "week", "expired_before"

_PUT_EVENT = "INSERT INTO {}.events (device_id, week, event_time, event_id, value) VALUES (?, ?, ?, ?, ?) USING TTL ?"
_PUT_PANE = (
    "INSERT INTO {}.sessions (device_id, week, session_start, session_id, pane, value) VALUES (?, ?, ?, ?, ?, ?) "
    "USING TTL ?"
)
_READ_EVENTS = (
    "SELECT event_time, event_id, value FROM {}.events "
    "WHERE device_id = ? AND week = ? AND event_time >= ? AND event_time <= ?"
)
# the first row of a group is its highest pane
_READ_SESSIONS = (
    "SELECT session_start, session_id, value FROM {}.sessions "
    "WHERE device_id = ? AND week = ? AND session_start >= ? AND session_start <= ? GROUP BY session_start, session_id"
)
_PUT_FACT = "INSERT INTO {}.facts (name, value) VALUES (?, ?)"
_READ_FACTS = "SELECT name, value FROM {}.facts WHERE name IN ('week', 'expired_before')"

_WRITES_AT_ONCE = 128
_REQUESTS_A_GROUP = 5_000
_READS_AT_ONCE = 16
_PAGE_ROWS = 5_000
# the latest expiry that Cassandra can represent, in seconds since 1970, minus a day
_LAST_EXPIRY = 2**31 - 86_400
_FIRST_WEEKS, _MORE_WEEKS = 2, 16
_PASSING = (NoHostAvailable, OperationTimedOut, Unavailable, WriteTimeout)


class CassandraDeviceStore(NetworkedDeviceStore):
    """A device store in a keyspace. Creates missing tables.

    It does not create the keyspace, because replication is for the operator of the cluster to decide.
    """

    def __init__(
        self, addresses: Sequence[tuple[str, int]], keyspace: str, ttl: int | None = None, read_only: bool = False
    ) -> None:
        super().__init__(f"cassandra:{addresses[0][0]}:{addresses[0][1]}/{keyspace}", read_only)
        self._keyspace = f'"{keyspace}"'
        self._prepared: dict[str, PreparedStatement] = {}
        self._known_weeks: set[int] = set()
        with explained(self.where):
            self._cluster = open_cluster(addresses)
            try:
                self._session = self._cluster.connect()
                self.ttl = prepare_tables(self._cluster, self._session, keyspace, ttl, read_only)
            except BaseException:
                self._cluster.shutdown()
                raise

    def put_events(self, events: pa.Table) -> None:
        """See `NetworkedDeviceStore.put_events`."""
        self._put(_PUT_EVENT, events, EVENT_ROWS, EVENT_ROWS.encode_values(events))

    def put_panes(self, panes: pa.Table, is_retraction: bool) -> None:
        """See `NetworkedDeviceStore.put_panes`."""
        values = pa.nulls(len(panes), pa.binary()) if is_retraction else SESSION_ROWS.encode_values(panes)
        # at an equal pane_index the retraction wins
        order = 2 * panes.column("pane_index").to_numpy() + is_retraction
        self._put(_PUT_PANE, panes, SESSION_ROWS, values, order)

    def read_rows(
        self, codec: RowCodec, device_id: str, since: int, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """See `NetworkedDeviceStore.read_rows`."""
        horizon, weeks = self._facts()
        oldest, newest = max(since, horizon, EARLIEST), LATEST if until is None else min(until - 1, LATEST)
        query = _READ_EVENTS if codec is EVENT_ROWS else _READ_SESSIONS
        weeks = [week for week in weeks if _week(oldest) <= week <= _week(newest)]
        found: list[tuple[bytes, bytes]] = []
        for some in (weeks[:_FIRST_WEEKS], *_runs(weeks[_FIRST_WEEKS:], _MORE_WEEKS)):
            for rows in self._ask([(query, (device_id, week, oldest, newest)) for week in some], page=limit):
                # a withdrawn session's highest pane has no value
                standing = (
                    (encode_key(device_id, time, row_id), value) for time, row_id, value in rows if value is not None
                )
                found += islice(standing, limit - len(found))
            if len(found) == limit:
                break
        return found

    def take_out(self, device_id: str) -> int:
        """See `NetworkedDeviceStore.take_out`."""
        _, weeks = self._facts()
        standing = 0
        for table, query in (("events", _READ_EVENTS), ("sessions", _READ_SESSIONS)):
            asked = [(query, (device_id, week, EARLIEST, LATEST)) for week in weeks]
            for week, rows in zip(weeks, self._ask(asked), strict=True):
                held = [value is not None for *_, value in rows]
                if held:
                    self._run([(f"DELETE FROM {{}}.{table} WHERE device_id = ? AND week = ?", (device_id, week))])
                    standing += sum(held)
        return standing

    def raise_horizon(self, before: int) -> None:
        """See `NetworkedDeviceStore.raise_horizon`."""
        self._run([(_PUT_FACT, (_HORIZON, before))])

    def delete_expired(self) -> None:
        """See `NetworkedDeviceStore.delete_expired`."""
        horizon, _ = self._facts()
        for table, time in (("events", "event_time"), ("sessions", "session_start")):
            (partitions,) = self._ask([(f"SELECT DISTINCT device_id, week FROM {{}}.{table}", ())])
            expired = f"DELETE FROM {{}}.{table} WHERE device_id = ? AND week = ? AND {time} < ?"
            self._run((expired, (device, week, horizon)) for device, week in partitions if week <= _week(horizon))
        forget = "DELETE FROM {}.facts WHERE name = ? AND value < ?"
        self._run([(forget, (_WEEKS, _week(horizon))), (forget, (_HORIZON, horizon))])

    def disconnect(self) -> None:
        """See `NetworkedDeviceStore.disconnect`."""
        self._cluster.shutdown()

    def _put(self, query: str, table: pa.Table, codec: RowCodec, values: pa.Array, *more: np.ndarray) -> None:
        """Write rows, several per request."""
        times = table.column(codec.time).cast(pa.int64()).to_numpy()
        weeks = _weeks(times)
        self._note(weeks)
        devices = table.column("device_id")
        order = by_token(devices, weeks)
        left = np.zeros(len(times), np.int64)
        if self.ttl is not None:
            left, expired = _seconds_left(times, self.ttl)
            order = order[~expired[order]]
        columns = (devices, weeks, times, table.column(codec.row_id), *more, values, left)
        rows = list(zip(*(_taken(column, order) for column in columns), strict=True))
        sizes = pc.add(pc.binary_length(devices), pc.fill_null(pc.binary_length(values), 0))
        prepared = self._prepare(query)
        self._deliver(
            (prepared, rows[start]) if end - start == 1 else (_batch(prepared, rows[start:end]), None)
            for start, end in cut_batches(_taken(sizes, order))
        )

    def _note(self, weeks: np.ndarray) -> None:
        """List new weeks in the table of weeks, before any row is written to them."""
        new = set(np.unique(weeks).tolist()) - self._known_weeks
        self._run((_PUT_FACT, (_WEEKS, week)) for week in new)
        self._known_weeks |= new

    def _facts(self) -> tuple[int, list[int]]:
        """The expiry horizon, and the weeks that have rows, newest first."""
        (rows,) = self._ask([(_READ_FACTS, ())])
        facts = list(rows)
        return (
            max((value for name, value in facts if name == _HORIZON), default=EARLIEST),
            sorted((value for name, value in facts if name == _WEEKS), reverse=True),
        )

    def _prepare(self, query: str) -> PreparedStatement:
        if query not in self._prepared:
            with explained(self.where):
                self._prepared[query] = self._session.prepare(query.format(self._keyspace))
        return self._prepared[query]

    def _ask(self, queries: Iterable[tuple[str, tuple[Any, ...]]], page: int = _PAGE_ROWS) -> Iterator[Iterator[Any]]:
        """The rows of each query, in order. Queries run concurrently; rows are fetched in pages as they are read."""
        statements = []
        for query, values in queries:
            statement = self._prepare(query).bind(values)
            statement.fetch_size = min(page, _PAGE_ROWS)
            statements.append((statement, None))
        with explained(self.where):
            answers = execute_concurrent(self._session, statements, _READS_AT_ONCE)
        for _, rows in answers:
            yield self._paged(rows)

    def _paged(self, rows: Iterable[Any]) -> Iterator[Any]:
        with explained(self.where):
            yield from rows

    def _run(self, queries: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        self._deliver((self._prepare(query), values) for query, values in queries)

    def _deliver(self, statements: Iterator[tuple[Any, Any]]) -> None:
        """Execute statements in groups. Retries a group after a transient error, as writes are idempotent.

        Raises:
            StoreError: The store rejects a write, or does not execute it in time.
        """
        while group := list(islice(statements, _REQUESTS_A_GROUP)):
            for is_last in attempts():
                try:
                    with explained(self.where):
                        execute_concurrent(self._session, group, _WRITES_AT_ONCE)
                    break
                except StoreError as error:
                    if is_last or not isinstance(error.__cause__, _PASSING):
                        raise


def _batch(prepared: PreparedStatement, rows: list[tuple[Any, ...]]) -> BatchStatement:
    batch = BatchStatement(BatchType.UNLOGGED)
    for row in rows:
        batch.add(prepared, row)
    return batch


def _taken(column: Any, order: np.ndarray) -> list[Any]:
    if isinstance(column, np.ndarray):
        return column[order].tolist()
    return column.take(pa.array(order)).to_pylist()


def _seconds_left(times: np.ndarray, ttl: int) -> tuple[np.ndarray, np.ndarray]:
    """The TTL to write each row with, in seconds rounded up, and which rows have expired already."""
    current = now()
    left = -((current - ttl - times) // SECOND)
    # Cassandra rejects an expiry after 2038; such a row gets no TTL (0), and reads hide it once it has expired
    endless = left > _LAST_EXPIRY - current // SECOND
    return np.where(endless, 0, left), left <= 0


def _runs(items: list[Any], length: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), length):
        yield items[start : start + length]


def _weeks(times: np.ndarray) -> np.ndarray:
    return np.clip(times // _WEEK, 0, _LAST_WEEK)


def _week(time: int) -> int:
    return int(_weeks(np.array(time)))
