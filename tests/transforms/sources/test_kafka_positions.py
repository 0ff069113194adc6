"""The bookkeeping of offsets: nothing between two positions is lost, and nothing belongs to both sides."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import OptionError
from transforms.sources.kafka_positions import Positions, Span, parse_start, parse_until
from transforms.sources.kafka_restriction import PositionsTracker

UNKNOWN = Positions(bounded=False)


def endless(**offsets: int) -> Positions:
    return Positions(False, {int(name[1:]): Span(offset) for name, offset in offsets.items()})


def test_start_is_a_word_or_a_time() -> None:
    assert parse_start("earliest") == "earliest"
    assert parse_start("latest") == "latest"
    assert parse_start("2026-04-12T02:00:00+02:00") == datetime(2026, 4, 12, tzinfo=UTC)


def test_until_is_now_a_time_or_offsets() -> None:
    assert parse_until("now") == "now"
    assert parse_until("2026-04-12") == datetime(2026, 4, 12, tzinfo=UTC)
    assert parse_until("3:7") == {3: 7}


@pytest.mark.parametrize("text", ["", "beginning", "0:1", "2026-13-01"])
def test_other_start_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="neither earliest, latest nor a time"):
        parse_start(text)


@pytest.mark.parametrize("text", ["", "never", "0:", "0:1,", "0:-1", "0:1,0:2", "1"])
def test_other_until_is_refused(text: str) -> None:
    with pytest.raises(OptionError):
        parse_until(text)


def test_positions_that_are_not_known_are_not_done() -> None:
    assert not UNKNOWN.is_done
    assert not Positions(bounded=True).is_done
    assert UNKNOWN.unfinished == []


def test_bounded_read_is_done_when_every_partition_is() -> None:
    positions = Positions(True, {0: Span(0, 0), 1: Span(3, 5)})
    assert positions.unfinished == [1]
    assert positions.left == 2
    assert positions.after({1: 5}).is_done


def test_endless_read_is_never_done() -> None:
    assert not endless(p0=5).is_done
    assert not endless().is_done


def test_new_partition_starts_where_it_begins_and_others_stay() -> None:
    assert endless(p0=5).with_new({0: Span(0), 1: Span(0)}) == endless(p0=5, p1=0)


def test_positions_that_lose_a_partition_or_go_back_do_not_follow() -> None:
    assert endless(p0=5, p1=0).follows(endless(p0=5))
    assert not endless(p0=4).follows(endless(p0=5))
    assert not endless(p1=9).follows(endless(p0=5))


@pytest.mark.parametrize("positions", [UNKNOWN, endless(p0=1, p12=2**40), Positions(True, {0: Span(1, 2)})])
def test_positions_survive_json(positions: Positions) -> None:
    assert Positions.from_json(positions.as_json()) == positions


def test_claims_move_on_until_the_rest_is_given_away() -> None:
    tracker = PositionsTracker(endless(p0=0))
    assert tracker.try_claim(endless(p0=10))
    assert tracker.try_claim(endless(p0=10, p1=0))
    assert tracker.try_claim(endless(p0=10, p1=3))
    done, left = tracker.try_split(0) or (None, None)
    assert done == Positions(True, {0: Span(0, 10), 1: Span(0, 3)})
    assert left == endless(p0=10, p1=3)
    assert not tracker.try_claim(endless(p0=11, p1=3))
    assert tracker.check_done()
    assert tracker.try_split(0) is None


def test_rest_is_given_away_also_before_anything_is_known() -> None:
    tracker = PositionsTracker(UNKNOWN)
    assert tracker.try_split(0) == (Positions(True, {}), UNKNOWN)


def test_part_of_the_rest_is_not_given_away() -> None:
    assert PositionsTracker(endless(p0=0)).try_split(0.5) is None


def test_claim_that_goes_back_is_refused() -> None:
    tracker = PositionsTracker(endless(p0=5))
    with pytest.raises(ValueError, match="goes back"):
        tracker.try_claim(endless(p0=4))


def test_read_that_stops_in_the_middle_is_not_done() -> None:
    tracker = PositionsTracker(Positions(True, {0: Span(0, 5)}))
    tracker.try_claim(Positions(True, {0: Span(4, 5)}))
    with pytest.raises(ValueError, match="neither read to the end nor given away"):
        tracker.check_done()
    assert tracker.current_progress().fraction_completed == pytest.approx(0.8)
    tracker.try_claim(Positions(True, {0: Span(5, 5)}))
    assert tracker.check_done()
    assert tracker.try_split(0) is None


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=5), max_size=8))
def test_bundles_cover_every_offset_once(bundles: list[list[tuple[int, int]]]) -> None:
    left = Positions(False)
    covered: dict[int, list[tuple[int, int]]] = {p: [] for p in range(4)}
    for steps in bundles:
        tracker = PositionsTracker(left)
        for partition, rows in steps:
            begun = tracker.current_restriction().with_new({partition: Span(100)})
            assert tracker.try_claim(begun)
            assert tracker.try_claim(begun.after({partition: begun.known[partition].next + rows}))
        split = tracker.try_split(0)
        assert split is not None
        done, left = split
        for partition, span in done.known.items():
            covered[partition].append((span.next, span.end or 0))
    for partition, spans in covered.items():
        ends = [end for _, end in spans]
        assert [start for start, _ in spans] == [100, *ends][: len(spans)]
        assert sum(rows for bundle in bundles for p, rows in bundle if p == partition) == max([100, *ends]) - 100
        assert left.known.get(partition) == (Span(ends[-1]) if spans else None)
