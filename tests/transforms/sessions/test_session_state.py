"""Ticks held against a plain walk over events that forgets nothing and knows no cells."""

import itertools
from dataclasses import replace
from typing import Any

import pyarrow as pa
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.durations import HOUR, MINUTE
from schemas.sessions import SESSION_PANE
from tests.transforms.sessions.session_scripts import at, batch, brute_force_sessions, click, rows_of
from tests.transforms.sessions.session_strategies import clicks, policies, scripts
from transforms.sessions.cells import CELL, cells_of
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.session_state import EMPTY, Kept, Marks, accept, expect, fire, idle, look_ahead, needs_cold
from transforms.sessions.sessions import panes_of_bounded


class Shard:
    """Drives the pure functions the way a runner does: batches in, the watermark forward, panes out."""

    def __init__(self, policy: SessionPolicy) -> None:
        self.policy = policy
        self.marks = Marks()
        self.pending: list[pa.Table] = []
        self.hot = EMPTY
        self.cold: list[Kept] = []
        self.panes: list[pa.Table] = [SESSION_PANE.empty()]
        self.late = self.too_late = self.cold_reads = 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        accepted = accept(cells_of(batch(rows), self.policy), self.marks, self.policy)
        self.late += accepted.late_events
        self.too_late += accepted.too_late_events
        self.marks = expect(accepted.cells, self.marks, self.policy)
        self.pending.append(accepted.cells)

    def advance(self, watermark: float) -> list[int]:
        ticks = []
        while self.marks.armed is not None and self.marks.armed <= watermark:
            ticks.append(self.marks.armed)
            self._tick(self.marks.armed)
        return ticks

    def _tick(self, tick: int) -> None:
        if self.marks.due is None or tick < self.marks.due:
            self.marks = idle(tick, self.marks, self.policy)
            return
        pending = pa.concat_tables([CELL.empty(), *self.pending])
        cold = None
        if needs_cold(tick, pending, self.marks):
            self.cold_reads += 1
            cold = Kept(*(pa.concat_tables(tables) for tables in zip(*self.cold, strict=True)))
        fired = fire(tick, pending, self.hot, cold, self.marks, self.policy)
        self.panes.append(fired.panes)
        self.pending, self.hot, self.marks = [fired.pending], fired.hot, fired.marks
        self.cold = [*(self.cold if fired.cold is None else [fired.cold]), fired.frozen]

    def all_panes(self) -> list[dict[str, Any]]:
        table = pa.concat_tables(self.panes)
        rows = rows_of(table, "pane_timing", "pane_index", "is_retraction", "fired_at")
        return sorted(rows, key=order_of_panes)


def order_of_panes(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["device_id"], row["session_start"], row["pane_index"]


class Walk:
    """The same rules in plain Python: every event kept for ever, every session found anew at every tick."""

    def __init__(self, policy: SessionPolicy) -> None:
        self.policy = policy
        self.events: list[dict[str, Any]] = []
        self.last: int | None = None
        self.told: dict[tuple[str, int], dict[str, Any]] = {}
        self.panes: list[dict[str, Any]] = []

    def slot(self, row: dict[str, Any]) -> int:
        return row["event_time"] - row["event_time"] % self.policy.cell

    def add(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            too_late = self.last is not None and (
                self.slot(row) < self.last - self.policy.allowed_lateness - self.policy.gap
            )
            if not too_late:
                self.events.append(row)

    def tick(self, tick: int) -> None:
        policy = self.policy
        shown = [row for row in self.events if self.slot(row) + policy.cell <= tick]
        now = {(s["device_id"], s["session_start"]): s for s in brute_force_sessions(shown, policy)}
        lost = [key for key, pane in self.told.items() if key not in now and not pane["is_retraction"]]
        firing = []
        for key, session in now.items():
            pane = self.told.get(key)
            fired = pane is not None and pane["pane_timing"] != "EARLY"
            changed = pane is None or pane["is_retraction"] or any(pane[name] != session[name] for name in session)
            inherited = [
                self.told[other]["pane_timing"] != "EARLY"
                for other in lost
                if other[0] == key[0]
                and session["session_start"] <= self.told[other]["session_end"]
                and session["session_end"] >= self.told[other]["session_start"]
            ]
            silent_at = session["session_end"] + policy.gap
            on_early_mark = policy.early_firing is not None and tick % policy.early_firing == 0
            if fired:
                timing = "LATE" if changed else None
            elif silent_at < tick:
                timing = "ON_TIME" if silent_at >= tick - policy.cell else "LATE"
            elif inherited:
                timing = "LATE" if any(inherited) else "EARLY"
            else:
                timing = "EARLY" if on_early_mark and changed else None
            if timing is not None:
                firing.append((key, session, timing, False))
        firing += [(key, self.told[key], "LATE", True) for key in lost]
        for key, session, timing, is_retraction in firing:
            pane = {
                **session,
                "pane_timing": timing,
                "pane_index": self.told[key]["pane_index"] + 1 if key in self.told else 0,
                "is_retraction": is_retraction,
                "fired_at": tick,
            }
            self.told[key] = pane
            self.panes.append(pane)
        self.last = tick

    def all_panes(self) -> list[dict[str, Any]]:
        return sorted(self.panes, key=order_of_panes)


@settings(max_examples=25)
@given(scripts(), policies())
def test_any_script_fires_the_panes_of_a_plain_walk(script, policy):
    shard, walk = Shard(policy), Walk(policy)
    for watermark, rows in script:
        for tick in shard.advance(watermark):
            walk.tick(tick)
        shard.add(rows)
        walk.add(rows)
    for tick in shard.advance(at(48)):
        walk.tick(tick)
    assert shard.all_panes() == walk.all_panes()
    assert shard.marks.armed is None


@settings(max_examples=20)
@given(clicks(12), policies(), st.integers(1, 4))
def test_on_time_events_in_any_bundles_fire_the_panes_of_the_closed_form(rows, policy, bundles):
    shard = Shard(policy)
    for n in range(bundles):
        shard.add(rows[n::bundles])
    shard.advance(at(48))
    bounded = panes_of_bounded(cells_of(batch(rows), policy), policy)
    expected = rows_of(bounded, "pane_timing", "pane_index", "is_retraction", "fired_at")
    assert shard.all_panes() == sorted(expected, key=order_of_panes)


@settings(max_examples=20)
@given(scripts(), policies(), st.randoms(use_true_random=False))
def test_any_order_and_bundling_of_accepted_events_ends_in_the_same_sessions(script, policy, random):
    policy = replace(policy, allowed_lateness=4 * HOUR)
    rows = [row for _, batch_of_rows in script for row in batch_of_rows]
    shard = Shard(policy)
    for watermark, batch_of_rows in script:
        shard.advance(watermark)
        random.shuffle(batch_of_rows)
        for row in batch_of_rows:
            shard.add([row])
    shard.advance(at(48))
    assume(shard.too_late == 0)
    assert final_sessions(shard.all_panes()) == brute_force_sessions(rows, policy)


def final_sessions(panes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sessions that stand once every pane is folded: the last of each, unless it withdraws it."""
    last = {(pane["device_id"], pane["session_start"]): pane for pane in sorted(panes, key=order_of_panes)}
    carried = ("pane_timing", "pane_index", "is_retraction", "fired_at")
    standing = (pane for _, pane in sorted(last.items()) if not pane["is_retraction"])
    return [{name: value for name, value in pane.items() if name not in carried} for pane in standing]


def test_device_that_never_pauses_is_kept_as_a_few_cells():
    policy = SessionPolicy(cap=None)
    shard = Shard(policy)
    most = 0
    for n in range(96):
        shard.add([click(at(minutes=10 * n))])
        shard.advance(at(minutes=10 * n))
        most = max(most, shard.hot.cells.num_rows)
    # the head, a cell every ten minutes of the ninety that an accepted event can still reach, and a third more
    assert most <= 15
    shard.advance(at(48))
    (pane,) = shard.all_panes()
    assert (pane["event_count"], pane["session_start"], pane["session_end"]) == (96, at(), at(minutes=950))


def test_silent_devices_are_not_read_again_until_an_old_event_comes():
    policy = SessionPolicy()
    shard = Shard(policy)
    shard.add([click(at(seconds=n), f"silent{n}") for n in range(50)])
    busy = [click(at(minutes=10 * n), "busy") for n in range(9)]
    shard.add(busy)
    shard.advance(at(minutes=60))
    assert (shard.cold_reads, shard.hot.cells.num_rows) == (0, 6)
    assert sum(kept.cells.num_rows for kept in shard.cold) == 50
    shard.add([click(at(minutes=20), "silent7")])
    shard.advance(at(minutes=65))
    assert shard.cold_reads == 1
    assert [pane["event_count"] for pane in shard.all_panes() if pane["device_id"] == "silent7"] == [1, 2]


def test_shard_that_fell_silent_keeps_nothing_and_stops_ticking():
    shard = Shard(SessionPolicy())
    shard.add([click(at(0)), click(at(3), "d2")])
    ticks = shard.advance(at(48))
    assert (shard.hot, shard.pending[0].num_rows, sum(kept.cells.num_rows for kept in shard.cold)) == (EMPTY, 0, 0)
    assert (shard.marks.armed, shard.marks.sweep) == (None, None)
    # the last session ends at 13:00, can be reached until 15:00 and is swept out within a gap
    assert ticks[-1] <= at(5, 35)


def test_shard_with_nothing_due_ticks_ever_more_seldom_and_misses_nothing():
    shard = Shard(SessionPolicy())
    shard.add([click(at(0))])
    ticks = shard.advance(at(48))
    # shown at 10:05 and closed at 10:35, the first tick after half an hour of silence
    assert {at(minutes=5), at(minutes=35)} < set(ticks)
    assert all(tick % (5 * MINUTE) == 0 for tick in ticks)
    idle = [tick for tick in ticks if tick > at(minutes=35)]
    steps = [later - earlier for earlier, later in itertools.pairwise(idle[:-1])]
    assert steps == [2 ** (n + 1) * 5 * MINUTE for n in range(len(steps))]
    assert len(ticks) < 15


def test_ticks_that_lie_behind_are_asked_for_together_and_each_once():
    policy = SessionPolicy()

    def ahead(newest: int, marks: Marks) -> tuple[list[int], Marks]:
        ticks, after = look_ahead(cells_of(batch([click(at(minutes=newest))]), policy), marks, policy)
        return [(tick - at(0)) // MINUTE for tick in ticks], after

    ticks, marks = ahead(600, Marks(last=at(minutes=5), armed=at(minutes=10)))
    assert ticks == list(range(15, 135, 5))
    assert ahead(600, marks._replace(armed=at(minutes=15)))[0] == [135]
    # no further than time has come, and nothing where it has not come further than the next tick
    assert ahead(22, Marks(last=at(minutes=5), armed=at(minutes=10)))[0] == [15, 20]
    waits = Marks(last=at(minutes=10), armed=at(minutes=15))
    assert ahead(12, waits) == ([], waits)


def test_event_far_ahead_waits_without_ticks():
    shard = Shard(SessionPolicy())
    shard.add([click(at(0))])
    shard.add([click(at(40))])
    assert len(shard.advance(at(40))) < 60
    assert len(shard.all_panes()) == 1


def test_id_that_comes_back_after_its_retraction_goes_on_counting_its_panes():
    policy = SessionPolicy(cap=HOUR, allowed_lateness=4 * HOUR)
    shard = Shard(policy)
    # 10:30 begins a session; then 10:25 takes it in; then 9:30 moves the cut to 10:30, and it begins there again
    for watermark, rows in (
        (at(minutes=65), [click(at(minutes=30))]),
        (at(minutes=70), [click(at(minutes=25))]),
        (at(minutes=75), [click(at(minutes=m)) for m in (-30, -10, 10)]),
    ):
        shard.add(rows)
        shard.advance(watermark)
    shard.advance(at(48))
    panes = [pane for pane in shard.all_panes() if pane["session_start"] == at(minutes=30)]
    assert [(pane["pane_index"], pane["is_retraction"]) for pane in panes] == [(0, False), (1, True), (2, False)]
