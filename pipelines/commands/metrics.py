"""The command `metrics`: refresh daily_metrics from the fact tables."""

import json
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, CatalogueFile, Config, Every, Lake
from pipelines.options import Problems, Stores, known, parse_date
from pipelines.passes import repeat
from pipelines.terminal import OUT, configure_logging
from schemas.catalogue import load_catalogue
from schemas.durations import parse_duration


def metrics(
    lake: Lake = None,
    config: Config = None,
    catalogue: CatalogueFile = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Recompute every date from this one on, such as 2026-04-12. By default only the dates that changed.",
            show_default=False,
        ),
    ] = None,
    every: Every = None,
    as_json: AsJson = False,
) -> None:
    """Refresh daily_metrics for the dates whose facts have changed. The main job already does this by itself."""
    configure_logging(False)
    problems = Problems()
    stores = problems.attempt("", lambda: Stores.find(lake, None, config, catalogue))
    uri = problems.attempt("--lake", stores.need_lake) if stores else None
    event_types = problems.attempt("", lambda: load_catalogue(stores.catalogue)) if stores else None
    first = problems.attempt("--since", lambda: parse_date(since) if since else None)
    pause = problems.attempt("--every", lambda: parse_duration(every) if every else None)
    problems.raise_any()

    from stores.lake import check_exists
    from transforms.activities.daily_metrics import MetricRules
    from transforms.activities.refresh_daily_metrics import refresh_daily_metrics
    from transforms.background import processors
    from transforms.events.pages import PageRules

    check_exists(known(uri))
    rules = MetricRules.of(known(event_types), PageRules.load())

    def once() -> None:
        result = refresh_daily_metrics(known(uri), rules, first, threads=processors())
        if as_json:
            OUT.print_json(
                json.dumps({"dates_replaced": result.files_written, "rows": result.rows_written}), indent=None
            )
            return
        OUT.print(f"{result.files_written:,} dates replaced, {result.rows_written:,} rows", highlight=False)

    repeat(once, pause)
