"""The command `ask`: a question by its name."""

import sys
from typing import Annotated

import typer

from pipelines.commands.arguments import AsCsv, AsJson, Config, Lake, find_lake, form_of
from pipelines.options import Problems, known, parse_count, parse_date
from pipelines.terminal import OUT


def ask(
    name: Annotated[
        str | None, typer.Argument(help="The question's name. Without one, all are listed.", show_default=False)
    ] = None,
    lake: Lake = None,
    config: Config = None,
    days: Annotated[
        str, typer.Option(metavar="N", help="The last N dates: start dates of sessions, dates of activities.")
    ] = "7",
    as_of: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The last date. Else the last that has rows.", show_default=False),
    ] = None,
    show_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL, and do not run it.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Answer a named question about the numbered sessions, which sessions-dim makes, or about activities."""
    from pipelines.questions.catalogue import dates_asked, find_question, questions

    if name is None:
        for question in questions().values():
            OUT.print(f"[bold]{question.name}[/]", question.summary, highlight=False)
        return
    problems = Problems()
    problems.require(as_json + as_csv + show_sql <= 1, "give --json, --csv or --sql, one of them")
    asked = problems.attempt("", lambda: find_question(name))
    count = problems.attempt("--days", lambda: parse_count(days))
    last = problems.attempt("--as-of", lambda: parse_date(as_of) if as_of else None)
    uri = find_lake(problems, lake, config)
    problems.raise_any()
    sql = known(asked).sql(*dates_asked(known(uri), known(asked).table, known(count), last))
    if show_sql:
        sys.stdout.write(sql)
        return

    from pipelines.ask import show_query

    show_query(known(uri), sql, form_of(as_json, as_csv), OUT)
