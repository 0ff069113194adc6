"""Prints the latest events and sessions of one device, for an engineer on call."""

import json
from datetime import datetime

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipelines.terminal import print_table, verbatim
from schemas.durations import SECOND, format_duration, format_time, micros_of
from stores.device_store import open_device_store

Row = dict[str, object]

_JSON_COLUMNS = ("properties", "context", "extra_properties")
_LONGEST_DETAIL = 120
_USER_DIGITS = 8
"""Digits of a user key to show, enough to tell a device's users apart; --json prints the whole key."""


def show_recent(
    uri: str, device: str, since: datetime | None, until: datetime | None, limit: int, as_json: bool, console: Console
) -> None:
    """Print a device's events with since <= event_time < until, newest first, and the sessions that started then.

    Raises:
        StoreError: The store cannot be read.
    """
    first, last = (None if time is None else micros_of(time) for time in (since, until))
    with open_device_store(uri, read_only=True) as store:
        events = store.recent_events(device, first, last, limit)
        sessions = store.recent_sessions(device, first, last, limit)
    if as_json:
        found = {"device_id": device, "events": _plain(events), "sessions": _plain(sessions)}
        console.out(json.dumps(found, default=str, ensure_ascii=False), highlight=False)
    elif not len(events) and not len(sessions):
        console.print(f"no events of device {verbatim(device)} found", highlight=False, markup=False, soft_wrap=True)
    else:
        _print(device, events.to_pylist(), sessions.to_pylist(), limit, console)


def _plain(rows: pa.Table) -> list[dict[str, object]]:
    """Rows as JSON values: without nulls, with times in RFC 3339, and JSON texts parsed."""
    found = []
    for row in rows.to_pylist():
        plain: dict[str, object] = {}
        for name, value in row.items():
            if value is None:
                continue
            if name in _JSON_COLUMNS:
                plain[name] = json.loads(value)
            else:
                plain[name] = format_time(value) if isinstance(value, datetime) else value
        found.append(plain)
    return found


def _print(device: str, events: list[Row], sessions: list[Row], limit: int, console: Console) -> None:
    header = f"device {verbatim(device)}: {_counted(events, 'event', limit)}, {_counted(sessions, 'session', limit)}"
    console.print(header, style="bold", highlight=False, markup=False)
    if events:
        oldest, newest = _time(events[-1]["event_time"]), _time(events[0]["event_time"])
        console.print(f"events from {oldest} to {newest} UTC", highlight=False)
    columns = {
        "event": [row["event_type"] for row in events],
        "page or properties": [_detail(row) for row in events],
        "revenue": [row["revenue"] for row in events],
        "user": [_user(row) for row in events],
    }
    _print_by_date([row["event_time"] for row in events], columns, console)
    columns = {
        "lasted": [format_duration(round(float(str(row["duration_secs"]))) * SECOND) for row in sessions],
        "events": [row["event_count"] for row in sessions],
        "revenue": [row["revenue"] or None for row in sessions],
        "country": [row["country"] for row in sessions],
        "user": [_user(row) for row in sessions],
        "pane": [row["pane_timing"] for row in sessions],
        "cut": [row["cut_reason"] for row in sessions],
    }
    _print_by_date([row["session_start"] for row in sessions], columns, console)


def _print_by_date(times: list[object], columns: dict[str, list[object]], console: Console) -> None:
    """Print a table with a line for each date, so that rows need only the time of day."""
    if not times:
        return
    # Columns without values are not shown
    shown = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    table = Table(box=None, pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    for name, values in shown.items():
        long = name == "page or properties"
        table.add_column(name, justify="right" if _are_numbers(values) else "left", no_wrap=not long, ratio=1 * long)
    date = ""
    for time, *values in zip(times, *shown.values(), strict=True):
        day, _, clock = _time(time).partition(" ")
        if day != date:
            table.add_row(verbatim(day), style="bold")
            date = day
        table.add_row(*map(verbatim, (clock, *values)))
    console.print()
    print_table(table, console)


def _are_numbers(values: list[object]) -> bool:
    return not any(isinstance(value, str) for value in values)


def _counted(rows: list[Row], what: str, limit: int) -> str:
    """The number of rows in words, and whether there may be more."""
    newest = "the newest " if len(rows) == limit else ""
    return f"{newest}{len(rows):,} {what}{'' if len(rows) == 1 else 's'}"


def _detail(event: Row) -> object:
    """The page without https://, to save space; for an event without a page, its properties."""
    if event["page_url"] is not None:
        return str(event["page_url"]).removeprefix("https://")
    text = str(event["properties"] or "")
    if text in ("", "{}"):
        return None
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 1] + "…"


def _user(row: Row) -> object:
    return None if row["user_key"] is None else str(row["user_key"])[:_USER_DIGITS]


def _time(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
