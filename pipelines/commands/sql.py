"""The command `sql`: query the lake."""

import sys
from typing import Annotated

import typer

from pipelines.commands.arguments import AsCsv, AsJson, Config, Lake, find_lake, form_of
from pipelines.options import Problems, known
from pipelines.terminal import OUT


def sql(
    query: Annotated[str, typer.Argument(help="A SELECT over the lake's tables; - reads it from standard input.")],
    lake: Lake = None,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Query the lake in DuckDB SQL. Each table is a view of the same name over its current rows."""
    problems = Problems()
    problems.require(not (as_json and as_csv), "give --json or --csv, not both")
    uri = find_lake(problems, lake, config)
    problems.raise_any()

    from pipelines.ask import show_query

    text = sys.stdin.read() if query == "-" else query
    show_query(known(uri), text, form_of(as_json, as_csv), OUT)
