"""Sessions of past dates made right by the events that the lake holds of them, those included that came too late."""

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
    """What is asked of a rebuild.

    Attributes:
        lake: The lake's URI.
        devices: The device store's URI.
        policy: The session rules: those of the runs that the lake is of.
        first: The first date; None for the first that the lake has.
        last: The last date; None for the last that the lake has.
        now: The present time: sessions that a live run may still change are left to it.
    """

    lake: str
    devices: str
    policy: SessionPolicy
    first: date | None
    last: date | None
    now: datetime

    @property
    def settled_before(self) -> int:
        """A session whose last event is as old as this is in no live run's state; microseconds since 1970.

        One gap more than the state keeps it, for the watermark's delay.
        """
        return micros_of(self.now) - self.policy.retention - self.policy.gap


@dataclass(frozen=True)
class RebuildReport:
    """What a rebuild did.

    Attributes:
        first_date: The first date that had events or sessions; None where none had.
        last_date: The last one.
        sessions: Sessions that the events of the dates make.
        added: Of these, sessions that were not there.
        replaced: Of these, sessions that were there and other.
        withdrawn: Sessions that were there and are no more.
        committed: Whether fact_sessions has a new version.
        seconds: How long it took.
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
        """The same for a program."""
        return asdict(self)


def rebuild(options: RebuildOptions) -> RebuildReport:
    """Compute the sessions of some dates from their events, and commit what differs, in one transaction.

    The devices are told first. A rebuild that dies, or is refused because another run commits to the same dates, leaves
    the lake as it was; the next one tells the devices the same.

    Raises:
        StoreBusyError: Another process has the device store open, or other runs kept committing: run again.
        StoreError: There are no events in the lake, or a store cannot be read or written.
    """
    began = time.monotonic()
    dates = _dates(options)
    if not dates:
        return RebuildReport(seconds=time.monotonic() - began)
    create_tables(options.lake, [FACT_SESSION])
    # one that is there: of a store that is made here the devices would know the changed sessions alone
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
    """The graph: what differs, first to the devices, then to the lake."""
    plans = pipeline | "Plan" >> beam.Create([plan], reshuffle=False).with_output_types(RevisionPlan)
    no_events = pipeline | "NoEvents" >> beam.Create([], reshuffle=False).with_output_types(ShardedTable)
    panes = plans | "Revise" >> ReviseSessions(no_events, options.policy, shards_for(plan.rows), changes_only=True)
    told = panes | "SessionsToDevices" >> WriteDeviceSessions(options.devices)
    _ = panes | "AfterDevices" >> WaitOn(told) | "SessionsToLake" >> WriteSessions(options.lake)


def _revise(options: RebuildOptions, dates: list[date]) -> dict[str, int]:
    plan = plan_revision(options.lake, [], days_of(dates), options.policy, settled_before=options.settled_before)
    return run_here(partial(compose, plan=plan, options=options))


def _dates(options: RebuildOptions) -> list[date]:
    """The dates asked for that the lake has events or sessions of, in order."""
    if find_table(options.lake, FACT_EVENT.name) is None:
        raise StoreError(f"{FACT_EVENT.name}: there is no such table in {options.lake}")
    tables = (find_files(options.lake, record.name) for record in (FACT_EVENT, FACT_SESSION))
    found = {date_of(partition) for files in tables for partition in files}
    first, last = options.first or date.min, options.last or date.max
    return sorted(day for day in found if first <= day <= last)
