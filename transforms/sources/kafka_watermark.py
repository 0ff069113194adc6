"""How far in event time a reader of partitions has come: the rule of the Kafka source's watermark. No Beam, no Kafka.

Each partition vouches for its newest event time less the disorder that is allowed for; the watermark is the least of
these, so a partition that lags behind holds it back and loses nothing. A partition that has nothing more to read and
has been silent for a while gives way, also if it never had a record.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class EventTimeProgress:
    """What is remembered between bundles; times in microseconds since 1970 UTC.

    Attributes:
        newest: Newest event time of each partition that had one that can be read.
        heard: The clock's time when each partition last had a record, or was first met.
        watermark: No event before it is expected; None while nothing is known. Never goes back.
    """

    newest: Mapping[int, int] = field(default_factory=dict)
    heard: Mapping[int, int] = field(default_factory=dict)
    watermark: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The same in JSON's types; `from_json` reads it."""
        return {"newest": list(self.newest.items()), "heard": list(self.heard.items()), "watermark": self.watermark}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `as_json` gave.

        >>> progress = EventTimeProgress({0: 5}, {0: 7}, 4)
        >>> EventTimeProgress.from_json(progress.as_json()) == progress
        True
        """
        return cls(dict(value["newest"]), dict(value["heard"]), value["watermark"])


@dataclass(frozen=True)
class WatermarkPolicy:
    """The rule; durations in microseconds.

    Attributes:
        max_disorder: How much older than its partition's newest event an event may be without being late.
        idle_timeout: Silence after which a partition that has nothing more to read gives way.
        alone: Whether one reader has all partitions. If they are all idle, event time goes on at the clock's pace from
            the newest event: right for live traffic, and a pause in a replay of old events makes none of them late.
            One reader of several must not hold back the others by what it last saw, and follows the clock itself.
    """

    max_disorder: int
    idle_timeout: int
    alone: bool = True

    def silent(self, progress: EventTimeProgress, partitions: Iterable[int], now: int) -> list[int]:
        """Those of the partitions that have been silent long enough to be idle, if they have nothing more to read."""
        return [p for p in partitions if now - progress.heard.get(p, now) >= self.idle_timeout]

    def advance(
        self,
        progress: EventTimeProgress,
        seen: Mapping[int, int | None],
        partitions: Iterable[int],
        at_end: Callable[[list[int]], set[int]],
        now: int,
    ) -> EventTimeProgress:
        """The progress after a poll.

        Args:
            progress: That before it.
            seen: The partitions that had records, and the newest event time among these, None if none can be read. An
                event that has arrived has happened: a client's clock that is ahead must not push the watermark, so
                these times are not after the arrival.
            partitions: All partitions that still may have records.
            at_end: Which of some partitions have nothing more to read, as their broker says; asked of silent ones only.
            now: The clock.
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
        reached = self._reached(known, [p for p in owned if p not in idle], now)
        if reached is None or (progress.watermark is not None and reached <= progress.watermark):
            return known
        return EventTimeProgress(newest, heard, reached)

    def _reached(self, known: EventTimeProgress, active: list[int], now: int) -> int | None:
        """The watermark that the partitions vouch for; None where one of them cannot say."""
        if active:
            times = [known.newest.get(p) for p in active]
            vouched = [time for time in times if time is not None]
            return min(vouched) - self.max_disorder if len(vouched) == len(times) else None
        if not known.heard:
            return None
        if not self.alone:
            return now - self.max_disorder
        if not known.newest:
            return None
        paused = now - max(known.heard.values()) - self.idle_timeout
        return min(max(known.newest.values()) + paused, now) - self.max_disorder
