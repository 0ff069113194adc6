"""The command `compact`: merge the small files that a run leaves into larger ones."""

import json
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Every, Lake, find_lake
from pipelines.options import Problems, known
from pipelines.passes import repeat
from pipelines.terminal import OUT, configure_logging
from schemas.durations import HOUR, parse_duration


def compact(
    lake: Lake = None,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Also compact the closed hours of this raw log. By default only the lake.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    keep: Annotated[
        str,
        typer.Option(metavar="DURATION", help="How long to keep files that no table references; whole hours."),
    ] = "24h",
    every: Every = None,
    as_json: AsJson = False,
) -> None:
    """Merge small files and delete unreferenced ones. Safe beside running jobs and readers."""
    configure_logging(False)
    problems = Problems()
    uri = find_lake(problems, lake, config)
    kept = problems.attempt("--keep", lambda: parse_duration(keep))
    pause = problems.attempt("--every", lambda: parse_duration(every) if every else None)
    problems.require(kept is None or (kept >= HOUR and kept % HOUR == 0), "--keep: whole hours, at least 1h")
    problems.raise_any()

    from pipelines.compact import compact_stores

    def once() -> None:
        report = compact_stores(known(uri), archive, known(kept))
        if as_json:
            OUT.print_json(json.dumps(report.as_json()), indent=None)
            return
        merged = sum(table["merged"] for table in report.tables.values())
        written = sum(table["written"] for table in report.tables.values())
        line = f"lake: {merged:,} files into {written:,}, {report.deleted:,} deleted"
        if report.busy:
            line += f"; busy: {', '.join(report.busy)}"
        if report.archive:
            line += f"; raw log: {report.archive['merged']:,} files into {report.archive['written']:,}"
        OUT.print(line, highlight=False)

    repeat(once, pause)
