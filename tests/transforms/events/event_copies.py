"""Builders of copies of events, as they come again from a source."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from schemas.durations import HOUR
from schemas.events import EVENT_BATCH

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def copy(
    event_id: str = "e",
    device_id: str = "phone",
    at: int = 0,
    arrived: int | None = 0,
    source: str = "topic",
    partition: int = 0,
    offset: int = 0,
    moved: int = 0,
    **columns: Any,
) -> dict[str, Any]:
    """One copy of an event; times in microseconds since 1970, `moved` that by which the client's clock is corrected."""
    return {
        "event_id": event_id,
        "event_type": "page_view",
        "event_time": EPOCH + timedelta(microseconds=at + moved),
        "event_date": (EPOCH + timedelta(microseconds=at + moved)).date(),
        "client_time": EPOCH + timedelta(microseconds=at),
        "arrival_time": None if arrived is None else EPOCH + timedelta(microseconds=arrived),
        "device_id": device_id,
        "source": source,
        "partition": partition,
        "offset": offset,
    } | columns


def batch(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=EVENT_BATCH.schema)


copies = st.builds(
    copy,
    event_id=st.sampled_from(["a", "b", "c\x00", "ä"]),
    device_id=st.sampled_from(["x", "y", "x\x00c"]),
    at=st.sampled_from([-HOUR, -1, 0, 1, HOUR]),
    arrived=st.none() | st.integers(0, 3),
    source=st.sampled_from(["s", "t"]),
    partition=st.integers(0, 1),
    offset=st.integers(0, 5),
    moved=st.sampled_from([0, HOUR]),
)
# a place in the log holds one payload: no two different copies have the same order
batches = st.lists(
    copies, max_size=30, unique_by=lambda c: (c["arrival_time"], c["source"], c["partition"], c["offset"])
)


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Of copies the least is the one that stays."""
    arrival = row["arrival_time"]
    return arrival is None, arrival or EPOCH, row["source"], row["partition"], row["offset"]
