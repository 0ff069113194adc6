"""The command `recent`: show the latest events and sessions of a device."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Devices
from pipelines.options import Problems, Stores, known, parse_count
from pipelines.terminal import OUT
from schemas.durations import parse_time


def recent(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    devices: Devices = None,
    config: Config = None,
    minutes: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Only the N minutes before --until (before now if --until is not given).",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Events at or after this time; UTC unless it has an offset.", show_default=False
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Events before this time.", show_default=False)
    ] = None,
    limit: Annotated[str, typer.Option(metavar="N", help="Show at most N events and N sessions.")] = "100",
    as_json: AsJson = False,
) -> None:
    """Show a device's latest events, newest first, and its sessions."""
    problems = Problems()
    problems.require(not (minutes and since), "give --minutes or --since, not both")
    length = problems.attempt("--minutes", lambda: parse_count(minutes) if minutes else None)
    first = problems.attempt("--since", lambda: parse_time(since) if since else None)
    last = problems.attempt("--until", lambda: parse_time(until) if until else None)
    most = problems.attempt("--limit", lambda: parse_count(limit))
    stores = problems.attempt("", lambda: Stores.find(None, devices, config))
    uri = problems.attempt("--devices", stores.need_devices) if stores else None
    if length is not None:
        last = last or datetime.now(UTC)
        first = problems.attempt("--minutes", lambda: minutes_before(known(last), known(length)))
    problems.require(not (first and last) or known(first) < known(last), "--until: it is not after --since")
    problems.raise_any()

    from pipelines.recent import show_recent

    show_recent(known(uri), device, first, last, known(most), as_json, OUT)


def minutes_before(time: datetime, minutes: int) -> datetime:
    """The time that is `minutes` before `time`.

    Raises:
        ValueError: The result is before the year 1.
    """
    try:
        return time - timedelta(minutes=minutes)
    except OverflowError as error:
        raise ValueError(f"{minutes} minutes before {time:%Y-%m-%d} is before the year 1") from error
