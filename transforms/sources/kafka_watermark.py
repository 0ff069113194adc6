"""The rule of the Kafka source's watermark. No Beam, no Kafka.

Each partition has a watermark of its own: its newest event time minus the allowed disorder. The source's watermark is
the minimum over the partitions, so a partition that lags behind holds it back, and its events are not late. A partition
that has nothing more to read and has been silent for a while is idle and no longer counts, even if it never had a
record.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class EventTimeProgress:
    """The state kept between bundles; times in microseconds since 1970 UTC.

    Attributes:
        newest: Newest event time of each partition that had a readable one.
        heard: The processing time at which each partition last had a record, or was first seen.
        watermark: No event before it is expected; None while unknown. It never goes back.
    """

    newest: Mapping[int, int] = field(default_factory=dict)
    heard: Mapping[int, int] = field(default_factory=dict)
    watermark: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The progress in JSON types, for `from_json`."""
        return {"newest": list(self.newest.items()), "heard": list(self.heard.items()), "watermark": self.watermark}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Restore the progress from `as_json`.

        >>> progress = EventTimeProgress({0: 5}, {0: 7}, 4)
        >>> EventTimeProgress.from_json(progress.as_json()) == progress
        True
        """
        return cls(dict(value["newest"]), dict(value["heard"]), value["watermark"])


@dataclass(frozen=True)
class WatermarkPolicy:
    """Computes the watermark; durations in microseconds.

    While all partitions are idle, the watermark advances from the newest event at the pace of the clock. This is right
    for live traffic, and a pause in a replay of old events makes none of them late.

    Attributes:
        max_disorder: How much older than its partition's newest event an event may be without being late.
        idle_timeout: Silence after which a partition that has nothing more to read is idle.
    """

    max_disorder: int
    idle_timeout: int

    def silent(self, progress: EventTimeProgress, partitions: Iterable[int], now: int) -> list[int]:
        """The partitions silent for the idle timeout or longer; they are idle if they have nothing more to read."""
        return [p for p in partitions if now - progress.heard.get(p, now) >= self.idle_timeout]

    def advance(
        self,
        progress: EventTimeProgress,
        seen: Mapping[int, int | None],
        partitions: Iterable[int],
        at_end: Callable[[list[int]], set[int]],
        now: int,
    ) -> EventTimeProgress:
        """Compute the progress after a poll.

        Args:
            progress: The progress before the poll.
            seen: For each partition that had records, the newest event time among them; None if none can be read. The
                times must be capped at the arrival time, so that a client whose clock is ahead does not push the
                watermark.
            partitions: All partitions that may still have records.
            at_end: Returns those of some partitions that have nothing more to read according to their brokers. It is
                called for silent partitions only.
            now: The current time.
        """
        newest = dict(progress.newest)
        for partition, time in seen.items():
            if time is not None:
                newest[partition] = max(time, newest.get(partition, time))
        owned = list(partitions)
        heard = {p: now if p in seen else progress.heard.get(p, now) for p in owned}
        known = EventTimeProgress(newest, heard, progress.watermark)
        silent = self.silent(known, owned, now)
        idle = at_end(silent) if silent else set()
        reached = self._watermark_of(known, [p for p in owned if p not in idle], now)
        if reached is None or (progress.watermark is not None and reached <= progress.watermark):
            return known
        return EventTimeProgress(newest, heard, reached)

    def _watermark_of(self, known: EventTimeProgress, active: list[int], now: int) -> int | None:
        """The watermark over the active partitions; None if one of them has no event time yet."""
        if active:
            times = [known.newest.get(p) for p in active]
            known_times = [time for time in times if time is not None]
            return min(known_times) - self.max_disorder if len(known_times) == len(times) else None
        if not (known.heard and known.newest):
            return None
        paused = now - max(known.heard.values()) - self.idle_timeout
        return min(max(known.newest.values()) + paused, now) - self.max_disorder
