import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.durations import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from schemas.errors import OptionError
from transforms.sessions.policy import LONGEST_CELL, SessionPolicy


def test_defaults_are_thirty_minutes_four_hours_and_one_hour_on_a_grid_of_five_minutes():
    policy = SessionPolicy()
    assert (policy.gap, policy.cap, policy.allowed_lateness) == (30 * MINUTE, 4 * HOUR, HOUR)
    assert (policy.early_firing, policy.cut_at_midnight, policy.cell) == (None, False, 5 * MINUTE)


@pytest.mark.parametrize(
    ("options", "cell"),
    [
        ({"gap": 10 * SECOND}, 10 * SECOND),
        ({"gap": 7 * SECOND}, SECOND),
        ({"gap": 31 * MINUTE, "cap": None, "allowed_lateness": 0}, 31 * MINUTE // 8),
        ({"gap": 30 * MINUTE, "early_firing": 90 * SECOND}, 90 * SECOND),
        ({"gap": 7 * SECOND, "cap": None, "allowed_lateness": 0}, 7 * SECOND),
        ({"gap": 7 * SECOND, "cap": None, "allowed_lateness": 0, "cut_at_midnight": True}, SECOND),
    ],
)
def test_cell_is_the_longest_that_divides_every_duration(options, cell):
    assert SessionPolicy(**options).cell == cell


@given(
    gap=st.integers(1, 7200),
    cap=st.none() | st.integers(1, 30_000),
    lateness=st.integers(0, 7200),
    early=st.none() | st.integers(1, 3600),
    midnight=st.booleans(),
)
def test_any_whole_seconds_have_a_cell(gap, cap, lateness, early, midnight):
    cap, early = (None if length is None else length * SECOND for length in (cap, early))
    policy = SessionPolicy(gap * SECOND, cap, midnight, lateness * SECOND, early)
    assert MILLISECOND <= policy.cell <= min(policy.gap, LONGEST_CELL)
    for length in (policy.gap, cap or 0, policy.allowed_lateness, early or 0, DAY if midnight else 0):
        assert length % policy.cell == 0


def test_every_problem_is_named_at_once():
    with pytest.raises(OptionError) as caught:
        SessionPolicy(
            gap=7 * MINUTE, cap=61 * MINUTE, allowed_lateness=3 * MINUTE, early_firing=MINUTE, cell=5 * MINUTE
        )
    for name in ("gap", "cap", "allowed lateness", "early firing"):
        assert f"the {name} of" in str(caught.value)


def test_durations_below_zero_are_refused_together():
    with pytest.raises(OptionError) as caught:
        SessionPolicy(gap=0, cap=-1, allowed_lateness=-1, early_firing=0)
    assert str(caught.value).count(";") == 3


def test_gap_shorter_than_the_cell_is_refused():
    with pytest.raises(OptionError, match="at least the cell"):
        SessionPolicy(gap=MINUTE, cell=5 * MINUTE)


def test_gap_below_a_millisecond_is_refused():
    with pytest.raises(OptionError, match="whole milliseconds"):
        SessionPolicy(gap=1500)
