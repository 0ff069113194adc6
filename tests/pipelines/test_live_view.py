"""The live view: figures of a running job as a person reads them."""

import io

from rich.console import Console

from pipelines.live_view import Rates, live_table


def shown(rates: Rates) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(live_table(rates, "127.0.0.1:8081"))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_rates_are_of_the_time_between_two_looks() -> None:
    rates = Rates({"events_read": 5_000}, {"events_read": 1_000}, 2.0)
    assert rates.per_second("events_read") == 2_000


def test_counters_that_start_anew_with_the_job_give_no_negative_rate() -> None:
    assert Rates({"events_read": 10}, {"events_read": 1_000}, 2.0).per_second("events_read") == 0


def test_view_tells_what_waits_what_fired_and_where_there_is_more() -> None:
    now = {
        "events_read": 12_345, "consumer_lag": 678, "watermark_lag_ms": 61_250, "sessions_open": 90,
        "panes_early": 3, "panes_on_time": 2, "panes_late": 1, "dead_not_json": 4, "dead_bad_utf8": 5,
        "lake_fact_events_commits": 7,
    }  # fmt: skip
    text = shown(Rates(now, {}, 1.0))
    for words in ("12,345", "678", "1m1s behind", "90", "EARLY 3, ON_TIME 2, LATE 1", "dead letters 9", "7 commits"):
        assert words in text
    assert "http://127.0.0.1:8081" in text
