"""The questions by name, and their SQL for some dates."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from string import Template

from schemas.errors import OptionError, StoreError
from schemas.session_dimension import DIM_SESSIONS
from stores.lake import find_table, live_files

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Question:
    """A SELECT over the lake, for start dates yet to be said.

    Attributes:
        name: Its file's name.
        summary: Its first line: what it answers.
        text: The SQL, with ``$since`` and ``$until`` where the first and the last start date go.
    """

    name: str
    summary: str
    text: str

    def sql(self, since: date, until: date) -> str:
        """The SQL for these start dates, both included."""
        return Template(self.text).substitute(since=since.isoformat(), until=until.isoformat())


def questions() -> dict[str, Question]:
    """All questions by name, in order of their names."""
    return {path.stem: _read(path) for path in sorted(_FOLDER.glob("*.sql"))}


def find_question(name: str) -> Question:
    """A question by its name.

    Raises:
        OptionError: There is none of that name.
    """
    found = questions()
    if name not in found:
        raise OptionError(f"{name!r} is none of {', '.join(found)}")
    return found[name]


def dates_asked(lake: str, days: int, as_of: date | None) -> tuple[date, date]:
    """The first and the last of so many start dates.

    Args:
        lake: The lake's URI.
        days: Their number.
        as_of: The last; None for the last that has sessions.

    Raises:
        StoreError: There are no numbered sessions in the lake.
        OptionError: They would begin before the year 1.
    """
    table = find_table(lake, DIM_SESSIONS.name)
    built = sorted(str(day) for (day,) in live_files(table)) if table is not None else []
    if not built:
        raise StoreError(f"{DIM_SESSIONS.name}: there are no numbered sessions in {lake}; sessions-dim makes them")
    until = as_of or date.fromisoformat(built[-1])
    try:
        return until - timedelta(days=days - 1), until
    except OverflowError as error:
        raise OptionError(f"{days} days before {until} is before the year 1") from error


def _read(path: Path) -> Question:
    text = path.read_text(encoding="utf-8")
    return Question(path.stem, text.partition("\n")[0].removeprefix("-- "), text)
