"""The watermark's rule, without a broker: who holds it back, who gives way, and that it never goes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.durations import HOUR, MINUTE, SECOND
from transforms.sources.kafka_watermark import EventTimeProgress, WatermarkPolicy

NOW = 1_800_000_000 * SECOND
POLICY = WatermarkPolicy(max_disorder=1 * MINUTE, idle_timeout=30 * SECOND)


class Bus:
    """Drives the policy as a reader does: polls at times of a clock, of partitions that may be at their end."""

    def __init__(self, partitions: int = 2, policy: WatermarkPolicy = POLICY) -> None:
        self.policy, self.progress, self.now = policy, EventTimeProgress(), NOW
        self.partitions = list(range(partitions))
        self.at_end: set[int] = set()
        self.asked: list[int] = []

    def poll(self, after: int = 0, **newest: int | None) -> int | None:
        """A poll so much later, with these newest event times; the watermark relative to NOW."""
        self.now += after
        seen = {int(name[1:]): None if time is None else NOW + time for name, time in newest.items()}
        self.progress = self.policy.advance(self.progress, seen, self.partitions, self._ends, self.now)
        return None if self.progress.watermark is None else self.progress.watermark - NOW

    def _ends(self, partitions: list[int]) -> set[int]:
        self.asked += partitions
        return self.at_end.intersection(partitions)


def test_watermark_is_the_least_of_the_partitions_less_the_disorder() -> None:
    assert Bus().poll(p0=0, p1=-5 * MINUTE) == -6 * MINUTE


def test_partition_that_has_not_spoken_holds_the_watermark_back() -> None:
    assert Bus().poll(p0=0) is None


def test_watermark_never_goes_back() -> None:
    bus = Bus(1)
    assert bus.poll(p0=0) == -MINUTE
    assert bus.poll(p0=-HOUR) == -MINUTE
    assert bus.poll(p0=SECOND) == -MINUTE + SECOND


def test_rows_without_a_time_push_nothing() -> None:
    bus = Bus(1)
    assert bus.poll(p0=None) is None
    assert bus.poll(p0=0) == -MINUTE
    assert bus.poll(p0=None) == -MINUTE


def test_partition_at_its_end_gives_way_after_the_timeout() -> None:
    bus = Bus()
    bus.at_end = {1}
    bus.poll(p0=-HOUR, p1=-2 * HOUR)
    assert bus.poll(30 * SECOND - 1, p0=0) == -2 * HOUR - MINUTE
    assert bus.poll(1, p0=SECOND) == -MINUTE + SECOND


def test_partition_gives_way_also_before_its_first_record() -> None:
    bus = Bus()
    bus.at_end = {1}
    assert bus.poll(p0=0) is None
    assert bus.poll(30 * SECOND, p0=SECOND) == -MINUTE + SECOND


def test_silent_partition_with_records_to_read_holds_the_watermark_back() -> None:
    bus = Bus()
    bus.poll(p0=0, p1=-HOUR)
    assert bus.poll(HOUR, p0=HOUR) == -HOUR - MINUTE
    assert bus.asked == [1]


def test_broker_is_not_asked_about_partitions_that_speak() -> None:
    bus = Bus()
    for _ in range(5):
        bus.poll(20 * SECOND, p0=0, p1=0)
    assert bus.asked == []


def test_partition_that_speaks_again_holds_the_watermark_again() -> None:
    bus = Bus()
    bus.at_end = {1}
    bus.poll(p0=0, p1=0)
    assert bus.poll(10 * MINUTE, p0=10 * MINUTE) == 9 * MINUTE
    bus.at_end = set()
    assert bus.poll(p1=10 * MINUTE - 10 * SECOND) == 9 * MINUTE
    assert bus.poll(MINUTE, p0=11 * MINUTE) == 9 * MINUTE
    assert bus.poll(p1=11 * MINUTE) == 10 * MINUTE


def test_idle_bus_goes_on_at_the_pace_of_the_clock() -> None:
    bus = Bus()
    bus.at_end = {0, 1}
    bus.poll(p0=0, p1=-HOUR)
    assert bus.poll(30 * SECOND) == -MINUTE
    assert bus.poll(10 * SECOND) == -MINUTE + 10 * SECOND


def test_pause_in_a_replay_of_old_events_makes_none_late() -> None:
    bus = Bus(1)
    bus.at_end = {0}
    bus.poll(p0=-1000 * HOUR)
    assert bus.poll(10 * MINUTE) == -1000 * HOUR - MINUTE + 10 * MINUTE - 30 * SECOND


def test_idle_bus_does_not_run_ahead_of_the_clock() -> None:
    bus = Bus(1)
    bus.at_end = {0}
    bus.poll(p0=0)
    bus.now -= 10 * SECOND
    bus.progress = EventTimeProgress({0: NOW}, {0: NOW - HOUR}, None)
    assert bus.poll() == -10 * SECOND - MINUTE


def test_empty_bus_says_nothing() -> None:
    bus = Bus()
    bus.at_end = {0, 1}
    bus.poll()
    assert bus.poll(HOUR) is None


def test_new_partition_holds_the_watermark_until_it_has_spoken_or_is_idle() -> None:
    bus = Bus(1)
    bus.poll(p0=0)
    bus.partitions.append(1)
    assert bus.poll(SECOND, p0=SECOND) == -MINUTE
    assert bus.poll(SECOND, p0=3 * SECOND, p1=2 * SECOND) == -MINUTE + 2 * SECOND


def test_partition_read_to_its_end_no_longer_counts() -> None:
    bus = Bus()
    bus.poll(p0=0, p1=-HOUR)
    bus.partitions.remove(1)
    assert bus.poll(p0=SECOND) == -MINUTE + SECOND


@pytest.mark.parametrize("progress", [EventTimeProgress(), EventTimeProgress({0: -5, 12: 2**60}, {0: 7}, -3)])
def test_progress_survives_json(progress: EventTimeProgress) -> None:
    assert EventTimeProgress.from_json(progress.as_json()) == progress


@given(
    st.lists(
        st.tuples(
            st.integers(0, MINUTE),
            st.dictionaries(st.sampled_from(["p0", "p1", "p2"]), st.none() | st.integers(-HOUR, 0)),
            st.sets(st.integers(0, 2)),
        ),
        max_size=20,
    )
)
def test_no_partition_in_order_within_the_disorder_has_a_late_event(
    polls: list[tuple[int, dict[str, int | None], set[int]]],
) -> None:
    bus = Bus(3, WatermarkPolicy(max_disorder=HOUR, idle_timeout=10**18))
    for after, newest, bus.at_end in polls:
        before = bus.progress.watermark
        bus.poll(after, **newest)
        reached = bus.progress.watermark
        assert before is None or (reached is not None and reached >= before)
        spoken = [bus.progress.newest.get(p) for p in bus.partitions]
        if reached is not None:
            assert reached <= min(time for time in spoken if time is not None) - HOUR
        assert reached is None or None not in spoken
