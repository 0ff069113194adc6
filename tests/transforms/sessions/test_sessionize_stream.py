"""Sessionize on a stream: each script names its events by their fate and says why the watermark moves."""

import pytest

from schemas.durations import HOUR, MINUTE
from tests.transforms.sessions.session_scripts import at, click, run_script
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessionize import Sessionize


@pytest.fixture
def run(tmp_path):
    """Runs a script; gives its panes in brief, in minutes after ten o'clock, and the counters."""

    def run(script, policy=SessionPolicy()):  # noqa: B008
        rows, counters = run_script(tmp_path, script, Sessionize(policy, shards=1))
        rows.sort(key=lambda row: (row["fired_at"], not row["is_retraction"], row["session_start"]))
        brief = [
            (
                (row["fired_at"] - at()) / MINUTE,
                "retraction" if row["is_retraction"] else row["pane_timing"],
                row["pane_index"],
                (row["session_start"] - at()) / MINUTE,
                (row["session_end"] - at()) / MINUTE,
                row["event_count"],
            )
            for row in rows
        ]
        return brief, counters

    return run


def test_on_time_events_fire_one_pane_when_the_gap_has_passed(run):
    on_time = [click(at(0)), click(at(minutes=12))]
    # 10:40 is within the gap after the last event, 10:45 is past it (10:42)
    panes, counters = run([on_time, at(minutes=40), at(minutes=45)])
    assert panes == [(45, "ON_TIME", 0, 0, 12, 2)]
    assert counters == {"panes_on_time": 1}


def test_gap_of_exactly_thirty_minutes_is_one_session_and_a_microsecond_more_two(run):
    exact = [click(at(0), "exact"), click(at(minutes=30), "exact")]
    more = [click(at(0), "more"), click(at(minutes=30, micros=1), "more")]
    panes, _ = run([exact + more])
    assert [pane[5] for pane in panes] == [1, 2, 1]


def test_late_but_allowed_event_fires_the_session_again(run):
    on_time, late_but_allowed = [click(at(0)), click(at(minutes=12))], [click(at(minutes=20))]
    # 10:45 closes the session; at 11:00 the late event comes, and is shown at the next tick
    panes, counters = run([on_time, at(minutes=45), at(1), late_but_allowed])
    # the session reaches to 10:50 now, which 11:05 is past
    assert panes == [(45, "ON_TIME", 0, 0, 12, 2), (65, "LATE", 1, 0, 20, 3)]
    assert counters == {"panes_on_time": 1, "panes_late": 1, "events_late": 1}


def test_late_event_that_reopens_a_session_fires_at_once(run):
    on_time, late_but_allowed = [click(at(0))], [click(at(minutes=28))]
    # 10:40 is past the gap after 10:00; the late event keeps the session open until 10:58
    panes, _ = run([on_time, at(minutes=40), late_but_allowed, at(minutes=45), at(2)])
    assert panes == [(35, "ON_TIME", 0, 0, 0, 1), (45, "LATE", 1, 0, 28, 2)]


def test_event_beyond_the_lateness_changes_no_session(run):
    pacemaker = [click(at(minutes=20 * n), "pacemaker") for n in range(8)]
    last_accepted, too_late = [click(at(minutes=30), "a")], [click(at(minutes=29, seconds=59), "b")]
    # noon less the lateness of an hour and the gap is 10:30, where the slot of the first begins
    panes, counters = run([pacemaker, at(2), last_accepted, too_late])
    assert [pane for pane in panes if pane[3] == 30] == [(125, "LATE", 0, 30, 30, 1)]
    assert counters["events_too_late"] == 1
    assert counters["events_late"] == 1


def test_late_event_that_bridges_two_sessions_leaves_one_and_retracts_the_other(run):
    first, second, bridge = [click(at(0))], [click(at(minutes=50))], [click(at(minutes=25))]
    # 11:25 closes both; the late event joins them under the id of the first
    panes, counters = run([first, second, at(minutes=85), bridge])
    assert panes == [
        (35, "ON_TIME", 0, 0, 0, 1),
        (85, "ON_TIME", 0, 50, 50, 1),
        (90, "retraction", 1, 50, 50, 1),
        (90, "LATE", 1, 0, 50, 3),
    ]
    assert counters["retractions"] == 1


def test_late_event_that_moves_a_start_gives_a_new_id_and_retracts_the_old(run):
    on_time, earlier = [click(at(minutes=20))], [click(at(minutes=2))]
    # 10:55 closes the session that began at 10:20
    panes, _ = run([on_time, at(minutes=55), earlier])
    assert panes == [
        (55, "ON_TIME", 0, 20, 20, 1),
        (60, "retraction", 1, 20, 20, 1),
        (60, "LATE", 0, 2, 20, 2),
    ]


def test_open_session_fires_early_on_the_marks_where_it_changed(run):
    policy = SessionPolicy(early_firing=10 * MINUTE)
    on_time = [click(at(minutes=m)) for m in (1, 7, 22)]
    panes, counters = run([on_time, at(2)], policy)
    # nothing changed between 10:10 and 10:20, so that mark is silent
    assert panes == [
        (10, "EARLY", 0, 1, 7, 2),
        (30, "EARLY", 1, 1, 22, 3),
        (55, "ON_TIME", 2, 1, 22, 3),
    ]
    assert counters == {"panes_early": 2, "panes_on_time": 1}


def test_session_over_midnight_is_cut_where_the_policy_says_so(run):
    on_time = [click(at(13, 50)), click(at(14, 10))]
    assert [pane[3:] for pane in run([on_time], SessionPolicy(cut_at_midnight=True))[0]] == [
        (830, 830, 1),
        (850, 850, 1),
    ]


def test_session_over_midnight_is_one_by_default(run):
    on_time = [click(at(13, 50)), click(at(14, 10))]
    assert [pane[3:] for pane in run([on_time])[0]] == [(830, 850, 2)]


def test_device_that_never_pauses_is_cut_at_each_cap(run):
    on_time = [click(at(minutes=20 * n)) for n in range(10)]
    panes, _ = run([on_time], SessionPolicy(cap=HOUR))
    assert panes == [
        (75, "ON_TIME", 0, 0, 40, 3),
        (135, "ON_TIME", 0, 60, 100, 3),
        (195, "ON_TIME", 0, 120, 160, 3),
        (215, "ON_TIME", 0, 180, 180, 1),
    ]


def test_watermark_held_by_a_slow_device_makes_no_event_late(run):
    fast = [[click(at(minutes=m), "fast")] for m in (0, 20, 40)]
    slow = [click(at(minutes=5), "slow")]
    # the slow device's event is still under way: the watermark waits at 10:05 for it
    panes, counters = run([*fast, at(minutes=5), slow, at(3)])
    assert panes == [(40, "ON_TIME", 0, 5, 5, 1), (75, "ON_TIME", 0, 0, 40, 3)]
    assert counters == {"panes_on_time": 2}


def test_events_of_one_session_in_many_bundles_fire_one_pane(run):
    panes, _ = run([[click(at(minutes=m))] for m in (12, 0, 7, 3, 9)])
    assert panes == [(45, "ON_TIME", 0, 0, 12, 5)]
