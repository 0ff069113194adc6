"""The commits of a run of the session dimension: four tables, in an order that is safe in case of a crash."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

import apache_beam as beam
from deltalake.transaction import Transaction

from schemas.errors import StoreBusyError
from schemas.events import FACT_EVENT
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from stores.lake import live_files, open_table
from stores.lake_commit import CommitResult, NamedWrite, PartitionWrite, WriteMode, commit, fingerprint
from transforms.sinks.stream_lake import count_commit


@dataclass(eq=False)
class CommitSessionDimension(beam.PTransform):
    """Commits the writes of the four tables: `NamedWrite`s → one `CommitResult` per table.

    The bridge is committed first. It counts the sessions before the run's dates, which the run does not touch, so it is
    correct whether or not the other commits follow, and a retry of the run finds the same numbers. The commits of
    dim_sessions and event_sessions each replace all of their dates or none. The sessions on fact_events come last.

    Of two concurrent runs the second to commit fails: a commit is refused if its partitions have changed since the run
    read them, or if the bridge has other dates.

    Attributes:
        lake: The lake's root, a path or URI.
        before: The first of the run's dates.
        counted: Earlier dates of dim_sessions that the bridge was computed from, as they were when read.
    """

    lake: str
    before: date
    counted: tuple[PartitionWrite, ...] = ()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, writes: beam.PCollection[NamedWrite]) -> beam.PCollection[CommitResult]:
        """Gather all writes in one worker, and commit them in order."""
        return (
            writes
            | "OneKey" >> beam.WithKeys(0).with_output_types(tuple[int, NamedWrite])
            | "GroupAll" >> beam.GroupByKey()
            | "CommitInOrder" >> beam.ParDo(_Commit(self))
        )


@beam.typehints.with_output_types(CommitResult)
class _Commit(beam.DoFn):
    """Commits session_bridge, dim_sessions, event_sessions and fact_events, in this order."""

    def __init__(self, commits: CommitSessionDimension) -> None:
        self._lake = commits.lake
        # Created once per run, so that each transaction is committed once even if the step is retried
        self._run_id = uuid.uuid4().hex
        self._before, self._counted = commits.before.isoformat(), commits.counted

    def process(self, group: tuple[int, Iterable[NamedWrite]]) -> Iterator[CommitResult]:
        writes: dict[str, list[PartitionWrite]] = {}
        for name, write in group[1]:
            writes.setdefault(name, []).append(write)
        sessions = [*writes.get(DIM_SESSIONS.name, ()), *self._counted]
        self._check_sessions(sessions)
        for record in (SESSION_BRIDGE, DIM_SESSIONS, EVENT_SESSIONS, FACT_EVENT):
            of_table = sessions if record is DIM_SESSIONS else writes.get(record.name, [])
            transaction = Transaction(f"{record.name}:{self._run_id}", 1)
            result = commit(self._lake, record, of_table, WriteMode.MERGE, transaction)
            count_commit(result)
            yield result
            if record is SESSION_BRIDGE:
                self._check_bridge()

    def _check_sessions(self, writes: Iterable[PartitionWrite]) -> None:
        """Refuse if dim_sessions has changed since the bridge was computed: a wrong bridge would never be corrected."""
        live = live_files(open_table(self._lake, DIM_SESSIONS))
        if any(write.seen != fingerprint(live.get(write.partition, [])) for write in writes):
            raise StoreBusyError(f"{DIM_SESSIONS.name}: another run changed it while this one was computing; run again")

    def _check_bridge(self) -> None:
        """Refuse if another run has committed a bridge of other dates, from sessions that are to be replaced."""
        if set(live_files(open_table(self._lake, SESSION_BRIDGE))) - {(self._before,)}:
            raise StoreBusyError(f"{SESSION_BRIDGE.name}: a run of other dates has changed it; run again")
