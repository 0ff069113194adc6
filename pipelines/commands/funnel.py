"""The command `funnel`: how many users or sessions reach each step of a sequence of activities."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import AsCsv, AsJson, Config, Lake, find_lake, form_of
from pipelines.options import Problems, known, parse_date
from pipelines.terminal import OUT
from schemas.durations import parse_duration


def funnel(
    steps: Annotated[list[str], typer.Argument(help="The activities in order.", show_default=False)],
    lake: Lake = None,
    config: Config = None,
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="Longest time from the first step to the last, such as 1h or 1d.")
    ] = "1d",
    per: Annotated[str, typer.Option(metavar="UNIT", help="What to count: user or session.")] = "user",
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="One funnel per value of this fact_sessions column, such as country.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Earliest date of the first step, UTC.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Latest date of the first step, UTC.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it to a .png, .svg or .pdf file.", show_default=False)
    ] = None,
    show_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL without running it.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Count the users or sessions that reach each step of a sequence of activities, and how long each step takes."""
    from transforms.activities.funnel import Funnel

    problems = Problems()
    problems.require(as_json + as_csv + show_sql <= 1, "give --json, --csv or --sql, one of them")
    micros = problems.attempt("--within", lambda: parse_duration(within))
    first = problems.attempt("--since", lambda: parse_date(since) if since else None)
    last = problems.attempt("--until", lambda: parse_date(until) if until else None)
    asked = Funnel(tuple(steps), micros or 1, per, by, first, last)
    query = problems.attempt("", asked.sql)
    if plot is not None:
        from pipelines.funnel_picture import check_picture

        problems.attempt("--plot", lambda: check_picture(plot))
    uri = find_lake(problems, lake, config, needed=not show_sql)
    problems.raise_any()
    if show_sql:
        sys.stdout.write(known(query))
        return

    from pipelines.ask import show_rows
    from pipelines.unknown_names import warn_of_unknown_activities
    from stores.lake_sql import connect

    with connect(known(uri)) as connection:
        warn_of_unknown_activities(connection, steps)
        with connection.rows(known(query)) as reader:
            table = reader.read_all()
    show_rows(table.to_reader(), form_of(as_json, as_csv), OUT)
    if plot is not None:
        from pipelines.funnel_picture import draw_funnel

        draw_funnel(table, asked, plot)
