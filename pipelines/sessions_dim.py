"""Computes the session dimension of a lake: the graph, the run and its report."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial

import apache_beam as beam

from pipelines.run import run_here, shards_for
from pipelines.sessions_dim_plan import Live, SessionsDimOptions, SessionsDimPlan, plan_sessions_dim
from schemas.dimensions import DEVICE
from schemas.events import FACT_EVENT
from schemas.records import Record
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from stores.lake import table_uri
from stores.lake_commit import PartitionWrite, fingerprint
from stores.lake_files import Place, partition_of
from transforms.session_dimension.build_session_dimension import BuildSessionDimension, Counted, Files
from transforms.session_dimension.commit_session_dimension import CommitSessionDimension
from transforms.session_dimension.write_stamps import StampEvents
from transforms.sinks.overwrite_partitions import OverwritePartitions

_ROWS_AT_ONCE = 250_000
"""Rows in a group of files that one worker reads sequentially."""


@dataclass(frozen=True)
class SessionsDimReport:
    """The result of a run.

    Attributes:
        first_date: The first start date computed; None if there was nothing to compute.
        last_date: The last start date computed.
        events: Events on these dates.
        sessions: Sessions on these dates.
        dates_changed: Dates that were replaced because their sessions changed.
        files_read: Files of events and dimensions that were read.
        bytes_read: Total size of these files, of which only some columns are read.
        seconds: Duration.
    """

    first_date: str | None = None
    last_date: str | None = None
    events: int = 0
    sessions: int = 0
    dates_changed: int = 0
    files_read: int = 0
    bytes_read: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)


def compose(pipeline: beam.Pipeline, plan: SessionsDimPlan) -> None:
    """Compose the graph: compute the sessions, write the dates that changed, commit."""
    rows = sum(file.rows for files in plan.events.values() for file in files)
    built = pipeline | "Build" >> BuildSessionDimension(
        plan.dates,
        tuple(_groups(plan.lake, FACT_EVENT, plan.events)),
        tuple(_groups(plan.lake, DEVICE.record, plan.devices)),
        tuple(_before(plan)),
        shards_for(rows),
    )
    writes = [
        built.sessions | "WriteSessions" >> OverwritePartitions(DIM_SESSIONS, plan.lake, plan.sessions),
        built.places | "WritePlaces" >> OverwritePartitions(EVENT_SESSIONS, plan.lake, plan.places),
        built.places | "WriteStamps" >> StampEvents(plan.lake, plan.stamped, plan.dates),
    ]
    if plan.moves_bridge:
        live = {**plan.bridge, partition_of(plan.dates.first): plan.bridge.get(partition_of(plan.dates.first), [])}
        writes.append(built.bridge | "WriteBridge" >> OverwritePartitions(SESSION_BRIDGE, plan.lake, live))
    guards = tuple(
        PartitionWrite(partition, (), seen=fingerprint(files))
        for partition, files in plan.counted.items()
        if partition not in plan.sessions
    )
    _ = writes | "AllWrites" >> beam.Flatten() | CommitSessionDimension(plan.lake, plan.dates.first, guards)


def run_sessions_dim(options: SessionsDimOptions) -> SessionsDimReport:
    """Recompute the last start dates, and replace those whose sessions changed.

    Raises:
        ClickstreamError: As `plan_sessions_dim`; or a file cannot be read or written, or another run committed at
            the same time. Running it again repairs what a run that died has left.
    """
    began = time.monotonic()
    plan = plan_sessions_dim(options)
    if plan is None:
        return SessionsDimReport(seconds=time.monotonic() - began)
    counters = run_here(partial(compose, plan=plan))
    return SessionsDimReport(
        plan.dates.first.isoformat(),
        plan.dates.last.isoformat(),
        counters.get("events_placed", 0),
        counters.get("sessions_numbered", 0),
        counters.get(f"changed_{DIM_SESSIONS.name}_partitions", 0),
        len(plan.read_files),
        sum(file.size for file in plan.read_files),
        time.monotonic() - began,
    )


def _before(plan: SessionsDimPlan) -> Iterable[Counted]:
    """The users' session counts before the dates: the bridge, plus or minus the sessions between it and the dates."""
    if plan.continues:
        for group in _groups(plan.lake, SESSION_BRIDGE, plan.bridge):
            yield Counted(group, 1)
        for group in _groups(plan.lake, DIM_SESSIONS, plan.counted):
            yield Counted(group, plan.sign)


def _groups(lake: str, record: Record, live: Live) -> Iterable[Files]:
    """Groups of files, each of one partition, with small files grouped together."""
    for partition, files in live.items():
        place = Place(table_uri(lake, record.name), record, partition)
        paths: list[str] = []
        rows = 0
        for file in files:
            if paths and rows + file.rows > _ROWS_AT_ONCE:
                yield Files(place, tuple(paths))
                paths, rows = [], 0
            paths.append(file.path)
            rows += file.rows
        if paths:
            yield Files(place, tuple(paths))
