"""Options that several commands share, and how they are resolved."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.options import Problems, Stores

Lake = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Root folder of the lake. By default CLICKSTREAM_LAKE, then the config file.",
        show_default=False,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="The device store: rocksdb:PATH, bigtable:… or cassandra:… By default CLICKSTREAM_DEVICES, then the "
        "config file.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file that sets lake, devices and catalogue. By default CLICKSTREAM_CONFIG, then ./clickstream.toml.",
        show_default=False,
    ),
]
CatalogueFile = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        metavar="FILE",
        help="TOML file of your event types. By default CLICKSTREAM_CATALOGUE, then the config file, then the built-in "
        "catalogue.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Every = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION", help="Repeat, pausing this long after each pass. By default, run once.", show_default=False
    ),
]


def find_lake(problems: Problems, lake: str | None, config: Path | None, *, needed: bool = True) -> str | None:
    """The lake's URI from the option, the environment or the config file; None, with the problem noted, without one.

    With `needed` false no lake need be named, but an invalid config file is still a problem.
    """
    stores = problems.attempt("", lambda: Stores.find(lake, None, config))
    return problems.attempt("--lake", stores.need_lake) if stores and needed else None


def form_of(as_json: bool, as_csv: bool) -> Literal["json", "csv", "table"]:
    """The output format that the two switches select."""
    return "json" if as_json else "csv" if as_csv else "table"
