"""Fold session panes into the current state of each session."""

import numpy as np
import pyarrow as pa

from schemas.columns import codes
from schemas.sessions import FACT_SESSION, SESSION
from transforms.events.pages import with_page_keys
from transforms.runs import runs_of

SESSION_TIME = "session_start"
"""A time that is the same in all panes of a session, because the session's id is derived from it."""
PANE_ORDER = ("fired_at", "pane_index", "is_retraction")
"""Of the panes of one session, the one that sorts last is valid."""


def latest_panes(panes: pa.Table) -> pa.Table:
    """The last pane of each session, including retractions.

    Folding in parts gives the same result: ``latest(a + b) = latest(latest(a) + b)``.

    Args:
        panes: Rows of SESSION_PANE in any order.
    """
    panes = panes.combine_chunks()
    sessions, number = codes(panes.column("session_id"))
    if number == len(panes):
        return panes
    deciding = [panes.column(name).cast(pa.int64()).to_numpy() for name in reversed(PANE_ORDER)]
    order = np.lexsort((*deciding, sessions))
    return panes.take(order[runs_of(order, sessions).ends - 1])


def fold_panes(panes: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Fold panes into the current sessions and the withdrawn ones.

    Args:
        panes: Rows of SESSION_PANE in any order, any number per session.

    Returns:
        The existing sessions, rows of SESSION; and session_id and session_start of each withdrawn session.
    """
    last = latest_panes(panes)
    withdrawn = last.column("is_retraction")
    gone = last.filter(withdrawn).select([*SESSION.key, SESSION_TIME])
    return last.filter(pa.compute.invert(withdrawn)).select(SESSION.names).cast(SESSION.schema), gone


def fold_into_facts(panes: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Like `fold_panes`, but the sessions also have the keys of their pages: rows of FACT_SESSION."""
    sessions, gone = fold_panes(panes)
    keyed = with_page_keys(sessions, {"entry_page_key": "entry_page", "exit_page_key": "exit_page"})
    return keyed.cast(FACT_SESSION.schema), gone
