"""Live view of a run that follows a topic: a table on the terminal, refreshed from the job's counters."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.terminal import renewed
from runners.flink import FlinkRunner
from schemas.durations import MILLISECOND, format_duration
from schemas.errors import ClickstreamError

REFRESH_SECONDS = 2.0

Counters = dict[str, int]


class Rates(NamedTuple):
    """The current counters, the previous ones, and the seconds between them."""

    now: Counters
    before: Counters
    seconds: float

    def per_second(self, name: str) -> float:
        """A counter's growth per second; 0 if it restarted with the job."""
        return max(self.now.get(name, 0) - self.before.get(name, 0), 0) / self.seconds if self.seconds else 0.0


@contextmanager
def follow(runner: FlinkRunner, console: Console) -> Iterator[None]:
    """Show the counters of a runner's job until the block ends; shows nothing if `console` is not a terminal."""
    if not console.is_terminal:
        yield
        return
    before, seen_at = Counters(), time.monotonic()
    with Live(Text("the job starts …", style="dim"), console=console, transient=True, auto_refresh=False) as live:

        def renew() -> None:
            nonlocal before, seen_at
            try:
                now = runner.live_metrics()
            except ClickstreamError as error:
                live.update(Text(f"no figures: {error}", style="yellow"), refresh=True)
                return
            at = time.monotonic()
            live.update(live_table(Rates(now, before, at - seen_at), runner.rest.address), refresh=True)
            before, seen_at = now, at

        with renewed(renew, REFRESH_SECONDS, "live-view"):
            yield


def live_table(rates: Rates, page: str) -> Group:
    """The figures as a table, and the address of Flink's web page, which has more of them."""
    now = rates.now

    def total(*names: str) -> int:
        return sum(now.get(name, 0) for name in names)

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")

    def row(label: str, value: int, note: str = "") -> None:
        table.add_row(label, f"{value:,}", note)

    dead = sum(count for name, count in now.items() if name.startswith("dead_"))
    row("events read", total("events_read"), f"{rates.per_second('events_read'):,.0f}/s")
    row("waiting on the bus", total("consumer_lag"), "records")
    behind = format_duration(total("watermark_lag_ms") // 1000 * 1000 * MILLISECOND)
    table.add_row("watermark", f"{behind} behind", "")
    row("unique events", total("events_unique"), f"duplicates {total('duplicates'):,}, dead letters {dead:,}")
    row("sessions open", total("sessions_open"))
    row(
        "panes",
        total("panes_early", "panes_on_time", "panes_late", "retractions"),
        f"EARLY {total('panes_early'):,}, ON_TIME {total('panes_on_time'):,}, LATE {total('panes_late'):,}, "
        f"RETRACTION {total('retractions'):,}",
    )
    late = f"beyond lateness {total('events_too_late'):,}"
    row("late events", total("events_late"), late)
    row(
        "lake rows",
        total("lake_fact_events_rows", "lake_fact_sessions_rows", "lake_dead_letters_rows"),
        f"{rates.per_second('lake_fact_events_rows'):,.0f} events/s, {total('lake_fact_events_commits'):,} commits",
    )
    row("device rows", total("device_events_written", "device_sessions_written"))
    return Group(table, Text(f"Flink's page is http://{page}; Ctrl-C ends the run", style="dim"))
