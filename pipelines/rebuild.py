"""Recomputes the sessions of past dates from the lake's events, including events that were too late for a live run."""

import time
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import partial

import apache_beam as beam
from apache_beam.transforms.util import WaitOn

from pipelines.run import run_here, shards_for
from schemas.durations import micros_of
from schemas.errors import StoreBusyError, StoreError
from schemas.events import FACT_EVENT
from schemas.sessions import FACT_SESSION
from stores.device_store import open_device_store
from stores.lake import create_tables, find_files, find_table
from stores.lake_files import date_of
from transforms.sessions.event_hours import days_of
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.revise_sessions import ReviseSessions, RevisionPlan, plan_revision
from transforms.sessions.write_sessions import WriteSessions
from transforms.sinks.write_device_store import WriteDeviceSessions
from transforms.tables import ShardedTable

ATTEMPTS = 3


@dataclass(frozen=True)
class RebuildOptions:
    """The options of a rebuild.

    Attributes:
        lake: The lake's URI.
        devices: The device store's URI.
        policy: The session rules, the same as in the runs that wrote the lake.
        first: The first date; None for the first in the lake.
        last: The last date; None for the last in the lake.
        now: The current time: sessions that a live run may still change are left to that run.
    """

    lake: str
    devices: str
    policy: SessionPolicy
    first: date | None
    last: date | None
    now: datetime

    @property
    def settled_before(self) -> int:
        """Sessions whose last event is before this time are in no live run's state any more; microseconds since 1970.

        This is one session gap more than the state's retention, to allow for the watermark's delay.
        """
        return micros_of(self.now) - self.policy.retention - self.policy.gap


@dataclass(frozen=True)
class RebuildReport:
    """The result of a rebuild.

    Attributes:
        first_date: The first date with events or sessions; None if there is none.
        last_date: The last such date.
        sessions: Sessions computed from the events of the dates.
        added: Computed sessions that the lake lacked.
        replaced: Computed sessions that differed in the lake.
        withdrawn: Sessions in the lake that no longer exist.
        committed: Whether fact_sessions has a new version.
        seconds: Duration.
    """

    first_date: str | None = None
    last_date: str | None = None
    sessions: int = 0
    added: int = 0
    replaced: int = 0
    withdrawn: int = 0
    committed: bool = False
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)


def rebuild(options: RebuildOptions) -> RebuildReport:
    """Compute the sessions of some dates from their events, and commit the differences in one transaction.

    The device store is written first. A rebuild that dies, or that conflicts with another run's commit to the same
    dates, leaves the lake as it was; the next rebuild writes the same rows to the device store again.

    Raises:
        StoreBusyError: Another process has the device store open, or other runs kept committing: run again.
        StoreError: There are no events in the lake, or a store cannot be read or written.
    """
    began = time.monotonic()
    dates = _dates(options)
    if not dates:
        return RebuildReport(seconds=time.monotonic() - began)
    create_tables(options.lake, [FACT_SESSION])
    # read-only first, so that a missing store is an error: a new store would hold only the changed sessions
    for read_only in (True, False):
        open_device_store(options.devices, read_only).close()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            counters = _revise(options, dates)
            break
        except StoreBusyError:
            if attempt == ATTEMPTS:
                raise
    return RebuildReport(
        dates[0].isoformat(),
        dates[-1].isoformat(),
        counters.get("sessions_examined", 0),
        counters.get("sessions_added", 0),
        counters.get("sessions_replaced", 0),
        counters.get("retractions", 0),
        bool(counters.get(f"lake_{FACT_SESSION.name}_commits", 0)),
        time.monotonic() - began,
    )


def compose(pipeline: beam.Pipeline, plan: RevisionPlan, options: RebuildOptions) -> None:
    """Compose the graph: compute the differences, write them to the device store, and then to the lake."""
    plans = pipeline | "Plan" >> beam.Create([plan], reshuffle=False).with_output_types(RevisionPlan)
    no_events = pipeline | "NoEvents" >> beam.Create([], reshuffle=False).with_output_types(ShardedTable)
    panes = plans | "Revise" >> ReviseSessions(no_events, options.policy, shards_for(plan.rows), changes_only=True)
    in_devices = panes | "SessionsToDevices" >> WriteDeviceSessions(options.devices)
    _ = panes | "AfterDevices" >> WaitOn(in_devices) | "SessionsToLake" >> WriteSessions(options.lake)


def _revise(options: RebuildOptions, dates: list[date]) -> dict[str, int]:
    plan = plan_revision(options.lake, [], days_of(dates), options.policy, settled_before=options.settled_before)
    return run_here(partial(compose, plan=plan, options=options))


def _dates(options: RebuildOptions) -> list[date]:
    """The requested dates that have events or sessions in the lake, in order."""
    if find_table(options.lake, FACT_EVENT.name) is None:
        raise StoreError(f"{FACT_EVENT.name}: there is no such table in {options.lake}")
    tables = (find_files(options.lake, record.name) for record in (FACT_EVENT, FACT_SESSION))
    found = {date_of(partition) for files in tables for partition in files}
    first, last = options.first or date.min, options.last or date.max
    return sorted(day for day in found if first <= day <= last)
