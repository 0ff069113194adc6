from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.durations import MINUTE
from tests.transforms.session_scripts import at, batch, click
from tests.transforms.session_strategies import clicks
from transforms.cells import CELL, cells_of, fold_cells, merge_cells
from transforms.policy import SessionPolicy

POLICY = SessionPolicy()


def cells(rows):
    return cells_of(batch(rows), POLICY)


def test_no_events_give_no_cells():
    assert cells([]).equals(CELL.empty())
    assert merge_cells([]).equals(CELL.empty())


def test_events_of_one_slot_are_one_cell_and_the_boundary_begins_the_next():
    found = cells([click(at(0)), click(at(minutes=4, seconds=59, micros=999_999)), click(at(minutes=5))])
    assert found["slot"].to_pylist() == [at(0), at(minutes=5)]
    assert found["event_count"].to_pylist() == [2, 1]


def test_slot_of_a_time_before_the_epoch_begins_before_it():
    assert cells([click(-1)])["slot"].to_pylist() == [-5 * MINUTE]


@pytest.mark.parametrize("bundles", [[[0, 1, 2]], [[0], [1], [2]], [[2], [0, 1]], [[1], [2], [0]]])
def test_ties_in_time_are_decided_by_event_id_however_they_arrive(bundles):
    rows = [
        click(at(0), event_id="b", page_url="/b", country="DE"),
        click(at(0), event_id="a", page_url="/a"),
        click(at(0), event_id="c", page_url="/c", country="US"),
    ]
    (cell,) = merge_cells(cells([rows[n] for n in bundle]) for bundle in bundles).to_pylist()
    assert (cell["first_id"], cell["last_id"]) == ("a", "c")
    assert (cell["entry_page"], cell["exit_page"], cell["country"]) == ("/a", "/c", "DE")


def test_attribute_seen_at_the_first_event_does_not_repeat_its_time_and_id():
    rows = [click(at(0), country="US"), click(at(minutes=1), os="ios")]
    (cell,) = cells(rows).to_pylist()
    assert (cell["country"], cell["country_time"], cell["country_id"]) == ("US", None, None)
    assert (cell["os"], cell["os_time"], cell["os_id"]) == ("ios", at(minutes=1), rows[1]["event_id"])


def test_attribute_is_replaced_by_an_earlier_one_of_another_bundle():
    later = cells([click(at(minutes=2)), click(at(minutes=3), country="DE")])
    earlier = cells([click(at(minutes=1)), click(at(minutes=2, seconds=30), country="US")])
    assert merge_cells([later, earlier])["country"].to_pylist() == ["US"]


def test_money_beyond_eighteen_digits_is_summed_exactly():
    most = Decimal("99999999999999.9999")
    rows = [click(at(seconds=n), event_type="purchase", revenue=most) for n in range(30)]
    assert cells(rows)["revenue"].to_pylist() == [30 * most]


def test_folded_cells_keep_the_first_slot_and_add_up():
    found = cells([click(at(minutes=5 * n), page_url=f"/{n}") for n in range(4)])
    folded = fold_cells(found, found["slot"].to_numpy() != at(minutes=5)).to_pylist()
    assert [(cell["slot"], cell["event_count"]) for cell in folded] == [
        (at(0), 2),
        (at(minutes=10), 1),
        (at(minutes=15), 1),
    ]
    assert (folded[0]["entry_page"], folded[0]["exit_page"]) == ("/0", "/1")


@settings(deadline=None, max_examples=60)
@given(clicks(), st.randoms(use_true_random=False), st.integers(1, 6))
def test_partial_cells_merge_in_any_order_and_grouping_to_the_same(rows, random, bundles):
    whole = cells(rows)
    random.shuffle(rows)
    parts = [cells(rows[n::bundles]) for n in range(bundles)]
    random.shuffle(parts)
    half = len(parts) // 2
    assert merge_cells(parts).equals(whole)
    assert merge_cells([merge_cells(parts[half:]), merge_cells(parts[:half])]).equals(whole)
