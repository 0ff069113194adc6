"""Names that a user wrote and a lake does not have: an answer about them is empty, and does not say why."""

from collections.abc import Iterable
from difflib import get_close_matches

from pipelines.terminal import print_warning
from schemas.user_stream import USER_STREAM
from stores.lake_sql import LakeConnection


def warn_of_unknown_activities(lake: LakeConnection, names: Iterable[str]) -> None:
    """Warn of each name that no activity in the lake has, in one line with the names near it.

    Raises:
        InputError: The lake has no user_stream.
    """
    warn_of_unknown(lake, "activity", names, f"SELECT DISTINCT activity FROM {USER_STREAM.name}")


def warn_of_unknown(lake: LakeConnection, kind: str, names: Iterable[str], there: str) -> None:
    """Warn of each name that the lake does not have, in one line with the names near it.

    Args:
        lake: The lake.
        kind: What the names are of, in the singular.
        names: As the user wrote them.
        there: A SELECT of one column, the names that there are.

    Raises:
        InputError: The SELECT cannot be run.
    """
    known = [name for (name,) in lake.sql(there).fetchall() if name is not None]
    for name in dict.fromkeys(names):
        if name not in known:
            near = ", ".join(map(repr, get_close_matches(name, known)))
            print_warning(f"the lake has no {kind} {name!r}" + (f", but {near}" if near else ""))
