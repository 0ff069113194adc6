"""The device store in Bigtable: one table, whose row keys are the keys of `stores.device_rows`.

A cell's timestamp is the row's own time. Hence writing a row again writes the same cell, and an age limit on the column
family is an age limit on the data. The panes of a session are versions of one cell: a higher pane_index gives a
slightly later timestamp, and the newest version wins. The newest version of a withdrawn session is empty.

Writes bypass the library's mutation objects: 3–5 µs a row instead of 90.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice, repeat
from typing import Any, NamedTuple
from warnings import filterwarnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery, RowRange, SetCell
from google.cloud.bigtable.data.row_filters import (
    CellsColumnLimitFilter,
    CellsRowLimitFilter,
    FamilyNameRegexFilter,
    RowFilterChain,
    StripValueTransformerFilter,
    TimestampRangeFilter,
    ValueRangeFilter,
)
from google.cloud.bigtable_v2 import BigtableClient, MutateRowsRequest, MutateRowsResponse

from schemas.errors import StoreError, first_line
from stores.bigtable_table import EVENTS, SESSIONS, STATE, prepare_table
from stores.device_rows import EARLIEST, EVENT_ROWS, SESSION_ROWS, RowCodec, decode_key, key_range
from stores.networked_store import PATIENCE, NetworkedDeviceStore, attempts

_COLUMN = b"v"
_DELETED_AT_ONCE = 10_000
# cannot be a device's key: a 00 in an id is followed by FF, and the 00 at an id's end by 01
_HORIZON_KEY = b"\x00\x00expired_before"
_MILLI = 1_000
_HOUR = timedelta(hours=1)
_REQUEST_ROWS = 5_000
_REQUEST_BYTES = 16 << 20
_REQUESTS_AT_ONCE = 4
# transient gRPC codes: DEADLINE_EXCEEDED, ABORTED and UNAVAILABLE
_PASSING = frozenset({4, 10, 14})
_SCAN_SECONDS = 3_600.0
_LATEST_SECONDS = 250_000_000_000

_NEWEST = CellsColumnLimitFilter(1)
_NOT_EMPTY = ValueRangeFilter(start_value=b"\x00")


class BigtableDeviceStore(NetworkedDeviceStore):
    """A device store in a Bigtable table, created if missing. BIGTABLE_EMULATOR_HOST names an emulator.

    Uses Google's default credentials. Creating the table or changing its age limit requires the role bigtable.admin;
    using it requires bigtable.user.
    """

    def __init__(
        self, project: str, instance: str, table: str, ttl: int | None = None, read_only: bool = False
    ) -> None:
        super().__init__(f"bigtable:{project}/{instance}/{table}", read_only)
        # the user asked for the emulator by setting the variable
        filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
        with self._explained():
            self.ttl = prepare_table(project, instance, table, ttl, read_only)
            self._client = BigtableDataClient(project=project)
            self._table = self._client.get_table(
                instance,
                table,
                default_read_rows_operation_timeout=PATIENCE,
                default_operation_timeout=PATIENCE,
                default_read_rows_attempt_timeout=PATIENCE,
                default_attempt_timeout=PATIENCE,
            )
            self._writes = BigtableClient(transport=self._client.transport)
        self._threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="bigtable")

    def put_events(self, events: pa.Table) -> None:
        """See `NetworkedDeviceStore.put_events`."""
        times = _milliseconds(events, EVENT_ROWS)
        self._set(EVENTS, EVENT_ROWS.encode_keys(events), EVENT_ROWS.encode_values(events), times)

    def put_panes(self, panes: pa.Table, is_retraction: bool) -> None:
        """See `NetworkedDeviceStore.put_panes`."""
        keys = SESSION_ROWS.encode_keys(panes)
        values = pa.repeat(b"", len(keys)) if is_retraction else SESSION_ROWS.encode_values(panes)
        # a cell's timestamp has a resolution of one millisecond; at an equal pane_index the retraction wins
        later = 2 * panes.column("pane_index").to_numpy() + is_retraction
        self._set(SESSIONS, keys, values, _milliseconds(panes, SESSION_ROWS) + later)

    def read_rows(
        self, codec: RowCodec, device_id: str, since: int, until: int | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """See `NetworkedDeviceStore.read_rows`."""
        family = EVENTS if codec is EVENT_ROWS else SESSIONS
        first, end = key_range(device_id, since, until)
        # the same request reads the expiry horizon, whose key sorts before the rows
        query = ReadRowsQuery(
            row_keys=[_HORIZON_KEY],
            row_ranges=[RowRange(first, end)],
            row_filter=RowFilterChain([FamilyNameRegexFilter(f"{family}|{STATE}"), _NEWEST, _NOT_EMPTY]),
            limit=limit + 1,
        )
        with self._explained():
            found = [(row.row_key, row.cells[0].value) for row in self._table.read_rows(query)]
        horizon = EARLIEST
        if found and found[0][0] == _HORIZON_KEY:
            horizon = _from_sortable(found.pop(0)[1])
        return [row for row in found[:limit] if decode_key(row[0])[1] >= horizon]

    def take_out(self, device_id: str) -> int:
        """See `NetworkedDeviceStore.take_out`."""
        first, end = key_range(device_id, None, None)
        query = ReadRowsQuery(row_ranges=[RowRange(first, end)], row_filter=_NEWEST, limit=_DELETED_AT_ONCE)
        standing = 0
        while True:
            with self._explained():
                rows = self._table.read_rows(query)
            if not rows:
                return standing
            self._delete(row.row_key for row in rows)
            standing += sum(bool(cell.value) for row in rows for cell in row.cells)

    def raise_horizon(self, before: int) -> None:
        """See `NetworkedDeviceStore.raise_horizon`."""
        horizon = _to_sortable(before)
        with self._explained():
            self._table.check_and_mutate_row(
                _HORIZON_KEY,
                RowFilterChain([_NEWEST, ValueRangeFilter(start_value=horizon)]),
                false_case_mutations=[SetCell(STATE, _COLUMN, horizon, timestamp_micros=0)],
            )

    def delete_expired(self) -> None:
        """See `NetworkedDeviceStore.delete_expired`."""
        with self._explained():
            state = self._table.read_row(_HORIZON_KEY)
        if state is None:
            return
        horizon = _from_sortable(state.cells[0].value)
        # the server skips younger rows; the extra hour is because a pane's timestamp is later than its session's time
        seconds = min(max(horizon // 1_000_000, 0), _LATEST_SECONDS)
        older = TimestampRangeFilter(end=datetime.fromtimestamp(seconds, UTC) + _HOUR)
        families = FamilyNameRegexFilter(f"{EVENTS}|{SESSIONS}")
        query = ReadRowsQuery(
            row_filter=RowFilterChain([families, older, CellsRowLimitFilter(1), StripValueTransformerFilter(True)])
        )
        self._delete(row.row_key for row in self._scan(query) if decode_key(row.row_key)[1] < horizon)

    def disconnect(self) -> None:
        """See `NetworkedDeviceStore.disconnect`."""
        self._threads.shutdown()
        self._client.close()

    def _set(self, family: str, keys: pa.Array, values: pa.Array, milliseconds: np.ndarray) -> None:
        order = pc.sort_indices(keys)
        keys, values, times = keys.take(order), values.take(order), milliseconds[order.to_numpy()] * _MILLI
        step = max(1, min(_REQUEST_ROWS, _REQUEST_BYTES * len(keys) // max(1, keys.nbytes + values.nbytes)))
        self._deliver(
            self._request(
                keys[start : start + step].to_pylist(),
                (
                    {
                        "set_cell": {
                            "family_name": family,
                            "column_qualifier": _COLUMN,
                            "value": v,
                            "timestamp_micros": t,
                        }
                    }
                    for v, t in zip(
                        values[start : start + step].to_pylist(), times[start : start + step].tolist(), strict=True
                    )
                ),
            )
            for start in range(0, len(keys), step)
        )

    def _delete(self, keys: Iterator[bytes]) -> None:
        while some := list(islice(keys, _DELETED_AT_ONCE)):
            self._deliver([self._request(some, repeat({"delete_from_row": {}}))])

    def _request(self, keys: Iterable[bytes], mutations: Iterable[dict[str, Any]]) -> Any:
        """A MutateRowsRequest as plain protobuf, with one mutation per row."""
        request = MutateRowsRequest.pb()(table_name=self._table.table_name)
        add = request.entries.add
        for key, mutation in zip(keys, mutations, strict=False):
            add(row_key=key).mutations.add(**mutation)
        return request

    def _deliver(self, requests: Iterable[Any]) -> None:
        # iterates over every result, so that an error in any of them is raised
        for _ in self._threads.map(self._send, requests):
            pass

    def _send(self, request: Any) -> None:
        """Send until every row is written. Retries only the rows that failed with a transient error.

        Raises:
            StoreError: The store rejects a row, or does not write it in time.
        """
        for is_last in attempts():
            with self._explained():
                left, fault = self._try(request)
            if not left:
                return
            if is_last or fault.code not in _PASSING:
                raise StoreError(f"{self.where}: {len(left)} rows could not be written: {fault.message}")
            entries = [request.entries[index] for index in left]
            request = MutateRowsRequest.pb()(table_name=request.table_name, entries=entries)

    def _try(self, request: Any) -> "tuple[list[int], _Fault]":
        """Indexes of the rows that were not written, and an error: a permanent one if any row had one."""
        left = set(range(len(request.entries)))
        fault = _Fault(14, "the store gave no answer for them")
        try:
            wrapped = MutateRowsRequest.wrap(request)
            for response in self._writes.mutate_rows(request=wrapped, timeout=PATIENCE, retry=None):
                for entry in MutateRowsResponse.pb(response).entries:
                    if not entry.status.code:
                        left.discard(entry.index)
                    elif fault.code in _PASSING:
                        message = entry.status.message.strip().partition("\n")[0]
                        fault = _Fault(entry.status.code, message or "no reason given")
        except GoogleAPICallError as error:
            fault = _Fault(error.grpc_status_code.value[0] if error.grpc_status_code else 2, first_line(error))
        return sorted(left), fault

    def _scan(self, query: ReadRowsQuery) -> Iterator[Any]:
        with self._explained():
            # a scan's duration depends on the table's size, so no timeout can indicate an error; nothing is retried
            yield from self._table.read_rows_stream(
                query, operation_timeout=_SCAN_SECONDS, attempt_timeout=_SCAN_SECONDS, retryable_errors=()
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert errors of Google's client to a one-line StoreError."""
        try:
            yield
        except DefaultCredentialsError as error:
            raise StoreError(
                f"{self.where}: no Google credentials; run gcloud auth application-default login, "
                "or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
            ) from error
        except (GoogleAPIError, GoogleAuthError) as error:
            # when retries ran out, their last cause is more informative than the error itself
            causes = getattr(error.__cause__, "exceptions", ())
            raise StoreError(f"{self.where}: {first_line(causes[-1] if causes else error)}") from error


class _Fault(NamedTuple):
    code: int
    message: str


def _milliseconds(table: pa.Table, codec: RowCodec) -> np.ndarray:
    """The rows' own times in milliseconds, at least 0: a cell's timestamp cannot be before 1970."""
    micros = table.column(codec.time).cast(pa.int64()).to_numpy()
    return np.maximum(micros // _MILLI, 0)


def _to_sortable(time: int) -> bytes:
    return (time - EARLIEST).to_bytes(8, "big")


def _from_sortable(value: bytes) -> int:
    return int.from_bytes(value, "big") + EARLIEST
