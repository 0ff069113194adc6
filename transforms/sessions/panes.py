"""From the panes of sessions to their current state."""

import pyarrow as pa

from schemas.columns import to_polars
from schemas.sessions import FACT_SESSION, SESSION
from transforms.events.pages import with_page_keys

SESSION_TIME = "session_start"
"""A time that all rows of one session share, as the session's id is made of it."""
PANE_ORDER = ("fired_at", "pane_index", "is_retraction")
"""Of two panes of one session the one that sorts last holds."""


def latest_panes(panes: pa.Table) -> pa.Table:
    """The last pane of each session, retractions among them; rows ordered by session_id.

    Folding in parts gives the same: ``latest(a + b) = latest(latest(a) + b)``.

    Args:
        panes: Rows of SESSION_PANE in any order.
    """
    # Sorted are the columns that decide, and gathered the rows that are left
    frame = to_polars(panes.select(["session_id", *PANE_ORDER])).with_row_index("row")
    last = frame.sort("session_id", *PANE_ORDER).unique("session_id", keep="last", maintain_order=True)
    return panes.combine_chunks().take(last["row"].to_arrow())


def fold_panes(panes: pa.Table) -> tuple[pa.Table, pa.Table]:
    """What panes leave behind.

    Args:
        panes: Rows of SESSION_PANE in any order, any number of each session.

    Returns:
        The sessions that exist, rows of SESSION, and session_id and session_start of each that was withdrawn.
    """
    last = latest_panes(panes)
    withdrawn = last.column("is_retraction")
    gone = last.filter(withdrawn).select([*SESSION.key, SESSION_TIME])
    return last.filter(pa.compute.invert(withdrawn)).select(SESSION.names).cast(SESSION.schema), gone


def fold_into_facts(panes: pa.Table) -> tuple[pa.Table, pa.Table]:
    """As `fold_panes`, the sessions with the keys of their pages: rows of FACT_SESSION."""
    sessions, gone = fold_panes(panes)
    keyed = with_page_keys(sessions, {"entry_page_key": "entry_page", "exit_page_key": "exit_page"})
    return keyed.cast(FACT_SESSION.schema), gone
