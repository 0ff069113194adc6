"""The command `ask`: run a named question."""

import sys
from typing import Annotated

import typer

from pipelines.commands.arguments import AsCsv, AsJson, Config, Lake, find_lake, form_of
from pipelines.options import Problems, known, parse_count, parse_date
from pipelines.terminal import OUT


def ask(
    name: Annotated[
        str | None, typer.Argument(help="Name of the question. Omit it to list all questions.", show_default=False)
    ] = None,
    lake: Lake = None,
    config: Config = None,
    days: Annotated[
        str, typer.Option(metavar="N", help="Cover the last N dates (of session starts or of activities).")
    ] = "7",
    as_of: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Last date to cover. By default the last that has rows.", show_default=False),
    ] = None,
    show_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL without running it.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Answer a named question about activities, or about the numbered sessions that sessions-dim computes."""
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
