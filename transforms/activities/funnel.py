"""Funnels over user_stream: how many users or sessions reach each step of a sequence, and how long each step takes.

A user or session starts a sequence with each of its activities that is the first step. Each further step is the first
activity of its name after the previous step, if it is within the window, which begins at the first step. Of all
sequences of a user or session only the one that gets furthest counts, and among equals the earliest, so each is counted
once. "After" means later by (ts, activity_id), so that one activity is never two steps.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from schemas.errors import OptionError
from schemas.sessions import FACT_SESSION
from schemas.user_stream import USER_STREAM
from stores.sql_text import literal

UNITS = ("user", "session")
DIMENSIONS = tuple(
    field.name
    for field in FACT_SESSION
    if field.type in (pa.string(), pa.bool_(), pa.date32()) and field.name not in ("session_id", "device_id")
)
"""The columns of fact_sessions that a funnel can be split by."""

_MOST_STEPS = 20


@dataclass(frozen=True)
class Funnel:
    """A sequence of activities, and how to count along it.

    Attributes:
        steps: The activities in order; an activity may be repeated.
        within: Maximum time from the first step to the last, inclusive, in microseconds.
        per: The unit counted: ``user`` (the device for activities without a user) or ``session``.
        by: A column of `DIMENSIONS` to split by, taken from the session of the first step; None for one funnel.
        since: The first UTC date on which a sequence may begin; None for no limit.
        until: The last UTC date on which a sequence may begin; None for no limit.
    """

    steps: tuple[str, ...]
    within: int
    per: str = "user"
    by: str | None = None
    since: date | None = None
    until: date | None = None

    def problems(self) -> list[str]:
        """The errors in the funnel's definition, one line each."""
        found = []
        if not 2 <= len(self.steps) <= _MOST_STEPS:
            found.append(f"a funnel has from 2 to {_MOST_STEPS} steps, not {len(self.steps)}")
        if not all(self.steps):
            found.append("a step has no name")
        if self.per not in UNITS:
            found.append(f"per {self.per!r} is none of {', '.join(UNITS)}")
        if self.by is not None and self.by not in DIMENSIONS:
            found.append(f"by {self.by!r} is none of {', '.join(DIMENSIONS)}")
        if self.since and self.until and self.since > self.until:
            found.append(f"since {self.since} is after until {self.until}")
        return found

    def sql(self) -> str:
        """The funnel as one DuckDB SELECT over user_stream and, if sessions matter, fact_sessions.

        The result has a row for each step, ordered by the dimension and the step: the dimension's column if there is
        one, ``step`` (from 1), ``activity``, ``reached`` (how many reached the step), ``share_of_first``,
        ``share_of_previous`` (null for the first step; both shares are null if the step compared with has none) and
        ``median_secs_to_next`` (over those that reached the next step).

        Raises:
            OptionError: The funnel has errors; the message lists all, one line each.
        """
        found = self.problems()
        if found:
            raise OptionError("\n".join(found))
        split = "" if self.by is None else f"{self.by}, "
        steps = ", ".join(f"({number}, {literal(step)})" for number, step in enumerate(self.steps, start=1))
        # without a dimension the steps are listed with zero even if nobody enters the funnel
        groups = "(SELECT 1)" if self.by is None else f"(SELECT DISTINCT {self.by} FROM best)"
        same = "" if self.by is None else f" AND best.{self.by} IS NOT DISTINCT FROM split.{self.by}"
        return f"""WITH activities AS (
{self._activities()}
), {self._tails()}, starts AS (
    SELECT {split}unit, ts, activity_id, tail_1 AS times,
        {" + ".join(self._is_in_time(number) for number in range(1, len(self.steps) + 1))} AS reached
    FROM tails_1
    WHERE {" AND ".join(["step_1", *self._dates("date", timedelta())])}
), best AS (
    SELECT * FROM starts
    QUALIFY row_number() OVER (PARTITION BY unit ORDER BY reached DESC, ts, activity_id) = 1
), counted AS (
    SELECT {"split." if self.by else ""}{split}step, activity, count(best.unit) AS reached,
        median(epoch_us(times[step + 1]) - epoch_us(times[step])) FILTER (best.reached > step) / 1e6
            AS median_secs_to_next
    FROM (VALUES {steps}) AS steps(step, activity) CROSS JOIN {groups} AS split
        LEFT JOIN best ON best.reached >= step{same}
    GROUP BY ALL
)
SELECT {split}step, activity, reached,
    reached / nullif(first_value(reached) OVER funnel, 0) AS share_of_first,
    reached / nullif(lag(reached) OVER funnel, 0) AS share_of_previous,
    median_secs_to_next
FROM counted
WINDOW funnel AS ({"" if self.by is None else f"PARTITION BY {self.by} "}ORDER BY step)
ORDER BY {split}step
"""

    def _activities(self) -> str:
        """The activities that can be steps, each with its user or session, and a flag for each step it can be."""
        flags = ", ".join(f"activity = {literal(step)} AS step_{n}" for n, step in enumerate(self.steps, start=1))
        user = "coalesce(customer, anonymous_customer_id)"
        where = [f"activity IN ({', '.join(map(literal, dict.fromkeys(self.steps)))})"]
        where += self._dates(f"{USER_STREAM.name}.date", timedelta(microseconds=self.within))
        if self.per == "user" and self.by is None:
            source = USER_STREAM.name
        else:
            source = (
                f"{USER_STREAM.name} ASOF LEFT JOIN {FACT_SESSION.name} ON anonymous_customer_id = device_id"
                " AND ts >= session_start"
            )
        in_session = "ts <= session_end"
        unit = user if self.per == "user" else "session_id"
        if self.per == "session":
            where.append(in_session)
        split = "" if self.by is None else f"CASE WHEN {in_session} THEN {self.by} END AS {self.by}, "
        return (
            f"    SELECT {unit} AS unit, ts, activity_id, {USER_STREAM.name}.date, {split}{flags}\n"
            f"    FROM {source}\n    WHERE {' AND '.join(where)}"
        )

    def _tails(self) -> str:
        """For each activity that can be a step, the times of that step and of the steps that follow from it."""
        parts, source = [], "activities"
        for number in range(len(self.steps), 0, -1):
            following = ""
            if number < len(self.steps):
                following = f""" || coalesce(first_value(tail_{number + 1} IGNORE NULLS) OVER (
            PARTITION BY unit ORDER BY ts, activity_id ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), [])"""
            parts.append(f"""tails_{number} AS (
    SELECT *, CASE WHEN step_{number} THEN [ts]{following} END AS tail_{number}
    FROM {source}
)""")
            source = f"tails_{number}"
        return ", ".join(parts)

    def _is_in_time(self, number: int) -> str:
        return f"CASE WHEN tail_1[{number}] <= ts + to_microseconds({self.within}) THEN 1 ELSE 0 END"

    def _dates(self, column: str, longer: timedelta) -> list[str]:
        """Conditions that a date is one on which a sequence may begin, or at most `longer` after the last one."""
        found = [] if self.since is None else [f"{column} >= DATE '{self.since}'"]
        if self.until is not None:
            found.append(f"{column} <= DATE '{self.until}' + {longer.days + (1 if longer else 0)}")
        return found
