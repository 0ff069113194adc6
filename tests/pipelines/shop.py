"""A lake that the main job fills with page views, for tests of whose they were."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.dimensions import DEVICE
from schemas.sessions import SESSION
from stores.lake import find_table
from stores.lake_sql import query

MORNING = datetime(2026, 4, 1, 9, tzinfo=UTC)


def on_day(day: int, **hours: int) -> datetime:
    return MORNING + timedelta(days=day - 1, **hours)


class Shop:
    """A lake and a device store, filled by `clickstream run`."""

    def __init__(self, folder: Path, command_line: Any) -> None:
        self.lake = str(folder / "lake")
        self._folder, self._command_line, self._runs = folder, command_line, 0

    def visit(self, *events: tuple[str, datetime, str | None]) -> None:
        """Run the main job over some page views: device, time, user."""
        self._runs += 1
        file = self._folder / f"events-{self._runs}.jsonl"
        lines = [
            {
                "event_id": f"{device}@{time.isoformat()}",
                "event_type": "page_view",
                "timestamp": time.isoformat(),
                "device_id": device,
                "user_id": user,
                "properties": {"page_url": f"https://shop.example/product/{time:%H}?utm=x"},
                "context": {"country": "DE", "device_type": "mobile"},
            }
            for device, time, user in events
        ]
        file.write_text("\n".join(map(json.dumps, lines)))
        devices = f"rocksdb:{self._folder / 'devices'}"
        ended = self._command_line("run", "--input", file, "--lake", self.lake, "--devices", devices, "--json")
        assert ended.code == 0, ended.err

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with query(self.lake, sql) as reader:
            return reader.read_all().to_pylist()

    def whose(self) -> dict[tuple[str, int], tuple[str | None, str | None]]:
        """The own and the resolved user of each session, by device and day of the month."""
        sql = """
            SELECT device_id, day(session_start) AS day, o.user_id AS own, r.user_id AS resolved FROM fact_sessions s
            LEFT JOIN dim_users o ON o.user_key = s.user_key
            LEFT JOIN dim_users r ON r.user_key = s.resolved_user_key"""
        return {(row["device_id"], row["day"]): (row["own"], row["resolved"]) for row in self.rows(sql)}

    def versions(self) -> dict[str, int]:
        tables = {name: find_table(self.lake, name) for name in (SESSION.name, DEVICE.record.name)}
        return {name: table.version() for name, table in tables.items() if table is not None}
