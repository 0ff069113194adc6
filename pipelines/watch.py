"""A progress bar for a run in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from pipelines.terminal import renewed
from transforms.metrics import SEEN_HERE

REFRESH_SECONDS = 0.2
_READING = 0.45
"""Share of the time until all input is read and decoded; the rest is for the stores."""


@contextmanager
def watch(total_bytes: int | None, console: Console, enabled: bool) -> Iterator[None]:
    """Show events read, events/s and the time left until the block ends; nothing if `console` is not a terminal."""
    if total_bytes is None or not (enabled and console.is_terminal):
        yield
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.fields[events]:,} events"), TextColumn("{task.fields[rate]:,.0f}/s"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=1.0, events=0, rate=0.0)

        def renew() -> None:
            events, decoded = SEEN_HERE["events_read"], SEEN_HERE["events_decoded"]
            read = min(SEEN_HERE["bytes_read"] / max(total_bytes, 1), 1.0)
            stored = min(SEEN_HERE["lake_fact_events_rows"] / max(decoded, 1), 1.0)
            elapsed = progress.tasks[0].elapsed or 1.0
            progress.update(
                task, completed=_READING * read + (1 - _READING) * stored, events=events, rate=events / elapsed,
                description="storing" if SEEN_HERE["events_unique"] else "reading",
            )  # fmt: skip

        with renewed(renew, REFRESH_SECONDS, "progress"):
            yield
