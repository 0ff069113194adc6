"""The report of a run, as a table or as JSON."""

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from schemas.sessions import PaneTiming


@dataclass(frozen=True)
class RunReport:
    """Figures of a finished run.

    Attributes:
        events_read: Payloads read, good or bad.
        events_unique: Events after deduplication.
        duplicates: Duplicates dropped.
        dead_letters: Dead letters by reason code.
        sessions: Sessions computed from the input.
        panes: Panes fired, by timing, and retractions.
        late_events: Events that were behind the watermark and within the allowed lateness.
        too_late_events: Events beyond the allowed lateness: they are stored but change no session.
        already_stored: Rows that the lake already had, by table.
        lake_rows: Rows written, by table.
        lake_files: Files written to the lake.
        lake_bytes: Bytes of these files.
        device_rows: Rows written to the device store.
        input_bytes: Bytes of the payloads.
        seconds: Wall time from the first check to the last commit.
    """

    events_read: int
    events_unique: int
    duplicates: int
    dead_letters: dict[str, int]
    sessions: int
    panes: dict[str, int]
    late_events: int
    too_late_events: int
    already_stored: dict[str, int]
    lake_rows: dict[str, int]
    lake_files: int
    lake_bytes: int
    device_rows: int
    input_bytes: int
    seconds: float

    @classmethod
    def of(cls, counters: dict[str, int], tables: list[str], seconds: float) -> "RunReport":
        """Build the report from the job's counters."""

        def total(*names: str) -> int:
            return sum(counters.get(name, 0) for name in names)

        def by_table(kind: str) -> dict[str, int]:
            found = {table: total(f"lake_{table.replace('/', '_')}_{kind}") for table in tables}
            return {table: count for table, count in found.items() if count}

        panes = {timing.value: total(f"panes_{timing.lower()}") for timing in PaneTiming}
        return cls(
            events_read=total("events_read"),
            events_unique=total("events_unique"),
            duplicates=total("duplicates"),
            dead_letters={
                name.removeprefix("dead_"): count
                for name, count in sorted(counters.items())
                if name.startswith("dead_")
            },
            # If the lake had events, rewritten files also hold sessions that are not of this input
            sessions=total("sessions_examined") or total("lake_fact_sessions_rows", "lake_fact_sessions_skipped"),
            panes=panes | {"RETRACTION": total("retractions")},
            late_events=total("events_late"),
            too_late_events=total("events_too_late"),
            already_stored=by_table("skipped"),
            lake_rows=by_table("rows"),
            lake_files=sum(by_table("files").values()),
            lake_bytes=sum(by_table("bytes").values()),
            device_rows=total("device_events_written", "device_sessions_written"),
            input_bytes=total("bytes_read"),
            seconds=round(seconds, 3),
        )

    def as_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self) | {"events_per_second": round(self.events_read / self.seconds) if self.seconds else 0}

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")

        def row(label: str, value: int, note: str = "") -> None:
            table.add_row(label, f"{value:,}", note)

        row("events read", self.events_read, format_bytes(self.input_bytes))
        row("unique events", self.events_unique)
        row("duplicates", self.duplicates)
        row("dead letters", sum(self.dead_letters.values()), _listed(self.dead_letters))
        row("sessions", self.sessions)
        row("panes", sum(self.panes.values()), _listed(self.panes))
        if self.late_events or self.too_late_events:
            row("late events", self.late_events, f"beyond lateness {self.too_late_events:,}")
        row("lake rows", sum(self.lake_rows.values()), _listed(_by_folder(self.lake_rows)))
        if self.already_stored:
            row("already there", sum(self.already_stored.values()), _listed(_by_folder(self.already_stored)))
        row("lake files", self.lake_files, format_bytes(self.lake_bytes))
        row("device rows", self.device_rows)
        rate = self.events_read / self.seconds if self.seconds else 0
        table.add_row("seconds", f"{self.seconds:,.1f}", f"{rate:,.0f} events/s")
        console.print(table)


def _by_folder(tables: dict[str, int]) -> dict[str, int]:
    """The counts of tables, summed by top-level folder."""
    folders: dict[str, int] = {}
    for name, count in tables.items():
        folder = name.partition("/")[0]
        folders[folder] = folders.get(folder, 0) + count
    return folders


def _listed(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)


def format_bytes(size: float) -> str:
    """A size in bytes with a readable unit.

    >>> format_bytes(45_300_000)
    '45.3 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
