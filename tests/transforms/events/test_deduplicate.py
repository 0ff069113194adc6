from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from deltalake.transaction import Transaction

from runners.beam_options import parse_beam_options
from schemas.durations import MINUTE
from schemas.errors import OptionError
from schemas.events import EVENT_BATCH, FACT_EVENT
from stores.lake import table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files
from transforms.events.deduplicate import Deduplicate
from transforms.events.write_events import fact_events
from transforms.metrics import read_counters
from transforms.tables import TableCoder, at_earliest

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
NOON_US = (NOON - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def copy(event_id: str, minute: int = 0, device_id: str = "phone", **columns: Any) -> dict[str, Any]:
    """A copy of an event that happened some minutes after noon."""
    time = NOON + timedelta(minutes=minute)
    return {
        "event_id": event_id,
        "event_type": "page_view",
        "event_time": time,
        "event_date": time.date(),
        "client_time": time,
        "arrival_time": time,
        "device_id": device_id,
        "source": "topic",
        "partition": 0,
        "offset": 0,
    } | columns


def batch(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=EVENT_BATCH.schema)


def deduplicate(shards: int = 3, lake: str | None = None, **rules: int) -> Deduplicate:
    usual = {"gap": 30 * MINUTE, "allowed_lateness": 80 * MINUTE, "tick": 5 * MINUTE}
    return Deduplicate(shards=shards, lake=lake, **(usual | rules))


def identities(table: pa.Table, time: Any = beam.DoFn.TimestampParam) -> Iterable[tuple[Any, ...]]:
    """What a table carries and the timestamp it carries it under, in minutes after noon."""
    minute = (time.micros - NOON_US) / MINUTE
    ids = zip(table.column("device_id").to_pylist(), table.column("event_id").to_pylist(), strict=True)
    return [(*identity, minute) for identity in ids]


def events_of(table: pa.Table) -> Iterable[str]:
    return table.column("event_id").to_pylist()


NO_MORE: list[Any] = []
"""The table without rows that follows the last one of a bundle."""


def run_bounded(
    tables: list[pa.Table], expected: list[Any], shards: int = 3, mapper: Any = events_of
) -> dict[str, int]:
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    unique = pipeline | beam.Create(tables) | "Deduplicate" >> deduplicate(shards) | beam.FlatMap(mapper)
    assert_that(unique, equal_to(expected))
    result = pipeline.run()
    result.wait_until_finish()
    return read_counters(result.metrics())


def test_bounded_copies_in_different_tables_leave_the_first_to_arrive() -> None:
    late = copy("a", arrival_time=NOON + timedelta(minutes=9), page_url="/late")
    early = copy("a", arrival_time=NOON + timedelta(minutes=1), page_url="/early")
    counters = run_bounded(
        [batch(late, copy("b")), batch(early)],
        ["/early", None],
        mapper=lambda table: table.column("page_url").to_pylist(),
    )
    assert counters == {"duplicates": 1, "events_unique": 2}


def test_bounded_copies_whose_client_times_differ_are_still_copies() -> None:
    moved = copy("a", client_time=NOON + timedelta(days=3), offset=1)
    assert run_bounded([batch(copy("a")), batch(moved)], ["a"])["duplicates"] == 1


def test_bounded_same_id_on_another_device_is_kept() -> None:
    rows = [copy("a"), copy("a", device_id="tablet"), copy("a", device_id="watch")]
    assert run_bounded([batch(*rows)], ["a"] * 3) == {"events_unique": 3}


def test_bounded_batch_without_copies_goes_on_as_it_came_under_its_earliest_event() -> None:
    tables = [batch(copy("b", 7), copy("a", 9)), batch(copy("c", 8)), EVENT_BATCH.empty()]
    expected = [batch(copy("b", 7), copy("a", 9)).to_pylist(), batch(copy("c", 8)).to_pylist()]
    run_bounded(tables, [*expected, NO_MORE], mapper=lambda table: [table.to_pylist()])
    run_bounded(tables, [("phone", "b", 7.0), ("phone", "a", 7.0), ("phone", "c", 8.0)], mapper=identities)


def test_bounded_batch_whose_earliest_event_is_a_copy_is_stamped_by_what_is_left() -> None:
    second = batch(copy("a", 1, offset=1), copy("b", 6))
    run_bounded([batch(copy("a", 1)), second], [("phone", "a", 1.0), ("phone", "b", 6.0)], mapper=identities)


def test_bounded_input_without_events_gives_none() -> None:
    assert run_bounded([EVENT_BATCH.empty()], []) == {}


def test_bounded_batch_of_copies_alone_gives_no_table() -> None:
    second = batch(copy("a", offset=1), copy("b", offset=1))
    both = [second, batch(copy("a"), copy("b"))]
    counters = run_bounded(both, [2, len(NO_MORE)], mapper=lambda table: [table.num_rows])
    assert counters == {"duplicates": 2, "events_unique": 2}


def test_bounded_batch_read_twice_counts_once() -> None:
    twice = batch(copy("a"), copy("b", offset=1), copy("b", offset=2))
    counters = run_bounded([twice, twice], [["a", "b"], NO_MORE], mapper=lambda table: [events_of(table)])
    assert counters == {"duplicates": 4, "events_unique": 2}


def test_bounded_positions_read_twice_in_other_batches_count_once() -> None:
    rows = [copy(f"e{i}", offset=i) for i in range(6)]
    counters = run_bounded([batch(*rows[:4]), batch(*rows[4:]), batch(*rows)], [f"e{i}" for i in range(6)])
    assert counters == {"duplicates": 6, "events_unique": 6}


def test_bounded_input_delivered_twice_leaves_the_first_delivery() -> None:
    first = [copy(f"e{i}", offset=i, page_url="/first", device_id=f"d{i % 7}") for i in range(60)]
    again = [row | {"source": "topic-again", "page_url": "/again"} for row in first]
    tables = [batch(*again[:35]), batch(*first[:20]), batch(*again[35:]), batch(*first[20:])]
    urls = run_bounded(tables, ["/first"] * 60, mapper=lambda table: table.column("page_url").to_pylist())
    assert urls == {"duplicates": 60, "events_unique": 60}


def run_stream(
    script: test_stream.TestStream,
    expected: list[Any],
    mapper: Any = events_of,
    lake: str | None = None,
    **rules: int,
) -> None:
    pipeline = beam.Pipeline(BundleBasedDirectRunner(), options=parse_beam_options(["--streaming"]))
    unique = pipeline | script | "Deduplicate" >> deduplicate(lake=lake, **rules) | beam.FlatMap(mapper)
    assert_that(unique, equal_to(expected))
    pipeline.run().wait_until_finish()


def script() -> test_stream.TestStream:
    return test_stream.TestStream(coder=TableCoder())


def at(minute: float) -> float:
    """Minutes after noon, as the seconds that TestStream takes."""
    return NOON_US / 1e6 + minute * 60


def test_stream_copy_in_a_later_bundle_is_dropped() -> None:
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 1), copy("b", 2)))])
        .add_elements([at_earliest(batch(copy("b", 2, offset=1), copy("c", 3)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a", "b", "c"])


def test_stream_first_accepted_copy_stays_though_a_later_one_arrived_earlier() -> None:
    accepted = copy("a", 1, arrival_time=NOON + timedelta(minutes=9), page_url="/accepted")
    earlier = copy("a", 1, arrival_time=NOON, page_url="/earlier")
    events = (
        script()
        .add_elements([at_earliest(batch(accepted))])
        .add_elements([at_earliest(batch(earlier))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["/accepted"], mapper=lambda table: table.column("page_url").to_pylist())


def test_stream_of_copies_in_one_bundle_the_first_to_arrive_goes_on() -> None:
    second = copy("a", 1, offset=2, page_url="/second")
    first = copy("a", 1, offset=1, page_url="/first")
    events = (
        script().add_elements([at_earliest(batch(second)), at_earliest(batch(first))]).advance_watermark_to_infinity()
    )
    run_stream(events, ["/first"], mapper=lambda table: table.column("page_url").to_pylist())


def test_stream_same_id_on_another_device_goes_on() -> None:
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a")))])
        .add_elements([at_earliest(batch(copy("a", device_id="tablet")))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a", "a"])


def test_stream_tables_go_on_at_once_under_their_earliest_event() -> None:
    events = (
        script()
        .add_elements([at_earliest(batch(copy("b", 7), copy("a", 9)))])
        # the copy of b does not go on: the table is then no older than its remaining event
        .add_elements([at_earliest(batch(copy("b", 7), copy("c", 11)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, [("phone", "b", 7.0), ("phone", "a", 7.0), ("phone", "c", 11.0)], mapper=identities)


# the bucket of noon ends at 13:00; lateness, gap and two ticks later, at 15:00, it is forgotten
KEPT = 80 + 30 + 10
FORGOTTEN = 60 + KEPT


def test_stream_copy_before_the_bucket_is_forgotten_is_dropped() -> None:
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 1)))])
        .advance_watermark_to(at(FORGOTTEN) - 1)
        .add_elements([at_earliest(batch(copy("a", 1)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a"])


def test_stream_copy_after_the_bucket_is_forgotten_goes_on() -> None:
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 1)))])
        # past the expiry: the state of the bucket is cleared
        .advance_watermark_to(at(FORGOTTEN) + 1)
        .add_elements([at_earliest(batch(copy("a", 1)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a", "a"])


@pytest.mark.parametrize(("seconds", "expected"), [(-1, ["a"]), (1, ["a", "a"])])
def test_stream_with_a_short_gap_and_lateness_forgets_soon(seconds: int, expected: list[str]) -> None:
    # gap, lateness and two ticks are four minutes; the bucket of noon is half as long
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 1)))])
        .advance_watermark_to(at(6) + seconds)
        .add_elements([at_earliest(batch(copy("a", 1)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, expected, gap=MINUTE, allowed_lateness=MINUTE, tick=MINUTE)


def test_stream_copy_of_a_forgotten_hour_is_dropped_where_the_lake_has_the_first(tmp_path: Path) -> None:
    # what the job wrote when the first came; a corrected time has since moved it to another date
    first = batch(copy("a", 1, event_time=NOON + timedelta(days=1), event_date=NOON.date() + timedelta(days=1)))
    writes = [
        PartitionWrite(
            day, tuple(write_files(Place(table_uri(str(tmp_path), FACT_EVENT.name), FACT_EVENT, day), [rows]))
        )
        for day, rows in split_by_partition(fact_events(first), FACT_EVENT)
    ]
    commit(str(tmp_path), FACT_EVENT, writes, WriteMode.APPEND, Transaction("first", 1))
    events = (
        script()
        .advance_watermark_to(at(FORGOTTEN))
        .add_elements([at_earliest(batch(copy("b", FORGOTTEN)))])
        # past the expiry: of noon nothing is remembered
        .advance_watermark_to(at(3 * FORGOTTEN))
        .add_elements([at_earliest(batch(copy("a", 1), copy("late", 1), copy("c", 3 * FORGOTTEN)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["b", "late", "c"], lake=str(tmp_path))


def test_stream_copies_of_a_forgotten_hour_go_on_once_before_the_lake_has_any(tmp_path: Path) -> None:
    late = copy("late", 1)
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 1)))])
        # past the expiry: of noon nothing is remembered, and the lake is empty
        .advance_watermark_to(at(FORGOTTEN + 1))
        .add_elements([at_earliest(batch(late, copy("b", FORGOTTEN + 1)))])
        .add_elements([at_earliest(batch(late))])
        # the hour of now is remembered for as long as any
        .advance_watermark_to(at(FORGOTTEN + 1 + KEPT))
        .add_elements([at_earliest(batch(late, copy("other", 1)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a", "late", "b", "other"], lake=str(tmp_path))


def test_stream_late_events_are_forgotten_with_the_hour_that_they_came_in() -> None:
    late = copy("late", 1)
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 1)))])
        .advance_watermark_to(at(FORGOTTEN + 1))
        .add_elements([at_earliest(batch(late, copy("b", FORGOTTEN + 1)))])
        # the hour of b ends at 16:00
        .advance_watermark_to(at(240 + KEPT + 1))
        .add_elements([at_earliest(batch(late))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a", "late", "b", "late"])


def test_stream_hour_that_is_forgotten_takes_no_other_hour_with_it() -> None:
    # a client four hours ahead, corrected: the hour of its clock is remembered in the same cell of state
    ahead = copy("ahead", 1, client_time=NOON + timedelta(hours=4))
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 1), ahead))])
        .advance_watermark_to(at(FORGOTTEN) + 1)
        .add_elements([at_earliest(batch(copy("a", 1), ahead, copy("b", 1)))])
        .add_elements([at_earliest(batch(ahead))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a", "ahead", "a", "b"])


def test_stream_events_that_keep_coming_do_not_put_off_the_expiry() -> None:
    events = script().add_elements([at_earliest(batch(copy("a", 1)))])
    for minute in range(20, FORGOTTEN, 20):
        # each is of the bucket of noon, and late but in time
        events.advance_watermark_to(at(minute)).add_elements([at_earliest(batch(copy(f"late-{minute}", 2)))])
    events.advance_watermark_to(at(FORGOTTEN) + 1)
    events.add_elements([at_earliest(batch(copy("a", 1)))]).advance_watermark_to_infinity()
    late = [f"late-{minute}" for minute in range(20, FORGOTTEN, 20)]
    run_stream(events, ["a", *late, "a"])


def test_stream_client_clock_days_behind_keeps_its_bucket_while_its_events_are_in_time() -> None:
    behind = {"client_time": NOON - timedelta(days=3)}
    events = (
        script()
        .advance_watermark_to(at(0))
        .add_elements([at_earliest(batch(copy("a", 1, **behind)))])
        # the client's hour is long over, that of the corrected time is not
        .advance_watermark_to(at(FORGOTTEN) - 1)
        .add_elements([at_earliest(batch(copy("a", 1, **behind)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a"])


def test_stream_copy_whose_corrected_time_moved_across_the_hour_is_dropped() -> None:
    client_time = {"client_time": NOON + timedelta(minutes=59)}
    events = (
        script()
        .add_elements([at_earliest(batch(copy("a", 59, **client_time)))])
        .add_elements([at_earliest(batch(copy("a", 61, **client_time)))])
        .advance_watermark_to_infinity()
    )
    run_stream(events, ["a"])


@pytest.mark.parametrize("wrong", [{"shards": 0}, {"gap": -1}, {"tick": -5}])
def test_impossible_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        Deduplicate(**({"shards": 1, "gap": 1, "allowed_lateness": 1, "tick": 1} | wrong))
