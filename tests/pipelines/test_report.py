"""The report of a run from its counters, and the bar beside it."""

import io
import threading

import pytest
from rich.console import Console

from pipelines.report import RunReport, format_bytes
from pipelines.watch import watch

COUNTERS = {
    "events_read": 1_234_567,
    "bytes_read": 453_000_000,
    "events_decoded": 1_234_000,
    "events_unique": 1_200_000,
    "duplicates": 34_000,
    "dead_not_json": 500,
    "dead_bad_utf8": 67,
    "panes_early": 30,
    "panes_on_time": 20,
    "retractions": 1,
    "events_too_late": 4,
    "lake_fact_events_rows": 1_000_000,
    "lake_fact_events_skipped": 200_000,
    "lake_fact_events_files": 8,
    "lake_fact_events_bytes": 45_300_000,
    "lake_fact_sessions_rows": 15,
    "lake_fact_sessions_skipped": 5,
    "lake_fact_sessions_files": 1,
    "lake_fact_sessions_bytes": 1_000,
    "device_events_written": 1_200_000,
    "device_sessions_written": 20,
}
TABLES = ["fact_events", "fact_sessions", "dead_letters"]


def printed(report: RunReport, width: int) -> list[str]:
    text = io.StringIO()
    report.show(Console(file=text, width=width))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_report_adds_up_what_belongs_together() -> None:
    report = RunReport.of(COUNTERS, TABLES, seconds=10.0)
    assert (report.sessions, report.device_rows, report.lake_files, report.lake_bytes) == (20, 1_200_020, 9, 45_301_000)
    assert report.dead_letters == {"bad_utf8": 67, "not_json": 500}
    assert report.panes == {"EARLY": 30, "ON_TIME": 20, "LATE": 0, "RETRACTION": 1}
    assert report.lake_rows == {"fact_events": 1_000_000, "fact_sessions": 15}
    assert report.already_stored == {"fact_events": 200_000, "fact_sessions": 5}
    assert report.as_json()["events_per_second"] == 123_457


def test_report_of_a_run_without_events_is_all_zero() -> None:
    report = RunReport.of({}, TABLES, seconds=0.0)
    assert (report.events_read, report.dead_letters, report.lake_rows, report.sessions) == (0, {}, {}, 0)
    assert report.as_json()["events_per_second"] == 0
    assert "seconds" in printed(report, 80)[-1]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_report_fits_the_terminal(width: int) -> None:
    lines = printed(RunReport.of(COUNTERS, TABLES, seconds=10.0), width)
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["events", "read", "1,234,567", "453.0", "MB"]
    assert any("beyond lateness 4" in line for line in lines)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000_000, "2.5 GB"), (3e15, "3000.0 TB")]
)
def test_size_is_written_with_three_digits_or_so(size: float, text: str) -> None:
    assert format_bytes(size) == text


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "progress"]


def test_bar_follows_while_the_block_runs_and_is_gone_after_it_even_if_it_fails() -> None:
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=80)
    following: list[str] = []

    def fail_while_watched() -> None:
        with watch(1000, terminal, enabled=True):
            following.extend(threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_watched()
    assert following == ["progress"]
    assert threads() == []
    assert "reading" in text.getvalue()


@pytest.mark.parametrize(("terminal", "enabled"), [(False, True), (True, False)])
def test_no_bar_where_nobody_looks(terminal: bool, enabled: bool) -> None:
    text = io.StringIO()
    with watch(1000, Console(file=text, force_terminal=terminal), enabled=enabled):
        assert threads() == []
    assert text.getvalue() == ""
