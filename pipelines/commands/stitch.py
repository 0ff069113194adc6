"""The command `stitch`: whose past sessions were."""

import json
import time
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Lake
from pipelines.options import Problems, Stores, known
from pipelines.terminal import OUT, configure_logging
from schemas.durations import SECOND, parse_duration, parse_optional_duration


def stitch(
    lake: Lake = None,
    config: Config = None,
    lookback: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long before the first login on a device its anonymous sessions may have begun; off: any time.",
        ),
    ] = "30d",
    every: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Go on, a pass each time this has gone by. Else one pass.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give anonymous sessions to the users who logged in on their devices later. Changes only the dates it must."""
    configure_logging(False)
    problems = Problems()
    stores = problems.attempt("", lambda: Stores.find(lake, None, config))
    uri = problems.attempt("--lake", stores.need_lake) if stores else None
    reach = problems.attempt("--lookback", lambda: parse_optional_duration(lookback))
    pause = problems.attempt("--every", lambda: parse_duration(every) if every else None)
    problems.raise_any()

    from pipelines.stitch import stitch as stitch_lake
    from schemas.errors import StoreBusyError

    try:
        while True:
            try:
                report = stitch_lake(known(uri), reach)
            except StoreBusyError:
                # a pass that another run kept from committing is made up for by the next
                if pause is None:
                    raise
            else:
                if as_json:
                    OUT.print_json(json.dumps(report.as_json()), indent=None)
                else:
                    OUT.print(
                        f"{report.devices_changed:,} devices changed, sessions of {len(report.dates_changed):,} dates "
                        f"stitched, {report.files_read:,} files read",
                        highlight=False,
                    )
            if pause is None:
                return
            time.sleep(pause / SECOND)
    except KeyboardInterrupt:
        return
