"""The command `sessions-dim`: number the sessions of each user."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Lake, find_lake
from pipelines.options import Problems, known, parse_count, parse_date
from pipelines.terminal import OUT, configure_logging
from runners.load_beam import load_beam


def sessions_dim(
    lake: Lake = None,
    config: Config = None,
    days: Annotated[
        str,
        typer.Option(metavar="N", help="Number of start dates to recompute, or all. A first run always computes all."),
    ] = "7",
    time_zone: Annotated[
        str, typer.Option(metavar="NAME", help="Reporting time zone; sessions are cut at its midnights.")
    ] = "UTC",
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Last start date. By default the last date that has ended in the time zone.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Number each user's sessions 1, 2, 3 …, and assign events to these sessions.

    Includes late events. Replaces only the dates whose sessions changed; if none did, commits nothing.
    """
    configure_logging(False)
    problems = Problems()
    uri = find_lake(problems, lake, config)
    count = problems.attempt("--days", lambda: None if days == "all" else parse_count(days))
    last = problems.attempt("--as-of", lambda: parse_date(as_of) if as_of else None)

    from transforms.session_dimension.session_dates import parse_zone

    zone = problems.attempt("--time-zone", lambda: parse_zone(time_zone))
    problems.raise_any()
    load_beam(google_cloud=False)

    from pipelines.sessions_dim import run_sessions_dim
    from pipelines.sessions_dim_plan import SessionsDimOptions

    report = run_sessions_dim(SessionsDimOptions(known(uri), known(zone), count, last, datetime.now(UTC)))
    if as_json:
        OUT.print_json(json.dumps(report.as_json()))
    elif report.first_date is None:
        OUT.print("no events on these dates", highlight=False)
    else:
        OUT.print(
            f"{report.first_date} to {report.last_date}: {report.sessions:,} sessions of {report.events:,} events; "
            f"{report.dates_changed:,} dates replaced, {report.seconds:.1f} s",
            soft_wrap=True,
            highlight=False,
        )
