import random

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from runners.beam_options import parse_beam_options
from schemas.durations import MINUTE, SECOND
from schemas.errors import OptionError
from schemas.sessions import SESSION_PANE
from tests.transforms.sessions.session_scripts import (
    KeepTables,
    at,
    batch,
    brute_force_sessions,
    click,
    kept_tables,
    rows_of,
)
from transforms.metrics import read_counters
from transforms.sessions.beam_sessions import BeamSessions
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessionize import Sessionize


@pytest.fixture
def run(tmp_path):
    """Runs some batches; gives the panes as one table, and the counters."""

    def run(batches, policy, sessions=None):
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
        panes = pipeline | beam.Create(batches, reshuffle=False) | (sessions or Sessionize(policy, shards=3))
        _ = panes | KeepTables(str(tmp_path))
        result = pipeline.run()
        result.wait_until_finish()
        return kept_tables(tmp_path, SESSION_PANE.schema), read_counters(result.metrics())

    return run


def test_bounded_input_in_any_batches_gives_each_session_on_time_once(run):
    policy = SessionPolicy()
    rows = [click(at(minutes=m), f"d{device}") for device in range(7) for m in (0, 11, 29, 100, 400)]
    random.Random(1).shuffle(rows)
    panes, counters = run([batch(rows[n::4]) for n in range(4)], policy)
    assert rows_of(panes) == brute_force_sessions(rows, policy)
    assert set(panes["pane_timing"].to_pylist()) == {"ON_TIME"}
    assert counters == {"panes_on_time": 21}


def test_bounded_input_with_early_firing_counts_both_kinds_of_pane(run):
    policy = SessionPolicy(early_firing=5 * MINUTE)
    panes, counters = run([batch([click(at(0)), click(at(minutes=7))])], policy)
    assert rows_of(panes, "pane_timing", "pane_index")[-1]["pane_index"] == 2
    assert counters == {"panes_early": 2, "panes_on_time": 1}


# 1.001 and 8.001 seconds are no binary fractions: as floats they are cut off to a millisecond less
@pytest.mark.parametrize("gap", [SECOND, 8 * SECOND])
def test_beam_engine_continues_a_session_at_exactly_the_gap_in_a_runner_of_milliseconds(run, gap):
    policy = SessionPolicy(gap=gap, cap=None)
    rows = [click(at(micros=n * gap + n // 3), event_id=f"e{n}") for n in range(6)]
    panes, _ = run([batch(rows)], policy, BeamSessions(policy))
    assert [row["event_count"] for row in rows_of(panes)] == [3, 3]


def test_empty_batch_gives_nothing(run):
    panes, _ = run([batch([])], SessionPolicy())
    assert panes.num_rows == 0


def test_no_shards_is_refused():
    with pytest.raises(OptionError, match="shards"):
        Sessionize(SessionPolicy(), shards=0)
