"""The command `stitch`: attribute past anonymous sessions to users."""

import json
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Every, Lake, find_lake
from pipelines.options import Problems, known
from pipelines.passes import repeat
from pipelines.terminal import OUT, configure_logging
from schemas.durations import parse_duration, parse_optional_duration


def stitch(
    lake: Lake = None,
    config: Config = None,
    lookback: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long before a device's first login its anonymous sessions may have started; off: no limit.",
        ),
    ] = "30d",
    every: Every = None,
    as_json: AsJson = False,
) -> None:
    """Attribute anonymous sessions to the users who later logged in on their devices. Rewrites only affected dates."""
    configure_logging(False)
    problems = Problems()
    uri = find_lake(problems, lake, config)
    reach = problems.attempt("--lookback", lambda: parse_optional_duration(lookback))
    pause = problems.attempt("--every", lambda: parse_duration(every) if every else None)
    problems.raise_any()

    from pipelines.stitch import stitch as stitch_lake

    def once() -> None:
        report = stitch_lake(known(uri), reach)
        if as_json:
            OUT.print_json(json.dumps(report.as_json()), indent=None)
            return
        OUT.print(
            f"{report.devices_changed:,} devices changed, sessions of {len(report.dates_changed):,} dates "
            f"stitched, {report.files_read:,} files read",
            highlight=False,
        )

    repeat(once, pause)
