"""Sessions made right from the lake's events: any split of a history into runs ends in the sessions of one run."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.columns import to_polars
from schemas.durations import DAY, HOUR, MINUTE
from schemas.events import EVENT_BATCH
from schemas.sessions import SESSION
from tests.transforms.sessions.session_scripts import at, batch, brute_force_sessions, click, rows_of
from tests.transforms.sessions.session_strategies import policies
from transforms.runs import Integers
from transforms.sessions.cells import cells_of
from transforms.sessions.event_hours import EventHours, dates_of
from transforms.sessions.panes import fold_panes
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.revision import TOUCHED, Revised, Scope, revise, touched_slots

FEW = settings(max_examples=40)
"""Each example is several runs over a history of days."""

Rows = list[dict[str, Any]]
NO_DAYS = np.empty(0, np.int64)


class Lake:
    """A lake in memory: events, and the sessions that revisions have left."""

    def __init__(self, policy: SessionPolicy, reach: int = 0) -> None:
        self.policy, self.reach = policy, reach
        self.events, self.sessions = EVENT_BATCH.empty(), SESSION.empty()
        self.reads = 0

    def add(self, rows: Rows) -> pa.Table:
        """Store the events that are not there yet; returns the table of all rows."""
        arriving = batch(rows)
        known = set(self.events["event_id"].to_pylist())
        fresh = [row["event_id"] not in known for row in rows]
        self.events = pa.concat_tables([self.events, arriving.filter(pa.array(fresh, pa.bool_()))])
        return arriving

    def run(self, rows: Rows) -> Revised:
        """A run over some events: they are stored, and what they touch is made right."""
        arriving = self.add(rows)
        hours = pc.cast(arriving["event_time"], pa.int64()).to_numpy() // HOUR
        return self.revise(Scope(touched_slots(arriving, self.policy), NO_DAYS), hours.tolist())

    def rebuild(self, first: date, last: date, settled_before: int | None = None) -> Revised:
        """A rebuild of some dates."""
        days = np.arange(first.toordinal(), last.toordinal() + 1) - date(1970, 1, 1).toordinal()
        hours = [int(day) * 24 + hour for day in days for hour in range(24)]
        return self.revise(Scope(TOUCHED.empty_table(), days, settled_before), hours)

    def revise(self, scope: Scope, around: list[int]) -> Revised:
        dates = set(self.events["event_date"].to_pylist()) | set(self.sessions["start_date"].to_pylist())
        hours = EventHours.around(around, dates, self.reach)
        cells, sessions = self._read(hours.read, dates_of(hours.read))
        found = revise(cells, sessions, scope, hours, self._read_more, self.policy)
        assert set(found.changes["session_id"].to_pylist()).isdisjoint(found.kept["session_id"].to_pylist())
        self.store(found)
        return found

    def store(self, found: Revised) -> None:
        sessions, gone = fold_panes(pa.concat_tables([found.changes, found.kept]))
        leaving = pa.concat_tables([sessions.select(["session_id"]), gone.select(["session_id"])])[
            "session_id"
        ].combine_chunks()
        stay = self.sessions.filter(pc.invert(pc.is_in(self.sessions["session_id"], leaving)))
        self.sessions = pa.concat_tables([stay, sessions])

    def _read(self, hours: Integers, dates: list[date]) -> tuple[pa.Table, pa.Table]:
        times = pc.cast(self.events["event_time"], pa.int64()).to_numpy()
        cells = cells_of(self.events.filter(pa.array(np.isin(times // HOUR, hours))), self.policy)
        return cells, self.sessions.filter(pc.is_in(self.sessions["start_date"], pa.array(dates, pa.date32())))

    def _read_more(self, hours: EventHours, more: Integers, devices: pa.Array) -> tuple[pa.Table, pa.Table]:
        self.reads += 1
        cells, sessions = self._read(more, sorted(set(dates_of(more)) - set(dates_of(hours.read))))
        return tuple(table.filter(pc.is_in(table["device_id"], devices)) for table in (cells, sessions))  # type: ignore[return-value]


def histories() -> st.SearchStrategy[Rows]:
    """Events of two devices over days: bursts, silences of about the gap, stretches that never pause, days apart."""
    silences = st.sampled_from(
        [0, 1, 4 * MINUTE, 20 * MINUTE, 25 * MINUTE, 30 * MINUTE, 31 * MINUTE, 7 * HOUR, 3 * DAY]
    )
    steps = st.tuples(st.sampled_from(["d1", "d1", "d2"]), silences, st.sampled_from([1, 1, 1, 5, 20]))

    def build(moves: list[tuple[str, int, int]]) -> Rows:
        clock = dict.fromkeys(("d1", "d2"), at(hours=10))
        rows: Rows = []
        for device, silence, times in moves:
            for _ in range(times):
                clock[device] += silence if times == 1 else 29 * MINUTE
                rows.append(click(clock[device], device, f"{len(rows):04d}", page_url=f"/{len(rows)}"))
        return rows

    return st.lists(steps, min_size=1, max_size=25).map(build)


@FEW
@given(data=st.data(), rows=histories(), policy=policies(), reach=st.sampled_from([0, 2 * HOUR, DAY]))
def test_any_split_in_any_order_ends_in_the_sessions_of_brute_force_sessions(
    data: st.DataObject, rows: Rows, policy: SessionPolicy, reach: int
) -> None:
    pieces = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)), "piece of each event")
    copies = st.lists(st.sampled_from(rows), max_size=5, unique_by=lambda row: row["event_id"])
    again = data.draw(copies, "events that come twice")
    lake = Lake(policy, reach)
    for number in data.draw(st.permutations(range(4)), "order"):
        piece = [row for row, of in zip(rows, pieces, strict=True) if of == number]
        lake.run([*piece, *(row for row in again if row not in piece)] if number else piece)
    assert rows_of(lake.sessions) == brute_force_sessions(rows, policy)


@FEW
@given(rows=histories(), policy=policies(), data=st.data())
def test_rebuild_takes_in_what_no_session_had_and_a_second_changes_nothing(
    rows: Rows, policy: SessionPolicy, data: st.DataObject
) -> None:
    lake = Lake(policy)
    in_time = data.draw(st.lists(st.sampled_from(rows), unique_by=lambda row: row["event_id"]), "in time")
    lake.run(in_time)
    lake.add(rows)
    dates = sorted(lake.events["event_date"].to_pylist())
    lake.rebuild(dates[0], dates[-1])
    assert rows_of(lake.sessions) == brute_force_sessions(rows, policy)
    before = lake.sessions
    assert lake.rebuild(dates[0], dates[-1]).changes.num_rows == 0
    assert lake.sessions.sort_by("session_id").equals(before.sort_by("session_id"))


@FEW
@given(rows=histories(), policy=policies(), data=st.data())
def test_rebuild_of_one_date_makes_right_all_that_reaches_into_it(
    rows: Rows, policy: SessionPolicy, data: st.DataObject
) -> None:
    lake = Lake(policy)
    lake.add(rows)
    day = data.draw(st.sampled_from(sorted(set(lake.events["event_date"].to_pylist()))))
    lake.rebuild(day, day)
    whole = Lake(policy)
    whole.run(rows)
    inside = (pl.col("start_date") <= day) & (pl.col("end_date") >= day)
    columns = ["session_id", "session_end", "event_count", "cut_reason"]
    expected = to_polars(whole.sessions).filter(inside).select(columns).sort("session_id")
    found = to_polars(lake.sessions).filter(inside).select(columns).sort("session_id")
    assert found.equals(expected)


@FEW
@given(rows=histories(), policy=policies(), data=st.data())
def test_sessions_of_events_that_are_gone_are_withdrawn(rows: Rows, policy: SessionPolicy, data: st.DataObject) -> None:
    lake = Lake(policy)
    lake.run(rows)
    dates = sorted(lake.events["event_date"].to_pylist())
    stays = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    lake.events = lake.events.filter(pa.array(stays, pa.bool_()))
    lake.rebuild(dates[0], dates[-1])
    assert rows_of(lake.sessions) == brute_force_sessions(
        [row for row, there in zip(rows, stays, strict=True) if there], policy
    )


def test_chain_that_never_pauses_is_read_back_to_its_start_in_few_steps() -> None:
    policy = SessionPolicy()
    day = timedelta(days=1)
    rows = [click(at(minutes=20 * number)) for number in range(3 * 24 * 40)]
    lake = Lake(policy)
    lake.run(rows[:-1])
    lake.reads = 0
    lake.run(rows[-1:])
    assert 1 < lake.reads <= 7
    assert rows_of(lake.sessions) == brute_force_sessions(rows, policy)
    last = lake.events["event_date"].to_pylist()[-1]
    assert lake.rebuild(last - day, last).changes.num_rows == 0


def test_pane_of_a_revised_session_is_newer_than_any_of_its_chain() -> None:
    lake = Lake(SessionPolicy(early_firing=5 * MINUTE))
    lake.run([click(at(minutes=minute), event_id=f"{minute}") for minute in (20, 40)])
    (before,) = lake.sessions["pane_index"].to_pylist()
    assert before > 0
    found = lake.run([click(at(minutes=5), event_id="5")])
    panes = sorted((row["is_retraction"], row["pane_index"], row["pane_timing"]) for row in found.changes.to_pylist())
    assert panes == [(False, before + 1, "LATE"), (True, before + 1, "LATE")]


def test_events_in_silence_fire_the_panes_of_a_single_run() -> None:
    policy = SessionPolicy(early_firing=5 * MINUTE)
    rows = [click(at(minutes=minute)) for minute in (0, 12, 300, 310)]
    both, one = Lake(policy), Lake(policy)
    both.run(rows[:2])
    both.run(rows[2:])
    one.run(rows)
    assert both.sessions.sort_by("session_id").equals(one.sessions.sort_by("session_id"))


def test_unsettled_sessions_are_left_to_the_live_run() -> None:
    lake = Lake(SessionPolicy())
    lake.add([click(at()), click(at(hours=5))])
    day = lake.events["event_date"].to_pylist()[0]
    lake.rebuild(day, day, settled_before=at(hours=5))
    assert [row["session_start"] for row in rows_of(lake.sessions)] == [at()]


def test_untouched_devices_are_not_looked_at() -> None:
    lake = Lake(SessionPolicy())
    lake.add([click(at(), "wrong")])
    found = lake.run([click(at(), "right")])
    assert found.changes["device_id"].unique().to_pylist() == ["right"]


def test_nothing_in_scope_gives_no_panes() -> None:
    found = Lake(SessionPolicy()).revise(Scope(TOUCHED.empty_table(), NO_DAYS), [])
    assert (found.changes.num_rows, found.kept.num_rows) == (0, 0)
