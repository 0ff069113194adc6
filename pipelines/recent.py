"""What an engineer on call asks: one device, its latest events and sessions."""

import json
from datetime import datetime

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from stores.device_store import open_device_store

_MICROS = 1_000_000
_EVENT_COLUMNS = ("event_time", "event_type", "page_url", "revenue", "user_key", "event_id")
_SESSION_COLUMNS = ("session_start", "session_end", "event_count", "had_purchase", "revenue", "pane_timing")


def show_recent(
    uri: str, device: str, since: datetime | None, until: datetime | None, limit: int, as_json: bool, console: Console
) -> None:
    """Print a device's events with since <= event_time < until, newest first, and the sessions that began then.

    Raises:
        StoreError: The store cannot be read.
    """
    bounds = {"since": _micros(since), "until": _micros(until), "limit": limit}
    with open_device_store(uri, read_only=True) as store:
        events = store.recent_events(device, **bounds)
        sessions = store.recent_sessions(device, **bounds)
    if as_json:
        found = {"device_id": device, "events": _plain(events), "sessions": _plain(sessions)}
        console.out(json.dumps(found, default=str, ensure_ascii=False), highlight=False)
        return
    if not len(events) and not len(sessions):
        console.print(f"no events of device {device} there", highlight=False, markup=False)
        return
    console.print(_table(f"{len(events)} events, newest first", events, _EVENT_COLUMNS))
    console.print(_table(f"{len(sessions)} sessions", sessions, _SESSION_COLUMNS))


def _micros(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * _MICROS)


def _plain(rows: pa.Table) -> list[dict[str, object]]:
    """Rows for a program: nulls left out, times in RFC 3339, JSON text as the JSON it is."""
    found = []
    for row in rows.to_pylist():
        plain: dict[str, object] = {}
        for name, value in row.items():
            if value is None:
                continue
            if name in ("properties", "context", "extra_properties"):
                plain[name] = json.loads(value)
            else:
                plain[name] = value.isoformat() if isinstance(value, datetime) else value
        found.append(plain)
    return found


def _table(title: str, rows: pa.Table, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows.select(list(columns)).to_pylist():
        table.add_row(*(_cell(row[name]) for name in columns))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
    return str(value)
