"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
Every = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION", help="Go on, a pass each time this has gone by. Else one pass.", show_default=False
    ),
]
