"""The command `cohort`: rows of one activity, joined with what the same customer did before, after or ever."""

import sys
from functools import partial
from typing import Annotated

import typer

from pipelines.commands.arguments import AsCsv, AsJson, Config, Lake, find_lake, form_of
from pipelines.options import Problems, known, parse_choice
from pipelines.terminal import OUT


def cohort(
    activity: Annotated[str, typer.Argument(help="The activity; each occurrence is a row.", show_default=False)],
    append: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ITEM", help="Columns to append: 'first_after click within 1h'. Repeatable.", show_default=False
        ),
    ] = None,
    occurrence: Annotated[
        str, typer.Option(metavar="WHICH", help="Occurrences to keep per customer: all, first, last, or a number ≥ 1.")
    ] = "all",
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Filter, such as feature_1=spring. Repeatable.", show_default=False),
    ] = None,
    columns: Annotated[
        str, typer.Option(metavar="NAMES", help="Columns of the activity itself, separated by commas.")
    ] = "activity_id,ts,customer,anonymous_customer_id",
    lake: Lake = None,
    config: Config = None,
    show_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL without running it.")] = False,
    dialect: Annotated[
        str, typer.Option(metavar="NAME", help="SQL dialect for --sql: duckdb, bigquery, snowflake or spark.")
    ] = "duckdb",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Relate activities: a row per occurrence of one, with what the customer did before, after, between or ever."""
    from transforms.relationships.cohort import DIALECTS, Cohort
    from transforms.relationships.phrases import parse_column, parse_condition, parse_item

    problems = Problems()
    problems.require(as_json + as_csv + show_sql <= 1, "give --json, --csv or --sql, one of them")
    problems.require(
        show_sql or dialect == "duckdb", "--dialect is for --sql: the lake itself is queried in DuckDB SQL"
    )
    problems.attempt("--dialect", lambda: parse_choice(dialect, DIALECTS))
    items = [problems.attempt("--append", partial(parse_item, text)) for text in append or ()]
    conditions = [problems.attempt("--where", partial(parse_condition, text)) for text in where or ()]
    uri = find_lake(problems, lake, config, needed=not show_sql)
    question = Cohort(
        activity,
        int(occurrence) if occurrence.isdecimal() else occurrence,
        tuple(condition for condition in conditions if condition is not None),
        tuple(map(parse_column, columns.split(","))),
        tuple(item for item in items if item is not None),
    )
    problems.found += question.problems()
    problems.raise_any()
    text = question.sql(dialect, ordered=True)  # type: ignore[arg-type]
    if show_sql:
        sys.stdout.write(text + "\n")
        return

    from pipelines.ask import show_rows
    from pipelines.unknown_names import warn_of_unknown_activities
    from stores.lake_sql import connect

    with connect(known(uri)) as connection:
        warn_of_unknown_activities(connection, [activity, *(item.activity for item in question.appended)])
        with connection.rows(text) as reader:
            show_rows(reader, form_of(as_json, as_csv), OUT)
