"""The command `generate`: write synthetic traffic for trials."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson
from pipelines.options import Problems, known, parse_count, parse_share
from pipelines.terminal import OUT
from schemas.durations import parse_time


def generate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to; it must be empty or new.")],
    events: Annotated[
        str, typer.Option(metavar="N", help="Valid events; suffixes as in 100k or 5M are accepted.")
    ] = "100k",
    devices: Annotated[
        str | None, typer.Option(metavar="N", help="Devices. By default one per sixty events.", show_default=False)
    ] = None,
    days: Annotated[str, typer.Option(metavar="N", help="Days over which the events are spread.")] = "7",
    start: Annotated[str, typer.Option(metavar="DATE", help="First day, UTC.")] = "2026-04-12",
    late_share: Annotated[
        str, typer.Option(metavar="SHARE", help="Share of events that arrive minutes to hours late.")
    ] = "0.02",
    duplicate_share: Annotated[
        str, typer.Option(metavar="SHARE", help="Share of events that arrive more than once.")
    ] = "0.01",
    broken_share: Annotated[
        str, typer.Option(metavar="SHARE", help="Broken lines, as a share of the events.")
    ] = "0.001",
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same bytes.")] = 1,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="File format: jsonl, jsonl.gz or avro.")] = "jsonl",
    as_json: AsJson = False,
) -> None:
    """Generate realistic shop traffic, and the expected results in DIR/_truth."""
    from pipelines.generate import GenerateOptions
    from pipelines.generate import generate as write

    problems = Problems()
    count = problems.attempt("--events", lambda: parse_count(events))
    device_count = problems.attempt("--devices", lambda: parse_count(devices) if devices else None)
    day_count = problems.attempt("--days", lambda: parse_count(days))
    first = problems.attempt("--start", lambda: parse_time(start))
    late = problems.attempt("--late-share", lambda: parse_share(late_share))
    duplicate = problems.attempt("--duplicate-share", lambda: parse_share(duplicate_share))
    broken = problems.attempt("--broken-share", lambda: parse_share(broken_share))
    options = None
    if not problems.found:
        options = problems.attempt(
            "",
            lambda: GenerateOptions(
                events=known(count),
                out=out,
                devices=device_count,
                days=known(day_count),
                start=known(first),
                late_share=known(late),
                duplicate_share=known(duplicate),
                broken_share=known(broken),
                seed=seed,
                format=format,
            ),
        )
    problems.raise_any()
    summary = write(known(options))
    if as_json:
        figures = {
            "events": summary.events,
            "lines": summary.lines,
            "repeats": summary.repeats,
            "broken": summary.broken,
            "devices": summary.devices,
            "sessions": summary.sessions,
            "files": len(summary.files),
            "bytes": summary.size,
            "seconds": round(summary.seconds, 3),
            "truth": str(summary.truth),
        }
        OUT.print_json(json.dumps(figures))
        return
    rate = summary.events / summary.seconds
    OUT.print(
        f"{summary.lines:,} lines ({summary.events:,} events, {summary.repeats:,} of them again, "
        f"{summary.broken:,} broken) of {summary.devices:,} devices in {summary.sessions:,} sessions: "
        f"{len(summary.files)} files in {out}, {summary.seconds:.1f} s, {rate:,.0f} events/s",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
