"""What panes leave behind, whatever their order."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from schemas.sessions import SESSION, SESSION_PANE
from tests.session_panes import pane, pane_table
from transforms.sessions.panes import fold_panes, latest_panes

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
Pane = tuple[str, int, bool]


def panes(rows: list[Pane]) -> pa.Table:
    """Panes of (session_id, pane_index, is_retraction); event_count tells them apart."""
    return pane_table(
        *(
            pane(session_id, index, event_count=index + 100, pane_timing="LATE", is_retraction=retraction)
            for session_id, index, retraction in rows
        )
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Pane], list[Pane]]:
    """Panes of a few sessions in order, and the same shuffled."""
    ordered = [
        (session_id, index, draw(st.booleans()))
        for session_id in draw(st.lists(st.sampled_from("abcdef"), unique=True))
        for index in range(draw(st.integers(1, 4)))
    ]
    return ordered, draw(st.permutations(ordered))


@given(histories(), st.integers(0, 24))
def test_any_order_and_any_cut_of_panes_leaves_the_same(history: tuple[list[Pane], list[Pane]], cut: int) -> None:
    ordered, shuffled = history
    last = {session_id: (index, retraction) for session_id, index, retraction in ordered}
    folded = latest_panes(pa.concat_tables([latest_panes(panes(shuffled[:cut])), panes(shuffled[cut:])]))
    for table in (panes(shuffled), folded):
        sessions, withdrawn = fold_panes(table)
        assert sessions.schema == SESSION.schema
        found = dict(zip(*(sessions.column(n).to_pylist() for n in ("session_id", "event_count")), strict=True))
        assert found == {s: index + 100 for s, (index, retraction) in last.items() if not retraction}
        assert sorted(withdrawn.column("session_id").to_pylist()) == sorted(
            s for s, (_, retraction) in last.items() if retraction
        )


def test_a_session_withdrawn_and_fired_again_exists() -> None:
    sessions, withdrawn = fold_panes(panes([("a", 2, False), ("a", 0, False), ("a", 1, True)]))
    assert (sessions.column("event_count").to_pylist(), withdrawn.num_rows) == ([102], 0)


def test_an_id_that_fires_anew_after_its_state_expired_is_told_by_its_tick() -> None:
    again = panes([("a", 0, False)])
    later = pa.array([NOON + timedelta(days=1)], SESSION_PANE.schema.field("fired_at").type)
    again = again.set_column(again.schema.get_field_index("fired_at"), SESSION_PANE.schema.field("fired_at"), later)
    sessions, _ = fold_panes(pa.concat_tables([again, panes([("a", 3, False)])]))
    assert sessions.column("pane_index").to_pylist() == [0]
