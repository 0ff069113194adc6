"""The columnar engine held against Beam's own session windows on the same scripts."""

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from schemas.durations import HOUR, MILLISECOND, MINUTE
from tests.transforms.sessions.session_scripts import at, click, run_script
from transforms.sessions import session_state
from transforms.sessions.beam_sessions import BeamSessions
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessionize import Sessionize

POLICY = SessionPolicy(cap=None)


def columnar(policy):
    return Sessionize(policy, shards=1)


@pytest.fixture(params=[columnar, BeamSessions], ids=["columnar", "beam"])
def run(request, tmp_path):
    """Runs a script on an engine; gives its panes in minutes after ten o'clock, each session's in order."""

    def run(script, policy=POLICY):
        rows, _ = run_script(tmp_path, script, request.param(policy))
        rows.sort(key=lambda row: (row["device_id"], row["session_start"], row["pane_index"]))
        return [
            (
                "retraction" if row["is_retraction"] else row["pane_timing"],
                row["pane_index"],
                (row["session_start"] - at()) / MINUTE,
                (row["session_end"] - at()) / MINUTE,
            )
            for row in rows
        ]

    return run


def test_on_time_events_fire_one_pane(run):
    on_time = [click(at(0)), click(at(minutes=12))]
    # 10:45 is past the last event + gap
    assert run([on_time, at(minutes=45)]) == [("ON_TIME", 0, 0, 12)]


def test_gap_of_exactly_thirty_minutes_continues_the_session(run):
    assert run([[click(at(0)), click(at(minutes=30))]]) == [("ON_TIME", 0, 0, 30)]


@pytest.mark.parametrize("more", [MILLISECOND, 1])
def test_gap_of_anything_more_starts_a_new_session(run, more):
    later = at(minutes=30, micros=more)
    assert [pane[:2] for pane in run([[click(at(0)), click(later)]])] == [("ON_TIME", 0)] * 2


def test_late_but_allowed_event_fires_the_session_again(run):
    on_time, late_but_allowed = [click(at(0)), click(at(minutes=12))], [click(at(minutes=7))]
    # 11:00 is past the close of the session and within its lateness
    assert run([on_time, at(1), late_but_allowed]) == [("ON_TIME", 0, 0, 12), ("LATE", 1, 0, 12)]


def test_late_event_with_a_session_of_its_own_fires_it(run):
    pacemaker, late_but_allowed = [click(at(2), "pacemaker")], [click(at(minutes=30))]
    # noon is past the close of a session at 10:30, by all of the lateness
    panes = run([pacemaker, at(2), late_but_allowed])
    assert [pane[2:] for pane in panes] == [(30, 30), (120, 120)]


def test_event_beyond_the_lateness_changes_no_session(run):
    pacemaker = [click(at(minutes=20 * n), "pacemaker") for n in range(7)]
    too_late = [click(at(minutes=29, seconds=59))]
    # noon is past the close of a session at 10:29:59 by more than the lateness
    assert run([pacemaker, at(2), too_late]) == [("ON_TIME", 0, 0, 120)]


def test_watermark_held_by_a_slow_device_makes_no_event_late(run):
    fast, slow = [click(at(minutes=m), "fast") for m in (0, 20, 40)], [click(at(minutes=5), "slow")]
    # the slow device's event is still under way: the watermark waits for it
    assert run([fast, at(minutes=5), slow, at(3)]) == [("ON_TIME", 0, 0, 40), ("ON_TIME", 0, 5, 5)]


def test_session_over_midnight_is_one(run):
    assert run([[click(at(13, 50)), click(at(14, 10))]]) == [("ON_TIME", 0, 830, 850)]


def test_no_lateness_refuses_what_comes_after_the_close(run):
    pacemaker, late = [click(at(minutes=40), "pacemaker")], [click(at(minutes=3))]
    # 10:40 is past the close of a session at 10:03 by more than nothing
    policy = SessionPolicy(cap=None, allowed_lateness=0)
    assert run([[click(at(0))], pacemaker, at(minutes=40), late], policy) == [
        ("ON_TIME", 0, 0, 0),
        ("ON_TIME", 0, 40, 40),
    ]


def standing(panes):
    """The sessions that stand once the panes of our engine are folded: the last of each unless it withdraws it."""
    last = {}
    for pane in sorted(panes, key=lambda pane: pane["pane_index"]):
        last[pane["session_id"]] = pane
    return contents(pane for pane in last.values() if not pane["is_retraction"])


def standing_in_beam(panes):
    """The same of Beam, which counts the panes of a merged window from 0 again and cannot withdraw a session.

    Its panes accumulate, so the last of an id has the most events; a session inside a larger one was merged into it.
    """
    last = {}
    for pane in sorted(panes, key=lambda pane: pane["event_count"]):
        last[pane["session_id"]] = pane
    return contents(
        one
        for one in last.values()
        if not any(
            other is not one
            and other["device_id"] == one["device_id"]
            and other["session_start"] <= one["session_start"]
            and one["session_end"] <= other["session_end"]
            for other in last.values()
        )
    )


def contents(panes):
    """What the sessions hold, without the panes that told of it."""
    carried = ("pane_timing", "pane_index", "is_retraction", "fired_at")
    rows = ({name: value for name, value in pane.items() if name not in carried} for pane in panes)
    return sorted(rows, key=lambda row: (row["device_id"], row["session_start"]))


def scripts():
    """Two devices of a few hours, some events late, beside a pacemaker that keeps our engine at Beam's time."""
    minutes = st.sampled_from([0, 1, 4, 5, 10, 15, 20, 25, 29, 30, 31, 35, 45])
    delays = st.sampled_from([-10, -10, -10, 5, 20, 45, 70, 100])
    moves = st.lists(st.tuples(st.sampled_from(["d1", "d1", "d2"]), minutes, delays), min_size=4, max_size=10)

    def arrange(moves):
        clock, arrivals = {}, {}
        for number, (device, silence, delay) in enumerate(moves):
            clock[device] = clock.get(device, 0) + silence
            watermark = max((clock[device] + delay) // 5 * 5, 0)
            row = click(at(minutes=clock[device]), device, f"{number:02d}", page_url=f"/{number}")
            arrivals.setdefault(watermark, []).append(row)
        # in every cell: a shard with nothing due ticks ever more seldom, and takes in what a tick would refuse
        pacemaker = [click(at(minutes=5 * n), "pacemaker") for n in range(-18, max(arrivals) // 5 + 2)]
        script = [pacemaker]
        for watermark, rows in sorted(arrivals.items()):
            script += [at(minutes=watermark), rows]
        return script

    return moves.map(arrange)


def stalled(error):
    """Whether the bundle-based runner found itself stalled, as it does in some scripts that re-open a session.

    It raises the error as a tuple, which Python refuses: what it meant is in the frame that raised.
    """
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    meant = getattr(trace.tb_frame.f_locals.get("update"), "exception", None)
    return isinstance(meant, tuple) and "pipeline stall" in str(meant[0])


@settings(
    deadline=None,
    max_examples=5,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(scripts(), st.sampled_from([0, 30 * MINUTE, HOUR]))
def test_any_script_ends_in_the_sessions_of_beam(tmp_path_factory, script, lateness):
    policy = SessionPolicy(cap=None, allowed_lateness=lateness)
    folder = tmp_path_factory.mktemp("panes")
    try:
        theirs, _ = run_script(folder, script, BeamSessions(policy))
    except TypeError as error:
        if not stalled(error):
            raise
        reject()
    ours, _ = run_script(folder, script, columnar(policy))
    assert standing(ours) == standing_in_beam(theirs)


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(scripts())
def test_cells_that_are_merged_before_the_tick_fire_the_same_panes(tmp_path_factory, script):
    policy = SessionPolicy(cap=2 * HOUR, early_firing=10 * MINUTE)
    folder = tmp_path_factory.mktemp("panes")
    at_the_tick, counted = run_script(folder, script, columnar(policy))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_state, "_MERGED_ROWS", 0)
        before, counted_before = run_script(folder, script, columnar(policy))
    assert in_order(before) == in_order(at_the_tick)
    assert counted_before == counted


def in_order(panes):
    return sorted(panes, key=lambda pane: (pane["device_id"], pane["session_start"], pane["pane_index"]))
