"""The Kafka source's side of Beam's splittable DoFn: its restriction tracker, watermark estimator, and their coder."""

import json
from typing import Any

from apache_beam.coders import Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import WatermarkEstimator
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from transforms.sources.kafka_positions import Positions
from transforms.sources.kafka_watermark import EventTimeProgress


class JsonCoder(Coder):
    """Encodes classes with `as_json` and `from_json`. Savepoints stay readable, and independent of class names."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def encode(self, value: Any) -> bytes:
        """Encode as JSON text."""
        return json.dumps(value.as_json(), separators=(",", ":")).encode()

    def decode(self, encoded: bytes) -> Any:
        """Decode the result of `encode`."""
        return self._kind.from_json(json.loads(encoded))

    def is_deterministic(self) -> bool:
        """Not deterministic: equal mappings may differ in the order of their entries."""
        return False


class PositionsTracker(RestrictionTracker):
    """Tracks the claimed positions of a read. It can be split only at the current position."""

    def __init__(self, positions: Positions) -> None:
        self._start = self._claimed = positions
        self._is_split = False

    def current_restriction(self) -> Positions:
        """The positions left to read."""
        return self._claimed

    def try_claim(self, positions: Positions) -> bool:
        """Claim the offsets between the last claim and these positions; False after a split has given them away.

        A partition that is new in these positions starts where they have it.

        Raises:
            ValueError: The positions do not follow those of the last claim.
        """
        if self._is_split:
            return False
        if not positions.follows(self._claimed):
            raise ValueError(f"a claim goes back, from {self._claimed} to {positions}")
        self._start = self._start.with_new(positions.known)
        self._claimed = positions
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Positions, Positions] | None:
        """Split off everything that is not claimed. The unclaimed part is not divided: one reader reads all of it."""
        if fraction_of_remainder != 0 or self._is_split or self._claimed.is_done:
            return None
        self._is_split = True
        return self._claimed.done_since(self._start), self._claimed

    def check_done(self) -> bool:
        """Check that everything has been claimed or split off.

        Raises:
            ValueError: Something has not.
        """
        if not (self._is_split or self._claimed.is_done):
            raise ValueError(f"neither read to the end nor given away: {self._claimed}")
        return True

    def current_progress(self) -> RestrictionProgress:
        """The fraction of the offsets that is done; zero for an unbounded read."""
        total = max(self._start.left, 1)
        done = (total - self._claimed.left) / total if self._start.bounded and self._start.spans else 0.0
        return RestrictionProgress(fraction=done)

    def is_bounded(self) -> bool:
        """Whether the read ends."""
        return self._start.bounded


class ProgressEstimator(WatermarkEstimator):
    """Carries the event time progress from bundle to bundle; `WatermarkPolicy` computes it."""

    def __init__(self, progress: EventTimeProgress) -> None:
        self._progress = progress

    def advance(self, progress: EventTimeProgress) -> None:
        """Set the progress to the result of `WatermarkPolicy.advance`."""
        self._progress = progress

    def current_watermark(self) -> Timestamp:
        """The progress's watermark; the minimum timestamp while there is none."""
        watermark = self._progress.watermark
        return MIN_TIMESTAMP if watermark is None else Timestamp(micros=watermark)

    def get_estimator_state(self) -> EventTimeProgress:
        """The progress."""
        return self._progress

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        """Ignore a batch's timestamp: it is that of its oldest row."""
