"""Session panes for tests: a test says what matters to it, the rest is filled in."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from schemas.sessions import SESSION_PANE

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)


def pane(session_id: str, index: int = 0, start: datetime = NOON, **columns: Any) -> dict[str, Any]:
    """The row of a pane: an early one of a session of one event, unless the columns say otherwise."""
    return {
        "session_id": session_id,
        "device_id": "phone",
        "session_start": start,
        "session_end": start,
        "start_date": start.date(),
        "end_date": start.date(),
        "duration_secs": 0.0,
        "event_count": 1,
        "page_view_count": 1,
        "had_purchase": False,
        "revenue": Decimal("0.0000"),
        "pane_timing": "EARLY",
        "pane_index": index,
        "is_retraction": False,
        "fired_at": start + timedelta(minutes=5 * (index + 1)),
    } | columns


def pane_table(*rows: dict[str, Any]) -> pa.Table:
    """Rows of SESSION_PANE."""
    return pa.Table.from_pylist(list(rows), schema=SESSION_PANE.schema)
