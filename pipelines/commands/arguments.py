"""Options that several commands share, and what becomes of them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.options import Problems, Stores

Lake = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="The lake's folder. Else CLICKSTREAM_LAKE, else the config file.",
        show_default=False,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="The device store: rocksdb:PATH, bigtable:…, cassandra:… Else CLICKSTREAM_DEVICES, else the config file.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file with lake, devices and catalogue. Else CLICKSTREAM_CONFIG, else ./clickstream.toml.",
        show_default=False,
    ),
]
CatalogueFile = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        metavar="FILE",
        help="Your event types, TOML. Else CLICKSTREAM_CATALOGUE, else the config file, else those that are shipped.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Every = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION", help="Go on, a pass each time this has gone by. Else one pass.", show_default=False
    ),
]


def find_lake(problems: Problems, lake: str | None, config: Path | None, *, needed: bool = True) -> str | None:
    """The lake that the options name, or the environment, or the config file; None where that is a problem.

    What is not needed may be missing; a config file that is wrong is a problem all the same.
    """
    stores = problems.attempt("", lambda: Stores.find(lake, None, config))
    return problems.attempt("--lake", stores.need_lake) if stores and needed else None


def form_of(as_json: bool, as_csv: bool) -> Literal["json", "csv", "table"]:
    """How rows are printed."""
    return "json" if as_json else "csv" if as_csv else "table"
