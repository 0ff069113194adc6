"""The command `rebuild`: recompute the sessions of past dates."""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Devices, Lake
from pipelines.commands.run_arguments import AllowedLateness, EarlyFiring, MaxSession, SessionGap
from pipelines.options import Problems, Stores, known, parse_count, parse_date, parse_policy
from pipelines.terminal import OUT, configure_logging
from runners.load_beam import load_beam


def rebuild(
    lake: Lake = None,
    devices: Devices = None,
    config: Config = None,
    days: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Number of ended dates (UTC) to rebuild, or all. By default 7, unless --since is given.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="First date, instead of --days.", show_default=False)
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Last date. By default the last that has ended, UTC.", show_default=False),
    ] = None,
    session_gap: SessionGap = "30m",
    max_session: MaxSession = "4h",
    allowed_lateness: AllowedLateness = "1h",
    early_firing: EarlyFiring = "5m",
    as_json: AsJson = False,
) -> None:
    """Recompute the sessions of past dates from all their events, including those that were too late for a live run.

    Give the same session rules as the runs used. Replaces only the sessions that differ, in both stores.
    """
    configure_logging(False)
    problems = Problems()
    policy = parse_policy(problems, session_gap, max_session, allowed_lateness, early_firing)
    stores = problems.attempt("", lambda: Stores.find(lake, devices, config))
    lake_uri = problems.attempt("--lake", stores.need_lake) if stores else None
    devices_uri = problems.attempt("--devices", stores.need_devices) if stores else None
    problems.require(not (days and since), "--days: give it or --since, not both")
    count = problems.attempt("--days", lambda: None if days == "all" else parse_count(days or "7"))
    first = problems.attempt("--since", lambda: parse_date(since) if since else None)
    last = problems.attempt("--until", lambda: parse_date(until) if until else None)
    problems.require(not (first and last) or known(first) <= known(last), "--until: it is before --since")
    problems.raise_any()
    load_beam(google_cloud=False)

    from pipelines.rebuild import RebuildOptions
    from pipelines.rebuild import rebuild as rebuild_lake

    now = datetime.now(UTC)
    if days != "all":
        last = last or now.date() - timedelta(days=1)
        first = first or last - timedelta(days=min(known(count) - 1, last.toordinal() - 1))
    options = RebuildOptions(known(lake_uri), known(devices_uri), known(policy), first, last, now)
    report = rebuild_lake(options)
    if as_json:
        OUT.print_json(json.dumps(report.as_json()))
    elif report.first_date is None:
        OUT.print("no events on these dates", highlight=False)
    else:
        OUT.print(
            f"{report.first_date} to {report.last_date}: {report.sessions:,} sessions; {report.added:,} added, "
            f"{report.replaced:,} replaced, {report.withdrawn:,} withdrawn, {report.seconds:.1f} s",
            soft_wrap=True,
            highlight=False,
        )
