"""Facts corrected in the lake: the sessions and daily facts that follow them are those worked out anew."""

import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.daily_metrics import DAILY_METRICS
from schemas.events import FACT_EVENT
from stores.lake import find_table, live_files
from stores.lake_sql import connect
from tests.transforms.activities.daily_oracle import assert_exact

FIRST = datetime(2026, 4, 12, tzinfo=UTC)
DAYS = 5

SESSIONS_BY_SILENCE = """
SELECT count(*) FROM (
    SELECT event_time - lag(event_time) OVER (PARTITION BY device_id ORDER BY event_time) AS silence FROM fact_events
) WHERE silence IS NULL OR silence > INTERVAL 30 MINUTE"""

WRONG_PURCHASES = """
SELECT count(*) FROM fact_sessions s WHERE had_purchase <> EXISTS (
    FROM fact_events e WHERE e.device_id = s.device_id AND event_type = 'purchase'
        AND e.event_time BETWEEN s.session_start AND s.session_end
)"""


def traffic(seed: int, count: int) -> list[dict[str, Any]]:
    """Envelopes of twelve devices on five days; some sessions go over midnight."""
    pick = random.Random(seed)
    return [
        {
            "event_id": f"e{number}",
            "event_type": pick.choice(("page_view", "purchase", "video_view")),
            "timestamp": (FIRST + timedelta(seconds=pick.randrange(DAYS * 86_400))).isoformat(),
            "device_id": f"d{pick.randrange(12)}",
            "user_id": pick.choice((None, None, "ann", "bob")),
            "properties": {
                "page_url": pick.choice(("https://shop.example/cart", "https://shop.example/product/7")),
                "revenue": pick.randrange(1, 400) / 4,
                "content_category": pick.choice(("drama", "sports")),
                "view_duration_sec": pick.randrange(90),
                "content_id": "c1",
            },
            "context": {"country": pick.choice(("DE", "FR", None))},
        }
        for number in range(count)
    ]


class Corrected:
    """A lake of the traffic, and the commands that bring it up to its facts."""

    def __init__(self, folder: Path, command_line: Callable[..., Any]) -> None:
        self.lake, self.folder, self._command_line = str(folder / "lake"), folder, command_line

    def command(self, name: str, *options: object) -> dict[str, Any]:
        devices = () if name == "metrics" else ("--devices", f"rocksdb:{self.folder / 'devices'}")
        ended = self._command_line(name, "--lake", self.lake, *devices, *options, "--json")
        assert ended.code == 0, ended.err
        report: dict[str, Any] = json.loads(ended.out)
        return report

    def run(self, events: Iterable[dict[str, Any]], *options: object) -> None:
        file = self.folder / "events.jsonl"
        file.write_text("\n".join(map(json.dumps, events)))
        self.command("run", "--input", file, *options)

    def dates(self) -> dict[str, str]:
        """The file of each date of the daily facts."""
        table = find_table(self.lake, DAILY_METRICS.name)
        assert table is not None
        return {str(day): files[0].path for (day,), files in live_files(table).items()}

    def changed_by(self, *commands: tuple[object, ...]) -> set[str]:
        """The dates whose daily facts are others after some commands; and that they are then what the facts come to."""
        before = self.dates()
        for name, *options in commands:
            self.command(str(name), *options)
        assert_exact(self.lake)
        after = self.dates()
        return {day for day in before | after if before.get(day) != after.get(day)}

    def count(self, sql: str) -> int:
        with connect(self.lake) as connection:
            return int(connection.sql(sql).fetchall()[0][0])


@pytest.fixture
def corrected(tmp_path: Path, command_line: Callable[..., Any]) -> Corrected:
    found = Corrected(tmp_path, command_line)
    found.run(traffic(1, 400))
    return found


def test_relabelled_changed_and_deleted_events_change_the_daily_facts_of_their_dates(corrected: Corrected) -> None:
    assert_exact(corrected.lake)
    table = find_table(corrected.lake, FACT_EVENT.name)
    assert table is not None
    table.update(predicate="event_date = '2026-04-12' AND country = 'DE'", updates={"country": "'SE'"})
    assert corrected.changed_by(("metrics",)) == {"2026-04-12"}
    table.update_incremental()
    table.update(
        predicate="event_date = '2026-04-13' AND event_type = 'purchase'",
        updates={"event_type": "'click'", "revenue": "NULL"},
    )
    assert corrected.changed_by(("metrics",)) == {"2026-04-13"}
    table.update_incremental()
    table.delete("event_date = '2026-04-14' AND device_id < 'd5'")
    changed = corrected.changed_by(("rebuild", "--days", "all"), ("metrics",))
    # the sessions of what was relabelled lose their purchases, those of what was deleted their events
    assert "2026-04-14" in changed
    assert corrected.count("SELECT count(*) FROM fact_sessions") == corrected.count(SESSIONS_BY_SILENCE)
    assert corrected.count("SELECT sum(event_count) FROM fact_sessions") == corrected.count(
        "SELECT count(*) FROM fact_events"
    )
    assert corrected.count(WRONG_PURCHASES) == 0
    assert corrected.changed_by(("rebuild", "--days", "all"), ("metrics",)) == set()
    table.update_incremental()
    table.delete("event_date = '2026-04-15'")
    assert "2026-04-15" in corrected.changed_by(("rebuild", "--days", "all"), ("metrics",))
    assert "2026-04-15" not in corrected.dates()


def test_corrected_copies_of_a_date_that_overwrite_it_leave_what_they_come_to(corrected: Corrected) -> None:
    wrong = traffic(1, 400)
    right = [row | {"context": {"country": "SE"}} for row in wrong if row["timestamp"].startswith("2026-04-13")]
    before = corrected.dates()
    corrected.run(right[10:], "--write-mode", "overwrite")
    assert_exact(corrected.lake)
    assert corrected.dates()["2026-04-16"] == before["2026-04-16"]
    assert corrected.count("SELECT count(*) FROM fact_events WHERE event_date = '2026-04-13'") == len(right) - 10
    # late, twice and again: copies of what is there change nothing, and what was left out comes in
    corrected.run([*right, *right[:5], *wrong])
    assert_exact(corrected.lake)
    assert corrected.count("SELECT count(*) FROM fact_events") == len(wrong)
    assert corrected.count("SELECT count(*) FROM fact_sessions") == corrected.count(SESSIONS_BY_SILENCE)
    assert corrected.changed_by(("metrics",)) == set()
