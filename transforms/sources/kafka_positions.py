"""Positions in a topic: the next offset of each partition, and where a read starts and ends. No Beam.

The runner checkpoints positions. Each offset belongs to exactly one bundle: claimed offsets to the one that claims
them, the others to the remainder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from schemas.durations import parse_time
from schemas.errors import OptionError

Start = Literal["earliest", "latest"] | datetime
Until = Literal["now"] | datetime | Mapping[int, int] | None

_OFFSETS = re.compile(r"\d+:\d+(,\d+:\d+)*")


def parse_start(text: str) -> Start:
    """Parse where to start: ``earliest``, ``latest``, or a time for the first record that arrived at or after it.

    Raises:
        OptionError: It is none of these.
    """
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        return parse_time(text)
    except OptionError as error:
        raise OptionError(f"{text!r} is neither earliest, latest nor a time such as 2026-04-12T09:30:00Z") from error


def parse_until(text: str) -> Until:
    """Parse where to end: ``now``, a time (of the first record not read), or offsets such as ``0:1200,1:1150``.

    Raises:
        OptionError: It is none of these, or names a partition twice.

    >>> parse_until("0:1200,1:1150")
    {0: 1200, 1: 1150}
    """
    if text == "now":
        return "now"
    if _OFFSETS.fullmatch(text):
        pairs = [part.split(":") for part in text.split(",")]
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        if len(offsets) < len(pairs):
            raise OptionError(f"{text!r} names a partition twice")
        return offsets
    try:
        return parse_time(text)
    except OptionError as error:
        raise OptionError(f"{text!r} is neither now, a time nor offsets such as 0:1200,1:1150") from error


@dataclass(frozen=True)
class Span:
    """The offsets left to read in a partition: from `next` up to but excluding `end`, or without end if it is None."""

    next: int
    end: int | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to read."""
        return self.end is not None and self.next >= self.end


@dataclass(frozen=True)
class Positions:
    """The offsets left to read of a topic, or of a reader's share of its partitions.

    Attributes:
        bounded: Whether the read ends.
        spans: The span of each partition; None until they have been looked up.
    """

    bounded: bool
    spans: Mapping[int, Span] | None = None

    @property
    def is_done(self) -> bool:
        """Whether the read is bounded and nothing is left to read."""
        return self.bounded and self.spans is not None and all(span.is_done for span in self.spans.values())

    @property
    def known(self) -> Mapping[int, Span]:
        """The spans; empty until they have been looked up."""
        return self.spans or {}

    @property
    def unfinished(self) -> list[int]:
        """The partitions that have something left to read."""
        return [partition for partition, span in self.known.items() if not span.is_done]

    @property
    def left(self) -> int:
        """Number of offsets left to read in the partitions whose span has an end."""
        return sum(max(span.end - span.next, 0) for span in self.known.values() if span.end is not None)

    def after(self, offsets: Mapping[int, int]) -> Self:
        """The positions after these partitions have been read up to, but excluding, these offsets."""
        spans = dict(self.known)
        for partition, offset in offsets.items():
            spans[partition] = Span(offset, spans[partition].end)
        return type(self)(self.bounded, spans)

    def done_since(self, start: "Positions") -> Self:
        """The offsets between an earlier state of this read, of the same partitions, and this one: the part done."""
        spans = {p: Span(start.known[p].next, span.next) for p, span in self.known.items()}
        return type(self)(bounded=True, spans=spans)

    def with_new(self, spans: Mapping[int, Span]) -> Self:
        """The positions with these partitions added; known partitions keep their spans."""
        return type(self)(self.bounded, {**spans, **self.known})

    def follows(self, earlier: "Positions") -> bool:
        """Whether this state can follow an earlier one of the same read: no partition is missing or goes back."""
        return all(p in self.known and self.known[p].next >= span.next for p, span in earlier.known.items())

    def as_json(self) -> dict[str, Any]:
        """The positions in JSON types, for `from_json`."""
        spans = None if self.spans is None else [[p, span.next, span.end] for p, span in self.spans.items()]
        return {"bounded": self.bounded, "spans": spans}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Restore the positions from `as_json`.

        >>> positions = Positions(True, {0: Span(3, 9), 1: Span(0, 0)})
        >>> Positions.from_json(positions.as_json()) == positions
        True
        """
        spans = value["spans"]
        return cls(value["bounded"], None if spans is None else {p: Span(start, end) for p, start, end in spans})
