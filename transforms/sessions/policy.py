"""The rules of time for sessions, in one record: gap, cap, cut, lateness, firing."""

import math
from dataclasses import dataclass

from schemas.durations import DAY, HOUR, MILLISECOND, MINUTE, format_duration
from schemas.errors import OptionError

LONGEST_CELL = 5 * MINUTE


@dataclass(frozen=True)
class SessionPolicy:
    """When a session ends and when its panes fire. All durations are integer microseconds.

    Time is divided into cells on a grid that starts at the epoch; a device's activity within one cell is never
    split. Ticks are on the same grid. By default the cell is the longest length of at most five minutes that
    divides every other duration exactly, so that a gap may be any number of whole milliseconds: five minutes
    for a gap of 30 minutes, ten seconds for a gap of ten seconds. A short cell costs ticks and memory: a gap of
    1801 s with a lateness of an hour leads to a cell of one second.

    Attributes:
        gap: The longest silence inside a session. A silence of exactly this length continues the session; one
            microsecond more ends it.
        cap: A session is cut at the first cell boundary at or after its start + cap; None for no cap.
        cut_at_midnight: Whether a session is also cut at midnight UTC.
        allowed_lateness: How long after the end of its session's gap an event may still change the session; 0 for
            no lateness.
        early_firing: The interval, in event time, at which an open session fires early panes; None for no early
            panes.
        cell: The length of a cell; 0 to derive it.

    Raises:
        OptionError: The durations do not fit together. The message names every problem.

    >>> SessionPolicy(gap=30 * MINUTE).cell == 5 * MINUTE
    True
    """

    gap: int = 30 * MINUTE
    cap: int | None = 4 * HOUR
    cut_at_midnight: bool = False
    allowed_lateness: int = HOUR
    early_firing: int | None = None
    cell: int = 0

    def __post_init__(self) -> None:
        problems = self._out_of_range()
        if not problems and self.cell == 0:
            object.__setattr__(self, "cell", self._longest_cell())
        if problems or (problems := self._off_the_grid()):
            raise OptionError("; ".join(problems))

    @property
    def retention(self) -> int:
        """How long after its last event a session is kept in state: no accepted event can reach it later."""
        return 2 * self.gap + self.allowed_lateness

    def reach(self, tick: int) -> int:
        """The earliest slot whose events are still accepted once `tick` has fired."""
        return tick - self.allowed_lateness - self.gap

    def _durations(self) -> dict[str, int]:
        """The durations that must be multiples of the cell, by the name that error messages use."""
        named = {
            "gap": self.gap,
            "cap": self.cap,
            "allowed lateness": self.allowed_lateness,
            "early firing": self.early_firing,
        }
        return {name: length for name, length in named.items() if length}

    def _out_of_range(self) -> list[str]:
        problems = []
        if self.gap <= 0:
            problems.append("the session gap must be more than zero")
        if self.cap is not None and self.cap <= 0:
            problems.append("the session cap must be more than zero, or off")
        if self.allowed_lateness < 0:
            problems.append("the allowed lateness must not be negative")
        if self.early_firing is not None and self.early_firing <= 0:
            problems.append("the early firing must be more than zero, or off")
        if self.cell < 0:
            problems.append("the cell must not be negative")
        # Runners keep timers in milliseconds, and each point of the grid is a timer
        problems += [
            f"the {name} of {format_duration(length)} must be whole milliseconds"
            for name, length in {**self._durations(), "cell": self.cell}.items()
            if length > 0 and length % MILLISECOND
        ]
        return problems

    def _longest_cell(self) -> int:
        whole = math.gcd(*self._durations().values(), *([DAY] if self.cut_at_midnight else []))
        parts = -(-whole // LONGEST_CELL)
        while whole % (parts * MILLISECOND):
            parts += 1
        return whole // parts

    def _off_the_grid(self) -> list[str]:
        cell = format_duration(self.cell)
        problems = [
            f"the {name} of {format_duration(length)} must be a multiple of the cell of {cell}"
            for name, length in self._durations().items()
            if length % self.cell
        ]
        if self.gap < self.cell:
            problems.append(f"the gap of {format_duration(self.gap)} must be at least the cell of {cell}")
        if self.cut_at_midnight and DAY % self.cell:
            problems.append(f"a day must be a multiple of the cell of {cell} to cut at midnight")
        return problems
