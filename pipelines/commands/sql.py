"""The command `sql`: a question to the lake."""

import sys
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Lake
from pipelines.options import Problems, Stores, known
from pipelines.terminal import OUT


def sql(
    query: Annotated[str, typer.Argument(help="A SELECT over the lake's tables; - reads it from standard input.")],
    lake: Lake = None,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask the lake in DuckDB's SQL: each table is a view by its name, of its current rows."""
    problems = Problems()
    problems.require(not (as_json and as_csv), "give --json or --csv, not both")
    stores = problems.attempt("", lambda: Stores.find(lake, None, config))
    uri = problems.attempt("--lake", stores.need_lake) if stores else None
    problems.raise_any()

    from pipelines.ask import show_query

    form = "json" if as_json else "csv" if as_csv else "table"
    show_query(known(uri), sys.stdin.read() if query == "-" else query, form, OUT)
