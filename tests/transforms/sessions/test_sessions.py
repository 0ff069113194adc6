from decimal import Decimal

import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.durations import HOUR, MINUTE
from schemas.keys import session_ids
from tests.transforms.sessions.session_scripts import at, batch, brute_force_sessions, click, rows_of
from tests.transforms.sessions.session_strategies import clicks, policies
from transforms.sessions.cells import CELL, cells_of, merge_cells
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessions import chain, last_panes_of_bounded, panes_of_bounded

POLICY = SessionPolicy()


def sessions(rows, policy=POLICY):
    return chain(merge_cells([cells_of(batch(rows), policy)]), policy)


def spans(rows, policy=POLICY):
    return [(row["session_start"], row["session_end"], row["cut_reason"]) for row in rows_of(sessions(rows, policy))]


def test_no_cells_gives_no_sessions():
    assert chain(CELL.empty(), POLICY).num_rows == 0
    assert panes_of_bounded(CELL.empty(), POLICY).num_rows == 0


def test_gap_of_exactly_thirty_minutes_continues_the_session():
    assert spans([click(at(0)), click(at(minutes=30))]) == [(at(0), at(minutes=30), None)]


def test_gap_of_a_microsecond_more_starts_a_new_session():
    later = at(minutes=30, micros=1)
    assert spans([click(at(0)), click(later)]) == [(at(0), at(0), None), (later, later, None)]


def test_same_time_on_two_devices_gives_two_sessions():
    assert len(spans([click(at(0), "d1"), click(at(0), "d2")])) == 2


def test_session_that_reaches_its_cap_is_cut_at_the_boundary_after_it():
    # started 10:02, capped at 14:02, cut at 14:05
    rows = [click(at(minutes=2 + 20 * n)) for n in range(12)]
    last_inside, first_after = click(at(4, 4, 59, 999_999)), click(at(4, 5))
    assert spans([*rows, last_inside, first_after]) == [
        (at(minutes=2), at(4, 4, 59, 999_999), "cap"),
        (at(4, 5), at(4, 5), None),
    ]


def test_session_that_falls_silent_before_the_next_event_past_its_cap_is_not_cut():
    rows = [click(at(minutes=20 * n)) for n in range(12)]
    assert [reason for _, _, reason in spans([*rows, click(at(4, 11))])] == [None, None]


def test_chain_of_many_caps_is_cut_each_time_from_the_new_start():
    policy = SessionPolicy(cap=HOUR)
    rows = [click(at(minutes=7 * n)) for n in range(40)]
    found = spans(rows, policy)
    assert [start for start, _, _ in found] == [at(minutes=n) for n in (0, 63, 126, 196, 266)]
    assert [reason for _, _, reason in found] == ["cap"] * 4 + [None]


def test_session_over_midnight_is_one_unless_the_policy_cuts_it():
    rows = [click(at(13, 50)), click(at(14, 10))]
    (whole,) = sessions(rows).to_pylist()
    assert (str(whole["start_date"]), str(whole["end_date"])) == ("2026-04-12", "2026-04-13")
    assert spans(rows, SessionPolicy(cut_at_midnight=True)) == [
        (at(13, 50), at(13, 50), "midnight"),
        (at(14, 10), at(14, 10), None),
    ]


def test_attributes_are_the_first_known_ones_and_pages_the_ends():
    rows = [
        click(at(0), country=None, page_url=None, os="ios"),
        click(at(minutes=1), country="US", page_url="/a", user_key="u1", os="android"),
        click(at(minutes=6), country="DE", page_url="/b", user_key="u2"),
        click(at(minutes=7), event_type="purchase", revenue=Decimal("19.9900")),
        click(at(minutes=8), event_type="purchase", revenue=Decimal("0.0100"), page_url=None),
    ]
    (row,) = sessions(rows).to_pylist()
    assert (row["country"], row["os"], row["user_key"]) == ("US", "ios", "u2")
    assert (row["entry_page"], row["exit_page"]) == ("/a", "/b")
    assert (row["event_count"], row["page_view_count"], row["had_purchase"]) == (5, 3, True)
    assert row["revenue"] == Decimal("20.0000")
    assert row["duration_secs"] == 480.0


def test_session_without_purchase_has_revenue_of_zero_not_null():
    (row,) = sessions([click(at(0))]).to_pylist()
    assert (row["revenue"], row["had_purchase"], row["cut_reason"]) == (Decimal("0.0000"), False, None)


def test_revenue_beyond_the_column_is_held_at_its_limit():
    most = Decimal("99999999999999.9999")
    rows = [click(at(seconds=n), event_type="purchase", revenue=most) for n in range(20)]
    (row,) = sessions(rows).to_pylist()
    assert row["revenue"] == most


def test_session_id_is_that_of_its_device_and_start():
    found = sessions([click(at(0)), click(at(2))])
    assert found["session_id"].to_pylist() == session_ids(found["device_id"], found["session_start"]).to_pylist()


@given(clicks(), policies())
def test_any_events_give_the_sessions_of_brute_force(rows, policy):
    assert rows_of(sessions(rows, policy)) == brute_force_sessions(rows, policy)


@given(clicks(), policies(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_order_and_bundling_gives_the_same_sessions(rows, policy, random, bundles):
    shuffled = random.sample(rows, len(rows))
    parts = [cells_of(batch(shuffled[n::bundles]), policy) for n in range(bundles)]
    assert chain(merge_cells(parts), policy).equals(sessions(rows, policy))


@pytest.mark.parametrize("early", [None, 5 * MINUTE])
def test_bounded_panes_end_with_one_on_time_pane_a_session(early):
    policy = SessionPolicy(early_firing=early)
    rows = [click(at(minutes=12 * n)) for n in range(3)] + [click(at(3))]
    panes = panes_of_bounded(cells_of(batch(rows), policy), policy).to_pylist()
    on_time = [
        (pane["pane_index"], pane["fired_at"].strftime("%H:%M")) for pane in panes if pane["pane_timing"] == "ON_TIME"
    ]
    assert on_time == ([(0, "10:55"), (0, "13:35")] if early is None else [(3, "10:55"), (1, "13:35")])
    assert [pane["fired_at"].strftime("%H:%M") for pane in panes if pane["pane_timing"] == "EARLY"] == (
        [] if early is None else ["10:05", "10:15", "10:25", "13:05"]
    )


@given(clicks(), policies())
def test_last_panes_of_a_bounded_input_are_its_on_time_panes(rows, policy):
    cells = merge_cells([cells_of(batch(rows), policy)])
    panes = panes_of_bounded(cells, policy)
    early, on_time = (panes.filter(pc.equal(panes["pane_timing"], timing)) for timing in ("EARLY", "ON_TIME"))
    last, number_of_early = last_panes_of_bounded(cells, policy)
    assert last.equals(on_time)
    assert number_of_early == len(early)
