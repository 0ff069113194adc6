"""What a runner handles of a read of Kafka: the tracker of its positions, its watermark estimator, and their coder."""

import json
from typing import Any

from apache_beam.coders import Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import WatermarkEstimator
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from transforms.sources.kafka_positions import Positions
from transforms.sources.kafka_watermark import EventTimeProgress


class JsonCoder(Coder):
    """Encodes what offers `as_json` and `from_json`: a savepoint is readable, and outlives the classes' names."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def encode(self, value: Any) -> bytes:
        """JSON text."""
        return json.dumps(value.as_json(), separators=(",", ":")).encode()

    def decode(self, encoded: bytes) -> Any:
        """What `encode` was given."""
        return self._kind.from_json(json.loads(encoded))

    def is_deterministic(self) -> bool:
        """The order of a mapping's entries shows."""
        return False


class PositionsTracker(RestrictionTracker):
    """Claims positions, one state of the whole read after the other. It is split where it stands, and nowhere else."""

    def __init__(self, positions: Positions) -> None:
        self._start = self._claimed = positions
        self._is_split = False

    def current_restriction(self) -> Positions:
        """What is left to read."""
        return self._claimed

    def try_claim(self, positions: Positions) -> bool:
        """Claim what lies between the last claim and these positions; False once the rest is somebody else's.

        Partitions that have not been named before begin where these positions have them.

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
        """Give away all that has not been claimed. A part of it cannot be given: one reader has all partitions."""
        if fraction_of_remainder != 0 or self._is_split or self._claimed.is_done:
            return None
        self._is_split = True
        return self._claimed.done_since(self._start), self._claimed

    def check_done(self) -> bool:
        """Whether all has been claimed or given away.

        Raises:
            ValueError: It has not.
        """
        if not (self._is_split or self._claimed.is_done):
            raise ValueError(f"neither read to the end nor given away: {self._claimed}")
        return True

    def current_progress(self) -> RestrictionProgress:
        """The share of the offsets that is done; none of an endless read."""
        total = max(self._start.left, 1)
        done = (total - self._claimed.left) / total if self._start.bounded and self._start.spans else 0.0
        return RestrictionProgress(fraction=done)

    def is_bounded(self) -> bool:
        """Whether the read ends."""
        return self._start.bounded


class ProgressEstimator(WatermarkEstimator):
    """Carries the event time progress from bundle to bundle; the rule is `WatermarkPolicy`'s."""

    def __init__(self, progress: EventTimeProgress) -> None:
        self._progress = progress

    def advance(self, progress: EventTimeProgress) -> None:
        """Go on to what `WatermarkPolicy.advance` gave."""
        self._progress = progress

    def current_watermark(self) -> Timestamp:
        """The progress's watermark; the begin of time while there is none."""
        watermark = self._progress.watermark
        return MIN_TIMESTAMP if watermark is None else Timestamp(micros=watermark)

    def get_estimator_state(self) -> EventTimeProgress:
        """The progress."""
        return self._progress

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        """A batch's timestamp says nothing: it is that of its oldest row."""
