"""Finds questions by name, and their SQL for a range of dates."""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from string import Template

from schemas.errors import OptionError, StoreError
from schemas.session_dimension import DIM_SESSIONS
from schemas.user_stream import USER_STREAM
from stores.lake import find_files
from stores.lake_files import date_of

_FOLDER = Path(__file__).parent
_DATES = re.compile(r"^-- dates: (\w+)$", re.MULTILINE)
_ROWS = {DIM_SESSIONS.name: "numbered sessions", USER_STREAM.name: "activities"}


@dataclass(frozen=True)
class Question:
    """A SELECT over the lake with a range of dates as parameters.

    Attributes:
        name: The file's name.
        summary: The file's first line: what the question answers.
        table: The table whose dates the range refers to, from a line ``-- dates: TABLE``; by default dim_sessions.
        text: The SQL, with ``$since`` and ``$until`` for the first and the last date.
    """

    name: str
    summary: str
    table: str
    text: str

    def sql(self, since: date, until: date) -> str:
        """The SQL for a range of dates, both inclusive."""
        return Template(self.text).substitute(since=since.isoformat(), until=until.isoformat())


def questions() -> dict[str, Question]:
    """All questions by name, in alphabetical order."""
    return {path.stem: _read(path) for path in sorted(_FOLDER.glob("*.sql"))}


def find_question(name: str) -> Question:
    """A question by its name.

    Raises:
        OptionError: There is no question of that name.
    """
    found = questions()
    if name not in found:
        raise OptionError(f"{name!r} is none of {', '.join(found)}")
    return found[name]


def dates_asked(lake: str, table: str, days: int, as_of: date | None) -> tuple[date, date]:
    """The first and the last of the `days` dates of a table up to `as_of`.

    Args:
        lake: The lake's URI.
        table: The table's name; it is partitioned by date.
        days: The number of dates.
        as_of: The last date; None for the last that has rows.

    Raises:
        StoreError: The table has no rows in the lake.
        OptionError: The dates would begin before the year 1.
    """
    built = sorted(map(date_of, find_files(lake, table)))
    if not built:
        hint = "; sessions-dim makes them" if table == DIM_SESSIONS.name else ""
        raise StoreError(f"{table}: there are no {_ROWS.get(table, 'rows')} in {lake}{hint}")
    until = as_of or built[-1]
    try:
        return until - timedelta(days=days - 1), until
    except OverflowError as error:
        raise OptionError(f"{days} days before {until} is before the year 1") from error


def _read(path: Path) -> Question:
    text = path.read_text(encoding="utf-8")
    table = _DATES.search(text)
    summary = text.partition("\n")[0].removeprefix("-- ")
    return Question(path.stem, summary, table[1] if table else DIM_SESSIONS.name, text)
