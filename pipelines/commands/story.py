"""The command `story`: show the choices made in an interactive story."""

from typing import Annotated

import typer

from pipelines.commands.arguments import AsCsv, AsJson, Config, Lake, find_lake, form_of
from pipelines.options import Problems, known
from pipelines.terminal import OUT


def story(
    episode: Annotated[
        str | None, typer.Argument(help="The episode. By default all are shown.", show_default=False)
    ] = None,
    lake: Lake = None,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show the viewings of a story's episodes, each with its path and one column per decision with the choice made."""
    problems = Problems()
    problems.require(not (as_json and as_csv), "give --json or --csv, not both")
    uri = find_lake(problems, lake, config)
    problems.raise_any()

    from pipelines.ask import show_rows
    from pipelines.story import snapshot_sql
    from pipelines.unknown_names import warn_of_unknown
    from stores.lake_sql import connect

    with connect(known(uri)) as connection:
        if episode is not None:
            warn_of_unknown(connection, "episode", [episode], "SELECT DISTINCT episode_id FROM story_activities")
        with connection.rows(snapshot_sql(connection, episode)) as reader:
            show_rows(reader, form_of(as_json, as_csv), OUT)
