"""The command `catalogue`: which event types are declared, and which properties events have beyond them."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import AsCsv, AsJson, CatalogueFile, Config, Lake, find_lake, form_of
from pipelines.options import Problems, Stores, known
from pipelines.terminal import OUT
from schemas.catalogue import load_catalogue
from schemas.event_types import Catalogue

catalogue = typer.Typer(
    no_args_is_help=True, help="Check a catalogue of event types, show it, or report undeclared properties."
)


@catalogue.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="The file. By default the one that run would use.", show_default=False)
    ] = None,
    config: Config = None,
) -> None:
    """Check a catalogue and print each mistake with its line."""
    found = _load(file, config)
    properties = sum(len(event.properties) for event in found.events)
    OUT.print(f"{len(found.events):,} event types, {properties:,} properties: no mistakes", highlight=False)


@catalogue.command()
def show(
    event: Annotated[str | None, typer.Argument(help="An event type. By default all.", show_default=False)] = None,
    file: CatalogueFile = None,
    config: Config = None,
) -> None:
    """Print the declared event types as Markdown, with their silver columns and how each event is used."""
    from schemas.dictionary import event_dictionary

    found = _load(file, config)
    problems = Problems()
    problems.require(event is None or event in found.by_name, f"{event}: there is no such event type")
    problems.raise_any()
    for declared in found.events:
        if event in (None, declared.name):
            typer.echo(event_dictionary(declared))


@catalogue.command()
def report(
    lake: Lake = None,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List event properties that the catalogue does not declare, by the share of the type's events that have them."""
    problems = Problems()
    problems.require(not (as_json and as_csv), "give --json or --csv, not both")
    uri = find_lake(problems, lake, config)
    problems.raise_any()

    from pipelines.ask import show_query

    sql = resources.files("pipelines").joinpath("undeclared_properties.sql").read_text(encoding="utf-8")
    show_query(known(uri), sql, form_of(as_json, as_csv), OUT)


def _load(file: Path | None, config: Path | None) -> Catalogue:
    problems = Problems()
    stores = problems.attempt("", lambda: Stores.find(None, None, config, file))
    found = problems.attempt("", lambda: load_catalogue(known(stores).catalogue)) if stores else None
    problems.raise_any()
    return known(found)
