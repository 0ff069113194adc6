"""Warnings about names that a lake does not have: a query for them is empty without saying why."""

from collections.abc import Iterable
from difflib import get_close_matches

from pipelines.terminal import print_warning
from schemas.user_stream import USER_STREAM
from stores.lake_sql import LakeConnection


def warn_of_unknown_activities(lake: LakeConnection, names: Iterable[str]) -> None:
    """Warn of each name that no activity in the lake has, in one line with similar names.

    Raises:
        InputError: The lake has no user_stream.
    """
    warn_of_unknown(lake, "activity", names, f"SELECT DISTINCT activity FROM {USER_STREAM.name}")


def warn_of_unknown(lake: LakeConnection, kind: str, names: Iterable[str], there: str) -> None:
    """Warn of each name that the lake does not have, in one line with similar names.

    Args:
        lake: The lake.
        kind: The kind of thing that the names stand for, in the singular.
        names: The names that the user wrote.
        there: A SELECT of one column, the existing names.

    Raises:
        InputError: The SELECT cannot be run.
    """
    known = [name for (name,) in lake.sql(there).fetchall() if name is not None]
    for name in dict.fromkeys(names):
        if name not in known:
            near = ", ".join(map(repr, get_close_matches(name, known)))
            print_warning(f"the lake has no {kind} {name!r}" + (f", but {near}" if near else ""))
